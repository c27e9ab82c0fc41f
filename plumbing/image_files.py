"""Image files and .npy in, pictures out.

Images are read as what the models see, 8-bit RGB; what would silently lose bits is a UserError,
what loses something else, as an alpha channel, is noted once.
"""

import contextlib
import glob
import os
import re
import struct
import typing
import warnings

import numpy as np
import pillow_avif  # with it, Pillow reads AVIF
import PIL.Image

from plumbing import basics, fileformat, machine

# Large images are refused by what there is of memory, see `machine`; by Pillow above twice this.
PIL.Image.MAX_IMAGE_PIXELS = fileformat.MAX_FILE_PIXELS
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
with contextlib.suppress(ImportError):  # it may be installed for HEIC
    import pillow_heif
    pillow_heif.register_heif_opener()


# Ending of file names -> the package that Pillow lacks to read these.
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif"}
# What Pillow opens, but by other programs or not at all, or that is no picture.
NO_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
COMPRESSED = (".iinc", ".tfci")  # how compress names files if it is not told
RECONSTRUCTION = "recon-"  # beginning of the names of pictures that compress keeps
DECODED = tuple(suffix + ".png" for suffix in COMPRESSED)  # and decompress pictures


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
    """UserError if an opened PIL.Image has more than 8 bits per channel."""
    if image.mode in ("I", "F") or image.mode.startswith("I;") or _is_deep(image):
        raise basics.UserError("more than 8 bits per channel (PIL mode %s)" % image.mode)


def _is_deep(image):
    """Whether PIL would silently reduce more than 8 bits per channel of an opened image."""
    if image.format in ("AVIF", "JPEG2000"):
        with open(image.filename, "rb") as file:
            return _is_deep_avif(file) if image.format == "AVIF" else _is_deep_jpeg_2000(file)
    if image.info.get("bit_depth", 8) > 8:  # of pillow-heif
        return True
    return any(_is_deep_tile(image.format, decoder, arguments)
               for decoder, _, _, arguments in image.tile)


def _boxes(file, end):
    """Yield (kind, end) of the boxes of a file from its position to `end`, at their content.

    As ISO media files and JPEG 2000 have them: 4 bytes of length, 4 of kind, 8 of length if the
    first is 1; 0 is up to the end.
    """
    while file.tell() + 8 <= end:
        start = file.tell()
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        length = min(length or end, end - start)
        yield kind, start + length
        file.seek(start + max(8, length))


def _at(file, path, end=None):
    """Yield once for each box that a path of kinds leads to, with the file at its content."""
    for kind, box_end in _boxes(file, end or os.fstat(file.fileno()).st_size):
        if kind == b"meta":
            file.seek(4, os.SEEK_CUR)  # its version
        if kind == path[0] and len(path) == 1:
            yield
        elif kind == path[0]:
            yield from _at(file, path[1:], box_end)


def _is_deep_avif(file):
    """Whether the flag high_bitdepth is set in a box av1C."""
    return any(file.read(3)[2] & 64 for _ in _at(file, [b"meta", b"iprp", b"ipco", b"av1C"]))


def _is_deep_jpeg_2000(file):
    """Whether a component has more than 8 bits, by the marker segment SIZ of the code stream."""
    if file.read(2) != b"\xff\x4f":  # which a .jp2 has in a box
        file.seek(0)
        next(_at(file, [b"jp2c"]))
        file.seek(2, os.SEEK_CUR)
    file.seek(38, os.SEEK_CUR)  # to the number of components
    (num_components,) = struct.unpack(">H", file.read(2))
    depths = file.read(3 * num_components)[::3]  # less one; the highest bit is for signed numbers
    return any((depth & 127) + 1 > 8 for depth in depths)


def _is_deep_tile(image_format, decoder, arguments):
    """Whether a decoder of PIL, with its arguments (a tuple or one), has more than 8 bits to read.

    As of PNG and TIFF, whose raw modes say so, of PPM, whose largest value is one, and of SGI.
    """
    if decoder == "SGI16":
        return True
    for argument in arguments if isinstance(arguments, tuple) else (arguments,):
        if isinstance(argument, str) and re.search(r";16[BLN]", argument):
            return True
        if image_format == "PPM" and isinstance(argument, int) and argument > 255:
            return True
    return False


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
    require_images(path, images)
    return images


