"""Runs: their names, their newest checkpoints, and what is none."""

import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from plumbing import basics, runs
from conftest import BASE_RUN, BB_RUN, CHECKPOINTS, TINY, compress, run


@pytest.mark.parametrize("name, lmbda", [
    ("mbt2018-num_filters=16-lmbda=0.01", .01), ("lmbda=1e-05", 1e-5), ("a-lmbda=1E-3", 1e-3),
    ("lmbda=2", 2), ("lmbda=.5-second", .5), ("lmbda=3.-x", 3), ("a_lmbda=0.02", .02),
    ("lmbda=0,01", None), ("xlmbda=5", None), ("lmbda=1e", None), ("lmbda=0.01.5", None),
    ("lmbda=", None), ("lmbda=1e999", None), ("lmbda=-1", None), ("lmbda=\u0663", None)])
def test_lambda_of_a_run_name(name, lmbda):
    if lmbda is None:
        with pytest.raises(basics.UserError, match="give --lambda"):
            runs.require_lmbda(name)
    else:
        assert runs.require_lmbda(name) == lmbda


def test_run_without_lambda_in_its_name(tmp_path, fails):
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "my model"))
    argv = ["--checkpoint_dir", tmp_path, "compress", "my model", TINY, "--results_dir",
            tmp_path / "results"]
    assert "--lambda" in fails("mbt2018", *argv)
    run("mbt2018", *argv, "--lambda", 0.01)


def test_a_checkpoint_without_its_index_file(tmp_path):
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / BASE_RUN))
    expected = compress("mbt2018", tmp_path / "expected", TINY)
    (tmp_path / BASE_RUN / "checkpoint").unlink()
    for name in os.listdir(tmp_path / BASE_RUN):  # an older one
        if name.startswith("model.ckpt-3000"):
            (tmp_path / BASE_RUN / name.replace("3000", "999")).write_bytes(b"")
    results = compress("mbt2018", tmp_path, TINY, checkpoints=tmp_path)
    assert results["rd_cost"] == expected["rd_cost"]


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_damaged_checkpoint(suffix, tmp_path, fails):
    folder = tmp_path / BASE_RUN
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(folder))
    (path,) = folder.glob("*" + suffix)
    path.write_bytes(path.read_bytes()[:1000])
    assert "model.ckpt-3000" in fails("sga", "--checkpoint_dir", tmp_path, "compress", BASE_RUN,
                                      TINY)


def test_what_is_read_of_a_run():
    base, bits_back = (runs.find_run(CHECKPOINTS, name) for name in (BASE_RUN, BB_RUN))
    for found, name, model in ((base, BASE_RUN, "base"), (bits_back, BB_RUN, "bits-back")):
        assert (found.name, found.num_filters, found.model) == (name, 16, model)
        assert found.checkpoint == os.path.join(CHECKPOINTS, name, "model.ckpt-%d" % found.step)
        assert found.resumable and len(found.fingerprint) == 8
    assert base.fingerprint != bits_back.fingerprint


def test_the_path_of_a_run_is_not_its_name(monkeypatch):
    monkeypatch.chdir(CHECKPOINTS)
    with pytest.raises(basics.UserError) as error:
        runs.find_run("elsewhere", BASE_RUN)
    assert str(error.value).endswith("runs in elsewhere: none; give --checkpoint_dir %s and the "
                                     "run's name" % CHECKPOINTS)
    with pytest.raises(basics.UserError) as error:
        runs.find_run(CHECKPOINTS, "none")
    assert str(error.value).endswith(": %s, %s" % (BASE_RUN, BB_RUN))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_session_has_the_weights_in_its_precision(dtype):
    found = runs.find_run(CHECKPOINTS, BASE_RUN)
    name = "entropy_bottleneck/matrix_0"
    with tf.Graph().as_default() as graph:
        variable = tf.get_variable(name, [16, 3, 1], dtype)
    stored = tf.train.load_checkpoint(found.checkpoint).get_tensor(name)
    with runs.restored_session(graph, found, runs.session_config(1)) as sess:
        np.testing.assert_array_equal(sess.run(variable), stored.astype(dtype.as_numpy_dtype))


def test_medians():
    found = runs.find_run(CHECKPOINTS, BASE_RUN)
    quantiles = tf.train.load_checkpoint(found.checkpoint).get_tensor(
        "entropy_bottleneck/quantiles")
    np.testing.assert_array_equal(runs.medians(found), quantiles[:, 0, 1])
    assert runs.medians(found).shape == (16,)


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b'model_checkpoint_path: "C:\\\\runs\\\\model.ckpt-3000"\n',
    b'model_checkpoint_path: "model.ckpt-77"\n'])
def test_a_checkpoint_file_that_is_damaged_or_of_elsewhere(content, tmp_path):
    """The newest model in the folder is found, and the folder hides no other run."""
    folder = tmp_path / BASE_RUN
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(folder))
    (folder / "checkpoint").write_bytes(content)
    assert runs.newest_checkpoint(str(folder)) == str(folder / "model.ckpt-3000")
    assert runs.find_run(str(tmp_path), BASE_RUN).step == 3000
    with pytest.raises(basics.UserError, match=BASE_RUN):
        runs.find_run(str(tmp_path), "mistyped")


def test_what_names_a_model_that_is_gone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-77"\n')
    with pytest.raises(basics.UserError, match="model.ckpt-77: not a readable checkpoint"):
        runs.find_run(str(tmp_path), "run")


TRAIN = ("--num_filters", 2, "train", "--train_glob", TINY, "--patchsize", 64, "--batchsize", 1,
         "--last_step", 1, "--logdir", "")


@pytest.mark.parametrize("name", ["ck[1]", "a*", "b?", "c\\d"])
def test_paths_that_tensorflow_takes_for_patterns(name, tmp_path, fails):
    """They are refused before anything is computed, or deleted elsewhere."""
    folder = tmp_path / name
    assert "pattern" in fails("mbt2018", "--checkpoint_dir", folder, *TRAIN)
    assert not folder.exists()
    shutil.copytree(CHECKPOINTS, str(folder))
    assert "pattern" in fails("mbt2018", "--checkpoint_dir", folder, "compress", BASE_RUN, TINY)


def test_paths_that_are_not_utf_8(tmp_path, monkeypatch, fails):
    """TensorFlow takes none, be it of the run or of a folder that it is in."""
    folder = tmp_path / os.fsdecode(b"mod\xe8les")
    shutil.copytree(CHECKPOINTS, str(folder))
    for name in (folder, "."):
        assert "paths in UTF-8" in fails("mbt2018", "--checkpoint_dir", name, "compress", BASE_RUN,
                                         TINY)
        assert "paths in UTF-8" in fails("mbt2018", "--checkpoint_dir", folder, *TRAIN)
        monkeypatch.chdir(folder)


def test_paths_that_only_look_like_patterns(tmp_path):
    folder = tmp_path / "{x}~%d"
    run("mbt2018", "--checkpoint_dir", folder, *TRAIN)
    assert runs.find_run(str(folder), "mbt2018-num_filters=2-lmbda=0.01").step == 1
