"""Rate-distortion curves: the methods' CSVs and those of others, and what a curve saves.

A curve is a dict of the columns of a CSV, arrays in the order of the rate, a point per row. The
folder of a data set has a curve per method, and settings.json with the checksums of its images.
"""

import contextlib
import csv
import glob
import itertools
import json
import os
import typing

from plumbing import basics, image_files
import numpy as np

RESULTS = os.path.dirname(os.path.abspath(__file__))
COLUMNS = ["est_bpp", "psnr", "msssim", "actual_bpp", "rd_cost"]
OWN_COLOURS = ["#bcbd22", "#7f7f7f", "#aec7e8", "#98df8a", "#c5b0d5"]


class Method(typing.NamedTuple):
    """What has a curve: a method of the paper, one of your own, or another codec."""
    script: str  # name of the script, and of the CSV
    row: str  # in Table 1, or empty if it is not there
    label: str  # in tables and plots
    colour: str  # in plots

    @property
    def file_name(self):
        """Return the script's file name or, of what is not in Table 1, the name alone."""
        if self.row:
            return self.script + ".py"
        return self.script


# In the order of the table.
METHODS = [
    Method("sga", "M1", "SGA", "#d62728"),
    Method("bb_sga", "M2", "SGA + BB", "#1f77b4"),
    Method("mbt2018", "M3", "base hyperprior", "#222222"),
    Method("map", "A1", "MAP", "#ff7f0e"),
    Method("ste", "A2", "STE", "#9467bd"),
    Method("unoise", "A3", "uniform noise", "#2ca02c"),
    Method("danneal", "A4", "deterministic annealing", "#e377c2"),
    Method("bb_no_sga", "A5", "BB without SGA", "#17becf"),
    Method("bb_plain", "A6", "BB, no iterative inference", "#8c564b")]
SCRIPTS = [method.script for method in METHODS]


def methods_of(curves):
    """Return the Methods of a dict by script: those of Table 1 in order, then others by name."""
    others = sorted(set(curves) - set(SCRIPTS))
    return [method for method in METHODS if method.script in curves] + [
        Method(name, "", name, colour)
        for name, colour in zip(others, itertools.cycle(OWN_COLOURS))]


# ---------------------------------------------------------------- CSVs

def write_csv(path, header, rows):
    """Write a CSV whole, or not at all."""
    with basics.replacing(path) as temporary, open(
            temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header] + rows)


def csv_rows(path):
    """Return the rows of a CSV of any delimiter as dicts; names of columns are in lower case."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.read().splitlines() or [""]
        delimiter = max(",;\t", key=lines[0].count)
        lines[0] = lines[0].lower().replace(" ", "")
        return list(csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise basics.UserError("%s: not a CSV (%s)" % (path, error))


@contextlib.contextmanager
def complete(path):
    """A context in which what is missing in csv_rows, or no number, is a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise basics.UserError("%s: a row, a column or a number is missing (%s)" % (path, error))


def column_names(path):
    """Return the set of names of a CSV's columns; it is empty if there is no row."""
    rows = csv_rows(path)
    if not rows:
        return set()
    return set(rows[0])


def read_column(rows, name):
    """Return a column of csv_rows as an array, of floats unless it has the names of runs."""
    if name == "run_name":
        return np.array([row[name] for row in rows])
    return np.array([float(row[name]) for row in rows])


def read_csv(path):
    """Return the curve in a CSV, or None if there is no such file.

    The rate is `est_bpp` or, of others' curves, `bpp`.
    """
    if not os.path.exists(path):
        return None
    rows = csv_rows(path)
    try:
        curve = {name: read_column(rows, name) for name in rows[0]
                 if name in ["lmbda", "run_name", "bpp"] + COLUMNS}
        if "est_bpp" not in curve:
            curve["est_bpp"] = curve["bpp"]
        kept = usable_rows(path, curve)
        order = kept[np.argsort(curve["est_bpp"][kept])]
    except (LookupError, TypeError, ValueError) as error:
        raise basics.UserError("%s: not a CSV of R-D points (%s)" % (path, error))
    curve = {name: values[order] for name, values in curve.items()}
    if "msssim" in curve:
        curve["msssim_db"] = -10 * np.log10(1 - curve["msssim"])
    return curve


