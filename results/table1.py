"""Run every method on every run: Table 1, and rate-distortion plots with the published curves.

    python results/table1.py --checkpoint_dir checkpoints --images kodak
    python results/table1.py --checkpoint_dir checkpoints --images kodak --label fast -- --fast
    python results/table1.py --from-csv

Results that exist, of the same model, images and settings, are kept, so that it can be stopped and
continued at any time. Of images in a folder, glob or .npy called NAME, everything goes into the
folder NAME of --output (NAME-LABEL with --label), results into its subfolder npz. Each option after
-- goes to all scripts that have it. A script that is not in the table is a method of your own, and
so is any CSV in the folder that has columns psnr and est_bpp or bpp, a row per point; those in its
subfolder codecs (see codecs.py) are drawn in grey.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import functools
import glob
import importlib
import itertools
import json
import os
import queue
import subprocess
import sys
import time

RESULTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(RESULTS)
sys.path.insert(0, ROOT)
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files, runs, store, workers
import numpy as np

# script, row of Table 1, label, colour: in the order of the table
Method = collections.namedtuple("Method", "script row label colour")
METHODS = [Method(*values) for values in [
    ("sga", "M1", "SGA", "#d62728"),
    ("bb_sga", "M2", "SGA + BB", "#1f77b4"),
    ("mbt2018", "M3", "base hyperprior", "#222222"),
    ("map", "A1", "MAP", "#ff7f0e"),
    ("ste", "A2", "STE", "#9467bd"),
    ("unoise", "A3", "uniform noise", "#2ca02c"),
    ("danneal", "A4", "deterministic annealing", "#e377c2"),
    ("bb_no_sga", "A5", "BB without SGA", "#17becf"),
    ("bb_plain", "A6", "BB, no iterative inference", "#8c564b")]]
COLUMNS = ["est_bpp", "psnr", "msssim", "actual_bpp", "rd_cost"]
OWN_COLOURS = ["#bcbd22", "#7f7f7f", "#aec7e8", "#98df8a", "#c5b0d5"]


def methods_of(curves):
    """Methods of a dict by script: those of the table in its order, then others by name."""
    others = sorted(set(curves) - {method.script for method in METHODS})
    return [method for method in METHODS if method.script in curves] + [
        Method(name, "", name, OWN_COLOURS[i % len(OWN_COLOURS)]) for i, name in enumerate(others)]


# ---------------------------------------------------------------- running the scripts

# script and run of one compress, path of its results, all settings that these must be of (options,
# lambda, images, fingerprint of the run), command line
Job = collections.namedtuple("Job", "script run_name target settings argv")


def find_jobs(args, job_for):
    """All pairs of a method and a run it can use, by lambda, then as in --methods."""
    found = {}
    for name in sorted(set(args.runs or os.listdir(args.checkpoint_dir))):
        if args.runs or runs.newest_checkpoint(os.path.join(args.checkpoint_dir, name)):
            run = runs.find_run(args.checkpoint_dir, name)
            try:
                lmbda = runs.run_lmbda(run.name)
            except basics.UserError:
                raise basics.UserError("the run name %s has no lmbda=<number>; choose others by --runs"
                                 % run.name)
            other = found.setdefault((lmbda, run.model), run)
            if other.name != run.name:
                raise basics.UserError("%s and %s have the same lambda: choose by --runs"
                                 % (other.name, run.name))
    methods = {script: importlib.import_module(script).METHOD for script in args.methods}
    known = {**methods, **{method.script: importlib.import_module(method.script).METHOD
                           for method in METHODS}}
    for flag in [word for i, word in enumerate(args.options) if word.startswith("--") or not i]:
        if not any(options_for(method, [flag]) for method in known.values()):
            raise basics.UserError("-- %s: none of %s has %s"
                             % (" ".join(args.options), ", ".join(known), flag))
        without = [script for script in methods if not options_for(methods[script], [flag])]
        if without:
            basics.note("-- %s: not for %s" % (flag, ", ".join(without)))
    jobs = [job_for(script, found[key]) for key in sorted(found) for script in methods
            if found[key].model == methods[script].model]
    if not jobs:
        raise basics.UserError("%s: no run there that one of %s can use"
                         % (args.checkpoint_dir, ", ".join(args.methods)))
    return jobs


def find_earlier_jobs(args, jobs, folder, job_for):
    """Those of the jobs' methods with other runs and lambdas in the CSVs whose results exist.

    A note names those whose rows will be gone.
    """
    earlier = []
    for script in {job.script for job in jobs}:
        lmbdas = {job.settings["lmbda"] for job in jobs if job.script == script}
        curve = read_csv(os.path.join(folder, script + ".csv")) or {}
        for run_name, lmbda in zip(curve.get("run_name", []), curve.get("lmbda", [])):
            if lmbda in lmbdas:
                continue
            with contextlib.suppress(basics.UserError):  # no such run any more
                job = job_for(script, runs.find_run(args.checkpoint_dir, run_name))
                if is_done(job):
                    earlier.append(job)
                    continue
            basics.note("%s of %s has no results of these settings, leaves the table"
                     % (script, run_name))
    return earlier


def options_for(method, options):
    """Those of `options`, words of a command line, that a method's script has."""
    flags = {"--" + name for name in method.presets}.union(
        *(option.flags.split() for option in method.options))
    kept, is_kept = [], False
    for word in options:
        is_kept = word.split("=")[0] in flags if word.startswith("--") else is_kept
        kept += [word] * is_kept
    return kept


