"""Show an image compressed by JPEG, the base hyperprior, SGA and SGA with bits-back, side by side.

    python results/compare.py [<image>]

With the shipped models at one lambda and the paper's settings. JPEG has the quality whose file is
closest to SGA's rate. Under each picture are the bits per pixel, of JPEG those of its file, else
the information content, and the PSNR; both are of the whole image, of which the middle is shown.
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

SIDE = 160  # pixels that are shown
SCRIPTS = ["mbt2018", "sga", "bb_sga"]


class Compressed(typing.NamedTuple):
    """What is shown of a picture that was compressed."""
    decoded: np.ndarray  # uint8 [H, W, 3]
    bpp: float  # bits per pixel
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
                      result["psnr"][0])


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
    return Compressed(decoded, rate, 10 * np.log10(255 ** 2 / mse))


def draw(original, compressed, path):
    """Write a row of pictures, the original and those of a dict of Compressed by label."""
    pictures = {"original\n24 bpp": original}
    for label, result in compressed.items():
        pictures["%s\n%.3f bpp, %.2f dB" % (label, result.bpp, result.psnr)] = result.decoded
    figure, axes = plots.pyplot().subplots(1, len(pictures), figsize=(3.2 * len(pictures), 3.8))
    for axis, (caption, picture) in zip(axes, pictures.items()):
        axis.imshow(landscape.centre_crop(picture, SIDE), interpolation="nearest")
        axis.set_xlabel(caption, fontsize=12)
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
    basics.require_writable(args.output)
    labels = {method.script: method.label for method in rd_curves.METHODS}
    compressed = by_methods(args.image, args.fast)
    shown = {"JPEG": by_jpeg(image, compressed["sga"].bpp)}
    for script in SCRIPTS:
        shown[labels[script]] = compressed[script]
    draw(image, shown, args.output)


def main(argv=None):
    parser = command_line.Parser(prog="compare.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--output", default="compare.png",
                        help="picture to write (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="instead of the paper's settings")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
