"""results/: BD-rate, Table 1 and its plots, continued and redrawn."""

import contextlib
import csv
import functools
import glob
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from conftest import (BASE_RUN, CHECKPOINTS, PNG, ROOT, SHIPPED, SHIPPED_FILTERS, load, run, run_of,
                      write_image)

sys.path.insert(0, os.path.join(ROOT, "results"))
import compare
import convergence
import landscape
import planning
import plots
import rd_curves
import table1
import training as training_plot
import bb_sga
import sga
import tf_boilerplate as nic
from plumbing import basics, image_files, machine, quality, runs, store, tasks


@pytest.mark.parametrize("dataset, script, expected, cost", [
    ("kodak", "sga", -15.22, -7.35), ("kodak", "bb_sga", -16.87, -8.31),
    ("tecnick", "sga", -18.70, -8.72), ("tecnick", "bb_sga", -20.14, -9.63)])
def test_savings_of_the_published_curves(dataset, script, expected, cost):
    curves = rd_curves.published(dataset)
    saving = rd_curves.savings(curves, "psnr")[script]
    assert saving.rate == pytest.approx(expected, abs=.005) and saving.caveats == []
    base, qualities = curves["mbt2018"]["psnr"], curves[script]["psnr"]
    assert saving.overlap == pytest.approx(
        min(base.max(), qualities.max()) - max(base.min(), qualities.min()))
    by_image, by_mean, of_rate = rd_curves.cost_savings(curves[script], curves["mbt2018"])
    assert np.isnan(by_image) and by_mean == pytest.approx(cost, abs=.005)
    assert of_rate == pytest.approx(expected, abs=1)  # the first order


def test_cost_savings():
    """Of the λ that both curves have; a dB of PSNR is a fifth of the MSE."""
    base = dict(lmbda=np.array([.01, .02]), psnr=np.array([30, 32.]), est_bpp=np.array([.4, .8]),
                rd_cost=np.array([2, 3.]))
    curve = dict(lmbda=np.array([.04, .02]), psnr=np.array([34, 33.]), est_bpp=np.array([.9, .8]),
                 rd_cost=np.array([1, 2.7]))
    cost = .02 * 255 ** 2 * np.array([10 ** -3.3, 10 ** -3.2])
    saved = cost[0] - cost[1]
    assert rd_curves.cost_savings(curve, base) == pytest.approx(
        [-10, 100 * saved / (.8 + cost[1]), 100 * saved / .8])
    assert np.isnan(rd_curves.cost_savings(dict(psnr=base["psnr"], est_bpp=base["est_bpp"]),
                                           base)).all()
    assert np.isnan(rd_curves.cost_savings(curve, {})).all()
    del curve["psnr"]
    assert rd_curves.cost_savings(curve, base) == pytest.approx([-10, np.nan, np.nan], nan_ok=True)


def test_bd_rate():
    rate, quality = np.array([.1, .2, .4, .8]), np.array([28., 31, 34, 37])
    assert rd_curves.bd_rate(.8 * rate, quality, rate, quality) == (pytest.approx(-20), 9, [])
    assert rd_curves.bd_rate(rate[::-1], quality[::-1], rate, quality) == (pytest.approx(0), 9, [])


@pytest.mark.parametrize("points, overlap, expected, caveats", [
    ([(.08, 28), (.16, 31), (.32, 34)], 6, -20, ["fewer than 4 points"]),
    ([(.08, 28)], 0, np.nan, ["fewer than 4 points", "overlap under half of base"]),
    ([(.08, 28), (.16, 31), (.15, 34), (.64, 37)], 9, None, ["not monotone"]),
    ([(.08, 28), (.16, 31), (.16, 34), (.64, 37)], 9, None, ["not monotone"]),
    ([(.08, 28), (.16, 31), (.32, 31), (.64, 37)], 9, np.nan, ["not monotone"]),
    ([(.32, 34), (.64, 37), (1.28, 40), (2.56, 43)], 3, -20, ["overlap under half of base"]),
    ([(.1, 48), (.2, 51), (.4, 54), (.8, 57)], 0, np.nan, ["overlap under half of base"]),
    ([(.08, 28), (.16, np.nan), (.32, 34), (.64, 37)], np.nan, np.nan, [])])
def test_bd_rates_that_are_not_to_be_trusted(points, overlap, expected, caveats):
    saving = rd_curves.bd_rate(*zip(*points), [.1, .2, .4, .8], [28, 31, 34, 37])
    assert saving.caveats == caveats
    assert saving.overlap == pytest.approx(overlap, nan_ok=True)
    if expected is None:
        assert np.isfinite(saving.rate)
    else:
        assert saving.rate == pytest.approx(expected, nan_ok=True)


def write_curve(folder, script, rates, qualities):
    """A CSV of a method with these bits per pixel and PSNRs."""
    rows = [[i, "run", rate, quality, "nan", rate, 1]
            for i, (rate, quality) in enumerate(zip(rates, qualities))]
    rd_curves.write_csv(str(folder / (script + ".csv")),
                        ["lmbda", "run_name"] + rd_curves.COLUMNS, rows)