def require_images(name, images):
    """UserError unless an array, called by a name, is uint8 [num_imgs, H, W, 3], none of them 0."""
    if not isinstance(images, np.ndarray):
        raise basics.UserError("%s: not an array but %s" % (name, type(images).__name__))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise basics.UserError("%s: holds %s %s, accepted is uint8 (num_imgs, H, W, 3)"
                               % (name, images.dtype, images.shape))


def readable_extensions():
    """Endings of the names of images that Pillow reads, not of those that it only writes."""
    return tuple(extension for extension, kind in PIL.Image.registered_extensions().items()
                 if kind in PIL.Image.OPEN and kind not in NO_IMAGES)


class Source(typing.NamedTuple):
    """The images that a command names."""
    name: str  # for results
    paths: list
    many: bool  # whether they are a folder or glob


def find_images(imgs):
    """Source of the <imgs> argument, with sorted paths.

    A single image or .npy is not looked into. UserError if nothing is found, or what can't be
    processed together.
    """
    if os.path.isdir(imgs):
        name, paths = os.path.basename(os.path.abspath(imgs)), images_in_folder(imgs)
    elif os.path.exists(imgs):
        return Source(os.path.basename(imgs), [imgs], False)
    elif glob.has_magic(imgs):
        found = glob.glob(imgs, recursive=True)
        note_dangling(imgs, found)
        paths = [path for path in found if os.path.isfile(path)]
        folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
        name = os.path.basename(os.path.commonpath(folders)) if folders else None
    else:
        raise basics.UserError("%s: no such image, .npy, folder or glob" % imgs)
    paths = without_decoded(imgs, paths)
    if not paths:
        raise basics.UserError("%s: no image found there" % imgs)
    if len(set(map(os.path.basename, paths))) < len(paths):
        raise basics.UserError("%s: matches files of the same name, whose results would collide"
                               % imgs)
    if any(path.endswith(".npy") for path in paths):
        raise basics.UserError("%s: matches a .npy file, which can only be given alone" % imgs)
    return Source(name, sorted(paths), True)


def images_in_folder(folder, also=()):
    """Paths of the files in a folder that Pillow reads, or whose names end as one of `also`.

    A note names the rest.
    """
    visible = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    note_dangling(folder, [os.path.join(folder, name) for name in visible])
    names = [name for name in visible if os.path.isfile(os.path.join(folder, name))]
    extensions = readable_extensions() + also
    skipped = [name for name in names if not name.lower().endswith(extensions + COMPRESSED)]
    if skipped:
        missing = sorted({plugin for suffix, plugin in PLUGINS.items()
                          if any(name.lower().endswith(suffix) for name in skipped)})
        without = " without " + " or ".join(missing) if missing else ""
        basics.note("%d of %d files in %s are skipped, which Pillow does not read%s: %s" % (
            len(skipped), len(names), folder, without, ", ".join(skipped)))
    return [os.path.join(folder, name) for name in names if name.lower().endswith(extensions)]


def note_dangling(imgs, paths):
    """A note that names those of the paths that are links to nothing, as git-annex leaves them."""
    dangling = [path for path in paths if not os.path.exists(path)]
    if dangling:
        basics.note("%d files of %s are skipped, links to files that are not there: %s" % (
            len(dangling), imgs, ", ".join(map(os.path.basename, dangling))))


def without_decoded(imgs, paths):
    """The paths but those of pictures that were decoded, unless there are no others."""
    others = [path for path in paths if not path.endswith(DECODED)
              and not os.path.basename(path).startswith(RECONSTRUCTION)]
    if not others or len(others) == len(paths):
        return paths
    basics.note("%d of %d images of %s are skipped, which were decoded (%s)" % (
        len(paths) - len(others), len(paths), imgs,
        " or ".join(["*" + ending for ending in DECODED] + [RECONSTRUCTION + "*"])))
    return others


def write_images(path, images):
    """Write uint8 [B, H, W, 3]: a .npy if `path` ends so, else the first image as a PNG."""
    with basics.replacing(path) as temporary, open(temporary, "wb") as file:
        if path.endswith(".npy"):
            np.save(file, images)
        else:
            PIL.Image.fromarray(images[0]).save(file, format="PNG")


def require_compressible(shape, N, with_gradients, jobs=1):
    """UserError unless so many processes can compress images of (num_imgs, H, W), by N filters."""
    num_imgs = fileformat.check_shape(shape)[0]
    first_batch = fileformat.split_batches(range(num_imgs), shape)[0]
    machine.require_memory(N, shape, len(first_batch), with_gradients, jobs)
