"""Training: its objectives, and a few steps at tiny size, continued, interrupted, and refused."""

import argparse
import collections
import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow.compat.v1 as tf

import mbt2018_bb
import tf_boilerplate as nic
from plumbing import basics, command_line, patches, runs, training, validation
from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, GOLDEN, NPY, TINY, command, compress, run,
                      run_of, run_results, write_image)

KERNEL = "analysis_transform/layer_0/kernel_rdft"
SMALL = ("--batchsize", 2, "--patchsize", 64, "--logdir", "")


def training_images(tmp_path):
    """A folder of png, jpg and float32 .npy to train on."""
    folder = tmp_path / "train"
    folder.mkdir()
    for name, height, width in [("a.png", 64, 90), ("b.jpg", 100, 64), ("grey.png", 70, 70)]:
        write_image(folder / name, height, width, "L" if name == "grey.png" else "RGB")
    image = np.random.RandomState(0).random_sample((80, 80, 3)).astype(np.float32)
    np.save(folder / "c.npy", image)
    return folder


@pytest.fixture
def images(tmp_path):
    return training_images(tmp_path)


def train(tmp_path, images, *options, N=8, script="mbt2018"):
    os.makedirs(str(tmp_path), exist_ok=True)
    run(script, "--checkpoint_dir", tmp_path / "runs", "--num_filters", N, "train",
        "--train_glob", os.path.join(str(images), "*"), *SMALL, *options)
    return tmp_path / "runs" / ("%s-num_filters=%d-lmbda=0.01" % (script, N))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """The folder of a run of two steps; for `trained`."""
    folder = tmp_path_factory.mktemp("trained")
    return train(folder, training_images(folder), "--last_step", 2)