def test_one_bad_curve_is_marked_and_leaves_the_others(tmp_path):
    rates, qualities = np.array([.1, .2, .4, .8]), np.array([28, 31, 34, 37])
    write_curve(tmp_path, "mbt2018", rates, qualities)
    write_curve(tmp_path, "sga", .8 * rates, [28, 31, 31, 37])
    write_curve(tmp_path, "map", .8 * rates, qualities)
    write_curve(tmp_path, "ste", 3.2 * rates, qualities + 6)
    write_curve(tmp_path, "danneal", .8 * rates[:3], qualities[:3])
    table1.main(["--from-csv", "--output", str(tmp_path)])
    rows = {row[2]: row[4:9] + row[12:] for row in read(tmp_path / "table1.csv")}
    assert rows["sga.py"] == ["–", "–", "–", "9.00", "–", "not monotone"]
    assert rows["map.py"] == ["-20.00", "–", "-20.00", "9.00", "–", ""]
    assert rows["ste.py"] == ["-20.00 *", "–", "-20.00 *", "3.00", "–",
                              "overlap under half of base"]
    assert rows["danneal.py"][0] == "-20.00 *"
    assert rows["danneal.py"][-1] == "not all λ of base; fewer than 4 points"
    assert "| -20.00 * |" in (tmp_path / "table1.md").read_text()
    assert (tmp_path / "bd-rate.png").exists() and (tmp_path / "rd-psnr.png").exists()
    assert not (tmp_path / "rd-msssim.png").exists()


@pytest.fixture
def figures(monkeypatch):
    """The figures by name that are drawn, instead of being written."""
    drawn = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.update(
        {os.path.basename(path): figure}))
    return drawn


def a_curve(rates, qualities, run_name="mbt2018-num_filters=64-lmbda=1"):
    """A curve as read_csv returns it."""
    return dict(est_bpp=np.array(rates), psnr=np.array(qualities),
                run_name=np.array([run_name] * len(rates)))


def test_rd_plots_show_our_range_and_the_whole(figures, capfd):
    curves = {"mbt2018": a_curve([.2, .3, .4, .5], [28, 29, 30, 31]),
              "sga": a_curve([.2, .3, .4, .5], [29, 30, 31, 32])}
    within, beyond = a_curve([.25, .4], [28.5, 30]), a_curve([.1, .4, 2], [25, 29, 40])
    plots.draw("x", "kodak", curves, {"WebP": within}, {}, "")
    assert len(figures["rd-psnr.png"].axes) == 1
    plots.draw("x", "kodak", curves, {"WebP": within, "JPEG": beyond}, {"sga": beyond}, "paper's")
    ours, whole = figures["rd-psnr.png"].axes
    assert ours.axis() == pytest.approx((.185, .515, 27.8, 32.2))
    assert whole.get_xlim()[0] < .1 and whole.get_xlim()[1] > 2 and whole.get_ylim()[1] > 40
    for axis in (ours, whole):
        assert sorted(text.get_text() for text in axis.texts) == ["JPEG", "WebP"]
    legend = [text.get_text() for text in figures["rd-psnr.png"].legends[0].get_texts()]
    assert legend == ["SGA", "base hyperprior", "paper's", "other codecs: bits of files"]
    assert "x/rd-msssim.png: not drawn, as no method has MS-SSIM" in capfd.readouterr().err


