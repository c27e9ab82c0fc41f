"""Plot the R-D cost of SGA's rounded latents against iterations and CPU time, per setting.

    python results/convergence.py [<image>]

For the shipped base models at two lambdas, with the paper's setting, --fast and --thorough. Writes
convergence.csv and convergence.png in --output. --from-csv only draws, the convergence.csv that is
there: <image> does not count then, as the CSV says of which image it is.
"""

import argparse
import os
import sys
import time
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(RESULTS))
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files, progress, runs
import numpy as np
import sga

import plots
import rd_curves

RUNS = ["mbt2018-num_filters=96-lmbda=0.01", "mbt2018-num_filters=96-lmbda=0.0025"]
PRESETS = {"paper": None, "fast": "fast", "thorough": "thorough"}  # by setting
COLOURS = {"paper": "#555555", "fast": "#d95f02", "thorough": "#1b6ca8"}
LABELS = {"paper": "the paper's setting", "fast": "--fast", "thorough": "--thorough"}
FIELDS = ["image", "size", "run_name", "setting", "iteration", "seconds", "cost", "encoder_cost"]


class Moment(typing.NamedTuple):
    """What is measured of SGA after some iterations."""
    iteration: int  # how many
    seconds: float  # of CPU time that they took
    cost: float  # R-D cost of the rounded latents


def sga_compressor(run_name, preset=None, watchers=()):
    """Return the Compressor of SGA on a shipped base model."""
    model = nic.load(os.path.join(RESULTS, "models", run_name))
    return nic.make_compressor(model, sga.METHOD, preset, watchers=watchers)


class Stopwatch:
    """A watcher that keeps some hundred Moments of an optimisation and the last."""

    def __init__(self):
        self.moments, self.elapsed, self.since = [], 0, time.process_time()

    def __call__(self, iteration):
        if progress.is_due(iteration.t, iteration.its, max(5, iteration.its // 100)):
            self.elapsed += time.process_time() - self.since  # scoring does not count
            cost = float(np.mean(iteration.after_rounding()["rd_loss"]))
            self.moments.append(Moment(iteration.t + 1, self.elapsed, cost))
            self.since = time.process_time()


def descent(run_name, preset, x):
    """Return the Moments of SGA on x, and the R-D cost of the encoder's latents, rounded."""
    stopwatch = Stopwatch()
    compressor = sga_compressor(run_name, preset, [stopwatch])
    graph = compressor.graph_for(x.shape)
    start = nic.score(graph, x, nic.integers(graph, nic.encoder_output(graph, x)))["rd_loss"]
    stopwatch.since = time.process_time()
    sga.infer(graph, x, compressor.options)
    return stopwatch.moments, float(np.mean(start))


def measure(image, path):
    """Write the CSV of all runs and settings on an image."""
    x, rows = image_files.read_images(image), []
    size = "%dx%d" % (x.shape[2], x.shape[1])
    for run_name in RUNS:
        for setting, preset in PRESETS.items():
            moments, start = descent(run_name, preset, x)
            print(run_name, setting,
                  "%.4f after %.1f s" % (moments[-1].cost, moments[-1].seconds))
            for moment in moments:
                rows.append([os.path.basename(image), size, run_name, setting, moment.iteration,
                             "%.2f" % moment.seconds, "%.5f" % moment.cost, "%.5f" % start])
    rd_curves.write_csv(path, FIELDS, rows)


def draw_costs(axis, rows, run_name, field):
    """Draw a run's cost over a field of rows of the CSV, a line per setting."""
    for setting in PRESETS:
        points = [row for row in rows
                  if (row["run_name"], row["setting"]) == (run_name, setting)]
        costs = [float(point["cost"]) for point in points]
        axis.plot([float(point[field]) for point in points], costs,
                  color=COLOURS[setting], label=LABELS[setting], linewidth=1.8)
        if setting == "paper":
            axis.axhline(costs[-1], color=COLOURS[setting], linewidth=1, linestyle=":",
                         label="the paper's, at its end")
            axis.set_ylim(.98 * costs[-1], 1.02 * float(points[0]["encoder_cost"]))


def draw(path, picture):
    """Write the plot of a CSV: a row of two plots per run."""
    rows = rd_curves.csv_rows(path)
    figure, axes = plots.pyplot().subplots(len(RUNS), 2, figsize=(9, 6.4), sharey="row")
    for of_run, run_name in zip(axes, RUNS):
        for axis, field, unit in zip(of_run, ("iteration", "seconds"),
                                     ("iterations", "seconds of CPU time")):
            draw_costs(axis, rows, run_name, field)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlabel(unit)
            axis.grid(alpha=.25, which="both")
            axis.set_title("λ = %g" % runs.require_lmbda(run_name), fontsize=11)
        of_run[0].set_ylabel("λ·MSE + bits per pixel")
    figure.legend(handles=axes[0, 0].lines, loc="upper center", bbox_to_anchor=(.5, .01), ncol=4)
    figure.suptitle("R-D cost of SGA's latents, rounded: %s, %s pixels" % (
        rows[0]["image"], rows[0]["size"].replace("x", "×")))
    plots.save(figure, picture)


def run(args):
    """Measure, unless it is only to draw, and draw."""
    path = os.path.join(args.output, "convergence.csv")
    picture = os.path.join(args.output, "convergence.png")
    basics.require_distinct(args.image, path, picture)
    for written in (path, picture):
        basics.require_writable(written, missing=1)
    if not args.from_csv:
        measure(args.image, path)
    with rd_curves.complete(path):
        draw(path, picture)


def main(argv=None):
    parser = command_line.Parser(prog="convergence.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--from-csv", action="store_true", help="only draw")
    parser.add_argument("--output", default="outputs", metavar="DIR",
                        help="folder of convergence.csv and convergence.png (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
