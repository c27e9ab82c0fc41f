"""Plot the R-D cost of SGA's rounded latents against iterations and CPU time, per setting.

    python results/convergence.py [<image>]

For the shipped base models at two lambdas, with the paper's setting, --fast and --thorough. Writes
convergence.csv and convergence.png in --output; --from-csv only draws.
"""

import argparse
import contextlib
import functools
import os
import sys
import time

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(RESULTS))
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files, runs
import numpy as np
import sga
import plots
import rd_curves

RUNS = ["mbt2018-num_filters=64-lmbda=0.01", "mbt2018-num_filters=64-lmbda=0.0025"]
SETTINGS = {"paper": [], "fast": ["--fast"], "thorough": ["--thorough"]}
COLOURS = {"paper": "#555555", "fast": "#d95f02", "thorough": "#1b6ca8"}
FIELDS = ["run_name", "setting", "iteration", "seconds", "cost", "encoder_cost"]


def sga_graph(run_name, options, shape):
    """Arguments of sga.py, as its command line gives them, and its graph for x [B, H, W, 3]."""
    args = command_line.parse_arguments(nic.make_parser("sga", None, sga.METHOD), sga.METHOD,
                               ["compress", run_name, ""] + options)
    run = runs.find_run(os.path.join(RESULTS, "models"), run_name)
    args.lmbda = runs.run_lmbda(run_name)
    return args, nic.inference_graph(sga.METHOD, run, shape, args)


def descent(run_name, options, x):
    """Rows (iteration, seconds, cost after rounding, cost of the encoder's latents, rounded)."""
    args, graph = sga_graph(run_name, options, x.shape)
    cost = lambda: float(np.mean(nic.discrete_losses(
        graph, x, *nic.integers(graph, *graph.sess.run(graph.free)))["rd_loss"]))
    nic.encode(graph, x)
    start, rows, elapsed, since = cost(), [], 0, time.process_time()
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        for t, _, _ in nic.descend(graph, {graph.x: x}, args.sga_its,
                                   functools.partial(sga.temperature, args), args.sga_its):
            if t % max(5, args.sga_its // 100) == 0 or t == args.sga_its - 1:
                elapsed += time.process_time() - since  # scoring does not count
                rows.append((t + 1, elapsed, cost(), start))
                since = time.process_time()
    return rows


def measure(image, path):
    table = []
    for run_name in RUNS:
        for setting, options in SETTINGS.items():
            rows = descent(run_name, options, image_files.read_images(image))
            print(run_name, setting, "%.4f after %.1f s" % (rows[-1][2], rows[-1][1]))
            table += [[run_name, setting, t, "%.2f" % elapsed, "%.5f" % cost, "%.5f" % start]
                      for t, elapsed, cost, start in rows]
    rd_curves.write_csv(path, FIELDS, table)


def draw(path, picture):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    table = rd_curves.csv_rows(path)
    figure, axes = plt.subplots(len(RUNS), 2, figsize=(9, 6.4), sharey="row")
    for row, run_name in zip(axes, RUNS):
        for axis, field, unit in zip(row, ("iteration", "seconds"),
                                     ("iterations", "seconds of CPU time")):
            for setting in SETTINGS:
                points = [entry for entry in table
                          if (entry["run_name"], entry["setting"]) == (run_name, setting)]
                costs = [float(point["cost"]) for point in points]
                axis.plot([float(point[field]) for point in points], costs,
                          color=COLOURS[setting], label=setting, linewidth=1.6)
                if setting == "paper":
                    axis.axhline(costs[-1], color=COLOURS[setting], linewidth=.7, linestyle=":")
                    axis.set_ylim(.98 * costs[-1], 1.02 * float(points[0]["encoder_cost"]))
            axis.set_xscale("log")
            axis.set_xlabel(unit)
            axis.grid(alpha=.25, which="both")
            axis.set_title("λ = %g" % runs.run_lmbda(run_name))
        row[0].set_ylabel("λ·MSE + bits per pixel, rounded")
    axes[0, 0].legend(title="setting of sga.py")
    plots.save(figure, picture)


def run(args):
    path = os.path.join(args.output, "convergence.csv")
    for written in (path, path[:-len("csv")] + "png"):
        basics.require_writable(written)
    if not args.from_csv:
        measure(args.image, path)
    try:
        draw(path, path[:-len("csv")] + "png")
    except (LookupError, TypeError) as error:
        raise basics.UserError("%s: a row or a column is missing (%s)" % (path, error))


def main(argv=None):
    parser = command_line.Parser(prog="convergence.py", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--from-csv", action="store_true", help="only draw")
    parser.add_argument("--output", default=".", metavar="DIR",
                        help="folder of convergence.csv and convergence.png (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
