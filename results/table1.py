"""Run every method on every run: Table 1, and rate-distortion plots with the published curves.

    python results/table1.py --checkpoint_dir checkpoints --images kodak
    python results/table1.py --from-csv

Results that exist, of the same model and images, are kept, so that it can be stopped and continued
at any time; shards of results (compress --shard) are joined. Of images in a folder, glob or .npy
called NAME, everything goes into the folder NAME of --output, results into its subfolder npz.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import glob
import os
import re
import subprocess
import sys
import time

RESULTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(RESULTS)
sys.path.insert(0, ROOT)
import tf_boilerplate as nic
import numpy as np
import scipy.interpolate

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
MIN_POINTS = 4


# ---------------------------------------------------------------- running the scripts

# script, run and path of the results of one compress; model: fingerprint of the run
Job = collections.namedtuple("Job", "script run_name target model")


def find_jobs(args, source, folder):
    """All pairs of a method and a run it can use, by lambda, then in the order of the table."""
    runs = args.runs or sorted(
        name for name in os.listdir(args.checkpoint_dir)
        if nic.newest_checkpoint(os.path.join(args.checkpoint_dir, name)))
    jobs, seen = [], {}
    for run_name in sorted(set(runs), key=lambda name: (nic.run_lmbda(name), name)):
        model = "bits-back" if run_name.startswith("mbt2018_bb-") else "base"
        other = seen.setdefault((model, nic.run_lmbda(run_name)), run_name)
        if other != run_name:
            raise ValueError("%s and %s have the same lambda: choose by --runs" % (other, run_name))
        run = nic.find_run(argparse.Namespace(
            script=nic.SCRIPTS[model][0], checkpoint_dir=args.checkpoint_dir, run_name=run_name,
            num_filters=None))
        for method in METHODS:
            if method.script in nic.SCRIPTS[model] and method.script in args.methods:
                target = nic.result_path(
                    argparse.Namespace(script=method.script, results_dir=folder, shard=None,
                                       lmbda=nic.run_lmbda(run_name)), run, source)
                jobs.append(Job(method.script, run_name, target, run.fingerprint.hex()))
    if not jobs:
        raise ValueError("%s: no run there that one of %s can use"
                         % (args.checkpoint_dir, ", ".join(args.methods)))
    return jobs


def is_done(job, checksums):
    """Whether the job's results exist, of its model and of images of these checksums.

    Joins them from shards if there are any; ValueError unless each image is in one of those.
    """
    def done():
        settings = dict(model=job.model, image=checksums, lmbda=nic.run_lmbda(job.run_name))
        return nic.reusable_part(job.target, settings, None) is not None
    stem = job.target[:-len(".npz")]
    shards = {path: re.search(r"-shard=(\d+)-of-(\d+)\.npz$", path)
              for path in sorted(glob.glob(glob.escape(stem) + "-shard=*.npz"))}
    shards = {path: tuple(map(int, found.groups())) for path, found in shards.items() if found}
    if done():
        return True
    if not shards:
        return False
    n = max(n for _, n in shards.values())
    for path, shard in shards.items():
        if shard[1] != n:
            raise ValueError("%s: overlaps the shards that are one of %d" % (path, n))
    for i in range(1, n + 1):
        if (i, n) not in shards.values():
            raise ValueError("%s-shard=%d-of-%d.npz: missing, but other shards are there"
                             % (stem, i, n))
    join_shards(sorted(shards, key=shards.get), job.target)
    if not done():
        os.remove(job.target)
        raise ValueError("%s-shard=*-of-%d.npz: not of the run %s, its lambda, and all images of "
                         "--images" % (stem, n, job.run_name))
    return True


def join_shards(paths, target):
    """Write the results of shards 1 to n of a folder's images, whose every n-th image each has."""
    images, owner = {}, {}
    for i, path in enumerate(paths):
        try:
            result = nic.read_results(path)
        except Exception as error:  # damaged files raise many types
            raise ValueError("%s: not readable results (%s)" % (path, error))
        settings = {name: value for name, value in result.items()
                    if not value.ndim and not name.startswith("avg_")}
        first = settings if i == 0 else first
        for name in sorted(settings.keys() | first.keys()):
            if settings.get(name) != first.get(name):
                raise ValueError("%s: %s is %s, in %s %s" % (
                    path, name, settings.get(name), paths[0], first.get(name)))
        for k, name in enumerate(result["files"]):
            if owner.setdefault(name, path) != path:
                raise ValueError("%s and %s overlap: both have %s" % (owner[name], path, name))
            images[k, i] = dict(settings, image=result["image"][k], **{
                name: value[k:k + 1] for name, value in result.items()
                if value.ndim and name != "image"})
    with contextlib.redirect_stdout(None):
        nic.report([images[key] for key in sorted(images)], target)


