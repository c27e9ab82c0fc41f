"""Run every method on every run: Table 1, and rate-distortion plots with the published curves.

    python results/table1.py --checkpoint_dir checkpoints --images kodak
    python results/table1.py --checkpoint_dir checkpoints --images kodak --label fast -- --fast
    python results/table1.py --from-csv

Results that exist, of the same model, images and settings, are kept, so that it can be stopped and
continued at any time. Of images in a folder, glob or .npy called NAME, everything goes into the
folder NAME of --output (NAME-LABEL with --label), results into its subfolder npz. Each option after
-- goes to all scripts that have it. A script that is not in the table is a method of your own, and
so is any CSV in the folder that has columns psnr and est_bpp or bpp, a row per point; those in its
subfolder codecs (see reference_codecs.py) are drawn in grey.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(RESULTS), RESULTS]
import tf_boilerplate as nic
from plumbing import arguments, basics, command_line, image_files, store, tasks
import numpy as np

import planning
import plots
import rd_curves

OUTPUT = "./outputs"  # where tables go by default

HEADER = ["Table 1", "method", "script", "points", "BD-rate %, PSNR", "BD-rate %, MS-SSIM",
          "BD-rate %, PSNR, size of files", "overlap dB, PSNR", "overlap dB, MS-SSIM",
          "R-D cost %", "R-D cost %, mean PSNR", "change of cost, % of rate", "* not to be trusted"]
SHOWN = HEADER[:3] + ["BD-rate %, PSNR", "R-D cost %", "BD-rate %, MS-SSIM", "points", HEADER[-1]]
SHOWN_NOTE = ("Of %s, against the base hyperprior; R-D costs are means over λ. More columns are "
              "in table1.csv.")
PUBLISHED_NOTE = (" Published rows are over the λ of this table, but for those of all λ, which are "
                  "over the paper's.")
POINTS_NOTE = ("Bits per pixel (information content), PSNR in dB, and in brackets the R-D cost "
               "λ · MSE + bits per pixel against that of base:")


# ---------------------------------------------------------------- tables

def shown(value, caveats=()):
    """Return the text of a number in the table; a star marks one that is not to be trusted."""
    if np.isnan(value):
        return "–"
    return "%.2f%s" % (value, " *" if caveats else "")


def table1_rows(curves, failed):
    """Return the rows of Table 1, without the header, of curves by script.

    A row per method or codec has its BD-rates and R-D cost against base. failed: dict by script of
    a text why points are missing.
    """
    curves = {**dict.fromkeys(failed, {}), **curves}
    columns = [rd_curves.savings(curves, "psnr"), rd_curves.savings(curves, "msssim_db"),
               rd_curves.savings(curves, "psnr", "actual_bpp")]
    rows, base = [], curves.get("mbt2018", {})
    for method in rd_curves.methods_of(curves):
        curve, cells = curves[method.script], [column[method.script] for column in columns]
        costs = rd_curves.cost_savings(curve, base)
        partial = ["not all λ of base"] if rd_curves.lacks_lambdas(curve, base) else []
        caveats = dict.fromkeys(partial + [caveat for cell in cells for caveat in cell.caveats])
        if method.script in failed:
            caveats[failed[method.script]] = None
        rows.append([method.row, method.label, method.file_name, len(curve.get("est_bpp", []))]
                    + [shown(cell.rate, cell.caveats + partial) for cell in cells]
                    + [shown(cell.overlap) for cell in cells[:2]]
                    + [shown(cost, partial) for cost in costs] + ["; ".join(caveats)])
    return rows


def published_rows(base, papers, papers_label):
    """Return the rows of Table 1 of the paper's curves, which have a label.

    They are over the lambdas of the base curve and, where the paper has more, over all of its.
    """
    same = rd_curves.at_lambdas_of(base, papers)
    labelled = {papers_label: same}
    if len(same["mbt2018"]["lmbda"]) < len(papers["mbt2018"]["lmbda"]):
        labelled[papers_label + ", all λ"] = papers
    return [["", "%s, %s" % (row[1], label), ""] + row[3:]
            for label, curves in labelled.items() for row in table1_rows(curves, {})]


def points_by_lambda(curve):
    """Return a dict by lambda of a curve's (bits per pixel, PSNR, R-D cost).

    It is empty if one of these columns is missing.
    """
    names = ("lmbda", "est_bpp", "psnr", "rd_cost")
    if not set(names) <= set(curve):
        return {}
    return {lmbda: point for lmbda, *point in zip(*(curve[name] for name in names))}


def shown_point(point, base):
    """Return the text of a point, None if there is none, with its cost against base's, if any."""
    if point is None:
        return "–"
    bpp, psnr, cost = point
    text = "%.4f, %.2f" % (bpp, psnr)
    if base is None:
        return text
    return text + " (%+.1f %%)" % (100 * (cost / base[2] - 1))


