"""Rate-distortion curves of JPEG, JPEG 2000, WebP and AVIF on the images of a data set.

    python results/reference_codecs.py --images kodak

Writes a CSV per codec, averages over the images, a row per setting, into codecs/ in the folder of
the data set; table1.py draws these in grey. Bits per pixel are those of the files' bytes.
"""

import argparse
import io
import os
import sys
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, image_files, quality
import numpy as np
import pillow_avif  # with it, Pillow writes AVIF
import PIL.Image
import tqdm

import rd_curves

QUALITIES = [5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95]


class Codec(typing.NamedTuple):
    """How Pillow writes files of a format."""
    format: str  # its name for Pillow
    option: str  # the one that sets the rate
    values: list  # of that option
    options: dict  # all others


CODECS = {
    "JPEG": Codec("JPEG", "quality", QUALITIES, dict(
        optimize=True, progressive=True, subsampling="4:2:0")),
    "JPEG 2000": Codec("JPEG2000", "quality_layers", [
        [rate] for rate in (240, 160, 120, 80, 60, 50, 40, 30, 20, 15, 10)], dict(
            irreversible=True, mct=1, quality_mode="rates")),
    "WebP": Codec("WEBP", "quality", [1, 2] + QUALITIES, dict(method=6)),
    "AVIF": Codec("AVIF", "quality", [5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90], dict(
        subsampling="4:4:4", speed=6, max_threads=1))}  # files depend on whether there are more


def coded(image, codec, value):
    """Return (bits per pixel, what it decodes to) of uint8 [H, W, 3] at a setting of a Codec."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, codec.format, **{codec.option: value}, **codec.options)
    with PIL.Image.open(file) as decoded:
        return 8 * len(file.getvalue()) / image[..., 0].size, np.asarray(decoded.convert("RGB"))


def point(image, codec, value):
    """Return (bits per pixel, PSNR in dB, MSE) of uint8 [H, W, 3] at a setting of a Codec."""
    bpp, decoded = coded(image, codec, value)
    mse = np.mean((np.float64(image) - decoded) ** 2)
    return bpp, quality.psnr(mse), mse


def write_curve(path, name, images):
    """Write the CSV of a codec: a row per value of its option, averages over the images.

    images: pairs of the path and uint8 [H, W, 3]. UserError if the codec does not take one of them.
    Where it reproduces one exactly, whose PSNR is infinite, there is no row, which a note says.
    """
    codec, rows = CODECS[name], []
    for value in tqdm.tqdm(codec.values, name, disable=None, leave=False):
        points = []
        for source, image in images:
            try:
                points.append(point(image, codec, value))
            except Exception as error:  # Pillow's encoders raise many types
                raise basics.UserError("%s does not take %s, of %d x %d pixels (%s)"
                                       % (name, source, *image.shape[:2], error))
        means = np.mean(points, axis=0)
        if np.isfinite(means).all():
            rows.append([np.ravel(value)[0]] + ["%.6f" % mean for mean in means])
        else:
            basics.note("%s at %s = %s is left out: it reproduces an image exactly, whose PSNR is "
                        "infinite" % (name, codec.option, value))
    rd_curves.write_csv(path, [codec.option, "bpp", "psnr", "mse"], rows)
    print(path)


def run(args):
    """Write the CSVs of all codecs, unless the folder has those of other images."""
    source, paths, many = image_files.find_images(args.images)
    folder = os.path.join(args.output, source if many else os.path.splitext(source)[0], "codecs")
    basics.require_writable(os.path.join(folder, "x.csv"), missing=3)
    digests = rd_curves.digests(paths)
    if not rd_curves.is_of_images(folder, digests):
        raise basics.UserError("%s: is of other images; --output writes elsewhere" % folder)
    rd_curves.write_settings(folder, dict(images=digests))
    images = [(path, image) for path in paths for image in image_files.read_images(path)]
    failed = []
    for name in args.codecs:
        try:
            write_curve(os.path.join(folder, name + ".csv"), name, images)
        except basics.UserError as error:
            failed.append(str(error))
    if failed:
        raise basics.Incomplete("; ".join(failed))


def main(argv=None):
    parser = command_line.Parser(prog="reference_codecs.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="as <imgs> of the scripts")
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS),
                        metavar="CODEC", help="of %s; default: all" % ", ".join(CODECS))
    parser.add_argument("--output", default="./outputs",
                        help="where to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