@pytest.fixture
def trained(two_steps, tmp_path):
    """A run of two steps on such `images`, which train(tmp_path, ...) continues."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(str(two_steps), str(tmp_path / "runs" / two_steps.name))
    return tmp_path / "runs" / two_steps.name


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


# An objective with its golden run's weights on one batch: session, placeholder of t, scalars and
# gradients of the loss as dicts of tensors, and the function of further updates.
Objective = collections.namedtuple("Objective", "sess t scalars gradients updates")


def objective_of(script, x):
    with tf.Graph().as_default() as graph:
        t = tf.placeholder(tf.int64, [])
        scalars, _, updates = importlib.import_module(script).objective(
            tf.constant(x), t, N=16, lmbda=0.01, seed=0)
        variables = tf.trainable_variables()
        gradients = {variable.op.name: gradient for variable, gradient in zip(
            variables, tf.gradients(scalars["loss"], variables)) if gradient is not None}
        sess = runs.restored_session(graph, runs.find_run(CHECKPOINTS, run_of(script)),
                                    runs.session_config(2))
    return Objective(sess, t, scalars, gradients, updates)


@pytest.fixture(scope="module", params=["mbt2018", "mbt2018_bb"])
def objective(request):
    """The Objective of a script on the golden batch, and what the original makes of that."""
    with open(os.path.join(GOLDEN, "training.json")) as file:
        expected = json.load(file)[request.param]
    objective = objective_of(request.param, np.load(NPY).astype(np.float32) / 255)
    with objective.sess:
        yield objective, expected


# Heavy-tailed in the bits-back model: standard errors are uncertain themselves.
HEAVY_TAILED = ("bpp", "y_bpp", "hyper_analysis_transform/layer_0/bias")


def test_objectives_and_gradients_are_the_originals(objective, draws=80):
    """Means over draws of the noise: within 4 standard errors, or 6 where these are uncertain."""
    (sess, t, scalars, gradients, _), expected = objective
    gradients = {name: gradients[name] for name in expected["gradients"]}
    expected = {**expected, **expected["gradients"]}
    names = [name for name in {**scalars, **gradients} if name in expected]
    assert set(names) >= {"loss", "bpp", "y_bpp", "z_bpp", "mse"} | set(gradients)
    assert "bpp_back" in names or "bpp_back" not in expected
    found = [sess.run({**scalars, **gradients}, {t: k}) for k in range(draws)]
    for name in names:
        values = np.array([np.ravel(draw[name])[:8] for draw in found], np.float64)
        stderr = values.std(axis=0, ddof=1) / np.sqrt(draws)
        distance = (values.mean(axis=0) - expected[name]["mean"]) / np.hypot(
            stderr, expected[name]["stderr"])
        assert np.abs(distance).max() < (6 if name in HEAVY_TAILED else 4), (name, distance)
    deviation = np.std([draw["loss"] for draw in found]) / np.sqrt(400)
    assert deviation == pytest.approx(expected["loss"]["stderr"], rel=.3)


def test_auxiliary_loss_is_the_originals(objective, monkeypatch):
    """What further updates minimise; the bits-back model has none."""
    (sess, _, _, _, updates), expected = objective
    minimised = []
    monkeypatch.setattr(tf.train.AdamOptimizer, "minimize",
                        lambda self, loss, **kwargs: minimised.append(loss) or tf.no_op())
    with sess.graph.as_default():
        updates()
    assert sess.run(minimised) == pytest.approx(
        [expected["aux_loss"]["mean"]] if "aux_loss" in expected else [], rel=1e-5)


def test_posterior_of_y_hat():
    """q is what it is when files are written; no gradient of it reaches g_a."""
    x, run_of_bb = np.load(NPY)[:1] / np.float32(255), runs.find_run(CHECKPOINTS, BB_RUN)
    with tf.Graph().as_default() as graph:
        scalars, _, _ = mbt2018_bb.objective(tf.constant(x), 0, 16, .01, 0, posterior_of="y_hat")
        net_z = scalars["z_bpp"] - scalars["bpp_back"]
        (bias,) = [v for v in tf.global_variables()
                   if v.op.name == "analysis_transform/layer_3/bias"]
        with runs.restored_session(graph, run_of_bb, runs.session_config(2)) as sess:
            found = sess.run([scalars["z_bpp"], scalars["bpp_back"]])
            assert tf.gradients(net_z, bias) == [None]
    with tf.Graph().as_default() as graph:
        y_hat = tf.round(nic.analysis_transform(16)(tf.constant(x)))
        rates = nic.bits_back_rates(y_hat, *nic.posterior(16, y_hat), nic.noise_key(0, 0, 1),
                                    x.shape).rates
        with runs.restored_session(graph, run_of_bb, runs.session_config(2)) as sess:
            expected = sess.run([rates["est_z_bpp"][0], rates["est_bpp_back"][0]])
    assert found == pytest.approx(expected, rel=1e-4)


def test_defaults_of_training_are_the_originals(monkeypatch):
    seen = []
    monkeypatch.setattr(nic, "train", lambda args, objective, method: seen.append(args))
    run("mbt2018", "train", "--train_glob", TINY)
    expected = dict(batchsize=8, patchsize=256, last_step=10 ** 6, lr=1e-4, lr_warmup=0, lr_decay=0,
                    lmbda=.01, seed=0)
    assert vars(seen[0]).items() >= expected.items()


def test_posterior_of_is_obeyed_and_kept(monkeypatch, tmp_path):
    """A run from before it was an option was trained with that of y."""
    seen = []
    monkeypatch.setattr(nic, "train", lambda args, objective, method: seen.append(
        (args.posterior_of, objective.keywords)))
    for option in ([], ["--posterior_of", "y_hat"]):
        run("mbt2018_bb", "train", "--train_glob", TINY, *option)
    assert seen == [(name, {"posterior_of": name}) for name in ("y", "y_hat")]

    settings = dict(init_from=None, lr_decay=0, posterior_of="y_hat")
    for last, is_other in (({}, True), ({"posterior_of": "y"}, True),
                           ({"posterior_of": "y_hat"}, False)):
        (tmp_path / "args.json").write_text(json.dumps(last))
        assert training.require_same_training(settings, str(tmp_path), True) == settings
        with contextlib.ExitStack() as stack:
            if is_other:
                stack.enter_context(pytest.raises(
                    basics.UserError, match="--posterior_of y .now y_hat."))
            training.require_same_training(settings, str(tmp_path), False)


def test_bounds_of_sigma(objective):
    """From below that of the table, from above sqrt(10) in the bits-back model only.

    Beyond a bound, a gradient that leads back is kept.
    """
    (sess, t, scalars, gradients, _), expected = objective
    layer = "mb_t2018hyper_synthesis_transform/layer_2/"
    kernel, bias = ([v for v in sess.graph.get_collection("variables")
                     if v.op.name == layer + name][0] for name in ("kernel", "bias"))
    before = sess.run([kernel, bias])

    def at(sigma):
        """y_bpp at this sigma everywhere, and the mean gradient of the loss with respect to it."""
        bias.load(np.repeat([0, np.log(sigma)], 16), sess)
        y_bpp, gradient = sess.run([scalars["y_bpp"], gradients[layer + "bias"]], {t: 0})
        return y_bpp, gradient[16:].mean() / sigma
    kernel.load(np.zeros(kernel.shape), sess)
    lowest, highest = nic.SCALES[0], 10 ** .5 if "bpp_back" in expected else 200
    assert lowest == pytest.approx(.11)
    assert at(lowest / 10) == pytest.approx(at(lowest / 1.0001), rel=1e-4)
    assert at(lowest / 10)[0] == pytest.approx(at(lowest * 1.0001)[0], rel=1e-4)
    assert at(lowest * 1.1)[0] < .99 * at(lowest)[0] and at(lowest / 10)[1] < 0
    assert at(highest * .9)[0] < .99 * at(highest)[0] and at(highest * 1.0001)[1] > 0
    if "bpp_back" in expected:
        assert at(highest * 10) == pytest.approx(at(highest * 1.0001), rel=1e-4)
        assert at(highest * 10)[0] == pytest.approx(at(highest / 1.0001)[0], rel=1e-4)
    kernel.load(before[0], sess)
    bias.load(before[1], sess)


def test_one_step_is_one_of_adam(tmp_path):
    """On the gradients of the objective, and of the auxiliary loss; p(z)'s table follows.

    The checkpoint of step 0 is the run that it starts from, with the tables of the range coder,
    whose shape is known only when they are restored.
    """
    image = np.load(NPY)[0, :64, :64].astype(np.float32) / 255
    np.save(tmp_path / "image.npy", image)
    golden_run = os.path.join(CHECKPOINTS, BASE_RUN)
    folder = train(tmp_path, tmp_path, "--batchsize", 1, "--last_step", 1, "--init_from",
                   golden_run, N=16)
    before, at_first, after = map(weights, (golden_run, folder / "model.ckpt-0", folder))
    for name in at_first:
        if name != "global_step" and not runs.OPTIMISER_VARIABLES.fullmatch(name):
            np.testing.assert_array_equal(at_first[name], before[name], err_msg=name)
    sess, t, scalars, gradients, _ = objective_of("mbt2018", image[None])
    with sess:
        scalars, gradients = sess.run([scalars, gradients], {t: 0})
    assert scalars["psnr"] == pytest.approx(10 * np.log10(255 ** 2 / scalars["mse"]), rel=1e-5)
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(after[name + "/Adam"], .1 * gradient, atol=1e-4 * scale)
        np.testing.assert_allclose(after[name + "/Adam_1"], .001 * gradient ** 2,
                                   atol=1e-4 * .001 * scale ** 2)
    quantiles, table = "entropy_bottleneck/quantiles", "entropy_bottleneck/quantized_cdf"
    np.testing.assert_allclose(after[table], before[table], atol=2 ** 16 / 1000)
    assert np.any(after[table] != before[table])
    assert np.abs(after[quantiles + "/Adam"]).min() > .01
    for name in [quantiles, *gradients]:
        gradient, rate = after[name + "/Adam"] / .1, 1e-3 if name == quantiles else 1e-4
        step = -rate * gradient / (np.abs(gradient) + 1e-8 / np.sqrt(.001))
        np.testing.assert_allclose(after[name] - before[name], step, err_msg=name,
                                   atol=1e-7 * max(1, np.abs(before[name]).max()))


def test_where_things_go(tmp_path, images, capfd):
    """Summaries into the run's folder, whose name may be given; no graph at each start."""
    argv = ["mbt2018", "--checkpoint_dir", tmp_path, "--num_filters", 2, "train", "--train_glob",
            images / "*", "--batchsize", 2, "--patchsize", 64, "--last_step", 1, "--run_name",
            "fast lmbda=0.01"]
    run(*argv)
    (folder,) = tmp_path.glob("fast*")
    assert "tensorboard --logdir '%s'" % (folder / "summaries") in capfd.readouterr().out
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {
        "args", "checkpoint", "model", "summaries", "train"}
    compress("mbt2018", tmp_path, TINY, run_name=folder.name, checkpoints=tmp_path)