def test_labels_lie_along_their_curves(figures):
    """Apart from each other; that of a curve of one point is level."""
    curves = {"mbt2018": a_curve([.2, .3, .4, .5], [28, 29, 30, 31])}
    codecs = {"steep": a_curve([.2, .5], [28.5, 31.5]), "one": a_curve([.35], [30]),
              "level": a_curve([.3, .5], [28.2, 28.2])}
    plots.draw("x", "kodak", curves, codecs, {}, "")
    axis = figures["rd-psnr.png"].axes[0]
    angle = {text.get_text(): text.get_rotation() for text in axis.texts}
    (left, bottom), (right, top) = axis.transData.transform([(.2, 28.5), (.5, 31.5)])
    assert angle["steep"] == pytest.approx(np.degrees(np.arctan2(top - bottom, right - left)), abs=2)
    assert angle["one"] == angle["level"] == 0
    boxes = [text.get_window_extent(figures["rd-psnr.png"].canvas.get_renderer())
             for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_curves_and_bars_that_are_not_drawn_are_named(figures, capfd):
    rising, single = a_curve([.2, .3, .4, .5], [28, 29, 30, 31]), a_curve([.2], [40])
    msssim = dict(msssim_db=rising["psnr"])
    plots.draw("x", "kodak", {"mbt2018": {**rising, **msssim}, "sga": {**rising, **msssim},
                              "ste": single}, {"JPEG": rising}, {"sga": rising}, "paper's")
    lines = capfd.readouterr().err
    for names in ("STE", "JPEG", "published SGA"):
        assert "x/rd-msssim.png: not drawn, as they have no MS-SSIM for each point: %s\n" % names \
            in lines
    assert "x/bd-rate.png: without a BD-rate, not drawn: STE\n" in lines
    plots.draw("y", "kodak", {"mbt2018": rising, "ste": single}, {}, {}, "")
    assert "y/bd-rate.png: not drawn, as no method has a BD-rate" in capfd.readouterr().err


def test_titles_have_the_number_of_filters_that_all_runs_have():
    curve, other = a_curve([1.], [30.]), a_curve([1.], [30.], "mbt2018-num_filters=32-lmbda=1")
    published = {name: curve[name] for name in ("est_bpp", "psnr")}
    assert plots.filters_text({"sga": curve, "own": published}) == ", models of 64 filters"
    for curves in ([curve, other], [published], [curve, a_curve([1.], [30.], "trunk-lmbda=1")]):
        assert plots.filters_text(dict(enumerate(curves))) == ""


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
    assert all(row[4:9] + row[12:] == ["–"] * 3 + ["0.00"] * 2 + ["fewer than 4 points"]
               for row in rows[1:])
    costs = [float(read(output / "pair" / (script + ".csv"))[1][-1])
             for script in ("mbt2018", "bb_plain")]
    assert [row[9] for row in rows[1:]] == [
        "0.00", "%.2f" % (100 * (costs[1] / costs[0] - 1))]
    (npz,) = (output / "pair" / "npz").glob("rd-mbt2018*.npz")
    with np.load(str(npz), allow_pickle=False) as result:
        row = dict(zip(*read(output / "pair" / "mbt2018.csv")))
        for name in rd_curves.COLUMNS:
            assert float(row[name]) == pytest.approx(result[name].mean(), abs=1e-6)
    for name in ("rd-psnr.png", "rd-msssim.png"):
        assert PIL.Image.open(output / "pair" / name).size[0] > 600
        (output / "pair" / name).unlink()
    table1.main(argv)
    assert "2 of 2 results exist" in capfd.readouterr().out
    table1.main(["--from-csv", "--output", str(output), "--export-compressai"])
    assert (output / "pair" / "rd-psnr.png").exists()
    # As compressai.utils.plot has it: a JSON per curve with a name and lists of the same length.
    exported = json.loads((output / "pair" / "compressai" / "mbt2018.json").read_text())
    assert exported["name"] == "base hyperprior" and "mbt2018.py on pair" in exported["description"]
    assert exported["results"] == {"bpp": [float(row["est_bpp"])], "psnr-rgb": [float(row["psnr"])],
                                   "ms-ssim-rgb": [float(row["msssim"])]}
    text = (output / "pair" / "table1.md").read_text()
    shown = "%.4f, %.2f" % (float(row["est_bpp"]), float(row["psnr"]))
    assert "λ = 0.01" in text and shown in text


@pytest.mark.slow
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
    assert "1 of 1 results exist" in capfd.readouterr().out
    write_image(tmp_path / "image.png", 64, 80)
    before = {path: path.read_bytes() for path in (tmp_path / "image").rglob("*")
              if path.is_file()}
    assert "a table of other images; --label" in refused(table1, argv, capfd)
    assert {path: path.read_bytes() for path in before} == before
    curve = tmp_path / "image" / "codecs" / "JPEG.csv"
    curve.parent.mkdir()
    curve.write_text("bpp,psnr\n0.1,20\n0.2,21\n")
    table1.main(argv + ["--label", "wider"])
    printed = capfd.readouterr().out
    assert "0 of 1 results exist" in printed and "JPEG" in printed
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "image-wider" / "mbt2018.csv").exists()


@pytest.fixture
def existing(tmp_path, monkeypatch, capfd):
    """Function: what table1 says of the results of a method on an image, without running any."""
    write_image(tmp_path / "image.png", 64, 64)
    (tmp_path / "image" / "npz").mkdir(parents=True)

    def stop(*_):
        raise basics.UserError("missing")

    def check(script, *options):
        capfd.readouterr()
        with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(tasks, "run_plans", stop)
            table1.main(["--checkpoint_dir", CHECKPOINTS, "--images", str(tmp_path / "image.png"),
                         "--output", str(tmp_path), "--methods", script, *options])
        return capfd.readouterr().out.splitlines()[0]
    return check


@pytest.mark.parametrize("script, options, expected", [
    ("sga", ["--its", 2, "--lr", .3], 0), ("ste", ["--its", 2], 0),
    ("bb_plain", ["--seed", 1], 0), ("bb_plain", [], 1), ("mbt2018", ["--threads", 3], 0)])
def test_only_results_of_the_default_settings_are_reused(tmp_path, existing, script, options,
                                                         expected):
    run(script, "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
        tmp_path / "image" / "npz", run_of(script), tmp_path / "image.png", *options)
    assert existing(script) == "%d of 1 results exist" % expected


def test_threads_count_if_given(tmp_path, existing):
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "--threads", 1, "compress", "--results_dir",
        tmp_path / "image" / "npz", BASE_RUN, tmp_path / "image.png", tmp_path / "x.iinc")
    assert existing("mbt2018", "--threads", "1") == "1 of 1 results exist"
    assert existing("mbt2018", "--threads", "2") == "0 of 1 results exist"


CROPS = os.path.join(ROOT, "results", "reduced-96", "kodak-crops")
KODAK, TECNICK = (os.path.join(ROOT, "results", "reduced", name) for name in ("kodak", "tecnick"))


# Folders of what is made of the models that ship, and scripts that have results there.
OF_SHIPPED = [(folder, method.script) for folder in (CROPS, KODAK, TECNICK)
              for method in rd_curves.METHODS
              if os.path.exists(os.path.join(folder, method.script + ".csv"))]


@pytest.mark.parametrize("folder, script", OF_SHIPPED, ids=lambda value: os.path.basename(value))
def test_settings_are_those_of_the_shipped_results(folder, script):
    run_name, settings = run_of(script, SHIPPED_FILTERS), rd_curves.read_settings(folder)
    result = load(next(path for path in glob.glob(os.path.join(folder, "npz", "*.npz"))
                       if run_name in path and load(path)["script"] == script))
    images = [store.Pixels(name, (1, 256, 256), image)  # of any size
              for name, image in zip(result["files"], result["image"])]
    setup = planning.Setup(SHIPPED, image_files.Source(os.path.basename(folder), [], True), images,
                           os.path.join(folder, "npz"), settings["options"], settings["threads"])
    plan = planning.make_plan(setup, script, runs.find_run(SHIPPED, run_name))
    for name, value in plan.settings.items():
        assert str(result[name]) == str(value), name
    assert store.is_joined(plan)
    saved = {name for name, value in result.items() if not value.ndim}
    assert saved - {"avg_batch_actual_bpp", "num_threads"} == plan.settings.keys()


