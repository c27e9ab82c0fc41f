"""Command lines: inputs, outputs, results of folders, and the one-line errors."""

import importlib
import operator
import os
import pathlib
import shlex
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow.compat.v1 as tf

import tf_boilerplate as nic
from plumbing import fileformat, image_files, runs, store
from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, FAST, KINDS, NPY, PNG, ROOT, TINY,
                      command, compress, load, parsed_arguments, pixels, reported_pixels, run,
                      run_of, run_process, write_image)

SCRIPTS = list(FAST)
# The paper's settings, and for each one that is a little different.
SETTINGS = dict(mbt2018={},
                sga=dict(sga_its=2000, lr=0.005, lr_decay=0, annealing_rate=1e-3, t0=700, T_max=0.5,
                         logits="atanh", seed=0),
                map=dict(its=2000, lr=0.005, check_every=10),
                ste=dict(its=2000, lr=1e-4, check_every=10),
                unoise=dict(its=2000, lr=0.005, seed=0),
                danneal=dict(its=2000, lr=0.005, annealing_rate=4e-3, T_max=0.2),
                bb_sga=dict(sga_its=2000, lr=0.005, rate_its=2000, rate_lr=3e-3, seed=0,
                            lr_decay=0, annealing_rate=1e-3, t0=700, T_max=0.5,
                            logits="atanh", rate_samples=16),
                bb_no_sga=dict(rate_its=1000, rate_lr=0.005, rate_samples=16, seed=0),
                bb_plain=dict(rate_samples=16, seed=0))
# Options that change what is computed, each the last of a line; those before it are the others'.
CHANGES = dict(sga=[("--sga_its", 13), ("--its", 13), ("--lr", 0.02), ("--lr_decay", 1),
                    ("--T_max", 0.1), ("--annealing_rate", 1), ("--annealing_rate", 1, "--t0", 0),
                    ("--seed", 1), ("--logits", "ssl")],
               map=[("--its", 5), ("--lr", 0.02), ("--lr", 0.5, "--check_every", 1)],
               ste=[("--its", 5), ("--lr", 0.02), ("--lr", 0.5, "--check_every", 1)],
               unoise=[("--its", 13), ("--lr", 0.02), ("--seed", 1)],
               danneal=[("--its", 13), ("--lr", 0.02), ("--annealing_rate", 1), ("--T_max", 0.1)])


@pytest.mark.parametrize("script", KINDS)
@pytest.mark.parametrize("height,width", [(1, 1), (161, 162)])
def test_any_size(script, height, width, tmp_path, capfd):
    image = write_image(tmp_path / "image.png", height, width)
    results = compress(script, tmp_path, image, *FAST[script])
    printed = capfd.readouterr()
    assert np.isfinite(results["est_bpp"]).all() and results["est_bpp"].shape == (1,)
    assert np.isnan(results["msssim"]).all() == (min(height, width) < 161)
    assert ("MS-SSIM is nan" in printed.err) == (min(height, width) < 161)
    assert "Avg est_bpp: %.5f" % results["est_bpp"][0] in printed.out