def test_lines_are_means(capfd):
    """Over the steps since the line before; the PSNR is that of the mean MSE."""
    class Session:
        step = 0
        should_stop = staticmethod(lambda: False)

        def run_step_fn(self, function):
            return self.step

        def run(self, fetches):
            self.step += 1
            return self.step, dict(loss=self.step, bpp=.1, mse=10. * self.step, psnr=7.,
                                   lr=1 / self.step)
    training.train_to(3, Session(), None, None, True)
    lines = [{name: float(value) for name, value in (item.split("=") for item in line.split())}
             for line in capfd.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [1, 3]
    assert [line["loss"] for line in lines] == [1, 2.5]
    assert [line["lr"] for line in lines] == [1, .333]
    assert [line["psnr"] for line in lines] == pytest.approx(
        10 * np.log10(255 ** 2 / np.array([10, 25])), abs=.01)


def test_train_compress(tmp_path, images, capfd):
    folder = train(tmp_path, images, "--last_step", 3, "--lr", "4e-3", "--lr_warmup", 6,
                   "--lr_decay", 1)
    line = capfd.readouterr().out.splitlines()[-1]
    assert [item.split("=")[0] for item in line.split()] == [
        "step", "loss", "bpp", "mse", "psnr", "lr", "steps/s"]
    assert " lr=0.000515 " in line  # half of the rate, at two thirds of the cosine
    with open(folder / "args.json") as file:
        saved = json.load(file)
    assert saved["lmbda"] == 0.01 and saved["num_filters"] == 8 and saved["last_step"] == 3
    with_original = {name: shape for name, shape in tf.train.list_variables(
        os.path.join(CHECKPOINTS, BASE_RUN))}
    assert set(weights(folder)) == set(with_original)
    results = compress("mbt2018", tmp_path, TINY, run_name=folder.name, checkpoints=folder.parent)
    assert np.isfinite(results["est_bpp"]).all()


def test_continued_training_sees_the_same_patches(images):
    """Those that an uninterrupted run would see; and replicas together the same as one process."""
    paths, _ = patches.training_files(str(images / "*"), 64)

    def batches(start, n, *replica, batchsize=3):
        with tf.Graph().as_default(), tf.Session() as sess:
            dataset = patches.training_patches(paths, batchsize, 64, 5, start, *replica)
            batch = tf.data.make_one_shot_iterator(dataset).get_next()
            return map(np.array, zip(*[sess.run(batch) for _ in range(n)]))
    numbers, x = batches(0, 5)
    assert list(numbers) == [0, 1, 2, 3, 4] and x.max() <= 1 and x.min() >= 0
    for found, expected in zip(batches(2, 3), (numbers[2:], x[2:])):
        np.testing.assert_array_equal(found, expected)
    parts = [list(batches(4, 2, replica, 3, batchsize=1)) for replica in range(3)]
    assert [list(numbers) for numbers, _ in parts] == [[12, 15], [13, 16], [14, 17]]
    np.testing.assert_array_equal(list(batches(4, 2))[1],
                                  np.concatenate([x for _, x in parts], axis=1))


def test_continued_training_ends_as_uninterrupted_training(tmp_path, images, capfd):
    options = ("--threads", 1, "--last_step", 4)
    train(tmp_path, images, *options[:2], "--last_step", 2)
    folder = train(tmp_path, images, *options)
    continued = weights(folder)
    assert continued["global_step"] == 4
    kept = tf.train.get_checkpoint_state(str(folder)).all_model_checkpoint_paths
    assert [os.path.basename(path) for path in kept] == ["model.ckpt-%d" % k for k in (0, 2, 4)]
    capfd.readouterr()
    train(tmp_path, images, *options)
    assert "at step 4 already" in capfd.readouterr().out
    whole = weights(train(tmp_path / "whole", images, *options))
    np.testing.assert_allclose(continued[KERNEL], whole[KERNEL], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_the_seed_is_that_of_weights_noise_and_patches(tmp_path, images, monkeypatch):
    seeds = {}
    for module, name, place in ((tf, "set_random_seed", 0), (nic, "noise_key", 0),
                                (patches, "training_patches", 3)):
        def spy(*args, function=getattr(module, name), name=name, place=place, **kwargs):
            seeds.setdefault(name, set()).add(args[place])
            return function(*args, **kwargs)
        monkeypatch.setattr(module, name, spy)
    train(tmp_path, images, "--last_step", 1, "--seed", 3)
    assert seeds == dict.fromkeys(("set_random_seed", "noise_key", "training_patches"), {3})


@pytest.mark.slow
def test_a_moved_run_continues_where_it_is_now(trained, tmp_path, images):
    checkpoint = "model_checkpoint_path: \"%s/model.ckpt-2\"" % (tmp_path / "gone")
    (trained / "checkpoint").write_text(checkpoint)  # absolute, as other programs write it
    train(tmp_path, images, "--last_step", 3, "--force")
    assert weights(trained)["global_step"] == 3
    assert str(tmp_path) not in (trained / "checkpoint").read_text()


@pytest.mark.slow
def test_a_run_continues_with_the_settings_it_began_with(tmp_path, images, fails):
    """Unless it is to; and a folder stands for the images in it."""
    folder = train(tmp_path, images, "--last_step", 1)
    argv = ["--checkpoint_dir", tmp_path / "runs", "--num_filters", 8, "train", *SMALL]
    every = os.path.join(str(images), "*")
    for options, named in (([every, "--batchsize", 1], "--batchsize 2 (now 1)"),
                           ([every, "--seed", 3], "--seed 0 (now 3)"),
                           ([images], "--train_glob")):
        line = fails("mbt2018", *argv, "--last_step", 2, "--train_glob", *options)
        assert named in line and "--force" in line
    assert "--last_step 1 (now 2)" in fails("mbt2018", *argv, "--last_step", 2, "--train_glob",
                                            every, "--lr_decay", 1)
    assert "--init_from" in fails("mbt2018", *argv, "--last_step", 2, "--train_glob", every,
                                  "--init_from", folder, "--force")
    assert weights(folder)["global_step"] == 1
    run("mbt2018", *argv, "--last_step", 2, "--train_glob", images, "--force")
    assert weights(folder)["global_step"] == 2
    run("mbt2018", *argv, "--last_step", 2, "--train_glob", images, "--eval_glob", TINY)
    line = fails("mbt2018", *argv, "--last_step", 3, "--train_glob", every)
    assert "was trained with --train_glob %s (now %s)" % (images, every) in line


@pytest.mark.parametrize("name, value, named", [
    ("lmbda", .02, "--lambda 0.01 (now 0.02)"), ("lr", 1, "--lr 0.5 (now 1)"),
    ("patchsize", 128, "--patchsize 256 (now 128)"), ("lr_warmup", 9, "--lr_warmup 0 (now 9)"),
    ("lr_decay", 1, "--lr_decay 0 (now 1)"),
    ("num_replicas", 3, "number of replicas 1 (now 3)"),
    ("train_images", "other", "images of checksum")])
def test_settings_that_make_another_training(name, value, named, tmp_path):
    options = dict(lmbda=.01, lr=.5, lr_decay=0, lr_warmup=0, patchsize=256, init_from=None)
    settings = training.settings_of(options, ["here/a.png", "here/b.png"], 1)
    assert settings == training.settings_of(options, ["there/a.png", "there/b.png"], 1)
    assert settings != training.settings_of(options, ["here/a.png"], 1)
    for stored in (settings, options, None):  # of today, of earlier code, a stranger's
        (tmp_path / "args.json").write_text(json.dumps(stored))
        assert training.require_same_training(settings, str(tmp_path), False) == settings
    (tmp_path / "args.json").write_text(json.dumps(settings))
    other = dict(settings, **{name: value})
    with pytest.raises(basics.UserError) as error_info:
        training.require_same_training(other, str(tmp_path), False)
    assert named in str(error_info.value) and "--force" in str(error_info.value)
    assert training.require_same_training(other, str(tmp_path), True) == other


@pytest.mark.parametrize("text, path", [("", ""), ("a/b/", "a/b"), ("a", "a"), ("/", "/")])
def test_a_slash_at_the_end_is_not_of_the_name(text, path):
    assert command_line.without_slash(text) == path


def test_a_new_run_and_what_it_starts_from(tmp_path, monkeypatch):
    """A folder here that holds no checkpoint does not hide the run of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / BASE_RUN).mkdir()
    args = argparse.Namespace(checkpoint_dir=CHECKPOINTS, init_from=BASE_RUN, lmbda=.02,
                              run_name="new-lmbda=0.020")
    assert training.source_of_new_run(args).name == BASE_RUN
    args.init_from, args.checkpoint_dir = os.path.join(CHECKPOINTS, BASE_RUN), "elsewhere"
    assert training.source_of_new_run(args).name == BASE_RUN
    args.run_name = "new-lmbda=0.01"
    with pytest.raises(basics.UserError, match="--run_name new-lmbda=0.01: has another lambda"):
        training.source_of_new_run(args)


def test_a_run_that_another_process_trained_meanwhile(tmp_path):
    folder = shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / BASE_RUN))
    found = runs.find_run(str(tmp_path), BASE_RUN)
    with training.prepared_folder(folder, {}, found):
        pass
    for stale in (None, found._replace(checkpoint=found.checkpoint[:-1])):
        with pytest.raises(basics.UserError, match="by another process meanwhile"):
            with training.prepared_folder(folder, dict(lost=True), stale):
                pass
    with open(os.path.join(folder, "args.json")) as file:
        assert json.load(file) == {}


def test_continue_the_original(tmp_path, images):
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "runs" / BASE_RUN))
    folder = train(tmp_path, images, "--last_step", 3002, "--force", N=16)
    assert weights(folder)["global_step"] == 3002


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow),
                                    signal.SIGTERM])
def test_interrupted_training_saves(number, tmp_path, images):
    """Ctrl-C, or a scheduler's limit, long before the next checkpoint: no step is lost."""
    argv = command("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 8, "train",
                   "--train_glob", images / "*", *SMALL, "--last_step", 10 ** 6)
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while "step=100 " not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped; a checkpoint is saved" in out and not err
    folder = tmp_path / "runs" / "mbt2018-num_filters=8-lmbda=0.01"
    assert weights(folder)["global_step"] >= 100


@pytest.mark.slow
def test_tensorboard(tmp_path, images):
    """What it shows; and training is the same without, and without --eval_glob."""
    with_logs = train(tmp_path / "with", images, "--last_step", 2, "--threads", 1, "--logdir",
                      tmp_path / "logs", "--eval_glob", TINY)
    (events,) = (tmp_path / "logs").glob("*/events*")
    tags = {value.tag for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value}
    assert {"loss", "bpp", "y_bpp", "z_bpp", "mse", "psnr", "lr", "original/image/0",
            "reconstruction/image/0", "validation/rd_cost"} <= tags
    without = train(tmp_path / "without", images, "--last_step", 2, "--threads", 1, "--logdir", "")
    np.testing.assert_array_equal(weights(with_logs)[KERNEL], weights(without)[KERNEL])


@pytest.mark.parametrize("last_step", [100, 2000000])
@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("decay", [0, .1, .4, 1])
def test_learning_rate(last_step, warmup, decay):
    """Linear from 0 in the warmup; along a cosine from lr to lr / 100 in the last steps."""
    steps = np.unique(np.r_[0, 4, 9, 10, 11, np.linspace(0, last_step, 41).astype(int)])
    with tf.Session(graph=tf.Graph()) as sess:
        step = tf.placeholder(tf.int64, [])
        rate = training.learning_rate(step, last_step, 1e-3, warmup, decay)
        assert rate.dtype == tf.float32
        found = [sess.run(rate, {step: k}) for k in steps]
    expected = np.full(len(steps), 1e-3)
    if decay:
        fallen = np.maximum(0, (steps - (1 - decay) * last_step) / (decay * last_step))
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * fallen)) / 2
    if warmup:
        expected *= np.minimum(1, (steps + 1) / warmup)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if not warmup and not decay:
        np.testing.assert_array_equal(found, np.float32(1e-3))