def points_rows(curves):
    """Return the points behind Table 1: header, and a row per method with a column per lambda."""
    points = {script: points_by_lambda(curve) for script, curve in curves.items()}
    lmbdas = sorted(set().union(*points.values()))
    base = points.get("mbt2018", {})
    rows = [["method"] + ["λ = %g" % lmbda for lmbda in lmbdas]]
    for method in rd_curves.methods_of(curves):
        own = points[method.script]
        if not own:
            continue
        against = {} if method.script == "mbt2018" else base
        cells = [shown_point(own.get(lmbda), against.get(lmbda)) for lmbda in lmbdas]
        rows.append([method.label] + cells)
    return rows


def markdown(header, rows):
    """Return a table in Markdown."""
    return "\n".join("| %s |" % " | ".join(map(str, row))
                     for row in [header, ["---"] * len(header)] + rows)


def write_tables(folder, title, curves, codecs, papers, papers_label, failed):
    """Write table1.csv, and table1.md with the points too, of a data set; return the latter."""
    rows, note = table1_rows({**codecs, **curves}, failed), SHOWN_NOTE % title
    if papers:
        note += PUBLISHED_NOTE
        rows += published_rows(curves.get("mbt2018", {}), papers, papers_label)
    rd_curves.write_csv(os.path.join(folder, "table1.csv"), HEADER, rows)
    points = points_rows(curves)
    shown_rows = [[row[HEADER.index(name)] for name in SHOWN] for row in rows]
    text = "\n\n".join([markdown(SHOWN, shown_rows), note, POINTS_NOTE,
                        markdown(points[0], points[1:])]) + "\n"
    basics.write_bytes(os.path.join(folder, "table1.md"), text.encode())
    return text


def export_compressai(folder, curves):
    """Write a JSON per method into compressai/, as `python -m compressai.utils.plot` reads it."""
    target = os.path.join(folder, "compressai")
    os.makedirs(target, exist_ok=True)
    names = {"psnr-rgb": "psnr", "ms-ssim-rgb": "msssim", "bpp": "est_bpp"}
    for method in rd_curves.methods_of(curves):
        curve = curves[method.script]
        content = dict(
            name=method.label, description="%s on %s, information content" % (
                method.file_name, os.path.basename(folder)),
            results={name: curve[column].tolist() for name, column in names.items()
                     if plots.is_known(curve, column)})
        basics.write_bytes(os.path.join(target, method.script + ".json"),
                           json.dumps(content, indent=2).encode())


def summarise(folder, with_compressai, failed):
    """Write tables and plots of a data set from its CSVs; failed: see table1_rows.

    The other codecs' curves, and the paper's, are those of the folder's name without its label.
    """
    settings = rd_curves.read_settings(folder)
    unlabelled = folder
    if settings.get("label"):
        unlabelled = folder[:-len("-" + settings["label"])]
    curves, codecs = rd_curves.read_curves(folder), {}
    if "mbt2018" not in curves:
        basics.note("%s: has no mbt2018.csv to compare with" % folder)
    codecs_folder = os.path.join(unlabelled, "codecs")
    if rd_curves.is_of_images(codecs_folder, settings.get("images")):
        codecs = rd_curves.read_curves(codecs_folder)
    else:
        basics.note("%s: curves of other images, not drawn" % codecs_folder)
    dataset = os.path.basename(unlabelled)
    papers, label = rd_curves.published(dataset, settings.get("sizes")), ""
    if papers:
        label = "published, %d images" % rd_curves.PUBLISHED[dataset.lower()].number
    title = os.path.basename(folder)
    if "number" in settings:
        title += ", %d %s" % (settings["number"],
                              "image" if settings["number"] == 1 else "images")
    text = write_tables(folder, title, curves, codecs, papers, label, failed)
    print("%s\n\n%s" % (folder, text))
    plots.draw(folder, title, curves, codecs, papers, label)
    if with_compressai:
        export_compressai(folder, curves)


