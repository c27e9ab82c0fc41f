"""Show an image compressed by JPEG, the base hyperprior, SGA and SGA with bits-back, side by side.

    python results/compare.py [<image>]

With the shipped models at one lambda and the paper's settings. JPEG has the quality whose file is
closest to SGA's rate. Under each picture are the bits per pixel, of JPEG those of its file, else
the information content, and the PSNR; both are of the whole image. Shown is the square in which the
squared error of SGA is the most below that of the base hyperprior.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import tempfile
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, image_files
import numpy as np
import PIL.Image

import convergence
import landscape
import plots
import rd_curves

SIDE = 128  # pixels that are shown
SCRIPTS = ["mbt2018", "sga", "bb_sga"]


class Compressed(typing.NamedTuple):
    """What is shown of a picture that was compressed."""
    decoded: np.ndarray  # uint8 [H, W, 3]
    bpp: float  # bits per pixel
    kind: str  # of what these bits are
    psnr: float  # in dB


def by_method(script, path, folder, options):
    """Return the picture in `path`, Compressed by a method to a file in `folder`."""
    run_name = convergence.RUNS[0]
    if script.startswith("bb"):
        run_name = run_name.replace("mbt2018", "mbt2018_bb")
    method, file = importlib.import_module(script), os.path.join(folder, script + ".iinc")
    models = ["--checkpoint_dir", os.path.join(RESULTS, "models")]
    result = method.main(models + ["compress", run_name, path, file, "--results_dir", ""]
                         + options)
    method.main(models + ["decompress", run_name, file, file + ".png"])
    return Compressed(image_files.read_image(file + ".png"), result["est_bpp"][0],
                      "bpp, information content", result["psnr"][0])


def by_jpeg(image, bpp):
    """Return uint8 [H, W, 3], Compressed by JPEG at the quality whose rate is closest to bpp."""
    files = []
    for quality in range(1, 96):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True,
                                        progressive=True, subsampling="4:2:0")
        files.append((8 * len(file.getvalue()) / image[..., 0].size, file))
    rate, file = min(files, key=lambda rate_and_file: abs(rate_and_file[0] - bpp))
    decoded = np.asarray(PIL.Image.open(file).convert("RGB"))
    mse = np.mean((np.float64(decoded) - image) ** 2)
    return Compressed(decoded, rate, "bpp of the file", 10 * np.log10(255 ** 2 / mse))


def most_improved(original, base, improved):
    """Return top and left of the SIDE x SIDE pixels where squared errors differ most.

    It is there that the error of `improved` is the most below that of `base`.
    """
    gains = (np.float64(base) - original) ** 2 - (np.float64(improved) - original) ** 2
    # Of all pixels above and left of each corner of a pixel.
    sums = np.pad(gains.sum(axis=2), [(1, 0), (1, 0)]).cumsum(axis=0).cumsum(axis=1)
    of_squares = (sums[SIDE:, SIDE:] - sums[SIDE:, :-SIDE] - sums[:-SIDE, SIDE:]
                  + sums[:-SIDE, :-SIDE])
    return np.unravel_index(of_squares.argmax(), of_squares.shape)


def draw(original, compressed, corner, path):
    """Write two rows of pictures, the original and those of a dict of Compressed by label.

    Each is SIDE x SIDE pixels from their corner (top, left) on; that is marked in the last picture,
    the whole original.
    """
    top, left = corner
    pictures = {"original\n24 bpp": original}
    for label, result in compressed.items():
        caption = "%s, %.2f dB\n%.3f %s" % (label, result.psnr, result.bpp, result.kind)
        pictures[caption] = result.decoded
    columns = len(pictures) // 2 + 1
    figure, axes = plots.pyplot().subplots(2, columns, figsize=(3.2 * columns, 7.6))
    for axis, (caption, picture) in zip(axes.flat, pictures.items()):
        axis.imshow(picture[top:top + SIDE, left:left + SIDE], interpolation="nearest")
        axis.set_xlabel(caption, fontsize=12)
    axes.flat[-1].imshow(original)
    axes.flat[-1].add_patch(plots.pyplot().Rectangle(
        (left - .5, top - .5), SIDE, SIDE, fill=False, edgecolor="#ff2020", linewidth=2))
    axes.flat[-1].set_xlabel("bpp and PSNR: whole image\npictures: the framed part", fontsize=12)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    plots.save(figure, path)


def by_methods(path, is_fast):
    """Return a dict by script of the picture in `path`, Compressed by each."""
    compressed = {}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, \
            contextlib.redirect_stdout(null):
        for script in SCRIPTS:
            options = []
            if is_fast and script != "mbt2018":
                options = ["--fast"]
            compressed[script] = by_method(script, path, folder, options)
    return compressed


def run(args):
    """Compress the image in all ways and draw it."""
    image = landscape.read_large_image(args.image, SIDE)
    basics.require_distinct(args.image, args.output)
    basics.require_writable(args.output, missing=1)
    labels = {method.script: method.label for method in rd_curves.METHODS}
    compressed = by_methods(args.image, args.fast)
    shown = {"JPEG": by_jpeg(image, compressed["sga"].bpp)}
    for script in SCRIPTS:
        shown[labels[script]] = compressed[script]
    corner = most_improved(image, compressed["mbt2018"].decoded, compressed["sga"].decoded)
    draw(image, shown, corner, args.output)


def main(argv=None):
    parser = command_line.Parser(prog="compare.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--output", default="outputs/compare.png",
                        help="picture to write (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="instead of the paper's settings")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