@pytest.fixture
def two_runs(tmp_path):
    """Arguments for table1: base at two lambdas on one image; the names of these runs."""
    names = [BASE_RUN, BASE_RUN.replace("0.01", "0.02")]
    (tmp_path / "runs").mkdir()
    for name in names:
        (tmp_path / "runs" / name).symlink_to(os.path.join(CHECKPOINTS, BASE_RUN))
    write_image(tmp_path / "image.png", 64, 64)
    return ["--checkpoint_dir", str(tmp_path / "runs"), "--images", str(tmp_path / "image.png"),
            "--output", str(tmp_path), "--methods", "mbt2018"], names


def test_methods_whose_results_have_one_name(two_runs, tmp_path, monkeypatch, capfd):
    """Each is in the table at once."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "same_name.py").write_text("import mbt2018\nMETHOD = mbt2018.METHOD\n")
    argv, names = two_runs
    table1.main(argv + ["same_name", "--runs", names[0]])
    base, same = (read(tmp_path / "image" / (name + ".csv")) for name in ("mbt2018", "same_name"))
    assert len(base) == len(same) == 2 and same[1][:4] == base[1][:4]
    assert "another version" not in capfd.readouterr().err


def test_a_fault_of_an_own_script_is_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "faulty.py").write_text("import no_such_package\n")
    (tmp_path / "without.py").write_text("relax = None\n")
    with pytest.raises(ImportError, match="no_such_package"):
        table1.main(["--images", PNG, "--methods", "faulty"])
    for name in ("without", "missing", "a.b", ""):
        assert "no script %s.py with a METHOD" % name in refused(table1, 
            ["--images", PNG, "--methods", name], capfd)


@pytest.mark.slow
def test_fewer_runs_keep_the_rows_whose_results_exist(tmp_path, two_runs, capfd):
    argv, names = two_runs
    column = lambda: [row[1] for row in read(tmp_path / "image" / "mbt2018.csv")[1:]]
    table1.main(argv)
    assert column() == names and not (tmp_path / "image" / "rd-msssim.png").exists()
    first = read(tmp_path / "image" / "mbt2018.csv")
    capfd.readouterr()
    for name in names:
        table1.main(argv + ["--runs", name])
        assert "1 of 1 results exist" in capfd.readouterr().out
        assert read(tmp_path / "image" / "mbt2018.csv") == first
    shutil.rmtree(str(tmp_path / "image" / "npz"))
    table1.main(argv + ["--runs", names[1]])
    assert column() == names[1:]
    assert "note: mbt2018 of %s has no results" % names[0] in capfd.readouterr().err
    table1.main(argv)
    (tmp_path / "runs" / names[1]).unlink()
    table1.main(argv + ["--runs", names[0]])
    assert column() == names[:1]


def test_a_table_without_what_failed(tmp_path, two_runs, monkeypatch, capfd):
    """The method's row says so, the exit code is 1, and the same command completes it."""
    whole, (argv, names) = nic.Compressor.compress, two_runs

    def fail(self, images, initial_bits):
        if self.lmbda == .02:
            raise basics.UserError("too bright")
        return whole(self, images, initial_bits)
    monkeypatch.setattr(nic.Compressor, "compress", fail)
    with pytest.raises(SystemExit) as exit_info:
        table1.main(argv)
    printed = capfd.readouterr()
    assert exit_info.value.code == 1 and "mbt2018: 2 images, about " in printed.out
    lines = [line for line in printed.err.splitlines() if line[:6] != "note: "]
    assert lines[0] == "mbt2018 on %s: image.png: error: too bright" % names[1]
    assert lines[1].endswith("mbt2018 failed at λ = 0.02; all else is done, and the same command "
                             "continues") and len(lines) == 2
    row = read(tmp_path / "image" / "table1.csv")[1]
    assert row[3] == "1" and "failed at λ = 0.02" in row[-1]
    monkeypatch.setattr(nic.Compressor, "compress", whole)
    table1.main(argv)
    assert "1 of 2 results exist" in capfd.readouterr().out
    assert read(tmp_path / "image" / "table1.csv")[1][3] == "2"


def test_a_table_without_base(tmp_path, two_runs, capfd):
    """A note says so. A script may be named by its file."""
    argv, names = two_runs
    table1.main(argv[:-1] + ["map.py", "--runs", names[0], "--", "--its", "1"])
    printed = capfd.readouterr()
    assert "image: has no mbt2018.csv to compare with" in printed.err and "map.py" in printed.out


def test_an_image_that_does_not_fit_into_memory_is_named(two_runs, monkeypatch, capfd):
    argv, _ = two_runs
    monkeypatch.setattr(machine, "available_memory", lambda: 1e6)
    assert "image.png: 64 x 64 pixels take about" in refused(table1, argv, capfd)