@pytest.mark.slow
def test_default_learning_rate_is_the_constant_of_the_paper(tmp_path, images, monkeypatch):
    """To the last bit, over 20 steps, with Adam at a plain 1e-4."""
    options = ("--last_step", 20, "--threads", 1)
    scheduled = weights(train(tmp_path / "a", images, *options))
    monkeypatch.setattr(training.Adam, "__init__", lambda self, rate, then: (
        tf.train.AdamOptimizer.__init__(self, 1e-4), setattr(self, "then", then))[0])
    constant = weights(train(tmp_path / "b", images, *options))
    for name in constant:
        np.testing.assert_array_equal(scheduled[name], constant[name], err_msg=name)


@pytest.mark.parametrize("script, evaluated_by", [
    ("mbt2018", "mbt2018"), pytest.param("mbt2018_bb", "bb_plain", marks=pytest.mark.slow)])
def test_validation_is_what_compress_reports(tmp_path, images, capfd, script, evaluated_by):
    """And its images are not trained on."""
    held_out = tmp_path / "held out"
    held_out.mkdir()
    os.symlink(str(images / "b.jpg"), str(held_out / "b.jpg"))
    write_image(held_out / "d.png", 100, 64)
    folder = train(tmp_path, images, "--last_step", 2, "--eval_glob", held_out / "*",
                   script=script)
    out = capfd.readouterr().out
    printed = [line for line in out.splitlines() if "validation" in line][-1]
    results = compress(evaluated_by, tmp_path, held_out, run_name=folder.name,
                       checkpoints=folder.parent)
    assert "to train on 3 images" in out
    assert printed.startswith("step=2 validation rd_cost=%.4f " % np.mean(results["rd_cost"]))
    header, *rows = (folder / "validation.csv").read_text().split()
    assert header == "step,rd_cost,est_bpp,mse,psnr"
    assert [row.split(",")[0] for row in rows] == ["0", "2"]
    np.testing.assert_allclose([float(value) for value in rows[-1].split(",")[1:]],
                               [np.mean(results[name]) for name in header.split(",")[1:]],
                               rtol=1e-5)
    for kept in (rows[:1], rows):  # as of a process that ended before the evaluation
        (folder / "validation.csv").write_text("\n".join([header, *kept, ""]))
        train(tmp_path, images, "--last_step", 2, "--eval_glob", held_out / "*", script=script)
        printed = capfd.readouterr().out
        assert "at step 2 already" in printed
        assert ("step=2 validation rd_cost=" in printed) == (kept != rows)
        assert (folder / "validation.csv").read_text().split() == [header, *rows]
    paths, _ = patches.training_files(str(images / "*"), 64,
                                       patches.matching(str(held_out / "*")))
    assert [os.path.basename(path) for path in paths] == [
        "a.png", "c.npy", "grey.png"]