@pytest.mark.parametrize("script", SCRIPTS)
def test_result_names_and_settings(script, tmp_path):
    results = compress(script, tmp_path, NPY, *FAST[script], "--lambda", 1e-5)
    name = "rd-%s-lmbda=1e-05+%s-input=face-2x192x256.npy" % (script, run_of(script))
    if script == "mbt2018":
        name = "rd-%s-file=face-2x192x256.npy-lmbda=1e-05" % BASE_RUN
    if script in ("bb_no_sga", "bb_plain"):
        name = "rd-%s+%s-input=face-2x192x256.npy" % (script, BB_RUN)
    changed = {"bb_sga": "-rate_its=2-rate_samples=2-sga_its=2", "sga": "-sga_its=2", "mbt2018": "",
               "bb_no_sga": "-lmbda=1e-05-rate_its=2-rate_samples=2",
               "bb_plain": "-lmbda=1e-05-rate_samples=2"}.get(script, "-its=2")
    assert sorted(os.listdir(tmp_path / "results")) == [name + changed + ".csv",
                                                        name + changed + ".npz"]
    assert results["lmbda"] == 1e-5 and results["run_name"] == run_of(script)
    assert results["est_bpp"].shape == results["files"].shape == (2,)
    np.testing.assert_allclose(results["rd_cost"], 1e-5 * results["mse"] + results["est_bpp"])
    given = dict(zip([option.strip("-") for option in FAST[script][::2]], FAST[script][1::2]))
    for name, value in SETTINGS[script].items():
        value = given.get(name, given.get("its", value) if name.endswith("_its") else value)
        scale = {"t0": 1 / 1000, "annealing_rate": 1000}.get(name, 1)  # 2 iterations, not 2000
        assert results[name] == pytest.approx(scale * value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_the_papers(script):
    args = parsed_arguments(script)
    names = [option.name for option in importlib.import_module(script).METHOD.options]
    assert {name: getattr(args.options, name) for name in names} == SETTINGS[script]
    assert not args.changed


def test_names_say_what_the_original_would_not_have_computed(tmp_path):
    """Another lambda than the run's, or one that its name lacks, and no default that is given."""
    def name(script, run_name, lmbda, changed={}):
        settings = dict(script=script, run_name=run_name, lmbda=lmbda)
        result_name = importlib.import_module(script).METHOD.result_name
        return os.path.basename(store.result_path("x", result_name, settings, "i", None, changed))
    assert name("mbt2018", "lmbda=0.01", .01) == "rd-lmbda=0.01-file=i.npz"
    assert name("mbt2018", "lmbda=0.01", .02) == "rd-lmbda=0.01-file=i-lmbda=0.02.npz"
    assert name("mbt2018", "foo", .02) == "rd-foo-file=i-lmbda=0.02.npz"
    assert name("bb_plain", "lmbda=0.01", .01) == "rd-bb_plain+lmbda=0.01-input=i.npz"
    assert name("sga", "lmbda=0.01", 1e-5) == "rd-sga-lmbda=1e-05+lmbda=0.01-input=i.npz"
    assert parsed_arguments("sga", "--its", 10, "--t0", 3.5).changed == dict(sga_its=10)
    assert parsed_arguments("sga", "--its", 10, "--t0", 4).changed == dict(sga_its=10, t0=4)
    for changed, end in ((dict(start="zero"), "-start=zero"), (dict(seed=1234567), "-seed=1234567"),
                         (dict(lr=.02), "-lr=0.02")):
        assert name("sga", "r", 1, changed).endswith(end + ".npz")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(closed, tmp_path):
    """Results and pictures are written, errors keep their exit code; no stream gets another's.

    Nor does a checkpoint get what is printed.
    """
    def process(*argv):
        words = " ".join(shlex.quote(word) for word in command(
            *argv[:1], "--checkpoint_dir", CHECKPOINTS, *argv[1:]))
        return subprocess.run(["bash", "-c", "%s %s" % (words, closed)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    done = process("mbt2018", "compress", BASE_RUN, TINY, tmp_path / "x.tfci", "--results_dir",
                   tmp_path)
    assert done.returncode == 0 and list(tmp_path.glob("rd-*.npz"))
    assert all(line.startswith(b"note: ") for line in done.stderr.splitlines())
    if "<&-" in closed:
        assert process("sga", "decompress", BASE_RUN, tmp_path / "x.tfci").returncode == 0
        assert (tmp_path / "x.tfci.png").exists()
        assert process("mbt2018", "--checkpoint_dir", tmp_path, "--num_filters", 2, "train",
                       "--train_glob", TINY, "--patchsize", 64, "--batchsize", 1, "--last_step", 1,
                       "--logdir", "").returncode == 0
        (folder,) = tmp_path.glob("mbt2018-num_filters=2-*")
        assert runs.find_run(str(tmp_path), folder.name).step == 1
    failed = process("mbt2018", "compress", "no such run", TINY)
    assert failed.returncode == 2 and bool(failed.stderr) == ("2>&-" not in closed)


def test_arguments_of_main_need_not_be_text(tmp_path):
    main = importlib.import_module("sga").main
    results = main(("--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, pathlib.Path(TINY),
                    "--its", 2, "--results_dir", tmp_path))
    assert results["sga_its"] == 2 and list(tmp_path.iterdir())


def test_no_results_are_written_with_an_empty_results_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, TINY, "--results_dir", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("script", CHANGES)
def test_options_are_obeyed(script):
    """Iterations have other costs than with the same options but for the last."""
    method = importlib.import_module(script).METHOD
    found, images = runs.find_run(CHECKPOINTS, BASE_RUN), image_files.read_images(TINY)
    iterations, graphs = [], {}

    def losses(*words):
        args = parsed_arguments(script, "--its", 12, "--lr", {"ste": 0.01}.get(script, 0.005),
                                *words)
        settings = (args.lmbda or .01, getattr(args.options, "seed", None),
                    getattr(args.options, "logits", None))
        if settings not in graphs:
            graphs[settings] = nic.inference_graph(
                method, found, images.shape, args.options, settings[0], 1, [iterations.append])
        del iterations[:]
        method.infer(graphs[settings], images, args.options)
        return [float(iteration.losses["rd_loss"]) for iteration in iterations]
    assert losses() == losses()
    for words in CHANGES[script] + [("--lambda", 1)]:
        assert losses(*words) != losses(*words[:-2]), words


@pytest.mark.parametrize("script", CHANGES)
def test_record(script, tmp_path):
    """Ends with the cost that is reported, but for the rounding of pixels, for each image."""
    results = compress(script, tmp_path, NPY, "--save_opt_record", "--its", 21)
    (name,) = [n for n in os.listdir(tmp_path / "results") if n.startswith("opt-")]
    record = load(tmp_path / "results" / name)
    assert os.path.exists(tmp_path / "results" / ("rd" + name[len("opt"):]))
    assert ("T" in record) == (script in ("sga", "danneal"))
    assert list(record["its"]) == [0, 10, 20] + [20] * (script == "map")
    assert record["rd_loss"].shape == record["rd_loss_after_rounding"].shape == (
        len(record["its"]), 2)
    np.testing.assert_allclose(record["rd_loss_after_rounding"][-1], results["rd_cost"], rtol=0.05)


@pytest.mark.parametrize("script", ["map", pytest.param("ste", marks=pytest.mark.slow)])
def test_record_of_a_folder_and_early_stops(script, folder, tmp_path, monkeypatch):
    """Each image has a record of its own, which has its result in it; so has each batch."""
    results = compress(script, tmp_path, folder, "--save_opt_record", "--lr", 0.05, "--its", 60)
    (records,) = (tmp_path / "results").glob("opt-*")
    assert len(os.listdir(records)) == len(results["files"])
    for name, cost in zip(results["files"], results["rd_cost"]):
        (record,) = records.glob(name + "-????????.npz")
        losses = load(record)["rd_loss_after_rounding"]
        assert losses.shape[1] == 1 and len(losses) >= 2
        best = losses.min() if script == "ste" else losses[-1, 0]
        assert best == pytest.approx(cost, rel=0.05)  # of 8-bit pixels
    monkeypatch.setattr(fileformat, "BATCH_PIXELS", 192 * 256)
    compress(script, tmp_path / "npy", NPY, "--save_opt_record", "--its", 2)
    assert len(list((tmp_path / "npy" / "results").glob("opt-*-batch=?.npz"))) == 2


@pytest.mark.parametrize("script", [
    "mbt2018", "sga", pytest.param("bb_sga", marks=pytest.mark.slow)])
def test_latents_and_pictures_are_kept(script, folder, tmp_path):
    """Those of the file: by image, beside the table of metrics; of a .npy in one file."""
    options = ("--save_latents", "--save_reconstruction") + FAST[script]
    with reported_pixels() as reported:
        results = compress(script, tmp_path, folder, *options)
        np.save(tmp_path / "two.npy", np.load(NPY)[:, :80, :64])
        compress(script, tmp_path / "npy", tmp_path / "two.npy", *options)
    saved = {kind: next((tmp_path / "results").glob(kind + "-*")) for kind in ("latents", "recon")}
    for name, picture in zip(results["files"], reported):
        (path,) = saved["recon"].glob(name + "-????????.png")
        np.testing.assert_array_equal(pixels(path), picture)
        (path,) = saved["latents"].glob(name + "-????????.npz")
        height, width = picture.shape[1:3]
        latents = load(path)
        assert latents["z_hat"].shape == (1, -(-height // 64), -(-width // 64), 16)
        decoder = nic.decoder_of(nic.load(os.path.join(CHECKPOINTS, run_of(script))), height,
                                 width, None)
        np.testing.assert_array_equal(decoder.picture(latents["y_hat"], 0), picture)
    (csv,) = (tmp_path / "results").glob("rd-*.csv")
    header, *rows = [row.split(",") for row in csv.read_text().splitlines()]
    assert [row[0] for row in rows] == list(results["files"]) == ["a.jpg", "b.png"]
    for name in ("psnr", "est_bpp", "rd_cost", "actual_bpp"):
        column = [float(row[header.index(name)]) for row in rows]
        np.testing.assert_allclose(column, results[name], rtol=1e-7)
    (path,) = (tmp_path / "npy" / "results").glob("recon-*.npy")
    np.testing.assert_array_equal(pixels(path), reported[-1])
    (path,) = (tmp_path / "npy" / "results").glob("rd-*.csv")
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == [
        "image", "two.npy[0]", "two.npy[1]"]


@pytest.mark.parametrize("is_first", [False, True])
def test_what_is_to_be_kept_is_made_if_it_is_missing(is_first, folder, tmp_path, capfd):
    """Where the results are there already, but were made without; else nothing is computed."""
    if is_first:
        compress("mbt2018", tmp_path, folder)
    for expected in (["a.jpg", "b.png"], []):
        capfd.readouterr()
        compress("mbt2018", tmp_path, folder, "--save_reconstruction")
        printed = capfd.readouterr().out
        assert computed(printed) == expected
    (pictures,) = (tmp_path / "results").glob("recon-*")
    assert len(os.listdir(pictures)) == 2 and "reconstruction: %s\n" % pictures in printed
    capfd.readouterr()
    os.remove(str(next(pictures.glob("a.jpg-*"))))
    compress("mbt2018", tmp_path, folder, "--save_reconstruction")
    assert computed(capfd.readouterr().out) == ["a.jpg"]


def test_the_last_iteration_is_checked(monkeypatch):
    """Also where it is no multiple of the iterations between checks: a worse end is not taken."""
    class Session:
        def run(self, fetches, feed=None):
            if fetches != ["op", {}]:
                return self.t
            self.t += 1
            return None, {}
    graph = nic.Graph(*[None] * len(nic.Graph._fields))._replace(
        sess=Session(), step="op", losses={}, watchers=())
    for costs, expected in [({0: 3, 10: 2, 11: 2.5}, 10), ({0: 3, 10: 2, 11: 1}, 11),
                            ({0: 3, 10: 4}, 0)]:
        graph.sess.t = -1
        monkeypatch.setattr(nic, "score", lambda graph, x, t: dict(rd_loss=costs[t]))
        assert nic.optimise(graph, "x", 12, 1, lambda graph, t: t, stop=operator.gt,
                            check_every=10) == expected


@pytest.mark.parametrize("script", ["sga", pytest.param("unoise", marks=pytest.mark.slow)])
def test_the_same_noise_alone_and_in_a_batch(script, tmp_path):
    images = np.load(NPY)[:, :64, :80]
    np.save(tmp_path / "batch.npy", images)
    batch = compress(script, tmp_path, tmp_path / "batch.npy", "--its", 20)
    for k, image in enumerate(images):
        np.save(tmp_path / "one.npy", image[None])
        alone = compress(script, tmp_path, tmp_path / "one.npy", "--its", 20)
        assert alone["rd_cost"][0] == pytest.approx(batch["rd_cost"][k], rel=1e-3)


@pytest.mark.parametrize("script, glob", [
    ("mbt2018", "*.[jp][pn]g"), pytest.param("bb_sga", "", marks=pytest.mark.slow)])
def test_folder_and_glob(script, glob, folder, tmp_path):
    joined = compress(script, tmp_path, os.path.join(str(folder), glob), *FAST[script])
    assert list(joined["files"]) == ["a.jpg", "b.png"]
    names = sorted(os.listdir(tmp_path / "results"))  # without parts
    assert len(names) == 2 and "=some images" in names[0]
    assert names[0][:-4] + ".npz" == names[1]
    alone = compress(script, tmp_path / "alone", folder / "b.png", *FAST[script])
    assert joined["rd_cost"][1] == alone["rd_cost"][0]


@pytest.mark.parametrize("options, message", [
    ([], "the image is not saved; the same command begins anew"),
    (["--results_dir", ""], "no results are saved")])
def test_an_image_that_is_interrupted(options, message, tmp_path, monkeypatch, capfd):
    def interrupted(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(nic.Compressor, "compress", interrupted)
    with pytest.raises(SystemExit) as exit_info:
        compress("mbt2018", tmp_path, TINY, *options)
    assert exit_info.value.code == 130
    assert capfd.readouterr().err == "mbt2018.py: interrupted: %s\n" % message
    assert not list((tmp_path / "results").iterdir())


def computed(printed):
    """The names of images that were computed, by what was printed."""
    return sorted(line.split(":")[0] for line in printed.splitlines() if ": rd_cost=" in line)


def test_results_are_reused_only_if_nothing_changed(folder, tmp_path, capfd):
    def computed_now(*options):
        capfd.readouterr()
        compress("mbt2018", tmp_path, folder, *options)
        return computed(capfd.readouterr().out)
    assert computed_now() == ["a.jpg", "b.png"]
    assert computed_now() == []
    compress("mbt2018", tmp_path, folder)
    assert "results on 2 of 2 images exist already\n" in capfd.readouterr().out
    (results,) = (tmp_path / "results").glob("*.npz")
    results.write_bytes(results.read_bytes()[:100])
    assert computed_now() == ["a.jpg", "b.png"]
    for height, width in [(32, 64), (64, 32)]:  # same bytes, another shape
        PIL.Image.new("RGB", (width, height), "red").save(str(folder / "b.png"))
        assert computed_now() == ["b.png"]
        assert computed_now() == []
    assert computed_now("--lambda", 1) == ["a.jpg", "b.png"]


@pytest.mark.parametrize("script, options", [
    pytest.param("mbt2018", ["--threads", 1], marks=pytest.mark.slow),
    ("bb_plain", ["--rate_samples", 2])])
def test_another_folder_of_the_same_name_replaces_nothing(script, options, folder, tmp_path,
                                                          capfd):
    """Neither parts, nor records, nor results; and what was there is found again."""
    results, names = tmp_path / "results", []
    other = tmp_path / "other" / folder.name
    other.mkdir(parents=True)
    write_image(other / "b.png", 64, 64)
    payloads = [tmp_path / "p1", tmp_path / "p2"]
    for i, path in enumerate(payloads):
        path.write_bytes(bytes(range(i, 200)) * 10)
    cases = [(folder, []), (other, [])]
    if script == "bb_plain":
        cases += [(other, ["--initial_bits", path]) for path in payloads]
    for imgs, more in cases * 2:
        before = {path: path.read_bytes() for path in results.rglob("*.npz")}
        capfd.readouterr()
        joined = compress(script, tmp_path, imgs, *options, *more)
        printed = capfd.readouterr()
        assert {path: path.read_bytes() for path in before} == before
        names.append(printed.out.splitlines()[-1])
        is_new = len(names) <= len(cases)
        assert computed(printed.out) == (list(joined["files"]) if is_new else [])
    assert names[:len(cases)] == names[len(cases):] and len(set(names)) == len(cases)


def test_lambda_is_the_weight_of_the_distortion(tmp_path):
    """Of what is optimised, not only of what is reported."""
    image = write_image(tmp_path / "image.png", 64, 64)
    low, high = (compress("sga", tmp_path, image, "--its", 30, "--lr", .05, "--lambda", lmbda)
                 for lmbda in (1e-4, 1))
    assert low["mse"] > high["mse"] and low["est_bpp"] < high["est_bpp"]


def test_a_rate_that_falls(tmp_path):
    constant, falling = (compress("sga", tmp_path, TINY, "--its", 4, "--lr", .1, *options)
                         for options in ((), ("--lr_decay", 1)))
    assert np.isfinite(falling["rd_cost"]).all() and falling["rd_cost"] != constant["rd_cost"]
    rates = [nic.latent_learning_rate(t, 100, .1, .5) for t in (0, 50, 75, 100)]
    assert rates == pytest.approx([.1, .1, .1 * .505, .001])


def test_names_of_options_mean_nothing_to_the_shared_code(tmp_path, monkeypatch):
    """A method whose options have other names is optimised, recorded and evaluated the same."""
    import bb_sga
    import sga
    others = dict(sga_its="its", lr="eta", rate_its="fits", rate_samples="draws", seed="noise")
    options = [option._replace(flags="--" + others.get(option.name, option.name))
               for option in bb_sga.OPTIONS]
    options = [option._replace(default=5) if callable(option.default) else option
               for option in options]
    given = dict(sga_its=4, lr=.1, rate_its=3, rate_samples=2, seed=1, t0=5, annealing_rate=5)
    words = lambda values: ["--%s=%s" % item for item in values.items()]

    def original(own):
        known = {new: old for old, new in others.items()}
        return types.SimpleNamespace(**{known.get(name, name): value
                                        for name, value in vars(own).items()})
    expected = compress("bb_sga", tmp_path, TINY, *words(given))
    monkeypatch.setattr(bb_sga, "METHOD", bb_sga.METHOD._replace(
        options=options, infer=lambda graph, x, own: bb_sga.infer(graph, x, original(own)),
        relax=lambda v, T, key, own: sga.relax(v, T, key, original(own)), presets={},
        seed=lambda own: own.noise, rate_samples=lambda own: own.draws))
    found = compress("bb_sga", tmp_path / "other", TINY, *words(
        {others.get(name, name): value for name, value in given.items()}))
    for name in ("est_bpp", "est_bpp_stderr", "rd_cost", "net_bpp"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_method_without_a_relaxation_can_not_be_optimised(tmp_path, monkeypatch):
    import sga
    monkeypatch.setattr(sga, "METHOD", sga.METHOD._replace(relax=None))
    with pytest.raises(TypeError, match="no relax"):
        compress("sga", tmp_path, TINY)


def test_results_are_recomputed_when_the_compressed_file_is_gone(folder, tmp_path):
    command = ["--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, folder, tmp_path / "files",
               "--results_dir", tmp_path / "results"]
    run("mbt2018", *command)
    assert sorted(os.listdir(tmp_path / "files")) == ["a.jpg.tfci", "b.png.tfci"]
    original = (tmp_path / "files" / "b.png.tfci").read_bytes()
    (tmp_path / "files" / "b.png.tfci").write_bytes(original[:-1] + b"x")
    run("mbt2018", *command)
    assert (tmp_path / "files" / "b.png.tfci").read_bytes() == original


def test_options_may_stand_before_or_after_the_subcommand(tmp_path):
    run("mbt2018", "compress", BASE_RUN, TINY, "--checkpoint_dir", CHECKPOINTS,
        "--num_filters", 16, "--results_dir", tmp_path)
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.slow
def test_large_npy_is_processed_in_batches(tmp_path, monkeypatch):
    images = np.load(NPY)[:, :64, :48].repeat(3, axis=0)
    np.save(tmp_path / "six.npy", images)
    whole = compress("mbt2018", tmp_path, tmp_path / "six.npy")
    monkeypatch.setattr(fileformat, "BATCH_PIXELS", 4 * 64 * 48)
    split = compress("mbt2018", tmp_path, tmp_path / "six.npy")
    assert list(split["batch_sizes"]) == [4, 2] and list(whole["batch_sizes"]) == [6]
    np.testing.assert_allclose(split["est_bpp"], whole["est_bpp"], rtol=1e-5)


def test_quiet_and_as_a_process(tmp_path):
    """Nothing but the averages and where they are on stdout, and nothing on stderr."""
    done = run_process("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, PNG,
                       "--results_dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.startswith(("Avg ", "results: ")) for line in done.stdout.splitlines())
    done = run_process("sga", "compress", "nothing", TINY)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------ nothing is lost

def test_compress_overwrites_nothing_but_compressed_files(tmp_path, fails):
    """As when the shell expands a glob of two images, or more."""
    first, second, third = (write_image(tmp_path / name, 48, 48) for name in
                            ("a.png", "b.png", "c.png"))
    np.save(tmp_path / "d.npy", np.zeros((1, 8, 8, 3), np.uint8))
    (tmp_path / "notes").write_text("kept")
    argv = ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
            tmp_path / "results", BASE_RUN]
    for target in (second, tmp_path / "d.npy", tmp_path / "notes"):
        before = target.read_bytes()
        assert "glob must be quoted" in fails(*argv, first, target)
        assert target.read_bytes() == before
    assert "glob must be quoted" in fails(*argv, first, second, third)
    (tmp_path / "many").mkdir()
    write_image(tmp_path / "many" / "a.png", 48, 48)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png.tfci").write_text("kept")
    assert "a.png.tfci" in fails(*argv, tmp_path / "many", tmp_path / "out")
    assert "accepted are names in .tfci or .iinc" in fails(*argv, first, tmp_path / "new.PNG")
    for output in ("new.tfci", "many.tfci"):
        line = fails("sga", *argv[1:], first, tmp_path / output)
        assert line.endswith("%s: this method writes .iinc" % output)
    assert "is a file, not a folder" in fails(*argv, tmp_path / "many", tmp_path / "notes")
    assert not list(tmp_path.glob("results/*.npz"))
    for output in ("x.tfci", "x.iinc"):
        (tmp_path / output).touch()
        for _ in range(2):
            run(*argv, first, tmp_path / output)


def test_compress_overwrites_no_payload(tmp_path, fails):
    image, output = write_image(tmp_path / "a.png", 48, 48), tmp_path / "a.iinc"
    (tmp_path / "bits").write_bytes(bytes(range(256)))
    (tmp_path / "other").write_bytes(bytes(range(255)))
    argv = ["bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress", "--rate_samples", 2,
            "--results_dir", "", BB_RUN, image, output]
    for _ in range(2):
        run(*argv, "--initial_bits", tmp_path / "bits")
    before = output.read_bytes()
    for options in ([], ["--initial_bits", tmp_path / "other"]):
        assert "holds 256 bytes of other --initial_bits" in fails(*argv, *options)
    assert output.read_bytes() == before


def test_decompress_overwrites_only_what_it_wrote(tmp_path, fails):
    image = write_image(tmp_path / "a.png", 48, 48)
    compress("bb_plain", tmp_path, image, "--initial_bits", image, output=tmp_path / "a.iinc")
    before = image.read_bytes()
    argv = ["bb_plain", "--checkpoint_dir", CHECKPOINTS, "decompress", BB_RUN, tmp_path / "a.iinc"]
    assert "--force" in fails(*argv, image)
    (tmp_path / "bits").write_text("kept")
    assert "--force" in fails(*argv, tmp_path / "new.png", "--initial_bits", tmp_path / "bits")
    assert image.read_bytes() == before and not (tmp_path / "new.png").exists()
    assert (tmp_path / "bits").read_text() == "kept"
    for _ in range(2):
        run(*argv, tmp_path / "new.png", "--initial_bits", tmp_path / "new.bits")
    assert (tmp_path / "new.bits").read_bytes() == before
    for same in ([tmp_path / "x.npy", "--initial_bits", tmp_path / "x.npy"],
                 [tmp_path / "new.png", "--force", "--initial_bits", tmp_path / "a.iinc"]):
        assert "different files" in fails(*argv, *same)
    run(*argv, image, "--force")
    assert image.read_bytes() == (tmp_path / "new.png").read_bytes()


def test_results_of_other_settings_or_images_have_other_names(tmp_path, folder):
    names = lambda: {path.name: path.read_bytes() for path in tmp_path.glob("results/*.npz")}
    for options in (["--its", 2], ["--its", 3], ["--its", 3, "--lr", .1]):
        before = names()
        compress("sga", tmp_path, TINY, *options)
        assert len(names()) == len(before) + 1 and before.items() <= names().items()
    assert {name[name.index(".png") + 4:] for name in names()} == {
        "-sga_its=2.npz", "-sga_its=3.npz", "-lr=0.1-sga_its=3.npz"}
    compress("mbt2018", tmp_path, TINY, "--lambda", .5)
    for imgs in (folder, folder / "*.jpg", folder / "*.png", folder):
        compress("mbt2018", tmp_path, imgs)
    selections = sorted(tuple(load(path)["files"]) for path in
                        tmp_path.glob("results/*images*.npz"))
    assert selections == [("a.jpg",), ("a.jpg", "b.png"), ("b.png",)]
    for source in ("some images", "face-64x64.png-lmbda=0.5"):
        assert "rd-%s-file=%s.npz" % (BASE_RUN, source) in names()


@pytest.mark.parametrize("script, first, second", [
    ("mbt2018", [], ["out.iinc"]), ("mbt2018", ["out.iinc"], []),
    ("mbt2018", ["--threads", 1], []), ("mbt2018", [], ["--threads", 1])])
def test_results_of_another_codec_or_number_of_threads(script, first, second, tmp_path,
                                                       monkeypatch):
    """Neither replace each other nor are taken for each other."""
    monkeypatch.chdir(tmp_path)
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", "results", BASE_RUN, TINY]
    expected = {}
    for options in (first, second) * 2:
        results = run(script, *argv, *options)
        np.testing.assert_equal(results, expected.setdefault(str(options), results))
    stored = [load(path) for path in (tmp_path / "results").iterdir()]
    assert len(stored) == 2
    for results in expected.values():
        assert any(results["actual_bpp"] == one["actual_bpp"]
                   and results["threads"] == one["threads"] for one in stored)


def test_results_of_another_codec_are_computed_again(folder, tmp_path):
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", tmp_path / "results",
            BASE_RUN, folder]
    sizes = [run("mbt2018", *argv, *output)["actual_bpp"] for output in (
        [], [tmp_path / "files.iinc"], [])]
    np.testing.assert_array_equal(sizes[0], sizes[2])
    assert np.all(sizes[0] != sizes[1])


def test_results_of_another_version_are_computed_again(folder, tmp_path, capfd):
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", tmp_path / "results",
            BASE_RUN, folder]
    expected = run("mbt2018", *argv)
    (path,) = tmp_path.glob("results/*.npz")
    older = load(path)
    del older["grid_offset"], older["results_version"]
    np.savez(str(path), **older)
    capfd.readouterr()
    np.testing.assert_equal(run("mbt2018", *argv), expected)
    assert computed(capfd.readouterr().out) == ["a.jpg", "b.png"]


@pytest.mark.parametrize("options", [[], ["--verbose"]])
def test_a_fault_of_a_method_keeps_its_traceback(options, tmp_path):
    """As of an author whose relax gives another shape: exit code 1."""
    for name in os.listdir(ROOT):
        if name.endswith(".py") or name == "plumbing":
            (tmp_path / name).symlink_to(os.path.join(ROOT, name))
    (tmp_path / "danneal.py").unlink()
    with open(os.path.join(ROOT, "danneal.py")) as file:
        source = file.read()
    (tmp_path / "danneal.py").write_text(source.replace("neighbours, -1)",
                                                        "neighbours, -1)[:, :3]"))
    done = subprocess.run([sys.executable, str(tmp_path / "danneal.py"), "--checkpoint_dir",
                           CHECKPOINTS, *options, "compress", "--its", "2", "--results_dir", "",
                           BASE_RUN, TINY], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "shape" in done.stderr


def test_only_the_last_folder_is_created(tmp_path, fails, monkeypatch):
    argv = ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, TINY]
    for options in ([tmp_path / "a" / "b" / "x.tfci", "--results_dir", ""],
                    ["--results_dir", tmp_path / "a" / "b"]):
        assert "no such folder" in fails(*argv, *options)
    training = ["train", "--train_glob", TINY, "--patchsize", 64]
    with monkeypatch.context() as no_graph:
        no_graph.setattr(tf, "Graph", None)
        assert "no such folder" in fails("mbt2018", "--checkpoint_dir", tmp_path / "a" / "b",
                                         *training)
        assert "a*/model.ckpt: TensorFlow takes" in fails(
            "mbt2018", "--checkpoint_dir", tmp_path, *training, "--run_name", "a*")
    assert os.listdir(tmp_path) == []
    run(*argv, tmp_path / "x.tfci", "--results_dir", tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "x.tfci"]
    decode = ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", tmp_path / "x.tfci"]
    run(*decode, tmp_path / "b" / "x.png")
    assert "no such folder" in fails(*decode, tmp_path / "c" / "d" / "x.png")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "x.tfci"]


def test_names_of_results(tmp_path, monkeypatch):
    """A preset by its name, what differs from it, and no name that is too long."""
    import sga
    monkeypatch.setitem(sga.PRESETS, "fast", dict(sga_its=2, lr=.1))
    image = write_image(tmp_path / ("ä" * 110 + ".png"), 64, 64)
    source = "rd-sga-lmbda=0.01+%s-input=face-64x64.png" % BASE_RUN
    names = lambda: [path.name for path in (tmp_path / "results").iterdir()]
    compress("sga", tmp_path, TINY, "--fast")
    assert names() == [source + "-fast.npz"]
    fast = load(tmp_path / "results" / names()[0])
    compress("sga", tmp_path, TINY, "--fast", "--lr", .2)
    assert sorted(names()) == [source + "-fast-lr=0.2.npz", source + "-fast.npz"]
    assert compress("sga", tmp_path, TINY, "--its", 2, "--lr", .1)["rd_cost"] == fast["rd_cost"]
    for options in (["--fast"], ["--fast", "--lr", .2]):
        compress("sga", tmp_path, image, *options, output=tmp_path / "x.iinc")
    assert len(names()) == 5


def test_results_of_edited_code(tmp_path, monkeypatch, capfd):
    """Are computed again, with a note; comments and docstrings make no other code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    with open(os.path.join(ROOT, "danneal.py"), encoding="utf-8") as file:
        source = file.read()
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", 64, 64)
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--its", 5, "--lr", .1, "--results_dir",
            tmp_path / "results", BASE_RUN, tmp_path / "images"]

    def computed_again(text):
        (tmp_path / "mine.py").write_text(text)
        nic.kept_compressor.cache_clear()
        store.source_of.cache_clear()
        sys.modules.pop("mine", None)
        capfd.readouterr()
        costs.append(run("mine", *argv)["rd_cost"][0])
        printed = capfd.readouterr()
        assert ("another version of mine.py" in printed.err) == (len(costs) == 3)
        return bool(computed(printed.out))
    costs = []
    assert computed_again(source)
    assert not computed_again(source.replace('"""', '"""Changed. ', 1) + "# another line\n")
    assert computed_again(source.replace("(distances) / T", "(distances) / (9 * T)"))
    assert costs[0] == costs[1] != costs[2]
    assert store.code_of("bb_sga") != store.code_of("sga")


@pytest.mark.parametrize("imports, folder, content", [
    ("import other", "", "relax = "), ("from other import relax", "", "relax = "),
    ("from other import relax", "elsewhere", "METHOD = relax = ")])
def test_the_code_of_a_script_is_that_of_what_it_imports(imports, folder, content, tmp_path,
                                                         monkeypatch):
    """If it is beside the script, or a method."""
    other = tmp_path / folder / "other.py"
    other.parent.mkdir(exist_ok=True)
    for path in (tmp_path, other.parent):
        monkeypatch.syspath_prepend(str(path))
    (tmp_path / "importer.py").write_text(imports)
    checksums = set()
    for number in "12":
        monkeypatch.delitem(sys.modules, "other", raising=False)
        other.write_text(content + number)
        importlib.import_module("other")
        store.source_of.cache_clear()
        checksums.add(store.code_of("importer"))
    assert len(checksums) == 2
    # A process has the code that it once imported, also where it asks for that of another script.
    other.write_text(content + "3")
    (tmp_path / "second.py").write_text(imports)
    assert store.code_of("second") in checksums
    monkeypatch.delitem(sys.modules, "other")


def test_commands_of_other_scripts(fails):
    assert "bb_plain.py and others with bb_ compress" in fails("mbt2018_bb", "compress", "a", "b",
                                                               "--its", 3)
    assert "mbt2018.py and mbt2018_bb.py train" in fails("sga", "train", "--lambda", 1)


# ------------------------------------------------------------------------------ what is expected

def test_output_after_options_and_what_is_printed(tmp_path, capfd):
    results = tmp_path / "results"
    run("sga", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, TINY, "--its", 2,
        "--results_dir", results, tmp_path / "out.iinc")
    (npz,) = results.glob("*.npz")
    printed = capfd.readouterr().out
    assert "compressed: %s\n" % (tmp_path / "out.iinc") in printed
    assert "results: %s\n" % npz in printed
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", "", BASE_RUN, TINY,
        tmp_path / "out.iinc")
    assert "out.iinc: was another compressed file, and is replaced" in capfd.readouterr().err
    run("sga", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, tmp_path / "out.iinc")
    assert "decoded: %s\n" % (tmp_path / "out.iinc.png") in capfd.readouterr().out


def test_main_returns_what_it_saves(tmp_path):
    """As in a notebook, repeatedly in one process."""
    main = importlib.import_module("sga").main
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, TINY, "--its", "2",
            "--results_dir"]
    first, second = main(argv + [str(tmp_path)]), main(argv + [""])
    (npz,) = tmp_path.glob("*.npz")
    assert load(npz).keys() == first.keys() == second.keys()
    for name, values in load(npz).items():
        np.testing.assert_array_equal(first[name], values)
        np.testing.assert_array_equal(second[name], values)


def test_msssim_is_an_average_of_those_that_have_one(tmp_path, capfd):
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", 40, 40)
    write_image(tmp_path / "images" / "b.png", 170, 170)
    results = compress("mbt2018", tmp_path, tmp_path / "images")
    assert np.isnan(results["msssim"][0]) and np.isfinite(results["msssim"][1])
    assert "Avg msssim: %.5f (of 1 of 2 images)" % results["msssim"][1] in capfd.readouterr().out


# ------------------------------------------------------------------------------ bad input

def bad_runs(script):
    own, other = (BASE_RUN, BB_RUN)[::-1 if "bb" in script else 1]
    yield ["no_such_run"], "runs in"
    yield ["no_such_run"], own
    yield [other], "sga.py" if "bb" in script else "bb_sga.py"
    yield ["--num_filters", 32, own], "16"
    yield ["--num_filters", 0, own], ">= 1"
    yield ["--lambda", -1, own], "'-1'"
    yield ["--lambda", "nan", own], "'nan'"
    yield ["--threads", "x", own], "'x'"


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_run(script, tmp_path, fails):
    for argv, message in bad_runs(script):
        line = fails(script, "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
                     tmp_path / "results", *argv, TINY)
        assert message in line and not (tmp_path / "results").exists()


@pytest.mark.parametrize("argv", [["--sga_its", 0], ["--lr", 0], ["--lr", "inf"], ["--T_max", 0],
                                  ["--t0", "nan"], ["--annealing_rate", -1], ["--seed", -1],
                                  ["--seed", 2 ** 63], ["--threads", 65536],
                                  ["--save_opt_record", "--results_dir", ""]])
def test_sga_options_out_of_range(argv, fails):
    assert argv[0] in fails("sga", "--checkpoint_dir", CHECKPOINTS, "compress", *argv, BASE_RUN,
                            TINY)


def test_an_image_that_was_damaged_since_is_one_line(tmp_path, capfd):
    """Its results stay, without a note that they are of other settings."""
    write_image(tmp_path / "image.png", 64, 64)
    compress("mbt2018", tmp_path, tmp_path / "image.png")
    (results,) = (tmp_path / "results").glob("*.npz")
    before = results.read_bytes()
    (tmp_path / "image.png").write_bytes(b"nothing")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        compress("mbt2018", tmp_path, tmp_path / "image.png")
    (line,) = capfd.readouterr().err.splitlines()
    assert "image.png: not a readable image" in line
    assert results.read_bytes() == before


def test_arguments_are_checked_before_images_are_read(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(store, "look_at", None)
    argv = ["bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress", BB_RUN, TINY]
    assert "x.tfci" in fails(*argv, tmp_path / "x.tfci")
    assert "--initial_bits" in fails(*argv, "--initial_bits", tmp_path / "missing")


@pytest.mark.parametrize("script", KINDS)
def test_unwritable_results_are_found_before_the_work(script, tmp_path, fails):
    (tmp_path / "file").write_text("in the way")
    for results, named in ((tmp_path / "file", tmp_path / "file"), ("/proc/nowhere", "/proc/"),
                           (tmp_path / "file" / "below", tmp_path / "file")):
        line = fails(script, "--checkpoint_dir", CHECKPOINTS, "compress", run_of(script), TINY,
                     "--results_dir", results)
        assert "%s" % named in line
    assert (tmp_path / "file").read_text() == "in the way"
    output = tmp_path / "folder.tfci"
    output.mkdir()
    assert "folder.tfci" in fails(script, "--checkpoint_dir", CHECKPOINTS, "compress",
                                  run_of(script), TINY, output, "--results_dir", "")


def test_unknown_options_and_subcommands(fails):
    line = fails("sga", "compress", BASE_RUN, TINY, "x.iinc", "--itz", 3)
    assert "--itz 3" in line and "glob" not in line
    assert "--its" in fails("mbt2018", "compress", "--its", 3, BASE_RUN, TINY)
    assert "--seed" in fails("danneal", "compress", "--seed", 3, BASE_RUN, TINY)
    assert "--T_max" in fails("danneal", "compress", "--T_max", 2, BASE_RUN, TINY)
    assert "train" in fails("sga", "train")
    fails("sga")


@pytest.mark.parametrize("script", SCRIPTS + ["mbt2018_bb"])
def test_help(script, capfd):
    """Of the script and of each of its commands, with every option."""
    module = importlib.import_module(script)
    method = getattr(module, "METHOD", None)
    options = [flag for option in getattr(method, "options", []) for flag in option.flags.split()]
    training = [option.flags for option in getattr(module, "OPTIONS", []) if not method]
    for command in ["train"] * (script in ("mbt2018", "mbt2018_bb")) + (
            ["compress", "decompress"] if script != "mbt2018_bb" else []):
        with pytest.raises(SystemExit) as exit_info:
            run(script, command, "--help")
        shown = capfd.readouterr().out
        assert exit_info.value.code == 0 and "--threads" in shown
        expected = dict(train=training, compress=options).get(command, [])
        assert all(option in shown for option in expected)
    with pytest.raises(SystemExit):
        run(script, "--help")
    assert "Table 1" in capfd.readouterr().out