def run_job(args, folder, job):
    """Run one script; seconds, or raise ValueError with its error."""
    start = time.time()
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, job.script + ".py"), "--checkpoint_dir",
         args.checkpoint_dir, "--threads", str(args.threads), "compress", "--results_dir", folder,
         job.run_name, args.images],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["exit code %d" % done.returncode]
        raise ValueError("%s on %s: %s" % (job.script, job.run_name, lines[-1]))
    return time.time() - start


def run_all(args, jobs, folder, checksums):
    """Run the jobs whose results are missing, args.jobs at a time; shows what is left.

    checksums: of the images, which with those of the model decide whether results are reused.
    """
    pending = [job for job in jobs if not is_done(job, checksums)]
    print("%d of %d results exist" % (len(jobs) - len(pending), len(jobs)), flush=True)
    took = collections.defaultdict(list)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(run_job, args, folder, job): job for job in pending}
        for future in concurrent.futures.as_completed(futures):
            job = futures.pop(future)
            try:
                took[job.script].append(future.result())
            except ValueError:
                for other in futures:
                    other.cancel()
                raise
            average = np.mean(np.concatenate(list(took.values())))
            left = sum(np.mean(took.get(other.script, average)) for other in futures.values())
            print("%s on %s: %s; %d left, about %s" % (
                job.script, job.run_name, duration(took[job.script][-1]), len(futures),
                duration(left / args.jobs)), flush=True)


def duration(seconds):
    if seconds < 90:
        return "%.0f s" % seconds
    return "%.0f min" % (seconds / 60) if seconds < 5400 else "%.1f h" % (seconds / 3600)


def collect(jobs, folder):
    """Write a CSV per method: averages over images, a row per run."""
    for method in METHODS:
        rows = []
        for job in jobs:
            if job.script == method.script:
                result = nic.read_results(job.target)
                rows.append([nic.run_lmbda(job.run_name), job.run_name]
                            + ["%.6f" % np.mean(result[name]) for name in COLUMNS])
        if rows:
            write_csv(os.path.join(folder, method.script + ".csv"),
                      ["lmbda", "run_name"] + COLUMNS, rows)


def write_csv(path, header, rows):
    with nic.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header] + rows)


# ---------------------------------------------------------------- table

def bd_rate(rate, quality, base_rate, base_quality):
    """Average difference in rate at equal quality, in %; nan with fewer than four points.

    Bjontegaard's, with the logarithm of the rate interpolated by PCHIP over the common range.
    """
    if min(len(rate), len(base_rate)) < MIN_POINTS:
        return np.nan
    low = max(min(quality), min(base_quality))
    high = min(max(quality), max(base_quality))
    if low >= high:
        return np.nan
    areas = []
    for bits, values in ((rate, quality), (base_rate, base_quality)):
        order = np.argsort(values)
        curve = scipy.interpolate.PchipInterpolator(np.asarray(values)[order],
                                                    np.log(np.asarray(bits)[order]))
        areas.append(curve.integrate(low, high))
    return 100 * np.expm1((areas[0] - areas[1]) / (high - low))