# ---------------------------------------------------------------- computing a table

def require_own_csvs(folder, scripts):
    """UserError if there is a CSV of one of the scripts that is not by this one."""
    for script in scripts:
        path = os.path.join(folder, script + ".csv")
        if os.path.exists(path) and "run_name" not in rd_curves.column_names(path):
            raise basics.UserError("%s: is there and not of this script; rename it, or "
                                   "--label NAME makes a table beside it" % path)


def require_same_table(folder, settings):
    """UserError if the CSVs in a folder are of other settings, or of other models of a lambda."""
    stored = rd_curves.read_settings(folder)
    for name, value in settings.items():
        others = stored.get(name, value)
        if name == "models":  # those of other kinds and lambdas may be others
            others = {model: others.get(model, own) for model, own in value.items()}
        if value != others:
            raise basics.UserError("%s is a table of other %s; --label NAME makes one beside it"
                                   % (folder, name))


def write_settings(folder, settings):
    """Write what the CSVs in a folder are of; the models are added to those that are there."""
    earlier = rd_curves.read_settings(folder).get("models", {})
    rd_curves.write_settings(folder, dict(settings, models={**earlier, **settings["models"]}))


def models_of(plans):
    """Return a dict by kind and lambda of the names and checksums of the plans' models."""
    return {"%s, lambda = %g" % (plan.run.model, plan.settings["lmbda"]): [
        plan.run.name, plan.settings["model"]] for plan in plans}


def require_images_elsewhere(paths, folder):
    """UserError if one of the images is where plots are written, which could replace it."""
    for path in paths:
        if os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder):
            raise basics.UserError("%s: is in %s, the folder that the table goes to; --output "
                                   "writes elsewhere" % (path, folder))


def compute(args):
    """Compute the results that are missing and write the methods' CSVs.

    Returns the folder and a dict by script of a text that says which lambdas failed.
    """
    source = image_files.find_images(args.images)
    images, _ = store.look_at(source.paths, lambda shape: None, some_may_fail=False)
    name = source.name if source.many else os.path.splitext(source.name)[0]
    if args.label:
        name += "-" + args.label
    folder = os.path.join(args.output or OUTPUT, name)
    require_images_elsewhere(source.paths, folder)
    setup = planning.Setup(args.checkpoint_dir, source, images, os.path.join(folder, "npz"),
                           args.options, args.threads)
    plans = planning.find_plans(setup, args.methods or rd_curves.SCRIPTS, args.runs)
    basics.require_writable(os.path.join(setup.folder, "results"), missing=3)
    require_own_csvs(folder, {plan.settings["script"] for plan in plans})
    settings = dict(
        label=args.label, options=args.options, threads=args.threads, models=models_of(plans),
        images={os.path.basename(path): image for path, _, image in images},
        number=sum(shape[0] for _, shape, _ in images),
        sizes=sorted({"%dx%d" % (max(shape[1:]), min(shape[1:])) for _, shape, _ in images}))
    require_same_table(folder, settings)
    failed = run_plans(plans, args.jobs, args.scheduler)
    write_settings(folder, dict(settings, models=models_of(filter(store.is_joined, plans))))
    # Another process may have added rows meanwhile.
    planning.collect(plans + planning.find_earlier_plans(setup, plans, folder), folder)
    return folder, failed


