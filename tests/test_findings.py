"""The figures in the tables of results/README.md are those of the results."""

import glob
import os

import numpy as np
import pytest

from conftest import ROOT, load_module, read_tables

rd_curves = load_module(os.path.join(ROOT, "results", "rd_curves.py"), "rd_curves")
REDUCED = os.path.join(ROOT, "results", "reduced")

# Rows with a column for each λ, of Kodak: a field of CostSaving, of which curve, against which.
BY_LAMBDA = {
    "R-D cost of base against the paper's": ("by_mean", "mbt2018", "published mbt2018"),
    "R-D cost of SGA against base": ("by_image", "sga", "mbt2018"),
    "… of SGA + BB": ("by_image", "bb_sga", "mbt2018"),
    "… of bits-back alone": ("by_image", "bb_plain", "mbt2018"),
    "… of SGA + BB against bits-back alone": ("by_image", "bb_sga", "bb_plain"),
    "change of cost by SGA, in % of base's rate": ("of_rate", "sga", "mbt2018"),
    "… published": ("of_rate", "published sga", "published mbt2018"),
    "… by SGA + BB": ("of_rate", "bb_sga", "mbt2018"),
    "… by SGA + BB, published": ("of_rate", "published bb_sga", "published mbt2018")}


@pytest.fixture(scope="module")
def tables():
    """Tables of results/README.md, lists of rows, by the first cell of their first row."""
    with open(os.path.join(ROOT, "results", "README.md"), encoding="utf-8") as file:
        return {table[0][0]: table for table in read_tables(file.read())}


def number(text):
    return float(text.replace("−", "-").replace(" %", ""))


def at(curve, lmbda):
    """The point of a curve at a λ, as a curve."""
    return {name: values[curve["lmbda"] == lmbda] for name, values in curve.items()}


def test_savings_by_lambda(tables):
    curves = rd_curves.read_curves(os.path.join(REDUCED, "kodak"))
    curves.update({"published " + script: curve
                   for script, curve in rd_curves.published("kodak").items()})
    header, *rows = tables["λ, on Kodak"]
    assert [row[0] for row in rows] == [*BY_LAMBDA, "PSNR of SGA above WebP, dB"]
    for label, *shown in rows[:-1]:
        field, script, base = BY_LAMBDA[label]
        for cell, lmbda in zip(shown, map(float, header[1:])):
            saving = rd_curves.cost_savings(at(curves[script], lmbda), at(curves[base], lmbda))
            assert number(cell) == round(getattr(saving, field), 1), (label, lmbda)
    webp = rd_curves.read_curves(os.path.join(REDUCED, "kodak", "codecs"))["WebP"]
    above = curves["sga"]["psnr"] - np.interp(np.log(curves["sga"]["est_bpp"]),
                                              np.log(webp["est_bpp"]), webp["psnr"])
    assert list(map(number, rows[-1][1:])) == list(np.round(above, 1))


def test_bd_rates(tables):
    columns = []
    for dataset, images in ("kodak", "24 images"), ("tecnick", "100 images"):
        rows = {row["method"]: row["bd-rate%,psnr"] for row in rd_curves.csv_rows(
            os.path.join(REDUCED, dataset, "table1.csv"))}
        columns += [rows, {name.split(", published, " + images)[0]: value
                           for name, value in rows.items() if name.endswith(images)}]
    _, *shown = tables["BD-rate, %"]
    assert [row[0] for row in shown] == ["SGA", "SGA + BB", "BB, no iterative inference", "JPEG",
                                         "WebP", "JPEG 2000", "AVIF"]
    for name, *cells in shown:
        for cell, column in zip(cells, columns):
            if cell == "–":
                assert name not in column
            else:
                assert number(cell) == round(float(column[name]), 1), name


def test_rates_of_bits_back(tables):
    path, = glob.glob(os.path.join(ROOT, "results", "chain", "*.npz"))
    chain = np.load(path)
    crops = rd_curves.read_csv(os.path.join(ROOT, "results", "reduced-96", "kodak-crops",
                                            "bb_plain.csv"))
    pushed = np.mean(chain["pushed_y_bits"] + chain["pushed_z_bits"]) / 256 ** 2
    rates = [pushed, *(np.mean(chain[name]) for name in ("est_bpp", "net_bpp", "actual_bpp")),
             float(at(crops, 0.0025)["actual_bpp"])]
    shown = [number(value) for _, value in tables["`bb_plain.py`"][1:]]
    assert shown == list(np.round(rates, 4))