def usable_rows(path, curve):
    """Return the positions of a curve's rows with a rate and a PSNR; a note names the others."""
    is_usable = np.isfinite(curve["est_bpp"]) & (curve["est_bpp"] > 0)
    if "psnr" in curve:
        is_usable &= np.isfinite(curve["psnr"])
    if not is_usable.all():
        basics.note("%s: left out are rows without a positive rate and a finite PSNR: %s" % (
            path, ", ".join(str(k + 1) for k in np.flatnonzero(~is_usable))))
    return np.flatnonzero(is_usable)


def read_curves(folder):
    """Return a dict by name of all curves in a folder; notes name CSVs and rows that are none."""
    curves = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.csv"))):
        name = os.path.basename(path)[:-len(".csv")]
        columns = column_names(path)
        if name in SCRIPTS or ("psnr" in columns and columns & {"est_bpp", "bpp"}):
            curve = read_csv(path)
            if len(curve["est_bpp"]):
                curves[name] = curve
        elif name != "table1":
            basics.note("%s: has no columns psnr and bpp, is not drawn" % path)
    return curves


class Images(typing.NamedTuple):
    """What published curves are of."""
    number: int
    size: str  # longer side x shorter side


PUBLISHED = {"kodak": Images(24, "768x512"), "tecnick": Images(100, "1200x1200")}


def published(dataset, sizes=None):
    """Return the paper's curves for a data set of that name, by script.

    sizes: those of the images that they are to be drawn beside, if known. Of others there are none,
    which a note says.
    """
    dataset = dataset.lower()
    if dataset in PUBLISHED and sizes not in (None, [PUBLISHED[dataset].size]):
        basics.note("the published curves of %s are of %d images of %s pixels, not %s: not drawn"
                    % (dataset, *PUBLISHED[dataset], ", ".join(sizes)))
        return {}
    folder = os.path.join(RESULTS, "published", dataset)
    curves = {script: read_csv(os.path.join(folder, script + "-psnr.csv")) for script in SCRIPTS}
    return {script: curve for script, curve in curves.items() if curve is not None}


def at_lambdas_of(base, curves):
    """Return the curves by script, of their points those alone whose lambda the base curve has.

    A BD-rate depends on the range. All points are there if base has none of the lambdas.
    """
    kept = {script: np.isin(curve.get("lmbda", []), base.get("lmbda", []))
            for script, curve in curves.items()}
    if not any(rows.any() for rows in kept.values()):
        return curves
    return {script: {name: values[kept[script]] for name, values in curve.items()}
            for script, curve in curves.items()}


def lacks_lambdas(curve, base):
    """Tell whether a curve that has lambdas has not all of the base curve's."""
    return "lmbda" in curve and bool(set(base.get("lmbda", [])) - set(curve["lmbda"]))


# ---------------------------------------------------------------- settings of a folder

def read_settings(folder):
    """Return what write_settings wrote there; {} as long as there is no CSV of such settings."""
    path = os.path.join(folder, "settings.json")
    if not os.path.exists(path) or not glob.glob(os.path.join(glob.escape(folder), "*.csv")):
        return {}
    try:
        return dict(json.loads(basics.read_bytes(path).decode()))
    except (TypeError, ValueError) as error:
        raise basics.UserError("%s: not settings of a table (%s)" % (path, error))


def write_settings(folder, settings):
    """Write a dict of what the CSVs in a folder are of."""
    basics.write_bytes(os.path.join(folder, "settings.json"),
                       json.dumps(settings, indent=1).encode())


def digests(paths):
    """Return the checksums of the images in files, by name."""
    return {os.path.basename(path): basics.digest(image_files.read_images(path)).hex()
            for path in paths}


