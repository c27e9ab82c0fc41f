"""Plot the validation R-D cost of runs over the pixels that they were trained on.

    python results/training.py --checkpoint_dir <dir>

Of all runs in a folder with a validation.csv, as `train --eval_glob` writes it. A run that began
from another in the same folder (--init_from) goes on where that one ended. Pixels are those of all
patches of the runs' steps. Writes training.csv and training.png in --output. --from-csv only draws,
the training.csv that is there.
"""

import argparse
import json
import os
import sys
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
from plumbing import basics, command_line, runs

import plots
import rd_curves

FIELDS = ["run_name", "script", "lmbda", "pixels", "rd_cost"]


class Checkpoint(typing.NamedTuple):
    """What is known of a checkpoint that was evaluated."""
    script: str  # that trained it
    pixels: float  # that the model had seen, in the runs before its own as well
    bpp: float  # on the held-out images
    mse: float


def path_to(folder, run_name, later=()):
    """Return the Checkpoints of a run and of those before it, in order, but for their step 0.

    At step 0 a run is as the one before it was at its end, or a model that was not trained. Those
    before it are looked for in the folder, by name, and none of the `later` ones is among them.
    """
    with open(os.path.join(folder, run_name, "args.json"), encoding="utf-8") as file:
        options = json.load(file)
    path, earlier = [], os.path.basename((options["init_from"] or "").rstrip("/"))
    later = (run_name, *later)
    if earlier not in later and os.path.exists(os.path.join(folder, earlier, "validation.csv")):
        path = path_to(folder, earlier, later)
    seen = path[-1].pixels if path else 0
    patches_per_step = options["batchsize"] * options.get("num_replicas", 1)
    pixels_per_step = patches_per_step * options["patchsize"] ** 2
    for row in rd_curves.csv_rows(os.path.join(folder, run_name, "validation.csv")):
        step = int(row["step"])
        if step > 0:
            path.append(Checkpoint(options["script"], seen + step * pixels_per_step,
                                   float(row["est_bpp"]), float(row["mse"])))
    return path


def rows_of(folder, run_name):
    """Return the CSV's rows of a run: R-D costs at its lambda along its path.

    Earlier runs count as far as they are of the same model: bits-back's begins at its own steps.
    """
    lmbda, path = runs.require_lmbda(run_name), path_to(folder, run_name)
    return [[run_name, point.script, "%g" % lmbda, "%d" % point.pixels,
             "%.5f" % (lmbda * point.mse + point.bpp)]
            for point in path if point.script == path[-1].script]


def measure(folder, path):
    """Write the CSV of all runs in a folder; a note names those without what it takes."""
    rows = []
    for run_name in sorted(os.listdir(folder)):
        if not os.path.isdir(os.path.join(folder, run_name)):
            continue
        try:
            rows += rows_of(folder, run_name)
        except (OSError, basics.UserError, LookupError, TypeError, ValueError) as error:
            basics.note("%s: is not drawn, without args.json, validation.csv and lmbda=<number> in "
                        "its name (%s)" % (os.path.join(folder, run_name), error))
    if not rows:
        raise basics.UserError("%s: no run with a validation.csv there" % folder)
    rd_curves.write_csv(path, FIELDS, rows)


def draw_lmbda(axis, rows, scripts):
    """Draw the runs of a lambda; bits-back is dashed. scripts: all, in the order of colours."""
    for run_name in sorted({row["run_name"] for row in rows}):
        of_run = [row for row in rows if row["run_name"] == run_name]
        script = of_run[0]["script"]
        axis.plot([float(row["pixels"]) / 1e9 for row in of_run],
                  [float(row["rd_cost"]) for row in of_run],
                  "--" if script.endswith("bb") else "-", marker="o", markersize=3,
                  color="C%d" % scripts.index(script), label=script, linewidth=1.5)
    axis.set_xscale("log", subs=(2, 3, 5))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.set_title("λ = %s" % rows[0]["lmbda"], fontsize=11)
    axis.grid(alpha=.25, which="both")


def draw(path, picture):
    """Write the plot of a CSV, a panel per lambda."""
    rows = rd_curves.csv_rows(path)
    if not rows:
        raise basics.UserError("%s: has no rows" % path)
    scripts = sorted({row["script"] for row in rows})
    lmbdas = sorted({row["lmbda"] for row in rows}, key=float)
    columns = min(2, len(lmbdas))
    lines = -(-len(lmbdas) // columns)
    figure, axes = plots.pyplot().subplots(lines, columns, figsize=(9, .6 + 2.7 * lines),
                                           squeeze=False)
    for axis in axes.flat[len(lmbdas):]:
        axis.remove()
    for axis, lmbda in zip(axes.flat, lmbdas):
        draw_lmbda(axis, [row for row in rows if row["lmbda"] == lmbda], scripts)
        axis.set(xlabel="gigapixels seen in training", ylabel="λ·MSE + bits per pixel")
    handles = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    figure.legend(handles=[handles[script] for script in scripts], loc="upper center",
                  bbox_to_anchor=(.5, .015), ncol=4)
    figure.suptitle("R-D cost on the held-out images")
    plots.save(figure, picture)


def run(args):
    """Collect, unless it is only to draw, and draw."""
    path = os.path.join(args.output, "training.csv")
    picture = os.path.join(args.output, "training.png")
    for written in (path, picture):
        basics.require_writable(written, missing=1)
    if not args.from_csv:
        measure(args.checkpoint_dir, path)
    with rd_curves.complete(path):
        draw(path, picture)


def main(argv=None):
    parser = command_line.Parser(prog="training.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", default="checkpoints", metavar="DIR",
                        help="folder of the runs (default: %(default)s)")
    parser.add_argument("--from-csv", action="store_true", help="only draw")
    parser.add_argument("--output", default="outputs", metavar="DIR",
                        help="folder of training.csv and training.png (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