def make_job(args, source, checksums, folder, script, run):
    """The Job of a script and a run on images of these checksums, whose results go into `folder`.

    Its settings are what the script resolves its command line to.
    """
    method = importlib.import_module(script).METHOD
    parser = nic.make_parser(script, None, method)
    argv = ["--checkpoint_dir", args.checkpoint_dir, "compress", "--results_dir", folder,
            run.name, args.images] + options_for(method, args.options)
    if args.threads:
        argv += ["--threads", str(args.threads)]
    resolved = command_line.parse_arguments(parser, method, argv)
    if resolved.output_file:
        raise basics.UserError("-- %s: %s is not an option" % (
            " ".join(args.options), resolved.output_file))
    resolved.lmbda = runs.run_lmbda(run.name)
    settings = dict(store.settings_of(command_line.options_of(method, resolved), resolved.lmbda, script, run,
                                    resolved.threads, method.codecs[0]), image=checksums)
    target = store.path_for(settings, store.result_path(
        folder, script, run, source, resolved.lmbda, resolved.changed))
    return Job(script, run.name, target, settings, argv)


def is_done(job):
    """Whether the job's results exist, of its settings."""
    result = store.stored_results(job.target)
    return result is not None and store.is_of(result, job.settings)


def run_job(job, places):
    """Run one script in a place of the queue `places`; seconds, or UserError with its error.

    A place is what sets a process up, workers.for_child.
    """
    place, start = places.get(), time.time()
    try:
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, job.script + ".py")] + job.argv, preexec_fn=place,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    finally:
        places.put(place)
    if done.returncode:
        raise basics.UserError("%s on %s: %s" % (job.script, job.run_name,
                                           workers.error_of(done.returncode, done.stderr)))
    return time.time() - start


def run_all(args, jobs):
    """Run the jobs whose results are missing, args.jobs at a time; shows what is left."""
    pending = [job for job in jobs if not is_done(job)]
    print("%d of %d results exist" % (len(jobs) - len(pending), len(jobs)), flush=True)
    took, places = collections.defaultdict(list), queue.Queue()
    for i in range(args.jobs):
        places.put(workers.for_child(i, args.jobs))
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(run_job, job, places): job for job in pending}
        try:
            for future in concurrent.futures.as_completed(futures):
                job = futures.pop(future)
                took[job.script].append(future.result())
                average = np.mean(np.concatenate(list(took.values())))
                left = sum(np.mean(took.get(other.script, average)) for other in futures.values())
                print("%s on %s: %s; %d left, about %s" % (
                    job.script, job.run_name, duration(took[job.script][-1]), len(futures),
                    duration(left / args.jobs)), flush=True)
        finally:
            for future in futures:
                future.cancel()


