"""results/: BD-rate, Table 1 and its plots, continued and redrawn."""

import csv
import os
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from conftest import BASE_RUN, CHECKPOINTS, PNG, ROOT, SHIPPED, load, run, run_of, write_image

sys.path.insert(0, os.path.join(ROOT, "results"))
import landscape
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
    assert all(row[4:] == ["–"] * 3 for row in rows[1:])
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
    text = (output / "pair" / "table1.md").read_text()
    assert "λ = 0.01" in text and "%.4f, %.2f" % (float(row["est_bpp"]), float(row["psnr"])) in text


def test_results_of_another_model_or_image_are_not_reused(tmp_path, capfd):
    write_image(tmp_path / "image.png", 64, 64)
    argv = ["--checkpoint_dir", CHECKPOINTS, "--images", str(tmp_path / "image.png"), "--output",
            str(tmp_path), "--methods", "mbt2018"]
    table1.main(argv)
    (npz,) = (tmp_path / "image" / "npz").glob("*.npz")
    with np.load(str(npz), allow_pickle=False) as stored:
        np.savez(str(npz), **{**stored, "model": "another"})
    table1.main(argv)
    assert capfd.readouterr().out.count("0 of 1 results exist") == 2
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", npz.parent,
        BASE_RUN, tmp_path / "image.png", "--lambda", 0.5)
    table1.main(argv)
    assert "0 of 1 results exist" in capfd.readouterr().out
    write_image(tmp_path / "image.png", 64, 80)
    table1.main(argv)
    assert "0 of 1 results exist" in capfd.readouterr().out


@pytest.fixture
def shards(tmp_path):
    """Images, arguments for table1, and a function: compress shard i/n for that."""
    images = tmp_path / "trio"
    images.mkdir()
    for i in range(3):
        write_image(images / ("%d.png" % i), 64, 64 + i)
    argv = ["--checkpoint_dir", CHECKPOINTS, "--images", str(images), "--output", str(tmp_path),
            "--methods", "mbt2018"]
    return tmp_path / "trio" / "npz", argv, lambda shard: run(
        "mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
        tmp_path / "trio" / "npz", BASE_RUN, images, "--threads", 1, "--write", *shard)


def test_shards_are_joined(shards, capfd):
    folder, argv, compress_shard = shards
    compress_shard([])
    (whole,) = folder.glob("*.npz")
    expected = load(whole)
    whole.unlink()
    written = folder.parent.with_name("trio.tfci")
    files = {path.name: path.read_bytes() for path in written.iterdir()}
    shutil.rmtree(str(written))
    for shard in ("2/2", "1/2"):
        compress_shard(["--shard", shard])
    assert {path.name: path.read_bytes() for path in written.iterdir()} == files
    capfd.readouterr()
    table1.main(argv)
    assert "1 of 1 results exist" in capfd.readouterr().out
    joined = load(next(folder.glob("*file=trio.npz")))
    assert joined.keys() == expected.keys() and list(joined["files"]) == ["0.png", "1.png", "2.png"]
    for name, values in expected.items():
        np.testing.assert_array_equal(joined[name], values)


def test_missing_and_overlapping_shards_are_refused(shards, capfd):
    folder, argv, compress_shard = shards

    def refused():
        capfd.readouterr()
        with pytest.raises(SystemExit):
            table1.main(argv)
        return capfd.readouterr().err
    compress_shard(["--shard", "1/2"])
    assert "shard=2-of-2.npz: missing" in refused()
    compress_shard(["--shard", "2/3"])
    assert "shard=1-of-2.npz: overlaps" in refused()
    (second,) = folder.glob("*shard=2-of-3.npz")
    (first,) = folder.glob("*shard=1-of-2.npz")
    second.unlink()
    first_again = str(first).replace("=1-of-2", "=2-of-2")
    os.symlink(str(first), first_again)
    assert "overlap: both have 0.png" in refused()
    os.remove(first_again)
    compress_shard(["--shard", "2/2", "--lambda", "0.5"])
    assert "lmbda is 0.5" in refused()
    assert not list(folder.glob("*file=trio.npz"))
    (second,) = folder.glob("*shard=2-of-2.npz")
    second.write_bytes(second.read_bytes()[:500])
    assert "not readable results" in refused()
    compress_shard(["--shard", "2/2"])
    write_image(folder.parent / "3.png", 64, 64)
    assert "all images of --images" in refused()


def test_runs_of_the_same_lambda_are_to_be_chosen_from(tmp_path, capfd):
    for folder, run_name in ((CHECKPOINTS, BASE_RUN), (SHIPPED, run_of("mbt2018", 32))):
        (tmp_path / run_name).symlink_to(os.path.join(folder, run_name))
    with pytest.raises(SystemExit):
        table1.main(["--checkpoint_dir", str(tmp_path), "--images", PNG])
    assert "num_filters=16" in capfd.readouterr().err


def test_published_curves_are_drawn(tmp_path):
    """A data set called kodak gets the paper's points and bars."""
    folder = tmp_path / "kodak"
    folder.mkdir()
    for script, curve in table1.published("kodak").items():
        columns = dict(curve, lmbda=range(7), run_name=[script] * 7, msssim=[.9] * 7,
                       actual_bpp=curve["est_bpp"], rd_cost=[1] * 7)
        table1.write_csv(str(folder / (script + ".csv")), columns, list(zip(*columns.values())))
    table1.main(["--from-csv", "--output", str(tmp_path)])
    assert read(folder / "table1.csv")[1][4] == "-15.22"
    assert (folder / "bd-rate.png").exists()


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


def test_landscape_of_a_quadratic_cost():
    """The two steepest elements, and a plane over them."""
    y = np.zeros((2, 2, 3), np.float32)
    weights = np.arange(12).reshape(y.shape)
    cost = lambda ys, z: (weights * (ys - 1) ** 2).sum(axis=(1, 2, 3))
    assert list(landscape.steepest(cost, y, None)) == [11, 10]
    plane = landscape.plane(y, 11, 10, [0, 1], [2, 3])
    np.testing.assert_array_equal(plane[:, 1, 1, 2], [0, 1, 0, 1])
    np.testing.assert_array_equal(plane[:, 1, 1, 1], [2, 2, 3, 3])
    assert not plane[:, 0].any()


@pytest.mark.slow
def test_landscape(tmp_path):
    landscape.main(["--output", str(tmp_path / "landscape.png")])
    assert PIL.Image.open(tmp_path / "landscape.png").size[0] > 600