def is_of_images(folder, images):
    """Tell whether what is in a folder may be of images of these digests, as far as one knows."""
    return images is None or read_settings(folder).get("images", images) == images


# ---------------------------------------------------------------- savings against base

class Saving(typing.NamedTuple):
    """What a curve saves in rate at equal quality."""
    rate: float  # the BD-rate in %, nan if there is none
    overlap: float  # of the curves' qualities, in dB
    caveats: list  # texts why the BD-rate is not to be trusted


class CostSaving(typing.NamedTuple):
    """What the R-D cost changes at equal λ, in %: means over the λ of both curves, or nan."""
    by_image: float  # of `rd_cost`, the mean over images
    by_mean: float  # of the cost at the mean rate and PSNR, all that published points allow
    # The latter's change in % of base's rate. It is the BD-rate to first order, if the base curve
    # has the slope dR/dMSE = -λ, as optimal models have.
    of_rate: float


def by_quality(rate, quality):
    """Return the points [2, n] of a curve in the order of the quality."""
    points = np.array([rate, quality])
    return points[:, np.argsort(quality)]


def bd_rate(rate, quality, base_rate, base_quality):
    """Return the Saving of a curve against base, by Bjontegaard's method with PCHIP."""
    import bjontegaard  # which imports pyplot
    curve, base = by_quality(rate, quality), by_quality(base_rate, base_quality)
    if not np.isfinite(base).all() or not np.isfinite(curve).all():
        return Saving(np.nan, np.nan, [])
    overlap = max(0, min(base[1, -1], curve[1, -1]) - max(base[1, 0], curve[1, 0]))
    steps = np.hstack([np.diff(base), np.diff(curve)])
    caveats = []
    if min(len(rate), len(base_rate)) < 4:
        caveats.append("fewer than 4 points")
    if (steps <= 0).any():
        caveats.append("not monotone")
    if overlap < np.ptp(base_quality) / 2:
        caveats.append("overlap under half of base")
    if not overlap or (steps[1] <= 0).any():
        return Saving(np.nan, overlap, caveats)
    saved = bjontegaard.bd_rate(*base, *curve, "pchip", require_matching_points=False,
                                min_overlap=0)
    return Saving(saved, overlap, caveats)


def savings(curves, quality, rate="est_bpp"):
    """Return the Saving per script against base, of these columns."""
    base, saved = curves.get("mbt2018", {}), {}
    for script, curve in curves.items():
        if {rate, quality} <= set(curve) & set(base):
            saved[script] = bd_rate(curve[rate], curve[quality], base[rate], base[quality])
        else:
            saved[script] = Saving(np.nan, np.nan, [])
    return saved


def cost_at_means(lmbdas, rate, psnr):
    """Return the R-D cost λ · MSE + bits per pixel at a mean rate and PSNR."""
    return rate + lmbdas * 255 ** 2 * 10 ** (-psnr / 10)


def columns_at(curve, rows):
    """Return est_bpp, psnr and rd_cost of rows of a curve; a column that is missing is nan."""
    missing = np.full(len(curve["lmbda"]), np.nan)
    return [curve.get(name, missing)[rows] for name in ("est_bpp", "psnr", "rd_cost")]


def cost_savings(curve, base):
    """Return the CostSaving of a curve against base."""
    lmbdas, rows, base_rows = np.intersect1d(curve.get("lmbda", []), base.get("lmbda", []),
                                             return_indices=True)
    if not len(lmbdas):
        return CostSaving(np.nan, np.nan, np.nan)
    rate, psnr, cost = columns_at(curve, rows)
    base_rate, base_psnr, base_cost = columns_at(base, base_rows)
    mean_cost = cost_at_means(lmbdas, rate, psnr)
    base_mean_cost = cost_at_means(lmbdas, base_rate, base_psnr)
    return CostSaving(100 * np.mean(cost / base_cost - 1),
                      100 * np.mean(mean_cost / base_mean_cost - 1),
                      100 * np.mean((mean_cost - base_mean_cost) / base_rate))
