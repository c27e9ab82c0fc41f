"""Plot the validation R-D cost of runs over their training steps.

    python results/training.py

Of all runs in --checkpoint_dir with a validation.csv, as `train --eval_glob` writes it.
"""

import argparse
import glob
import os
import sys

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, runs
import numpy as np

import plots
import rd_curves


def read_curves(folder):
    """Return a list of dicts by lambda and script of the runs' validation curves.

    Each has the name of the script, lmbda, and the columns step and rd_cost.
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
        curves.append(dict(name=run_name.split("-")[0], lmbda=lmbda, step=step, rd_cost=rd_cost))
    return sorted(curves, key=lambda curve: (curve["lmbda"], curve["name"]))


def draw(curves, path):
    """Write the plot of the curves of read_curves: a colour per lambda, bits-back dashed."""
    figure, axis = plots.pyplot().subplots(figsize=(8, 5.2))
    lmbdas = sorted({curve["lmbda"] for curve in curves})
    for curve in curves:
        axis.plot(curve["step"], curve["rd_cost"], "--" if curve["name"].endswith("bb") else "-",
                  marker=".", color="C%d" % lmbdas.index(curve["lmbda"]),
                  label="%s, λ = %g" % (curve["name"], curve["lmbda"]))
    axis.set(xlabel="training steps", ylabel="R-D cost on the held-out images", yscale="log")
    axis.yaxis.set_major_formatter("{x:.2g}")
    axis.yaxis.set_minor_formatter("{x:.2g}")
    axis.grid(alpha=.25, which="both")
    axis.legend(fontsize=9)
    plots.save(figure, path)


def run(args):
    """Draw the curves of the runs in a folder; UserError if there is none."""
    curves = read_curves(args.checkpoint_dir)
    if not curves:
        raise basics.UserError("%s: no run with a validation.csv there" % args.checkpoint_dir)
    draw(curves, args.output)


def main(argv=None):
    parser = command_line.Parser(prog="training.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", default=os.path.join(RESULTS, "models"),
                        help="folder of the runs (default: %(default)s)")
    parser.add_argument("--output", default="training.png",
                        help="picture to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
