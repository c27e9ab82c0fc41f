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

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, image_files
import numpy as np
import PIL.Image

import plots
import rd_curves
from convergence import RUNS
from landscape import centre_crop, read_large_image

SIDE = 160  # pixels that are shown
SCRIPTS = ["mbt2018", "sga", "bb_sga"]


def by_method(script, path, folder, options):
    """uint8 [H, W, 3] decoded from a file of a method, bits per pixel, PSNR in dB."""
    run_name = RUNS[0].replace("mbt2018", "mbt2018_bb" if script.startswith("bb") else "mbt2018")
    main, file = importlib.import_module(script).main, os.path.join(folder, script + ".iinc")
    models = ["--checkpoint_dir", os.path.join(RESULTS, "models")]
    result = main(models + ["compress", run_name, path, file, "--results_dir", ""] + options)
    main(models + ["decompress", run_name, file, file + ".png"])
    return image_files.read_image(file + ".png"), result["est_bpp"][0], result["psnr"][0]


def by_jpeg(image, bpp):
    """The same of uint8 [H, W, 3] by JPEG, at the quality whose rate is closest to bpp."""
    files = []
    for quality in range(1, 96):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True,
                                        progressive=True, subsampling="4:2:0")
        files.append((8 * len(file.getvalue()) / image[..., 0].size, file))
    rate, file = min(files, key=lambda of: abs(of[0] - bpp))
    decoded = np.asarray(PIL.Image.open(file).convert("RGB"))
    mse = np.mean((np.float64(decoded) - image) ** 2)
    return decoded, rate, 10 * np.log10(255 ** 2 / mse)


def draw(original, compressed, path):
    """A row of pictures; compressed: label to what by_method returns."""
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(1, 1 + len(compressed), figsize=(3.2 * (1 + len(compressed)), 3.8))
    captions = ["%s\n%.3f bpp, %.2f dB" % ((label,) + of[1:]) for label, of in compressed.items()]
    pictures = [original] + [decoded for decoded, _, _ in compressed.values()]
    for axis, picture, caption in zip(axes, pictures, ["original\n24 bpp"] + captions):
        axis.imshow(centre_crop(picture, SIDE), interpolation="nearest")
        axis.set_xlabel(caption, fontsize=12)
        axis.set(xticks=[], yticks=[])
    plots.save(figure, path)


def run(args):
    image = read_large_image(args.image, SIDE)
    basics.require_writable(args.output)
    labels = {method.script: method.label for method in rd_curves.METHODS}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, \
            contextlib.redirect_stdout(null):
        compressed = {labels[script]: by_method(
            script, args.image, folder, ["--fast"] * (args.fast and script != "mbt2018"))
            for script in SCRIPTS}
    jpeg = by_jpeg(image, compressed[labels["sga"]][1])
    draw(image, dict({"JPEG": jpeg}, **compressed), args.output)


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