def read_csv(path):
    """Columns of numbers of a CSV, in the order of the rate; None if there is none."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows])
               for name in rows[0] if name != "run_name"}
    order = np.argsort(columns["est_bpp"])
    columns = {name: values[order] for name, values in columns.items()}
    if "msssim" in columns:
        columns["msssim_db"] = -10 * np.log10(1 - columns["msssim"])
    return columns


def savings(curves, quality, rate="est_bpp"):
    """BD-rate against base per script."""
    base = curves.get("mbt2018")
    return {script: bd_rate(curve[rate], curve[quality], base[rate], base[quality])
            if base is not None and quality in curve and quality in base
            and np.isfinite(curve[quality]).all() and np.isfinite(base[quality]).all() else np.nan
            for script, curve in curves.items()}


def table1_rows(curves):
    """Table 1: header, and a row per method with its BD-rates against base."""
    columns = [savings(curves, "psnr"), savings(curves, "msssim_db"),
               savings(curves, "psnr", "actual_bpp")]
    shown = lambda value: "–" if np.isnan(value) else "%.2f" % value
    return [["Table 1", "method", "script", "λs", "BD-rate %, PSNR", "BD-rate %, MS-SSIM",
             "BD-rate %, PSNR, size of files"]] + [
                 [m.row, m.label, m.script + ".py", len(curves[m.script]["est_bpp"])]
                 + [shown(column[m.script]) for column in columns]
                 for m in METHODS if m.script in curves]


def points_rows(curves):
    """The points behind Table 1: header, and a row per method with a column per lambda."""
    # bits per pixel, PSNR, R-D cost
    points = {(script, row[0]): row[1:] for script, curve in curves.items() for row in
              zip(*(curve[name] for name in ("lmbda", "est_bpp", "psnr", "rd_cost")))}
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
        for m in METHODS if m.script in curves]


def write_tables(folder, curves):
    """table1.csv, and table1.md with the points too, of a data set; returns the latter's text."""
    rows = table1_rows(curves)
    write_csv(os.path.join(folder, "table1.csv"), rows[0], rows[1:])
    markdown = lambda rows: "\n".join("| %s |" % " | ".join(map(str, row)) for row in
                                      rows[:1] + [["---"] * len(rows[0])] + rows[1:])
    text = ("%s\n\nBits per pixel (information content), PSNR in dB, and in brackets the R-D cost "
            "λ · MSE + bits per pixel against that of base:\n\n%s\n"
            % (markdown(rows), markdown(points_rows(curves))))
    nic.write_bytes(os.path.join(folder, "table1.md"), text.encode())
    return text


# ---------------------------------------------------------------- plots

def published(dataset):
    """Curves of the paper for a data set of that name, per script."""
    folder = os.path.join(RESULTS, "published", dataset.lower())
    curves = {m.script: read_csv(os.path.join(folder, m.script + "-psnr.csv")) for m in METHODS}
    return {script: curve for script, curve in curves.items() if curve is not None}