def duration(seconds):
    if seconds < 90:
        return "%.0f s" % seconds
    return "%.0f min" % (seconds / 60) if seconds < 5400 else "%.1f h" % (seconds / 3600)


def collect(jobs, folder):
    """Write a CSV per method: averages over images, a row per run."""
    for script in {job.script for job in jobs}:
        rows = []
        for job in sorted(jobs, key=lambda job: job.settings["lmbda"]):
            if job.script == script:
                result = store.read_results(job.target)
                rows.append([job.settings["lmbda"], job.run_name]
                            + ["%.6f" % store.mean(result[name]) for name in COLUMNS])
        write_csv(os.path.join(folder, script + ".csv"), ["lmbda", "run_name"] + COLUMNS, rows)


def write_csv(path, header, rows):
    with basics.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header] + rows)


# ---------------------------------------------------------------- table

# BD-rate in % (nan if there is none), overlap of the curves' qualities in dB, why not to trust it
Saving = collections.namedtuple("Saving", "rate overlap caveats")


def bd_rate(rate, quality, base_rate, base_quality):
    """Saving of a curve against base, by Bjontegaard's method with PCHIP."""
    import bjontegaard  # which imports pyplot
    base, curve = (points[:, np.argsort(points[1])] for points in
                   (np.array([base_rate, base_quality]), np.array([rate, quality])))
    if not np.isfinite(base).all() or not np.isfinite(curve).all():
        return Saving(np.nan, np.nan, [])
    overlap = max(0, min(base[1, -1], curve[1, -1]) - max(base[1, 0], curve[1, 0]))
    steps = np.hstack([np.diff(base), np.diff(curve)])
    caveats = [text for text, holds in [
        ("fewer than 4 points", min(len(rate), len(base_rate)) < 4),
        ("not monotone", (steps <= 0).any()),
        ("overlap under half of base", overlap < np.ptp(base_quality) / 2)] if holds]
    saved = bjontegaard.bd_rate(
        *base, *curve, "pchip", require_matching_points=False, min_overlap=0
    ) if overlap and (steps[1] > 0).all() else np.nan
    return Saving(saved, overlap, caveats)