def test_images_that_are_reproduced_exactly(tmp_path, two_runs, monkeypatch, capfd):
    """Their PSNR is infinite: the row has the mean of the others, which a note says."""
    argv, names = two_runs
    measured = quality.measure
    (tmp_path / "pair").mkdir()
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "pair" / name, 64, 64 if name < "b" else 80)
    for option, path in (("--images", tmp_path / "pair"), ("--output", tmp_path / "out")):
        argv[argv.index(option) + 1] = str(path)

    def exact_if_square(x, x_hat, threads):
        return measured(x, x if x.shape[1] == x.shape[2] else x_hat, threads)
    monkeypatch.setattr(quality, "measure", exact_if_square)
    table1.main(argv + ["--runs", names[0]])
    assert "the mean PSNR is without 1 images that are reproduced exactly" in capfd.readouterr().err
    (npz,) = (tmp_path / "out" / "pair" / "npz").glob("*.npz")
    row = dict(zip(*read(tmp_path / "out" / "pair" / "mbt2018.csv")))
    exact, other = load(npz)["psnr"]
    assert np.isinf(exact) and float(row["psnr"]) == pytest.approx(other, abs=1e-6)


def test_runs_of_the_same_lambda_are_to_be_chosen_from(tmp_path, capfd):
    for folder, run_name in ((CHECKPOINTS, BASE_RUN),
                             (SHIPPED, run_of("mbt2018", SHIPPED_FILTERS))):
        (tmp_path / run_name).symlink_to(os.path.join(folder, run_name))
    assert "num_filters=16" in refused(table1, ["--checkpoint_dir", str(tmp_path), "--images", PNG,
                                        "--output", str(tmp_path)], capfd)
    assert not (tmp_path / "face-197x251").exists()


def test_published_curves_are_drawn(tmp_path):
    """A data set called kodak gets the paper's points and bars, under any label.

    Not if its images are known to be of other sizes.
    """
    folder = tmp_path / "kodak-fast"
    folder.mkdir()
    for script, curve in rd_curves.published("kodak").items():
        columns = dict(curve, run_name=[script] * 7, msssim=[.9] * 7,
                       actual_bpp=curve["est_bpp"], rd_cost=[1] * 7)
        rd_curves.write_csv(str(folder / (script + ".csv")), columns, list(zip(*columns.values())))
    pictures, tables = [], []
    for sizes in (["768x512"], ["192x128"]):
        (folder / "settings.json").write_text(json.dumps(dict(label="fast", sizes=sizes)))
        table1.main(["--from-csv", "--output", str(folder) + os.sep])
        pictures.append([(folder / name).read_bytes() for name in ("rd-psnr.png", "bd-rate.png")])
        tables.append({row[1]: row[4] for row in read(folder / "table1.csv")})
    assert all(ours != without for ours, without in zip(*pictures))
    assert tables[0]["SGA"] == tables[0]["SGA, published, 24 images"] == "-15.22"
    assert set(tables[0]) - set(tables[1]) == {
        method + ", published, 24 images" for method in ("SGA", "SGA + BB", "base hyperprior")}


@pytest.mark.slow
def test_options_of_scripts_are_for_those_that_have_them(two_runs, tmp_path, capfd):
    """Those without are named, and a table of other options needs a label."""
    argv, names = two_runs
    argv = argv + ["sga", "ste", "--runs", names[0]]
    table1.main(argv + ["--", "--its", "2", "--check_every", "1"])
    noted = capfd.readouterr().err
    assert "--its: not for mbt2018" in noted and "--check_every: not for mbt2018, sga" in noted
    for script, name in (("sga", "sga_its"), ("ste", "its")):
        (npz,) = (tmp_path / "image" / "npz").glob("rd-%s-*" % script)
        assert load(npz)[name] == 2
    table1.main(argv[:-4] + argv[-2:] + ["--", "--its", "2", "--check_every", "1"])  # base alone
    for options in ([], ["--", "--its", "3"]):
        assert "table of other options; --label" in refused(table1, argv + options, capfd)


def test_a_table_of_other_models_or_a_strangers_csv(two_runs, tmp_path, monkeypatch, capfd):
    """Retrained weights, or another run of the same lambda, do not come beside what is there."""
    argv, names = two_runs
    table1.main(argv + ["--runs", names[0]])
    run_folder = tmp_path / "runs" / names[0]
    other = tmp_path / "runs" / ("other-" + names[0])
    run_folder.rename(other)
    assert "table of other models; --label" in refused(table1, argv + ["--runs", other.name], capfd)
    models = lambda: len(json.loads((tmp_path / "image" / "settings.json").read_text())["models"])
    with monkeypatch.context() as patch:  # another lambda, of which there are no results
        patch.setattr(nic, "compress_task", None)
        with pytest.raises(SystemExit):
            table1.main(argv + ["--runs", names[1]])
    assert models() == 1
    table1.main(argv + ["--runs", names[1]])
    assert models() == 2
    for path in (tmp_path / "image").glob("*.csv"):  # nothing is left beside which others come
        path.unlink()
    table1.main(argv + ["--runs", other.name])
    (tmp_path / "image-x").mkdir()
    (tmp_path / "image-x" / "mbt2018.csv").write_text("bpp,psnr\n0.3,25\n")
    assert "mbt2018.csv: is there and not" in refused(table1, argv + ["--label", "x"], capfd)
    assert "without /" in refused(table1, argv + ["--label", "x/y"], capfd)