def test_an_evaluation_may_take_longer_than_the_time_between_checkpoints(tmp_path, monkeypatch):
    """The next checkpoint is due that time after it, not at once."""
    clock, saved = [0.], []
    monkeypatch.setattr("time.time", lambda: clock[0])

    class Slow(tf.train.CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            clock[0] += 1000
    graph_saver = argparse.Namespace(save=lambda session, path, step: saved.append(step))
    saver = validation.CheckpointSaver(str(tmp_path), 10, graph_saver, [Slow()])
    context = argparse.Namespace(session=None)
    for step, seconds in enumerate([0, 6, 6, 6, 6], 1):
        context.session = argparse.Namespace(run=lambda _: step)
        clock[0] += seconds
        with tf.Graph().as_default():
            tf.train.get_or_create_global_step()
            if step == 1:
                saver.after_create_session(context.session, None)
            else:
                saver.after_run(context, argparse.Namespace(results=step - 1))
    assert saved == [1, 3, 5]


def test_every_epoch_has_all_images_in_another_order(tmp_path):
    for i in range(4):
        np.save(tmp_path / ("%d.npy" % i), np.full((64, 64, 3), i / 4, np.float32))
    with tf.Graph().as_default(), tf.Session() as sess:
        _, patch = tf.data.make_one_shot_iterator(patches.training_patches(
            patches.matching(str(tmp_path)), 1, 64, seed=0)).get_next()
        order = np.reshape([sess.run(patch).mean() for _ in range(24)], (6, 4))
    assert (4 * np.sort(order) == range(4)).all() and len(np.unique(order, axis=0)) > 3


def test_small_images_are_skipped(images, capfd):
    write_image(images / "small.png", 63, 200)
    paths, _ = patches.training_files(str(images), 64)
    assert [os.path.basename(path) for path in paths] == ["a.png", "b.jpg", "c.npy", "grey.png"]
    assert "1 of 5 training images" in capfd.readouterr().err


def test_a_folder_of_images_may_hold_other_files(images, capfd):
    """A note names them."""
    (images / "paper.pdf").write_bytes(b"%PDF-1.5")
    paths, _ = patches.training_files(str(images), 64)
    assert "are skipped, which Pillow does not read: paper.pdf" in capfd.readouterr().err
    assert [os.path.basename(path) for path in paths] == ["a.png", "b.jpg", "c.npy", "grey.png"]


@pytest.mark.slow
def test_nan_keeps_the_last_good_checkpoint(trained, tmp_path, images, fails):
    assert "NaN" in fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 8,
                          "train", "--train_glob", images / "*", *SMALL, "--last_step", 9,
                          "--lr", 2e9, "--force")
    final = weights(trained)
    assert final["global_step"] == 2
    assert all(np.isfinite(value).all() for value in final.values())