def csv_rows(path):
    """List of dicts of a CSV, whatever its delimiter; names of columns in lower case."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.read().splitlines() or [""]
        delimiter = max(",;\t", key=lines[0].count)
        lines[0] = lines[0].lower().replace(" ", "")
        return list(csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise basics.UserError("%s: not a CSV (%s)" % (path, error))


def read_csv(path):
    """Columns of a CSV, in the order of the rate est_bpp; None if there is none."""
    if not os.path.exists(path):
        return None
    rows = csv_rows(path)
    try:
        columns = {name: np.array([row[name] if name == "run_name" else float(row[name])
                                   for row in rows])
                   for name in rows[0] if name in ["lmbda", "run_name", "bpp"] + COLUMNS}
        if "est_bpp" not in columns:
            columns["est_bpp"] = columns["bpp"]
        order = np.argsort(columns["est_bpp"])
    except (LookupError, TypeError, ValueError) as error:
        raise basics.UserError("%s: not a CSV of R-D points (%s)" % (path, error))
    columns = {name: values[order] for name, values in columns.items()}
    if "msssim" in columns:
        columns["msssim_db"] = -10 * np.log10(1 - columns["msssim"])
    return columns


def read_curves(folder):
    """Dict of the columns of all CSVs in a folder that are rate-distortion curves, by name."""
    curves = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.csv"))):
        name = os.path.basename(path)[:-len(".csv")]
        columns = set((csv_rows(path) or [{}])[0])
        if name in [method.script for method in METHODS] or (
                "psnr" in columns and columns & {"est_bpp", "bpp"}):
            curves[name] = read_csv(path)
        elif name != "table1":
            basics.note("%s: has no columns psnr and bpp, is not drawn" % path)
    return curves


def savings(curves, quality, rate="est_bpp"):
    """Saving per script, against base."""
    base, none = curves.get("mbt2018", {}), Saving(np.nan, np.nan, [])
    return {script: bd_rate(curve[rate], curve[quality], base[rate], base[quality])
            if {rate, quality} <= set(curve) & set(base) else none
            for script, curve in curves.items()}


def cost_savings(curve, base):
    """What the R-D cost changes against base, in %: three means over the λ of both, or nan.

    Of `rd_cost`, the mean over images; of the cost at the mean rate and PSNR, all that published
    points allow; and of the latter's change in % of base's rate. This last is the BD-rate to first
    order, if the base curve has the slope dR/dMSE = -λ, as optimal models have.
    """
    lmbdas, *rows = np.intersect1d(curve.get("lmbda", []), base.get("lmbda", []),
                                   return_indices=True)
    if not len(lmbdas):
        return [np.nan] * 3
    rate, quality, mean_cost = ([c.get(name, np.full(len(c["lmbda"]), np.nan))[i]
                                 for c, i in zip((curve, base), rows)]
                                for name in ("est_bpp", "psnr", "rd_cost"))
    cost, base_cost = (r + lmbdas * 255 ** 2 * 10 ** (-q / 10) for r, q in zip(rate, quality))
    return [100 * np.mean(change) for change in (
        mean_cost[0] / mean_cost[1] - 1, cost / base_cost - 1, (cost - base_cost) / rate[1])]


def table1_rows(curves):
    """Table 1: header, and a row per method or codec, its BD-rates and R-D cost against base."""
    columns = [savings(curves, "psnr"), savings(curves, "msssim_db"),
               savings(curves, "psnr", "actual_bpp")]
    shown = lambda value, mark="": "–" if np.isnan(value) else "%.2f%s" % (value, mark)
    rows = [["Table 1", "method", "script", "points", "BD-rate %, PSNR", "BD-rate %, MS-SSIM",
             "BD-rate %, PSNR, size of files", "overlap dB, PSNR", "overlap dB, MS-SSIM",
             "R-D cost %", "R-D cost %, mean PSNR", "cost saved, % of rate",
             "* not to be trusted"]]
    for method in methods_of(curves):
        curve, cells = curves[method.script], [column[method.script] for column in columns]
        caveats = dict.fromkeys(caveat for cell in cells for caveat in cell.caveats)
        rows.append([method.row, method.label, method.script + ".py" * bool(method.row),
                     len(curve["est_bpp"])]
                    + [shown(cell.rate, " *" * bool(cell.caveats)) for cell in cells]
                    + [shown(cell.overlap) for cell in cells[:2]]
                    + [shown(cost) for cost in cost_savings(curve, curves.get("mbt2018", {}))]
                    + ["; ".join(caveats)])
    return rows


def points_rows(curves):
    """The points behind Table 1: header, and a row per method with a column per lambda."""
    # bits per pixel, PSNR, R-D cost
    points = {(script, row[0]): row[1:] for script, curve in curves.items() for row in
              zip(*(curve.get(name, []) for name in ("lmbda", "est_bpp", "psnr", "rd_cost")))}
    lmbdas = sorted({lmbda for _, lmbda in points})

    def cell(script, lmbda):
        if (script, lmbda) not in points:
            return "–"
        bpp, psnr, cost = points[script, lmbda]
        text = "%.4f, %.2f" % (bpp, psnr)
        if script == "mbt2018" or ("mbt2018", lmbda) not in points:
            return text
        return text + " (%+.1f %%)" % (100 * (cost / points["mbt2018", lmbda][2] - 1))
    return [["method"] + ["λ = %g" % lmbda for lmbda in lmbdas]] + [
        [m.label] + [cell(m.script, lmbda) for lmbda in lmbdas]
        for m in methods_of(curves) if {"lmbda", "rd_cost"} <= set(curves[m.script])]


def write_tables(folder, curves, codecs, papers):
    """table1.csv, and table1.md with the points too, of a data set; returns the latter's text."""
    rows = table1_rows({**codecs, **curves}) + [
        ["", label + ", published", ""] + cells for _, label, _, *cells in table1_rows(papers)[1:]]
    write_csv(os.path.join(folder, "table1.csv"), rows[0], rows[1:])
    markdown = lambda rows: "\n".join("| %s |" % " | ".join(map(str, row)) for row in
                                      rows[:1] + [["---"] * len(rows[0])] + rows[1:])
    text = ("%s\n\nCosts are means over λ; that saved, in %% of the rate, is BD-rate to first "
            "order.\n\nBits per pixel (information content), PSNR in dB, and in brackets the R-D "
            "cost λ · MSE + bits per pixel against that of base:\n\n%s\n"
            % (markdown(rows), markdown(points_rows(curves))))
    basics.write_bytes(os.path.join(folder, "table1.md"), text.encode())
    return text