def refused(script, argv, capfd):
    """The line in which a script of results/ ends with exit code 2."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        script.main(argv)
    lines = [line for line in capfd.readouterr().err.splitlines() if line[:6] != "note: "]
    assert exit_info.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_curves_as_spreadsheets_write_them(tmp_path, capfd):
    write_curve(tmp_path, "mbt2018", [.1, .2, .4, .8], [28, 31, 34, 37])
    for name, text in (("bom", "\ufeffPSNR,BPP\r\n30,0.3\r\n"), ("other", "rate,dB\n1,2\n"),
                       ("semicolon", "bpp;psnr\n0.3;30\n"),
                       ("spaces", "bpp, psnr , codec\n0.3, 30, x\n"),
                       ("lossless", "bpp,psnr\n13.5,inf\n")):
        (tmp_path / (name + ".csv")).write_bytes(text.encode())
    table1.main(["--from-csv", "--output", str(tmp_path)])
    curves = rd_curves.read_curves(str(tmp_path))
    assert sorted(curves) == ["bom", "mbt2018", "semicolon", "spaces"]
    assert all(curves[name]["psnr"] == [30] and curves[name]["est_bpp"] == [.3]
               for name in ("bom", "semicolon", "spaces"))
    notes = capfd.readouterr().err
    assert "other.csv: has no columns psnr and bpp" in notes
    assert "lossless.csv: left out are rows without a positive rate and a finite PSNR: 1" in notes


@pytest.mark.parametrize("argv, message", [
    (["--from-csv", "--label", "x"], "--from-csv"),
    (["--from-csv", "--methods", "sga"], "--from-csv"),
    (["--images", "a.png", "b.png"], "glob must be quoted"),
    (["--images", "gone"], "gone"), ([], "--images is missing"),
    (["--images", PNG, "--checkpoint_dir", "gone"], "gone"),
    (["--images", PNG, "--methods", "vae"], "vae"),
    (["--images", PNG, "--checkpoint_dir", CHECKPOINTS, "--runs", "foo"],
     "foo; runs in %s: %s" % (CHECKPOINTS, BASE_RUN)),
    (["--from-csv", "--output", CHECKPOINTS], "no CSV")])
def test_bad_arguments_are_one_line(argv, message, capfd):
    assert message in refused(table1, argv, capfd)


def test_runs_and_csvs_that_cannot_be_used_are_one_line(tmp_path, capfd):
    (tmp_path / "lmbda=foo").symlink_to(os.path.join(CHECKPOINTS, BASE_RUN))
    argv = ["--checkpoint_dir", str(tmp_path), "--images", PNG, "--output", str(tmp_path)]
    line = refused(table1, argv, capfd)
    assert "the run name lmbda=foo has no lmbda=<number>" in line and "--lambda" not in line
    for content in ("", "est_bpp,psnr\n", "est_bpp,psnr\n1\n", "a,b\n1,2\n", "est_bpp\nx\n",
                    "est_bpp,psnr\n1,\0\n", "est_bpp\xff\n"):
        (tmp_path / "sga.csv").write_bytes(content.encode("latin-1"))
        assert "sga.csv: not" in refused(table1, ["--from-csv", "--output", str(tmp_path)], capfd)


@pytest.mark.parametrize("options", [["--fsat"], ["x.tfci"], ["--lambda", "0.02"],
                                     ["--its", "3", "x.tfci"]])
def test_options_that_no_script_has_are_refused(options, two_runs, capfd):
    argv, _ = two_runs
    assert "-- " + " ".join(options) in refused(table1, argv + ["sga", "--"] + options, capfd)


def test_landscape_of_a_quadratic_cost():
    """The two elements whose rounding matters most, and a plane over them."""
    y = np.zeros((2, 2, 3), np.float32)
    weights = np.arange(12).reshape(y.shape)
    cost = lambda ys, z: (weights * (ys - 1) ** 2).sum(axis=(1, 2, 3))
    rounded = y.copy()
    rounded.flat[[3, 7, 9]] = -1, -1, 1
    assert list(landscape.decisive(cost, y, rounded, None)) == [7, 3]
    with pytest.raises(basics.UserError):
        landscape.decisive(cost, y, np.eye(2, 6).reshape(y.shape) * np.arange(3) // 2, None)
    assert [landscape.percent(value, "+") for value in (-.004, .127)] == ["+0.00 %", "+0.13 %"]
    plane = landscape.plane(y, 11, 10, [0, 1], [2, 3])
    np.testing.assert_array_equal(plane[:, 1, 1, 2], [0, 1, 0, 1])
    np.testing.assert_array_equal(plane[:, 1, 1, 1], [2, 2, 3, 3])
    assert not plane[:, 0].any()


def test_convergence_names_its_image(tmp_path, figures):
    rows = [["boat.png", "768x512", run_name, setting, k, k, 2 - k / 10, 2]
            for run_name in convergence.RUNS for setting in convergence.PRESETS for k in (1, 2)]
    rd_curves.write_csv(str(tmp_path / "convergence.csv"), convergence.FIELDS, rows)
    convergence.main(["--from-csv", "--output", str(tmp_path)])
    figure = figures["convergence.png"]
    assert "boat.png, 768×512 pixels" in figure._suptitle.get_text()
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"the paper's setting", "--fast", "--thorough"} < legend


def test_plots_are_written_to_outputs(tmp_path, monkeypatch, capfd):
    """Not over those that ship."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        convergence.main(["--from-csv"])
    assert "convergence.csv" in capfd.readouterr().err
    outputs = tmp_path / "outputs"
    shutil.copy(os.path.join(ROOT, "results", "convergence.csv"), str(outputs))
    convergence.main(["--from-csv"])
    assert sorted(os.listdir(outputs)) == ["convergence.csv", "convergence.png"]
    whole = (outputs / "convergence.csv").read_text()
    for damaged in ("run_name,setting\nx,paper\n", whole.replace(",paper,1,", ",paper,x,")):
        (outputs / "convergence.csv").write_text(damaged)
        with pytest.raises(SystemExit):
            convergence.main(["--from-csv"])
        assert "is missing" in capfd.readouterr().err
    for plot in (landscape, compare):
        name = os.path.basename(plot.__file__)[:-3] + ".png"
        with pytest.raises(SystemExit):
            plot.main(["--help"])
        assert "(default: outputs/%s)" % name in capfd.readouterr().out


