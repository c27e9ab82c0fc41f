"""Image files and .npy in, pictures out."""

import glob
import itertools
import os
import re

import numpy as np
import PIL.Image

from plumbing import basics


# What Pillow lacks to read files of these names.
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif"}
DECODED = (".iinc.png", ".tfci.png")  # how decompress names a picture if it is not told


def read_image(path):
    """uint8 [H, W, 3] of an image file: 8-bit, first frame, EXIF rotation not applied.

    Raises UserError if it is no image, damaged, or has more than 8 bits per channel.
    """
    try:
        with PIL.Image.open(path) as image:
            require_8_bits(image)
            if image.mode[-1] in "Aa" or "transparency" in image.info:  # RGBA, LA, La, but not LAB
                basics.note("%s: alpha channel dropped" % path)
            if getattr(image, "n_frames", 1) > 1:
                basics.note("%s: only the first of %d frames is read" % (path, image.n_frames))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise many types on damaged files
        reason = "" if isinstance(error, PIL.UnidentifiedImageError) else " (%s)" % error
        suffix = os.path.splitext(path.lower())[1]
        if suffix in PLUGINS and suffix not in readable_extensions():
            reason = " (Pillow needs %s)" % PLUGINS[suffix]
        raise basics.UserError("%s: not a readable image of 8 bits per channel%s" % (path, reason))


def require_8_bits(image):
    """UserError if an opened image has more than 8 bits per channel."""
    if image.mode in ("I", "F") or image.mode.startswith("I;") or _is_deep(image):
        raise basics.UserError("more than 8 bits per channel (PIL mode %s)" % image.mode)


def _is_deep(image):
    """True if PIL would silently reduce more than 8 bits per channel, as in PNG, TIFF, PPM, SGI."""
    if image.format in ("JPEG2000", "AVIF"):  # the depth is in the SIZ marker segment, or in av1C
        with open(image.filename, "rb") as file:
            head = file.read(2 ** 16)
        if image.format == "AVIF":
            return bool(re.search(b"av1C..[\x40-\x7f\xc0-\xff]", head, re.DOTALL))
        start = head.find(b"\xff\x4f\xff\x51")
        return start >= 0 and len(head) > start + 42 and (head[start + 42] & 127) + 1 > 8
    if image.info.get("bit_depth", 8) > 8:  # of pillow-heif
        return True
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    flat = list(itertools.chain.from_iterable(arguments))
    return (any(tile[0] == "SGI16" for tile in image.tile)
            or any(isinstance(a, str) and re.search(r";16[BLN]", a) for a in flat)
            or image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in flat))


def read_images(path):
    """uint8 [B, H, W, 3] of an image file (B = 1) or of a .npy.

    Raises UserError unless a .npy holds uint8 (num_imgs, H, W, 3), none of them 0.
    """
    if not path.endswith(".npy"):
        return read_image(path)[None]
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise many types
        raise basics.UserError("%s: not a readable .npy file (%s)" % (path, error))
    if not isinstance(images, np.ndarray):
        raise basics.UserError("%s: not a readable .npy file" % path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise basics.UserError("%s: holds %s %s, accepted is uint8 (num_imgs, H, W, 3)"
                         % (path, images.dtype, images.shape))
    return images


def readable_extensions():
    """Endings of the names of files that Pillow reads, not of those that it only writes."""
    return tuple(extension for extension, kind in PIL.Image.registered_extensions().items()
                 if kind in PIL.Image.OPEN)


def find_images(imgs):
    """(name for results, sorted paths, whether a folder or glob) of the <imgs> argument."""
    if os.path.isdir(imgs):
        extensions = readable_extensions()
        names = [name for name in os.listdir(imgs) if not name.startswith(".")
                 and os.path.isfile(os.path.join(imgs, name))]
        paths = [os.path.join(imgs, name) for name in names if name.lower().endswith(extensions)]
        skipped = [name for name in sorted(names) if not name.lower().endswith(extensions)]
        if skipped:
            missing = {plugin for suffix, plugin in PLUGINS.items()
                       if any(name.lower().endswith(suffix) for name in skipped)}
            basics.note("%d of %d files in %s are skipped, which Pillow does not read%s: %s" % (
                len(skipped), len(names), imgs, " without " * bool(missing)
                + " or ".join(sorted(missing)), ", ".join(skipped)))
        name = os.path.basename(os.path.abspath(imgs))
    elif os.path.exists(imgs):
        return os.path.basename(imgs), [imgs], False
    elif glob.has_magic(imgs):
        paths = [path for path in glob.glob(imgs) if os.path.isfile(path)]
        folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
        name = os.path.basename(os.path.commonpath(folders)) if folders else None
    else:
        raise basics.UserError("%s: no such image, .npy, folder or glob" % imgs)
    decoded = [path for path in paths if path.endswith(DECODED)]
    if 0 < len(decoded) < len(paths):
        basics.note("%d of %d images of %s are skipped, which decompress wrote (%s)"
             % (len(decoded), len(paths), imgs, " or ".join("*" + name for name in DECODED)))
        paths = [path for path in paths if not path.endswith(DECODED)]
    if not paths:
        raise basics.UserError("%s: no image found there" % imgs)
    if len(set(map(os.path.basename, paths))) < len(paths):
        raise basics.UserError("%s: matches files of the same name, whose results would collide" % imgs)
    if any(path.endswith(".npy") for path in paths):
        raise basics.UserError("%s: matches a .npy file, which can only be given alone" % imgs)
    return name, sorted(paths), True


def write_images(path, images):
    """Write uint8 [B, H, W, 3]: a .npy if `path` ends so, else the first image as a PNG."""
    with basics.replacing(path) as temporary, open(temporary, "wb") as file:
        if path.endswith(".npy"):
            np.save(file, images)
        else:
            PIL.Image.fromarray(images[0]).save(file, format="PNG")
