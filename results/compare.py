"""Show an image compressed by JPEG, the base hyperprior, SGA and SGA with bits-back, side by side.

    python results/compare.py [<image>]

With the shipped models at one lambda and the paper's settings. JPEG has the quality whose file is
closest to SGA's rate. Under each picture are the bits per pixel, of JPEG those of its file, else
the information content, and the PSNR; both are of the whole image. Shown is the square in which the
squared error of SGA is the most below that of the base hyperprior.
"""

import argparse
import importlib
import os
import sys
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
import tf_boilerplate as nic
from plumbing import basics, command_line, quality
import numpy as np

import convergence
import landscape
import plots
import rd_curves
import reference_codecs

SIDE = 128  # pixels that are shown
SCRIPTS = ["mbt2018", "sga", "bb_sga"]


class Compressed(typing.NamedTuple):
    """What is shown of a picture that was compressed."""
    decoded: np.ndarray  # uint8 [H, W, 3]
    bpp: float  # bits per pixel
    kind: str  # of what these bits are
    psnr: float  # in dB


def by_method(script, image, is_fast):
    """Return uint8 [H, W, 3], Compressed by a method."""
    method, run_name = importlib.import_module(script).METHOD, convergence.RUNS[0]
    if method.model == "bits-back":
        run_name = run_name.replace("mbt2018", "mbt2018_bb")
    model = nic.load(os.path.join(RESULTS, "models", run_name))
    preset = "fast" if is_fast and method.presets else None
    coded = nic.make_compressor(model, method, preset).compress(image[None])
    return Compressed(coded.x_hat[0], coded.results["est_bpp"][0], "bpp, information content",
                      coded.results["psnr"][0])


def by_jpeg(image, bpp):
    """Return uint8 [H, W, 3], Compressed by JPEG at the quality whose rate is closest to bpp."""
    jpeg = reference_codecs.CODECS["JPEG"]
    rate, decoded = min((reference_codecs.coded(image, jpeg, value) for value in range(1, 96)),
                        key=lambda rate_and_decoded: abs(rate_and_decoded[0] - bpp))
    mse = np.mean((np.float64(decoded) - image) ** 2)
    return Compressed(decoded, rate, "bpp of the file", quality.psnr(mse))


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


def run(args):
    """Compress the image in all ways and draw it."""
    image = landscape.read_large_image(args.image, SIDE)
    basics.require_distinct(args.image, args.output)
    basics.require_writable(args.output, missing=1)
    labels = {method.script: method.label for method in rd_curves.METHODS}
    compressed = {script: by_method(script, image, args.fast) for script in SCRIPTS}
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
