"""Plot the validation R-D cost of runs over the pixels that they were trained on.

    python results/training.py

Of all runs in --checkpoint_dir with a validation.csv, as `train --eval_glob` writes it. Pixels are
those of the patches of the run's steps (on one machine, if it was trained on several), by its
args.json, and do not count those of the model that it may have begun from (--init_from). Unless
all runs have an args.json, they are drawn over the steps.
"""

import argparse
import glob
import json
import os
import sys

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, runs
import numpy as np

import plots
import rd_curves


def pixels_per_step(folder):
    """Return how many pixels a run sees in a step, by its args.json, or None; a note says so."""
    path = os.path.join(folder, "args.json")
    try:
        options = json.loads(basics.read_bytes(path).decode())
        return int(options["batchsize"]) * int(options["patchsize"]) ** 2
    except (OSError, LookupError, TypeError, ValueError):
        basics.note("%s: without batchsize and patchsize; the x-axis is steps, not pixels" % path)
        return None


def read_curves(folder):
    """Return a list of dicts by lambda and script of the runs' validation curves.

    Each has the name of the script, lmbda, pixels_per_step, and the columns step and rd_cost.
    """
    curves = []
    for path in glob.glob(os.path.join(glob.escape(folder), "*", "validation.csv")):
        run_name, rows = os.path.basename(os.path.dirname(path)), rd_curves.csv_rows(path)
        try:
            lmbda = runs.run_lmbda(run_name)
            step, rd_cost = np.transpose([(float(row["step"]), float(row["rd_cost"]))
                                          for row in rows])
        except (LookupError, TypeError, ValueError):
            basics.note("%s: without step and rd_cost, or lmbda=<number> in the run's name, is "
                        "not drawn" % path)
            continue
        curves.append(dict(name=run_name.split("-")[0], lmbda=lmbda, step=step, rd_cost=rd_cost,
                           pixels_per_step=pixels_per_step(os.path.dirname(path))))
    return sorted(curves, key=lambda curve: (curve["lmbda"], curve["name"]))


def draw_lmbda(axis, curves, places, names):
    """Draw the curves of a lambda at their places on the x-axis; bits-back is dashed.

    Parts of a bits-back model are new before its first step, also if it begins from another, and it
    costs far more: such costs are in the title and do not count for the y-axis. names: all curves'
    names, in the order of their colours.
    """
    costs, title = [], "λ = %g" % curves[0]["lmbda"]
    for curve, x in zip(curves, places):
        is_bits_back = curve["name"].endswith("bb")
        is_fresh = is_bits_back & (curve["step"] == 0)
        costs += list(curve["rd_cost"][~is_fresh])
        if is_fresh[0]:
            title += " (%s at 0: %.2f)" % (curve["name"], curve["rd_cost"][0])
        axis.plot(x, curve["rd_cost"], "--" if is_bits_back else "-", marker="o", markersize=5,
                  color="C%d" % names.index(curve["name"]), label=curve["name"],
                  linewidth=1.8)
    if len(set(costs)) > 1:
        margin = .1 * np.ptp(costs)
        axis.set_ylim(min(costs) - margin, max(costs) + margin)
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=.25)


def set_logarithmic(axis, places):
    """Make an x-axis logarithmic, but for 0, which is left of the lowest of all other places."""
    values = np.concatenate(places)
    if not values.any():
        return
    lowest, highest = values[values > 0].min(), values.max()
    axis.set_xscale("symlog", linthresh=lowest, linscale=.5)
    axis.set_xlim(-.15 * lowest, 1.15 * highest)
    ticks = [0] + [m * 10. ** k for k in range(-3, 10) for m in (1, 2, 3, 5)
                   if lowest <= m * 10. ** k <= highest]
    axis.set_xticks(ticks)
    axis.set_xticklabels("%g" % tick for tick in ticks)
    axis.minorticks_off()


def draw(curves, path):
    """Write the plot of the curves of read_curves, a panel per lambda."""
    unit, places = "training steps", [curve["step"] for curve in curves]
    if all(curve["pixels_per_step"] for curve in curves):
        unit = "millions of pixels seen in training"
        places = [curve["step"] * curve["pixels_per_step"] / 1e6 for curve in curves]
    names = sorted({curve["name"] for curve in curves})
    lmbdas = sorted({curve["lmbda"] for curve in curves})
    columns = min(2, len(lmbdas))
    rows = -(-len(lmbdas) // columns)
    figure, axes = plots.pyplot().subplots(rows, columns, figsize=(9, .6 + 2.7 * rows),
                                           squeeze=False)
    for axis in axes.flat[len(lmbdas):]:
        axis.remove()
    for axis, lmbda in zip(axes.flat, lmbdas):
        chosen = [k for k, curve in enumerate(curves) if curve["lmbda"] == lmbda]
        draw_lmbda(axis, [curves[k] for k in chosen], [places[k] for k in chosen], names)
        set_logarithmic(axis, places)
        axis.set(xlabel=unit, ylabel="λ·MSE + bits per pixel")
    handles = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    figure.legend(handles=[handles[name] for name in names], loc="upper center",
                  bbox_to_anchor=(.5, .015), ncol=4)
    figure.suptitle("R-D cost on the held-out images")
    plots.save(figure, path)


def run(args):
    """Draw the curves of the runs in a folder; UserError if there is none."""
    curves = read_curves(args.checkpoint_dir)
    if not curves:
        raise basics.UserError("%s: no run with a validation.csv there" % args.checkpoint_dir)
    basics.require_writable(args.output, missing=1)
    draw(curves, args.output)


def main(argv=None):
    parser = command_line.Parser(prog="training.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", default=os.path.join(RESULTS, "models"),
                        help="folder of the runs (default: %(default)s)")
    parser.add_argument("--output", default="outputs/training.png",
                        help="picture to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
