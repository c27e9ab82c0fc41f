"""Training: a few steps at tiny size, continued, interrupted, and refused."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import tf_boilerplate as nic
from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, PNG, ROOT, command, compress, run,
                      run_process, write_image)

SMALL = ("--batchsize", 2, "--patchsize", 64, "--logdir", "")


@pytest.fixture
def images(tmp_path):
    """png, jpg and float32 .npy to train on."""
    folder = tmp_path / "train"
    folder.mkdir()
    for name, height, width in [("a.png", 64, 90), ("b.jpg", 100, 64), ("grey.png", 70, 70)]:
        write_image(folder / name, height, width, "L" if name == "grey.png" else "RGB")
    image = np.random.RandomState(0).random_sample((80, 80, 3)).astype(np.float32)
    np.save(folder / "c.npy", image)
    return folder


def train(tmp_path, images, *options, N=8):
    run("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", N, "train",
        "--train_glob", os.path.join(str(images), "*"), *SMALL, *options)
    return tmp_path / "runs" / ("mbt2018-num_filters=%d-lmbda=0.01" % N)


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_train_compress(tmp_path, images, capfd):
    folder = train(tmp_path, images, "--last_step", 3)
    line = capfd.readouterr().out.splitlines()[-1]
    assert [item.split("=")[0] for item in line.split()] == [
        "step", "loss", "bpp", "mse", "psnr", "steps/s"]
    with open(folder / "args.json") as file:
        saved = json.load(file)
    assert saved["lmbda"] == 0.01 and saved["num_filters"] == 8 and saved["last_step"] == 3
    with_original = {name: shape for name, shape in tf.train.list_variables(
        os.path.join(CHECKPOINTS, BASE_RUN))}
    assert set(weights(folder)) == set(with_original)
    results = compress("mbt2018", tmp_path, PNG, run_name=folder.name, checkpoints=folder.parent)
    assert np.isfinite(results["est_bpp"]).all()


def test_continued_training_sees_the_same_patches(images):
    """Those that an uninterrupted run would see; and replicas together the same as one process."""
    from tf_boilerplate import training_files, training_patches
    args = type("args", (), dict(train_glob=str(images / "*"), patchsize=64, batchsize=3, seed=5,
                                 preprocess_threads=2))

    def patches(start, n, *replica):
        with tf.Graph().as_default(), tf.Session() as sess:
            dataset = training_patches(args, *training_files(args), start, *replica)
            x = tf.data.make_one_shot_iterator(dataset).get_next()
            return [sess.run(x) for _ in range(n)]
    np.testing.assert_array_equal(patches(0, 5)[2:], patches(2, 3))
    assert np.max(patches(0, 3)) <= 1 and np.min(patches(0, 3)) >= 0
    whole, args.batchsize = patches(4, 2), 1
    np.testing.assert_array_equal(whole, np.concatenate(
        [patches(4, 2, replica, 3) for replica in range(3)], axis=1))


def test_continued_training_ends_as_uninterrupted_training(tmp_path, images, capfd):
    """And another seed makes another model."""
    options = ("--threads", 1, "--last_step", 4)
    train(tmp_path, images, *options[:2], "--last_step", 2)
    continued = weights(train(tmp_path, images, *options))
    assert continued["global_step"] == 4
    capfd.readouterr()
    train(tmp_path, images, *options)
    assert "at step 4 already" in capfd.readouterr().out
    whole, other = (weights(train(tmp_path / str(seed), images, *options, "--seed", seed))
                    for seed in (0, 1))
    name = "analysis_transform/layer_0/kernel_rdft"
    np.testing.assert_allclose(continued[name], whole[name], rtol=0, atol=1e-7)
    assert np.abs(continued[name] - other[name]).max() > 1e-3


def test_a_moved_run_continues_where_it_is_now(tmp_path, images):
    folder = train(tmp_path, images, "--last_step", 2)
    checkpoint = "model_checkpoint_path: \"%s/model.ckpt-2\"" % (tmp_path / "gone")
    (folder / "checkpoint").write_text(checkpoint)  # absolute, as other programs write it
    train(tmp_path, images, "--last_step", 3)
    assert weights(folder)["global_step"] == 3
    assert str(tmp_path) not in (folder / "checkpoint").read_text()


def test_continue_the_original(tmp_path, images):
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "runs" / BASE_RUN))
    folder = train(tmp_path, images, "--last_step", 3002, N=16)
    assert weights(folder)["global_step"] == 3002


def test_killed_training_continues(tmp_path, images):
    argv = command("mbt2018", "--checkpoint_dir", tmp_path, "--num_filters", 8, "train",
                   "--train_glob", images / "*", *SMALL, "--save_checkpoint_secs", 1,
                   "--last_step", 10 ** 6)
    folder = tmp_path / "mbt2018-num_filters=8-lmbda=0.01"
    step = lambda: int(weights(folder)["global_step"]) if (folder / "checkpoint").exists() else 0
    reached = [0]
    for _ in range(2):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        deadline = time.time() + 120
        while step() <= reached[-1] and time.time() < deadline:
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(step())
    assert 0 < reached[1] < reached[2]


def test_tensorboard(tmp_path, images):
    train(tmp_path, images, "--last_step", 2, "--logdir", tmp_path / "logs")
    (events,) = (tmp_path / "logs").glob("*/events*")
    tags = {value.tag for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value}
    assert {"loss", "bpp", "y_bpp", "z_bpp", "mse", "psnr", "original/image/0",
            "reconstruction/image/0"} <= tags


def test_small_images_are_skipped(tmp_path, images, capfd):
    write_image(images / "small.png", 63, 200)
    train(tmp_path, images, "--last_step", 1)
    assert "1 of 5 training images" in capfd.readouterr().err


def test_nan_keeps_the_last_good_checkpoint(tmp_path, images, fails):
    folder = train(tmp_path, images, "--last_step", 2)
    for path in images.iterdir():
        path.unlink()
    np.save(images / "nan.npy", np.full((64, 64, 3), np.nan, np.float32))
    assert "NaN" in fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 8,
                          "train", "--train_glob", images / "*", *SMALL, "--last_step", 9)
    final = weights(folder)
    assert final["global_step"] == 2
    assert all(np.isfinite(value).all() for value in final.values())


def test_bad_input(tmp_path, images, fails):
    def refused(*options, N=8):
        return fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", N,
                     "train", "--train_glob", images / "*", *SMALL, *options)
    assert "multiple of 64" in refused("--patchsize", 100)
    assert "128" in refused("--patchsize", 128) and "largest" in refused("--patchsize", 128)
    assert "no file matches" in refused("--train_glob", tmp_path / "*.gif")
    assert "--batchsize" in refused("--batchsize", 0)
    assert "--lambda" in refused("--lambda", -0.1)
    assert not (tmp_path / "runs").exists() or not os.listdir(tmp_path / "runs")
    np.save(images / "uint8.npy", np.zeros((64, 64, 3), np.uint8))
    assert "uint8.npy" in refused()
    os.remove(images / "uint8.npy")
    (images / "text.png").write_text("not an image")
    assert "text.png" in refused()
    os.remove(images / "text.png")
    content = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(content[:len(content) // 2])
    assert "a.png" in refused("--last_step", 3)


def test_checkpoints_that_cannot_be_trained_on(tmp_path, images, fails):
    exported = run_export(os.path.join(CHECKPOINTS, BASE_RUN), tmp_path / "runs")
    name = "model.ckpt-3000.data-00000-of-00001"
    original = os.path.join(CHECKPOINTS, BASE_RUN, name)
    assert os.path.getsize(exported / name) < 0.6 * os.path.getsize(original)
    train_16 = lambda: fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "--num_filters", 16,
                             "train", "--train_glob", images / "*", *SMALL)
    assert "without optimiser slots" in train_16()
    shutil.rmtree(str(exported))
    shutil.copytree(os.path.join(CHECKPOINTS, BB_RUN), str(exported))
    assert "mbt2018_bb.py" in train_16()


def run_export(folder, target):
    import sys
    done = subprocess.run([sys.executable, os.path.join(ROOT, "results", "export_model.py"),
                           str(folder), str(target)], stdout=subprocess.PIPE,
                          universal_newlines=True)
    assert done.returncode == 0
    return target / os.path.basename(done.stdout.strip())


def test_exported_model_is_the_same_model(tmp_path):
    run_export(os.path.join(CHECKPOINTS, BASE_RUN), tmp_path / "runs")
    original, exported = (compress("mbt2018", tmp_path / str(i), PNG, checkpoints=checkpoints)
                          for i, checkpoints in enumerate([CHECKPOINTS, tmp_path / "runs"]))
    assert original["model"] == exported["model"] and original["mse"] == exported["mse"]


def test_init_from_another_run(tmp_path, images, capfd):
    first = train(tmp_path, images, "--last_step", 2)
    folder = tmp_path / "runs" / "mbt2018-num_filters=8-lmbda=0.02"
    train(tmp_path, images, "--last_step", 1, "--lambda", 0.02, "--init_from", first.name)
    before, after = weights(first), weights(folder)
    assert after["global_step"] == 1
    moved = {name: np.abs(after[name] - before[name]).max() for name in after
             if after[name].dtype == np.float32 and not nic.OPTIMISER_VARIABLES.fullmatch(name)
             and name != "entropy_bottleneck/quantiles"}
    assert 0 < moved["analysis_transform/layer_1/bias"] <= 1.01e-4  # one step of Adam
    assert max(moved.values()) <= 1.01e-4
    with open(folder / "args.json") as file:
        assert json.load(file)["init_from"] == first.name
    capfd.readouterr()
    train(tmp_path, images, "--last_step", 2, "--lambda", 0.02, "--init_from", "gone")  # goes on
    with pytest.raises(SystemExit):
        train(tmp_path, images, "--last_step", 2, "--lambda", 0.03, "--init_from", "gone")
    assert "no checkpoint in" in capfd.readouterr().err