def test_bad_input(tmp_path, images, fails):
    def refused(*options, N=8):
        return fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", N,
                     "train", "--train_glob", images / "*", *SMALL, *options)
    assert "multiple of 64" in refused("--patchsize", 100)
    assert "128" in refused("--patchsize", 128) and "largest" in refused("--patchsize", 128)
    assert "no file matches" in refused("--train_glob", tmp_path / "*.gif")
    assert "--eval_glob" in refused("--eval_glob", tmp_path / "*.gif")
    assert "c.npy: holds float32" in refused("--eval_glob", images / "c.npy")
    assert "no file matches that --eval_glob does not" in refused("--eval_glob", images / "*")
    write_image(tmp_path / "wide.png", 1, 65536)
    assert "--eval_glob" in refused("--eval_glob", tmp_path / "wide.png")
    assert "--lr_decay" in refused("--lr_decay", 1.5) and "--lr" in refused("--lr", 0)
    assert "--batchsize" in refused("--batchsize", 0)
    assert "--lambda" in refused("--lambda", -0.1)
    assert not (tmp_path / "runs").exists() or not os.listdir(tmp_path / "runs")
    np.save(images / "uint8.npy", np.zeros((64, 64, 3), np.uint8))
    assert "uint8.npy" in refused()
    os.remove(images / "uint8.npy")
    (images / "text.png").write_text("not an image")
    assert "text.png" in refused()
    os.remove(images / "text.png")
    for mode, array in (("I;16", np.zeros((64, 64), np.uint16)), ("F", np.zeros((64, 64), "f4"))):
        PIL.Image.fromarray(array).save(str(images / "deep.tif"))
        line = refused()
        assert "deep.tif" in line and "more than 8 bits" in line and mode in line
    os.remove(images / "deep.tif")
    assert "gone" in refused("--init_from", "gone")
    assert "by name and shape" in refused("--init_from", os.path.join(CHECKPOINTS, BASE_RUN))
    assert not (tmp_path / "runs").exists() or not os.listdir(tmp_path / "runs")
    content = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(content[:len(content) // 2])
    assert "a.png" in refused("--last_step", 3)


def test_errors_of_readers_are_the_users(images):
    """Of whatever TensorFlow makes of them; a NaN is one, too, and nothing else."""
    content = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(content[:len(content) // 2])
    with tf.Graph().as_default(), tf.Session() as sess:
        _, patch = tf.data.make_one_shot_iterator(patches.training_patches(
            [str(images / "a.png")], 1, 64, seed=0)).get_next()
        for _ in range(3):  # also of patches that find it known to be unreadable
            with pytest.raises(basics.UserError, match="^%s: not a readable" % (images / "a.png")):
                with training.training_errors("folder"):
                    sess.run(patch)
    for message, kind in (("gradient of x", basics.UserError),
                          ("of the code", tf.errors.InvalidArgumentError)):
        with pytest.raises(kind):
            with training.training_errors("folder"):
                raise tf.errors.InvalidArgumentError(None, None, message)


@pytest.mark.parametrize("values", [[0, 255], [-.1, 1], [0, np.nan]])
def test_values_out_of_range_name_the_file(values, images):
    """As of 0 to 255 in the place of 0 to 1, which would train without a word."""
    np.save(images / "c.npy", np.float32(values * 6144).reshape(64, 64, 3))
    paths = [str(images / "a.png"), str(images / "c.npy")]
    with tf.Graph().as_default(), tf.Session() as sess:
        _, patch = tf.data.make_one_shot_iterator(patches.training_patches(
            paths, 2, 64, seed=0)).get_next()
        with pytest.raises(basics.UserError, match="c.npy: has values from .* accepted are 0 to 1"):
            with training.training_errors("folder"):
                sess.run(patch)


@pytest.mark.parametrize("name", [b"a\xff.png", b"b.png"])
def test_an_image_that_turns_out_unreadable(name, tmp_path, capfd):
    """Costs itself alone, and the order of the others is kept; any name of a file can be read."""
    paths = [tmp_path / ("%02d.png" % i) for i in range(12)]
    for i, path in enumerate(paths):
        PIL.Image.new("L", (64, 64), 20 * i).save(str(path))
    paths = [os.fsdecode(path) for path in [os.path.join(os.fsencode(str(tmp_path)), name),
                                            *map(os.fsencode, map(str, paths))]]
    shutil.copy(paths[1], paths[0])

    def means():
        with tf.Graph().as_default(), tf.Session() as sess:
            _, patch = tf.data.make_one_shot_iterator(patches.training_patches(
                paths, 1, 64, seed=0, in_memory=False)).get_next()
            return [int(round(255 * sess.run(patch).mean())) for _ in range(26)]
    whole = means()
    with open(paths[3], "wb") as file:
        file.write(b"\x89PNG\r\n")
    assert means() == [60 if value == 40 else value for value in whole]
    assert capfd.readouterr().err.count("02.png: not a readable image") == 1


def test_checkpoints_that_cannot_be_trained_on(tmp_path, images, fails):
    run_results("export_model.py", os.path.join(CHECKPOINTS, BASE_RUN), tmp_path / "runs")
    exported = tmp_path / "runs" / BASE_RUN
    name = "model.ckpt-3000.data-00000-of-00001"
    original = os.path.join(CHECKPOINTS, BASE_RUN, name)
    assert os.path.getsize(exported / name) < 0.6 * os.path.getsize(original)
    train_16 = lambda: fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 16,
                             "train", "--train_glob", images / "*", *SMALL)
    line = train_16()
    assert "without optimiser slots" in line and "--init_from begins another run" in line
    shutil.rmtree(str(exported))
    shutil.copytree(os.path.join(CHECKPOINTS, BB_RUN), str(exported))
    assert "mbt2018_bb.py" in train_16()


def test_exported_model_is_the_same_model(tmp_path):
    run = shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / BASE_RUN))
    (tmp_path / BASE_RUN / "validation.csv").write_text("step,rd_cost\n0,1\n")
    exported = tmp_path / "runs" / BASE_RUN
    assert str(exported) in run_results("export_model.py", run, tmp_path / "runs")
    assert (exported / "validation.csv").read_text() == "step,rd_cost\n0,1\n"
    image = write_image(tmp_path / "x.png", 64, 64)
    original, exported = (compress("mbt2018", tmp_path / str(i), image, checkpoints=checkpoints)
                          for i, checkpoints in enumerate([CHECKPOINTS, tmp_path / "runs"]))
    assert original["model"] == exported["model"] and original["mse"] == exported["mse"]
    assert os.listdir(str(tmp_path / "runs")) == [BASE_RUN]
    for folder, reason in ((os.path.join(CHECKPOINTS, BASE_RUN), "is there already"),
                           (tmp_path, "no checkpoint")):
        line = run_results("export_model.py", folder, tmp_path / "runs", code=2)
        assert reason in line and line.count("\n") == 1
    assert "accepted are paths without" in run_results("export_model.py", run, tmp_path / "runs[1]",
                                                       code=2)
    assert "no such folder" in run_results("export_model.py", run, tmp_path / "a" / "b", code=2)


def test_exported_model_is_rounded(tmp_path):
    """It packs to less than 60 %, and costs about the same."""
    base = os.path.join(CHECKPOINTS, BASE_RUN)
    run_results("export_model.py", base, tmp_path / "runs", "--significant_bits", 10)
    before, after = weights(base), weights(tmp_path / "runs" / BASE_RUN)
    kernel = "synthesis_transform/layer_1/kernel_rdft"
    np.testing.assert_allclose(after[kernel], before[kernel], rtol=2 ** -10)
    assert len(zlib.compress(after[kernel].tobytes())) < .6 * after[kernel].nbytes
    name = "synthesis_transform/layer_1/bias"
    np.testing.assert_array_equal(after[name], before[name])
    costs = [compress("mbt2018", tmp_path / str(i), NPY, checkpoints=checkpoints)["rd_cost"]
             for i, checkpoints in enumerate([CHECKPOINTS, tmp_path / "runs"])]
    assert costs[1] != pytest.approx(costs[0], rel=1e-9)
    assert costs[1] == pytest.approx(costs[0], rel=5e-3)
    assert all(value.dtype == before[name].dtype for name, value in after.items())
    assert "<= 24" in run_results("export_model.py", base, tmp_path / "other",
                                  "--significant_bits", 25, code=2)


@pytest.mark.slow
def test_init_from_another_run(trained, tmp_path, images, capfd):
    folder = tmp_path / "runs" / "mbt2018-num_filters=8-lmbda=0.02"
    train(tmp_path, images, "--last_step", 1, "--lambda", 0.02, "--init_from", trained.name)
    before, after = weights(trained), weights(folder)
    assert after["global_step"] == 1
    moved = {name: np.abs(after[name] - before[name]).max() for name in after
             if after[name].dtype == np.float32 and not runs.OPTIMISER_VARIABLES.fullmatch(name)
             and name != "entropy_bottleneck/quantiles"}
    assert 0 < moved["analysis_transform/layer_1/bias"] <= 1.01e-4  # one step of Adam
    assert max(moved.values()) <= 1.01e-4
    with open(folder / "args.json") as file:
        assert json.load(file)["init_from"] == trained.name
    capfd.readouterr()
    trained.rename(tmp_path / "moved")
    for last_step, options in ((2, ()), (3, ("--init_from", trained.name))):  # with or without it
        train(tmp_path, images, "--last_step", last_step, "--lambda", 0.02, *options)
    with pytest.raises(SystemExit):
        train(tmp_path, images, "--last_step", 2, "--lambda", 0.03, "--init_from", "gone")
    assert "no checkpoint in" in capfd.readouterr().err


def test_a_narrower_run_is_widened(tmp_path, images, capfd):
    """Pictures stay the same."""
    base = os.path.join(CHECKPOINTS, BASE_RUN)
    folder = train(tmp_path, images, "--last_step", 1, "--init_from", base, N=24)
    assert "of 16 filters widened to 24; fresh: " in capfd.readouterr().out
    wide = tmp_path / "wide" / BASE_RUN
    wide.mkdir(parents=True)
    for path in folder.glob("model.ckpt-0.*"):
        shutil.copy(str(path), str(wide))
    before = compress("mbt2018", tmp_path / "before", NPY)
    after = compress("mbt2018", tmp_path / "after", NPY, checkpoints=wide.parent)
    assert after["psnr"] == pytest.approx(before["psnr"], abs=1e-3)
    assert (after["est_bpp"] > before["est_bpp"]).all()


@pytest.mark.parametrize("source, script, fresh", [
    (BASE_RUN, "mbt2018_bb", 0), (BB_RUN, "mbt2018", 13), (BB_RUN, "mbt2018_bb", 0)])
def test_a_narrower_run_of_either_kind(source, script, fresh, tmp_path, images, capfd):
    """A base model takes all but p(z), and the last kernel of h_a, from a bits-back model."""
    train(tmp_path, images, "--last_step", 1, "--init_from", os.path.join(CHECKPOINTS, source),
          script=script, N=24)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("from ")]
    names = [name for name in line.split("fresh: ")[1].split(", ") if name != "none"]
    assert len(names) == fresh
    assert ("hyper_analysis_transform/layer_2/kernel_rdft" in names) == bool(fresh)