def write_run(folder, name, script, steps, init_from=None, patchsize=500):
    """A run's args.json, and a validation.csv with a cost of 3 at step 0, then 1."""
    (folder / name).mkdir()
    (folder / name / "args.json").write_text(json.dumps(dict(
        script=script, batchsize=2, patchsize=patchsize, init_from=init_from)))
    (folder / name / "validation.csv").write_text("step,rd_cost,est_bpp,mse\n" + "".join(
        "%d,%d,%g,%d\n" % (step, 1 if step else 3, .5, 50 if step else 250) for step in steps))


def test_validation_curves(tmp_path, figures, capfd):
    """Each goes on where the run that it began from ended; bits-back has its own steps alone."""
    write_run(tmp_path, "trunk-lmbda=0.01", "mbt2018", [0, 1000, 4000], "elsewhere/narrow")
    write_run(tmp_path, "base-lmbda=0.02", "mbt2018", [0, 2000], "runs/trunk-lmbda=0.01")
    write_run(tmp_path, "bb-lmbda=0.02", "mbt2018_bb", [0, 1000], "base-lmbda=0.02", 1000)
    output = tmp_path / "output"
    training_plot.main(["--checkpoint_dir", str(tmp_path), "--output", str(output)])
    assert "output: is not drawn, without args.json" in capfd.readouterr().err
    assert read(output / "training.csv") == [
        ["run_name", "script", "lmbda", "pixels", "rd_cost"],
        ["base-lmbda=0.02", "mbt2018", "0.02", "500000000", "1.50000"],
        ["base-lmbda=0.02", "mbt2018", "0.02", "2000000000", "1.50000"],
        ["base-lmbda=0.02", "mbt2018", "0.02", "3000000000", "1.50000"],
        ["bb-lmbda=0.02", "mbt2018_bb", "0.02", "5000000000", "1.50000"],
        ["trunk-lmbda=0.01", "mbt2018", "0.01", "500000000", "1.00000"],
        ["trunk-lmbda=0.01", "mbt2018", "0.01", "2000000000", "1.00000"]]
    lower, higher = figures["training.png"].axes
    assert lower.get_title() == "λ = 0.01" and lower.get_xscale() == "log"
    assert {line.get_label(): line.get_xdata().tolist() for line in higher.lines} == {
        "mbt2018": [.5, 2, 3], "mbt2018_bb": [5]}
    figures.clear()
    training_plot.main(["--from-csv", "--output", str(output)])
    assert len(figures["training.png"].axes) == 2
    (output / "training.csv").write_text("run_name,script,lmbda,pixels,rd_cost\n")
    with pytest.raises(SystemExit):
        training_plot.main(["--from-csv", "--output", str(output)])
    assert "training.csv: has no rows" in capfd.readouterr().err


def test_validation_curves_of_runs_of_one_name(tmp_path):
    """A name stands for a run in the folder, but for one that began from this; a source without
    evaluation is left out."""
    write_run(tmp_path, "a", "mbt2018", [0, 1000], "old/b/")
    write_run(tmp_path, "b", "mbt2018", [0, 1000], "a/")
    write_run(tmp_path, "c", "mbt2018", [0, 1000], "d")
    (tmp_path / "d").mkdir()
    assert [point.pixels for point in training_plot.path_to(str(tmp_path), "b")] == [5e8, 1e9]
    assert [point.pixels for point in training_plot.path_to(str(tmp_path), "c")] == [5e8]


def test_patches_of_all_replicas_count(tmp_path):
    write_run(tmp_path, "a", "mbt2018", [0, 1000])
    path = tmp_path / "a" / "args.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), num_replicas=3)))
    (point,) = training_plot.path_to(str(tmp_path), "a")
    assert point.pixels == 1.5e9