def run_plans(plans, jobs, scheduler):
    """Compute what is missing; return a dict by script of a text that says which lambdas failed."""
    missing = [plan for plan in plans if not store.is_joined(plan)]
    print("%d of %d results exist" % (len(plans) - len(missing), len(plans)), flush=True)
    jobs = min(jobs, sum(len(plan.files) for plan in missing))
    for plan in missing:
        store.require_targets(plan)
        if not scheduler:
            method = planning.method_of(plan.settings["script"])
            for file in plan.files:
                with basics.errors_of(file.path):
                    image_files.require_compressible(file.shape, plan.run.num_filters,
                                                     method.has_gradients, jobs)
    _, failures = tasks.run_plans(nic.compress_task, missing, jobs, scheduler)
    failed = {}
    for one in failures:
        failed.setdefault(one.plan.settings["script"], set()).add(one.plan.settings["lmbda"])
    return {script: "failed at λ = %s" % ", ".join("%g" % lmbda for lmbda in sorted(lmbdas))
            for script, lmbdas in failed.items()}


def folders_of_tables(output, must_exist=True):
    """Return the folders under `output` that have a CSV of a method.

    UserError if there is none but must be.
    """
    folders = [folder for folder, _, files in os.walk(os.path.abspath(output))
               if any(script + ".csv" in files for script in rd_curves.SCRIPTS)]
    if must_exist and not folders:
        raise basics.UserError("%s: no CSV of a method there" % output)
    return folders


# ---------------------------------------------------------------- command line

def parse_method(name):
    """Return the name of a script with a METHOD, for argparse."""
    name = re.sub(r"\.py$", "", name)
    try:
        is_there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of names with dots, and of none
        is_there = False
    if not is_there or not hasattr(importlib.import_module(name), "METHOD"):
        raise argparse.ArgumentTypeError("%s: no script %s.py with a METHOD in %s; there are %s" % (
            name, name, planning.ROOT, ", ".join(rd_curves.SCRIPTS)))
    return name


def make_parser():
    """Return the parser of the command line."""
    parser = command_line.Parser(prog="table1.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", default="./checkpoints", help="folder of all runs")
    parser.add_argument("--images", help="as <imgs> of the scripts")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="default: all runs there")
    parser.add_argument("--methods", nargs="+", type=parse_method, metavar="SCRIPT",
                        help="of %s, or your own; default: all of the former"
                        % ", ".join(rd_curves.SCRIPTS))
    command_line.add_worker_options(parser)
    parser.add_argument("--threads", type=arguments.thread_count, metavar="N",
                        help="as of the scripts")
    parser.add_argument("--output", metavar="DIR",
                        help="where to write (default: ./outputs; with --from-csv also the folder "
                        "of this script)")
    parser.add_argument("--from-csv", action="store_true",
                        help="only tables and plots, of every data set under --output")
    parser.add_argument("--label", metavar="NAME", type=arguments.file_name,
                        help="added to the folder's name, for a table of other settings")
    parser.add_argument("--export-compressai", action="store_true",
                        help="also write what CompressAI's plot tool reads")
    parser.add_argument("options", nargs="*", metavar="-- OPTION",
                        help="for the scripts that have it")
    return parser


def run(args):
    """Compute the table of the images, or find those that exist, and write tables and plots."""
    if args.from_csv and (args.images or args.runs or args.methods or args.threads or args.label
                          or args.options):
        raise basics.UserError("--from-csv: --images, --runs, --methods, --threads, --label and "
                               "options of scripts are for a table that is computed")
    failed = {}
    if args.from_csv and args.output:
        folders = folders_of_tables(args.output)
    elif args.from_csv:
        folders = folders_of_tables(RESULTS) + folders_of_tables(OUTPUT, must_exist=False)
    elif args.images:
        folder, failed = compute(args)
        folders = [folder]
    else:
        raise basics.UserError("--images is missing")
    for folder in sorted(folders):
        summarise(folder, args.export_compressai, failed)
    if failed:
        raise basics.Incomplete("; ".join(" ".join(item) for item in sorted(failed.items()))
                                + "; all else is done, and the same command continues")


def main(argv=None):
    if argv is None:
        argv = sys.argv[1:]
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.options and "--" not in argv:
        parser.error("unrecognized arguments: %s; %s, options of the scripts come after --"
                     % (" ".join(args.options), basics.QUOTE))
    command_line.run_or_exit(parser, run, args)


if __name__ == "__main__":
    main()