def draw(folder, curves):
    """rd-psnr.png, rd-msssim.png and bd-rate.png of a data set."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    dataset = os.path.basename(folder)
    for quality, label in (("psnr", "PSNR, dB"), ("msssim_db", "MS-SSIM, dB")):
        figure, axis = plt.subplots(figsize=(8, 5.2))
        for method in METHODS:
            curve = curves.get(method.script)
            if curve is not None and np.isfinite(curve[quality]).all():
                axis.plot(curve["est_bpp"], curve[quality], "o-", color=method.colour,
                          label=method.label, markersize=4, linewidth=1.5)
            paper = published(dataset).get(method.script, {})
            if quality in paper:
                axis.plot(paper["est_bpp"], paper[quality], "--", color=method.colour,
                          linewidth=1, zorder=1)
        axis.set(xlabel="bits per pixel (information content)", ylabel=label, title=dataset)
        axis.grid(alpha=.25)
        if quality == "psnr" and published(dataset):
            axis.plot([], [], "--", color="#888888", label="published", linewidth=1)
        if axis.lines:  # none if MS-SSIM is nan
            axis.legend(fontsize=9)
        save(figure, os.path.join(folder, "rd-%s.png" % quality.replace("_db", "")))
    draw_bars(plt, folder, savings(curves, "psnr"), savings(published(dataset), "psnr"))


def draw_bars(plt, folder, rates, papers):
    """bd-rate.png of a data set: BD-rates per script, with the published ones."""
    shown = [m for m in METHODS if np.isfinite(rates.get(m.script, np.nan))
             and m.script != "mbt2018"]
    if not shown:
        return
    figure, axis = plt.subplots(figsize=(8, .45 * len(shown) + 1.3))
    bars = axis.barh([m.label for m in shown], [rates[m.script] for m in shown],
                     color=[m.colour for m in shown])
    axis.bar_label(bars, fmt="%.1f %%", padding=3)
    known = [i for i, m in enumerate(shown) if m.script in papers]
    if known:
        axis.plot([papers[shown[i].script] for i in known], known, "D", color="white",
                  markeredgecolor="#222222", label="published")
        axis.legend(loc="lower left", fontsize=9)
    axis.margins(x=.15)
    axis.invert_yaxis()
    axis.axvline(0, color="#222222", linewidth=.8)
    axis.set(xlabel="BD-rate against the base hyperprior, % (PSNR)",
             title=os.path.basename(folder))
    save(figure, os.path.join(folder, "bd-rate.png"))


def save(figure, path):
    """Write a figure as PNG."""
    figure.tight_layout()
    with nic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


# ---------------------------------------------------------------- command line

def summarise(folder):
    """Table and plots of a data set from its CSVs."""
    curves = {m.script: read_csv(os.path.join(folder, m.script + ".csv")) for m in METHODS}
    curves = {script: curve for script, curve in curves.items() if curve is not None}
    print("%s\n\n%s" % (folder, write_tables(folder, curves)))
    draw(folder, curves)


def make_parser():
    parser = nic.Parser(prog="table1.py", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    scripts = [method.script for method in METHODS]
    parser.add_argument("--checkpoint_dir", default="./checkpoints", help="folder of all runs")
    parser.add_argument("--images", help="as <imgs> of the scripts")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="default: all runs there")
    parser.add_argument("--methods", nargs="+", choices=scripts, metavar="SCRIPT", default=scripts,
                        help="of %s; default: all" % ", ".join(scripts))
    parser.add_argument("--jobs", type=nic.number(int, 1), default=1, metavar="N",
                        help="scripts to run at a time")
    parser.add_argument("--threads", type=nic.number(int, 1), metavar="N",
                        help="threads of an operation (default: cores / jobs)")
    parser.add_argument("--output", default=RESULTS, help="where to write (default: %(default)s)")
    parser.add_argument("--from-csv", action="store_true",
                        help="only tables and plots, of every data set under --output")
    return parser


def run(args):
    if args.from_csv:
        folders = [folder for folder, _, files in os.walk(args.output)
                   if any(m.script + ".csv" in files for m in METHODS)]
        if not folders:
            raise ValueError("%s: no CSV of a method there" % args.output)
    elif not args.images:
        raise ValueError("--images is missing")
    else:
        args.threads = args.threads or max(1, len(os.sched_getaffinity(0)) // args.jobs)
        source, paths, many = nic.find_images(args.images)
        folders = [os.path.join(args.output, source if many else os.path.splitext(source)[0])]
        details = os.path.join(folders[0], "npz")
        jobs = find_jobs(args, source, details)
        run_all(args, jobs, details, [nic.digest(nic.read_images(p)).hex() for p in paths])
        collect(jobs, folders[0])
    for folder in sorted(folders):
        summarise(folder)


def main(argv=None):
    parser = make_parser()
    nic.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