def hyperprior(checkpoint, model, y):
    """z, the logits of its CDF under p(z), mu and log sigma of p(y|z), and the log variance of z.

    They are of the base model where model is "mbt2018", else of the bits-back model.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        logvar, scope = tf.zeros([]), runs.PRIOR_SCOPE
        if model == "mbt2018":
            z = nic.hyper_analysis_transform(16, 16)(tf.constant(y))
        else:
            (z, logvar), scope = nic.posterior(16, tf.constant(y)), ""
        logits, _ = nic.factorized_prior(16, scope)(z)
        mu, log_sigma = nic.gaussian_parameters(nic.hyper_synthesis_transform(16), z, y.shape)
        tf.train.Saver().restore(sess, checkpoint)
        return sess.run([z, logits, mu, log_sigma, logvar])


def test_init_bits_back_from_base(tmp_path, images, capfd, fails):
    """By the path of the base run's folder: z has the noise of rounding, all else is the same."""
    base = os.path.join(CHECKPOINTS, BASE_RUN)
    folder = train(tmp_path, images, "--last_step", 1, "--init_from", base, N=16,
                   script="mbt2018_bb")
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("from ")]
    assert line.endswith("fresh: none")
    before, after = weights(base), weights(folder)
    for name in ("analysis_transform/layer_3/kernel_rdft", "synthesis_transform/layer_0/bias",
                 "hyper_analysis_transform/layer_1/kernel_rdft",
                 "mb_t2018hyper_synthesis_transform/layer_2/kernel"):
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1.01e-4)
    y = np.random.RandomState(0).normal(0, 3, [1, 8, 12, 16]).astype(np.float32)
    z, *same, _ = hyperprior(tf.train.latest_checkpoint(base), "mbt2018", y)
    z_mean, *as_before, z_logvar = hyperprior(str(folder / "model.ckpt-0"), "mbt2018_bb", y)
    np.testing.assert_allclose(z_mean, 12 ** .5 * z, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(z_logvar, 0)
    for value, expected in zip(as_before, same):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-3)
    assert "by name and shape" in fails(
        "mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 8, "train",
        "--train_glob", images / "*", *SMALL, "--init_from", base)


@pytest.mark.slow
def test_two_trainings_of_a_run(tmp_path, images, fails):
    """The second is told of the first, until that ends, however it does."""
    argv = ["--checkpoint_dir", tmp_path / "runs", "--num_filters", 2, "train", "--train_glob",
            images / "*", *SMALL, "--save_checkpoint_secs", 1]
    first = subprocess.Popen(command("mbt2018", *argv, "--last_step", 100000),
                             stdout=subprocess.PIPE, universal_newlines=True)
    try:
        while not first.stdout.readline().startswith("step=1 "):
            assert first.poll() is None
        line = fails("mbt2018", *argv, "--last_step", 100000)
        assert "in use by process %d on %s" % (first.pid, socket.gethostname()) in line
    finally:
        first.kill()
        first.communicate()
    step = runs.find_run(str(tmp_path / "runs"), "mbt2018-num_filters=2-lmbda=0.01").step
    run("mbt2018", *argv, "--last_step", step + 1)


def test_a_lock_says_who_has_it(tmp_path):
    path = str(tmp_path / "lock")
    with basics.locked(path):
        with pytest.raises(basics.UserError, match="in use by process %d" % os.getpid()):
            with basics.locked(path):
                pass
    with basics.locked(path):
        pass
