"""Rate-distortion curves of JPEG, JPEG 2000, WebP and AVIF on the images of a data set.

    python results/codecs.py --images kodak

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
from plumbing import basics, command_line, image_files
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
        subsampling="4:4:4", speed=6))}


def point(image, codec, value):
    """Return (bits per pixel, PSNR in dB, MSE) of uint8 [H, W, 3] at a setting of a Codec."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, codec.format, **{codec.option: value}, **codec.options)
    with PIL.Image.open(file) as decoded:
        mse = np.mean((np.float64(image) - np.asarray(decoded.convert("RGB"))) ** 2)
    return 8 * len(file.getvalue()) / image[..., 0].size, 10 * np.log10(255 ** 2 / mse), mse


def write_curve(path, name, images):
    """Write the CSV of a codec: a row per value of its option, averages over the images."""
    codec, rows = CODECS[name], []
    for value in tqdm.tqdm(codec.values, name, disable=None, leave=False):
        means = np.mean([point(image, codec, value) for image in images], axis=0)
        rows.append([np.ravel(value)[0]] + ["%.6f" % mean for mean in means])
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
    images = [image for path in paths for image in image_files.read_images(path)]
    for name in args.codecs:
        write_curve(os.path.join(folder, name + ".csv"), name, images)


def main(argv=None):
    parser = command_line.Parser(prog="codecs.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="as <imgs> of the scripts")
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS),
                        metavar="CODEC", help="of %s; default: all" % ", ".join(CODECS))
    parser.add_argument("--output", default=RESULTS, help="where to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