# ---------------------------------------------------------------- plots

def published(dataset):
    """Curves of the paper for a data set of that name, per script."""
    folder = os.path.join(RESULTS, "published", dataset.lower())
    curves = {m.script: read_csv(os.path.join(folder, m.script + "-psnr.csv")) for m in METHODS}
    return {script: curve for script, curve in curves.items() if curve is not None}


def draw(folder, curves, codecs, papers):
    """rd-psnr.png, rd-msssim.png and bd-rate.png of a data set; papers: see `published`."""
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")
    dataset = os.path.basename(folder)
    is_known = lambda curve, quality: quality in curve and np.isfinite(curve[quality]).all()
    for quality, label in (("psnr", "PSNR, dB"), ("msssim_db", "MS-SSIM, dB")):
        if not any(is_known(curve, quality) for curve in curves.values()):
            continue
        figure, axis = plt.subplots(figsize=(8, 5.2))
        for method in methods_of(curves):
            if is_known(curves[method.script], quality):
                axis.plot(curves[method.script]["est_bpp"], curves[method.script][quality], "o-",
                          color=method.colour, label=method.label, markersize=4, linewidth=1.5)
            if quality in papers.get(method.script, {}):
                axis.plot(papers[method.script]["est_bpp"], papers[method.script][quality], "--",
                          color=method.colour, linewidth=1, zorder=1)
        limits = axis.axis()
        styles = itertools.cycle([":", "-.", "--", "-"])
        for (name, curve), style in zip(sorted(codecs.items()), styles):
            if is_known(curve, quality):
                axis.plot(curve["est_bpp"], curve[quality], style, color="#999999", label=name,
                          linewidth=1.2, zorder=0)
        axis.axis(limits)
        axis.set(xlabel="bits per pixel (information content)", ylabel=label, title=dataset)
        axis.grid(alpha=.25)
        if quality == "psnr" and papers:
            axis.plot([], [], "--", color="#888888", label="published", linewidth=1)
        axis.legend(fontsize=9)
        save(figure, os.path.join(folder, "rd-%s.png" % quality.replace("_db", "")))
    draw_bars(plt, folder, savings(curves, "psnr"), savings(papers, "psnr"))


