"""Compressed files: what compress wrote, decompress turns back into what was evaluated."""

import os
import random

import numpy as np
import PIL.Image
import pytest
import tf_boilerplate as nic
import tensorflow.compat.v1 as tf

from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, GOLDEN, NPY, PNG, compress, load, run,
                      run_process, write_image)

ORIGINAL = os.path.join(GOLDEN, "tfci", "face-197x251.tfci")
DECODED = os.path.join(GOLDEN, "tfci", "face-197x251-decoded.png")


def pixels(path):
    path = str(path)
    return np.load(path) if path.endswith(".npy") else np.asarray(PIL.Image.open(path))[None]


def decompress(*argv, **kwargs):
    """decompress as a process of its own, which must end well."""
    done = run_process("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, *argv,
                       **kwargs)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("height,width", [(1, 1), (16, 16), (197, 251), (256, 256)])
def test_image(height, width, tmp_path):
    image = write_image(tmp_path / "image.png", height, width)
    results = compress("mbt2018", tmp_path, image, run_name=BASE_RUN, *[])
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, image,
        tmp_path / "file.tfci", "--results_dir", "")
    decompress(tmp_path / "file.tfci")
    decoded = pixels(tmp_path / "file.tfci.png").astype(np.float64)
    mse = np.mean((decoded - pixels(image)) ** 2)
    assert mse == pytest.approx(results["mse"][0], rel=1e-6)
    size = os.path.getsize(tmp_path / "file.tfci")
    assert results["batch_actual_bpp"][0] == 8 * size / (height * width)
    estimate = results["est_bpp"][0] * height * width / 8
    assert size <= estimate * 1.02 + 192 + len(BASE_RUN)


def test_batch(tmp_path, monkeypatch):
    """Also of several batches, in one file."""
    images = np.load(NPY)[:, :80, :64].repeat(2, axis=0)
    np.save(tmp_path / "four.npy", images)
    results = compress("mbt2018", tmp_path, tmp_path / "four.npy")
    for batch_pixels in (nic.BATCH_PIXELS, 3 * 80 * 64):
        monkeypatch.setattr(nic, "BATCH_PIXELS", batch_pixels)
        for command in (["compress", "--results_dir", "", BASE_RUN, tmp_path / "four.npy"],
                        ["decompress", BASE_RUN]):
            run("mbt2018", "--checkpoint_dir", CHECKPOINTS, *command, tmp_path / "four.tfci")
        decoded = pixels(tmp_path / "four.tfci.npy").astype(np.float64)
        np.testing.assert_allclose(np.mean((decoded - images) ** 2, axis=(1, 2, 3)),
                                   results["mse"], rtol=1e-6)


@pytest.mark.parametrize("written,read", [(1, 2), (2, 1)])
def test_threads_are_those_of_the_file(written, read, tmp_path):
    done = run_process("mbt2018", "--checkpoint_dir", CHECKPOINTS, "--threads", written,
                       "compress", BASE_RUN, PNG, tmp_path / "file.tfci", "--results_dir", tmp_path)
    assert done.returncode == 0
    decompress(tmp_path / "file.tfci", tmp_path / "out.png", "--threads", read)
    (results,) = tmp_path.glob("*.npz")
    mse = np.mean((pixels(tmp_path / "out.png").astype(np.float64) - pixels(PNG)) ** 2)
    assert mse == pytest.approx(load(results)["mse"][0], rel=1e-6)


def test_file_of_the_original(tmp_path, capfd):
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, ORIGINAL,
        tmp_path / "out.png")
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), pixels(DECODED))
    assert "the original's format" in capfd.readouterr().err


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "ours.tfci"
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, PNG, path,
        "--results_dir", "")
    return path.read_bytes()


def test_the_original_reads_ours(ours):
    """Its five features are where it looks for them, with the same latents."""
    dtypes = [tf.string, tf.string, tf.int32, tf.int32, tf.int32]
    with tf.Graph().as_default():
        placeholders = [tf.placeholder(dtype, [None]) for dtype in dtypes]
    with open(ORIGINAL, "rb") as file:
        expected = nic.tfc.PackedTensors(file.read()).unpack(placeholders)
    for mine, theirs in zip(nic.tfc.PackedTensors(ours).unpack(placeholders), expected):
        np.testing.assert_array_equal(mine, theirs)


def damaged(rng, content):
    """Truncated, with flipped bits, with a piece cut out, or with random bytes."""
    content, i, j = bytearray(content), rng.randrange(len(content)), rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(content[:i])
    if kind == 1:
        content[i] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del content[min(i, j):max(i, j) + 1]
    else:
        content[i:i + 20] = bytes(rng.randrange(256) for _ in range(20))
    return bytes(content)


def test_damage_is_noticed(ours, tmp_path, fails):
    rng = random.Random(0)
    for _ in range(30):
        (tmp_path / "file.tfci").write_bytes(damaged(rng, ours))
        fails("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN,
              tmp_path / "file.tfci", tmp_path / "out.png")
        assert not (tmp_path / "out.png").exists()


def test_damaged_files_of_the_original_neither_crash_nor_hang(tmp_path):
    """They can't be checked: an error or some picture."""
    rng = random.Random(0)
    with open(ORIGINAL, "rb") as file:
        content = file.read()
    for _ in range(15):
        (tmp_path / "file.tfci").write_bytes(damaged(rng, content))
        try:
            run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN,
                tmp_path / "file.tfci", tmp_path / "out.png")
        except SystemExit as error:
            assert error.code == 2


def test_decompress_errors(ours, tmp_path, fails):
    path = tmp_path / "ours.tfci"
    path.write_bytes(ours)
    decode = lambda *argv: fails("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", *argv)
    assert "missing.tfci" in decode(BASE_RUN, tmp_path / "missing.tfci")
    assert "bb_plain.py" in decode(BB_RUN, path)
    assert "out.jpg" in decode(BASE_RUN, path, tmp_path / "out.jpg")
    assert "runs in" in decode("no_such_run", path)
    os.makedirs(tmp_path / "runs")
    os.symlink(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "runs" / "other-lmbda=1"))
    line = fails("mbt2018", "--checkpoint_dir", tmp_path / "runs", "decompress", "other-lmbda=1",
                 path)
    assert BASE_RUN in line and "other-lmbda=1" in line
