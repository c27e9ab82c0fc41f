"""results/: BD-rate, Table 1 and its plots, continued and redrawn."""

import csv
import os
import sys

import numpy as np
import PIL.Image
import pytest

from conftest import CHECKPOINTS, PNG, ROOT, write_image

sys.path.insert(0, os.path.join(ROOT, "results"))
import table1


@pytest.mark.parametrize("dataset, script, expected", [
    ("kodak", "sga", -15.22), ("kodak", "bb_sga", -16.87),
    ("tecnick", "sga", -18.70), ("tecnick", "bb_sga", -20.14)])
def test_bd_rate_of_the_published_curves(dataset, script, expected):
    curves = table1.published(dataset)
    assert table1.savings(curves, "psnr")[script] == pytest.approx(expected, abs=.05)


def test_bd_rate():
    rate, quality = np.array([.1, .2, .4, .8]), np.array([28., 31, 34, 37])
    assert table1.bd_rate(.8 * rate, quality, rate, quality) == pytest.approx(-20)
    assert table1.bd_rate(rate[::-1], quality[::-1], rate, quality) == pytest.approx(0)
    assert np.isnan(table1.bd_rate(rate[1:], quality[1:], rate, quality))
    assert np.isnan(table1.bd_rate(rate, quality + 20, rate, quality))


def read(path):
    with open(str(path)) as file:
        return list(csv.reader(file))


def test_table1_of_the_golden_models(tmp_path, capfd):
    """Fast methods on two images, with one lambda: no BD-rate; then nothing is computed again."""
    images = tmp_path / "pair"
    images.mkdir()
    for name in ("a.png", "b.png"):
        write_image(images / name, 180, 200)
    output = tmp_path / "out"
    argv = ["--checkpoint_dir", CHECKPOINTS, "--images", str(images), "--output", str(output),
            "--methods", "mbt2018", "bb_plain", "--jobs", "2"]
    table1.main(argv)
    assert "0 of 2 results exist" in capfd.readouterr().out
    rows = read(output / "pair" / "table1.csv")
    assert [row[:4] for row in rows[1:]] == [["M3", "base hyperprior", "mbt2018.py", "1"],
                                             ["A6", "BB, no iterative inference", "bb_plain.py",
                                              "1"]]
    assert all(row[4:] == ["–", "–"] for row in rows[1:])
    (npz,) = (output / "pair" / "npz").glob("rd-mbt2018*.npz")
    with np.load(str(npz), allow_pickle=False) as result:
        row = dict(zip(*read(output / "pair" / "mbt2018.csv")))
        for name in table1.COLUMNS:
            assert float(row[name]) == pytest.approx(result[name].mean(), abs=1e-6)
    for name in ("rd-psnr.png", "rd-msssim.png"):
        assert PIL.Image.open(output / "pair" / name).size[0] > 600
        (output / "pair" / name).unlink()
    table1.main(argv)
    assert "2 of 2 results exist" in capfd.readouterr().out
    table1.main(["--from-csv", "--output", str(output)])
    assert (output / "pair" / "rd-psnr.png").exists()


@pytest.mark.parametrize("argv, message", [
    (["--images", "gone"], "gone"), ([], "--images is missing"),
    (["--images", PNG, "--checkpoint_dir", "gone"], "gone"),
    (["--images", PNG, "--methods", "vae"], "vae"),
    (["--from-csv", "--output", CHECKPOINTS], "no CSV")])
def test_bad_arguments_are_one_line(argv, message, capfd):
    with pytest.raises(SystemExit) as exit_info:
        table1.main(argv)
    lines = capfd.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and len(lines) == 1 and message in lines[0], lines