def draw_bars(plt, folder, rates, papers):
    """bd-rate.png of a data set: BD-rates per script, with the published ones."""
    shown = [m for m in methods_of(rates) if m.script != "mbt2018"
             and np.isfinite(rates[m.script].rate)]
    if not shown:
        return
    figure, axis = plt.subplots(figsize=(8, .45 * len(shown) + 1.3))
    bars = axis.barh([m.label for m in shown], [rates[m.script].rate for m in shown],
                     color=[m.colour for m in shown])
    axis.bar_label(bars, ["%.1f %%%s" % (rates[m.script].rate, " *" * bool(rates[m.script].caveats))
                          for m in shown], padding=3)
    known = [i for i, m in enumerate(shown) if m.script in papers]
    if known:
        axis.plot([papers[shown[i].script].rate for i in known], known, "D", color="white",
                  markeredgecolor="#222222", label="published")
        axis.legend(loc="lower left", fontsize=9)
    axis.margins(x=.15)
    axis.invert_yaxis()
    axis.axvline(0, color="#222222", linewidth=.8)
    axis.set(xlabel="BD-rate against the base hyperprior, % (PSNR)",
             title=os.path.basename(folder))
    save(figure, os.path.join(folder, "bd-rate.png"))


def export_compressai(folder, curves):
    """A JSON per method in compressai/, as `python -m compressai.utils.plot` reads it."""
    target = os.path.join(folder, "compressai")
    os.makedirs(target, exist_ok=True)
    for method in methods_of(curves):
        curve = curves[method.script]
        results = {"psnr-rgb": "psnr", "ms-ssim-rgb": "msssim", "bpp": "est_bpp"}
        content = dict(name=method.label, description="%s on %s, information content" % (
            method.script + ".py" * bool(method.row), os.path.basename(folder)), results={
                name: curve[column].tolist() for name, column in results.items()
                if column in curve and np.isfinite(curve[column]).all()})
        basics.write_bytes(os.path.join(target, method.script + ".json"),
                        json.dumps(content, indent=2).encode())


def save(figure, path):
    """Write a figure as PNG."""
    figure.tight_layout()
    with basics.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    print("plot: %s" % path)


# ---------------------------------------------------------------- command line

def summarise(folder, with_compressai):
    """Table and plots of a data set from its CSVs, and others' curves, which have no --label."""
    label = read_settings(folder).get("label")
    unlabelled = folder[:-len("-" + label)] if label else folder
    curves, codecs = read_curves(folder), {}
    if is_of_images(os.path.join(unlabelled, "codecs"), read_settings(folder).get("images")):
        codecs = read_curves(os.path.join(unlabelled, "codecs"))
    else:
        basics.note("%s: curves of other images, not drawn" % os.path.join(unlabelled, "codecs"))
    papers = published(os.path.basename(unlabelled))
    print("%s\n\n%s" % (folder, write_tables(folder, curves, codecs, papers)))
    draw(folder, curves, codecs, papers)
    if with_compressai:
        export_compressai(folder, curves)


def method_name(name):
    """A script with a METHOD, for argparse."""
    try:
        importlib.import_module(name).METHOD
    except (ImportError, AttributeError):
        raise argparse.ArgumentTypeError("%s: no script %s.py with a METHOD in %s; there are %s" % (
            name, name, ROOT, ", ".join(method.script for method in METHODS)))
    return name


def label(text):
    """A part of a folder's name, for argparse."""
    if "/" in text:
        raise argparse.ArgumentTypeError("%r: must be a name without /" % text)
    return text


def make_parser():
    parser = command_line.Parser(prog="table1.py", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    scripts = [method.script for method in METHODS]
    parser.add_argument("--checkpoint_dir", default="./checkpoints", help="folder of all runs")
    parser.add_argument("--images", help="as <imgs> of the scripts")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="default: all runs there")
    parser.add_argument("--methods", nargs="+", type=method_name, metavar="SCRIPT",
                        default=scripts, help="of %s, or your own; default: the former"
                        % ", ".join(scripts))
    parser.add_argument("--jobs", type=command_line.count, default=1, metavar="N",
                        help="scripts to run at a time")
    parser.add_argument("--threads", type=command_line.count, metavar="N",
                        help="as of the scripts (default: one per core of a job's part)")
    parser.add_argument("--output", default=RESULTS, help="where to write (default: %(default)s)")
    parser.add_argument("--from-csv", action="store_true",
                        help="only tables and plots, of every data set under --output")
    parser.add_argument("--label", metavar="NAME", type=label,
                        help="of a folder for tables of other settings")
    parser.add_argument("--export-compressai", action="store_true",
                        help="also write what CompressAI's plot tool reads")
    parser.add_argument("options", nargs="*", metavar="-- OPTION",
                        help="for the scripts that have it")
    return parser