def test_validation_curves_are_written_to_outputs(tmp_path, monkeypatch):
    """By default of the runs in checkpoints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    write_run(tmp_path / "checkpoints", "mbt2018-lmbda=0.01", "mbt2018", [0, 10])
    training_plot.main([])
    assert sorted(os.listdir("outputs")) == ["training.csv", "training.png"]
    assert PIL.Image.open("outputs/training.png").size[0] > 600


def test_runs_without_validation_curve(tmp_path, capfd):
    write_run(tmp_path, "lmbda=best", "mbt2018", [0, 1])
    write_run(tmp_path, "lmbda=1", "mbt2018", [0])  # not begun: nothing to say
    write_run(tmp_path, "lmbda=2", "mbt2018", [0, 1])
    (tmp_path / "lmbda=2" / "validation.csv").write_text("step\n1\n")
    for folder, message in ((tmp_path, "no run with a validation.csv"),
                            (tmp_path / "missing", "No such file")):
        with pytest.raises(SystemExit):
            training_plot.main(["--checkpoint_dir", str(folder), "--output", str(tmp_path / "x")])
        captured = capfd.readouterr().err
        assert message in captured and "Traceback" not in captured
        assert captured.count("is not drawn") == (3 if folder == tmp_path else 0)


def test_comparison_shows_where_sga_gains_most():
    original = np.zeros((200, 300, 3), np.uint8)
    base, improved = original.copy(), original.copy()
    base[150:160, 200:210] = 9  # SGA is better here,
    improved[20:30, 20:30] = 200  # and worse here
    top, left = compare.most_improved(original, base, improved)
    assert 160 - compare.SIDE <= top <= 150 and 210 - compare.SIDE <= left <= 200


def test_published_rows_are_over_our_lambdas():
    """And those of all lambdas beside them; of a base curve without lambdas these alone."""
    papers = rd_curves.published("kodak")
    ours = {"lmbda": np.array([.001, .0025, .005, .01, .3])}
    rows = {row[1]: row[3:5] for row in table1.published_rows(ours, papers, "published")}
    assert rows["SGA, published"] == [4, "-17.49"]
    assert rows["SGA, published, all λ"] == [7, "-15.22"]
    assert rows["SGA + BB, published"][1] == "-19.53"
    for base in ({}, {"lmbda": np.array([.3])}, papers["mbt2018"]):
        rows = {row[1]: row[4] for row in table1.published_rows(base, papers, "published")}
        assert rows == {"SGA, published": "-15.22", "SGA + BB, published": "-16.87",
                        "base hyperprior, published": "0.00"}


def shorten_fast(monkeypatch):
    """--fast with fewer iterations, for tests of what is made of its results."""
    for method in (sga, bb_sga):
        presets = {key: min(value, 60) if key.endswith("_its") else value
                   for key, value in method.PRESETS["fast"].items()}
        monkeypatch.setitem(method.PRESETS, "fast", presets)


@pytest.mark.slow
def test_compare(tmp_path, monkeypatch):
    """JPEG has about SGA's rate; what is drawn is what the files decode to."""
    shorten_fast(monkeypatch)
    drawn = []
    monkeypatch.setattr(compare, "draw", lambda original, compressed, *_: drawn.append(
        (original, compressed)))
    image_files.write_images(str(tmp_path / "crop.png"), image_files.read_images(
        os.path.join(ROOT, "results", "images", "face-384x384.png"))[:, 100:292, 100:292])
    compare.main([str(tmp_path / "crop.png"), "--fast", "--output", str(tmp_path / "x.png")])
    (original, compressed), = drawn
    assert list(compressed) == ["JPEG", "base hyperprior", "SGA", "SGA + BB"]
    costs = {}
    for label, (decoded, bpp, kind, psnr) in compressed.items():
        assert ("of the file" in kind) == (label == "JPEG")
        mse = np.mean((np.float64(decoded) - original) ** 2)
        assert psnr == pytest.approx(10 * np.log10(255 ** 2 / mse), abs=1e-3)
        costs[label] = .01 * mse + bpp
    assert compressed["JPEG"][1] == pytest.approx(compressed["SGA"][1], rel=.05)
    assert max(costs["SGA"], costs["SGA + BB"]) < costs["base hyperprior"] < costs["JPEG"]


@pytest.mark.slow
def test_landscape(tmp_path, monkeypatch):
    monkeypatch.setattr(landscape, "RESOLUTION", 21)
    monkeypatch.setattr(convergence, "sga_compressor", functools.partial(
        convergence.sga_compressor, preset="fast"))
    shorten_fast(monkeypatch)
    drawn, draw = [], landscape.draw
    monkeypatch.setattr(landscape, "draw", lambda *args: drawn.append(args[0]) or draw(*args))
    landscape.main(["--output", str(tmp_path / "landscape.png")])
    assert PIL.Image.open(tmp_path / "landscape.png").size[0] > 600
    costs = {}
    for label in drawn[0].marks:
        name, cost = label.rsplit(": ", 1)
        costs[name] = float(cost.strip(" %"))
    assert costs["SGA's y, rounded: the result"] == 0 < costs["encoder's y, rounded"]
    assert costs["encoder's y, rounded"] <= drawn[0].costs.max() < np.inf


def test_no_script_writes_over_its_input(tmp_path, monkeypatch, capfd):
    """Neither where the input is named as the output, nor by default, nor through links."""
    monkeypatch.chdir(tmp_path)
    photo = write_image(tmp_path / "photo.png", 200, 200)
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for script in (compare, landscape):
        for name in ("photo.png", "link.png"):
            assert "different files" in refused(script, ["photo.png", "--output", name], capfd)
    (tmp_path / "outputs").mkdir()
    os.rename("photo.png", "outputs/convergence.png")
    assert "different files" in refused(convergence, ["outputs/convergence.png"], capfd)
    (tmp_path / "kodak").mkdir()
    os.rename("outputs/convergence.png", "kodak/rd-psnr.png")
    assert "--output writes elsewhere" in refused(table1, [
        "--checkpoint_dir", CHECKPOINTS, "--images", "kodak", "--output", "."], capfd)
    assert (tmp_path / "kodak" / "rd-psnr.png").read_bytes() == before


def test_tables_are_utf_8_in_any_locale(tmp_path):
    """They are written and read where the locale has ASCII alone."""
    path, text = tmp_path / "x.csv", "\u03bb \u2013 \u00fc"
    code = "import sys; sys.path[:0] = [%r, %r]; import rd_curves; " % (
        ROOT, os.path.join(ROOT, "results"))
    code += "rd_curves.write_csv(%r, ['m'], [[%s]]); " % (str(path), ascii(text))
    code += "assert rd_curves.csv_rows(%r)[0]['m'] == %s" % (str(path), ascii(text))
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(
        os.environ, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"))
    assert text in path.read_bytes().decode("utf-8")