def read_settings(folder):
    """What write_settings wrote there, a dict; {} as long as there is no CSV of such settings."""
    path = os.path.join(folder, "settings.json")
    if not os.path.exists(path) or not glob.glob(os.path.join(glob.escape(folder), "*.csv")):
        return {}
    try:
        return dict(json.loads(basics.read_bytes(path).decode()))
    except (TypeError, ValueError) as error:
        raise basics.UserError("%s: not settings of a table (%s)" % (path, error))


def write_settings(folder, settings):
    basics.write_bytes(os.path.join(folder, "settings.json"), json.dumps(settings, indent=1).encode())


def digests(paths):
    """Checksums of the images in files, by name."""
    return {os.path.basename(path): basics.digest(image_files.read_images(path)).hex() for path in paths}


def is_of_images(folder, images):
    """Whether what is in a folder may be of images of these digests, as far as one knows."""
    return images is None or read_settings(folder).get("images", images) == images


def require_same_table(folder, label, options, images, jobs):
    """UserError if the CSVs in a folder are of other images, options or models, or a stranger's.

    Else its settings.json gets these; of models, names and checksums by kind and lambda.
    """
    for script in {job.script for job in jobs}:
        path = os.path.join(folder, script + ".csv")
        if os.path.exists(path) and "run_name" not in (csv_rows(path) or [{}])[0]:
            raise basics.UserError("%s: is there and not of this script; rename it, or --label NAME "
                             "makes a table beside it" % path)
    stored = read_settings(folder)
    models = dict(stored.get("models", {}))
    for job in jobs:
        model = importlib.import_module(job.script).METHOD.model
        models["%s, lambda = %g" % (model, job.settings["lmbda"])] = [
            job.run_name, job.settings["model"]]
    settings = dict(label=label, options=options, models=models, images=images)
    expected = {**settings, **stored, "models": {**models, **stored.get("models", {})}}
    for name, value in settings.items():
        if value != expected[name]:
            raise basics.UserError("%s is a table of other %s; --label NAME makes one beside it"
                             % (folder, name))
    write_settings(folder, settings)


def run(args):
    if args.from_csv and (args.images or args.runs or args.label or args.options):
        raise basics.UserError("--from-csv: --images, --runs, --label and options of scripts are for a "
                         "table that is computed")
    if args.from_csv:
        folders = [folder for folder, _, files in os.walk(os.path.abspath(args.output))
                   if any(m.script + ".csv" in files for m in METHODS)]
        if not folders:
            raise basics.UserError("%s: no CSV of a method there" % args.output)
    elif not args.images:
        raise basics.UserError("--images is missing")
    else:
        source, paths, many = image_files.find_images(args.images)
        name = (source if many else os.path.splitext(source)[0]) + (
            "-" + args.label if args.label else "")
        folders = [os.path.join(args.output, name)]
        images = digests(paths)
        job_for = functools.partial(make_job, args, source, list(images.values()),
                                    os.path.join(folders[0], "npz"))
        jobs = find_jobs(args, job_for)
        basics.require_writable(os.path.join(folders[0], "npz", "results"), missing=3)
        require_same_table(folders[0], args.label, args.options, images, jobs)
        earlier = find_earlier_jobs(args, jobs, folders[0], job_for)
        run_all(args, jobs)
        collect(jobs + earlier, folders[0])
    for folder in sorted(folders):
        summarise(folder, args.export_compressai)


def main(argv=None):
    parser, argv = make_parser(), sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if args.options and "--" not in argv:
        parser.error("unrecognized arguments: %s; %s, options of the scripts come after --"
                     % (" ".join(args.options), basics.QUOTE))
    command_line.run_or_exit(parser, run, args)


if __name__ == "__main__":
    main()
