"""Compressed files: what compress wrote, decompress turns back into what was evaluated."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tf_boilerplate as nic
import tensorflow.compat.v1 as tf

from conftest import (BASE_RUN, CHECKPOINTS, EACH, FAST, GOLDEN, NPY, PNG, ROOT, SHIPPED, command,
                      compress, load, run, run_of, run_process, write_image)

ORIGINAL = os.path.join(GOLDEN, "tfci", "face-197x251.tfci")
DECODED = os.path.join(GOLDEN, "tfci", "face-197x251-decoded.png")
CENTRED = ("mbt2018", "map", "unoise")
INTEGER = ("sga", "ste", "danneal")
BITS_BACK = ("bb_sga", "bb_no_sga", "bb_plain")
SIZES = [(1, 1), (16, 16), (197, 251), (256, 256), (512, 768)]
DECODE_ALL = """
import importlib, sys
sys.path.insert(0, {root!r})
for path in sys.argv[3:]:
    importlib.import_module({script!r}).main(
        ["--checkpoint_dir", sys.argv[1], "decompress", sys.argv[2], path, path + ".npy"])
"""


def pixels(path):
    path = str(path)
    return np.load(path) if path.endswith(".npy") else np.asarray(PIL.Image.open(path))[None]


def check_size(script, size, results, run_name):
    """The file is as small as its coder promises."""
    pixels_each = 8 * size / results["actual_bpp"][0] / len(results["est_bpp"])
    estimate = results["est_bpp"].sum() * pixels_each / 8
    if script in CENTRED:
        limit = estimate * 1.02 + 192
    elif script in INTEGER:
        limit = estimate * 1.005 + 96
    else:
        net = results["net_bpp"][0] * len(results["est_bpp"]) * pixels_each / 8
        limit = net * 1.02 + results["popped_z_bits"][0] / 8 + 96
    assert size <= limit + len(run_name)


@pytest.mark.parametrize("num_filters,checkpoints,sizes", [
    pytest.param(16, CHECKPOINTS, [(65, 33)], id="golden"),
    pytest.param(16, CHECKPOINTS, SIZES, marks=pytest.mark.slow, id="golden, all sizes"),
    pytest.param(32, SHIPPED, SIZES, marks=pytest.mark.slow, id="shipped, all sizes")])
@pytest.mark.parametrize("script", EACH)
def test_round_trip(script, num_filters, checkpoints, sizes, tmp_path):
    """In a fresh process, from the file and the model alone: the pixels that were evaluated."""
    images = [write_image(tmp_path / ("%dx%d.png" % size), *size) for size in sizes]
    np.save(tmp_path / "four.npy", np.load(NPY)[:, :80, :64].repeat(2, axis=0))
    images.append(tmp_path / "four.npy")
    run_name, results = run_of(script, num_filters), {}
    for image in images:
        results[image] = compress(script, tmp_path, image, *FAST[script], run_name=run_name,
                                  output=tmp_path / (image.name + ".file"),
                                  checkpoints=checkpoints)
    files = [str(image) + ".file" for image in images]
    subprocess.run([sys.executable, "-c", DECODE_ALL.format(root=ROOT, script=script),
                    checkpoints, run_name] + files, check=True, stdout=subprocess.DEVNULL)
    for image, file in zip(images, files):
        decoded, original = pixels(file + ".npy").astype(np.float64), pixels(image)
        np.testing.assert_allclose(np.mean((decoded - original) ** 2, axis=(1, 2, 3)),
                                   results[image]["mse"], rtol=1e-6)
        size = os.path.getsize(file)
        assert results[image]["actual_bpp"][0] == 8 * size / original[..., 0].size
        check_size(script, size, results[image], run_name)


@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_no_sga"])
def test_npy_of_several_batches(script, tmp_path, monkeypatch):
    """One file for all of them."""
    images = np.load(NPY)[:, :80, :64].repeat(2, axis=0)
    np.save(tmp_path / "four.npy", images)
    monkeypatch.setattr(nic, "BATCH_PIXELS", 3 * 80 * 64)
    results = compress(script, tmp_path, tmp_path / "four.npy", *FAST[script],
                       output=tmp_path / "file")
    run(script, "--checkpoint_dir", CHECKPOINTS, "decompress", run_of(script), tmp_path / "file")
    decoded = pixels(tmp_path / "file.npy").astype(np.float64)
    np.testing.assert_allclose(np.mean((decoded - images) ** 2, axis=(1, 2, 3)), results["mse"],
                               rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_no_sga"])
def test_threads_are_those_of_the_file(script, tmp_path):
    """Written with one decodes where there are two, and the reverse; on one core, and on two."""
    for threads, other in [(1, 2), (2, 1)]:
        done = run_process(script, "--checkpoint_dir", CHECKPOINTS, "--threads", threads,
                           "compress", *FAST[script], run_of(script), PNG, tmp_path / "file",
                           "--results_dir", tmp_path / "results")
        assert done.returncode == 0, done.stderr
        outputs = []
        for cores in ("0", "0,1"):
            subprocess.run(["taskset", "-c", cores] + command(
                script, "--checkpoint_dir", CHECKPOINTS, "--threads", other, "decompress",
                run_of(script), tmp_path / "file", tmp_path / "out.png"), check=True,
                stdout=subprocess.DEVNULL)
            outputs.append((tmp_path / "out.png").read_bytes())
        assert outputs[0] == outputs[1]
        (results,) = (tmp_path / "results").glob("*.npz")
        mse = np.mean((pixels(tmp_path / "out.png").astype(np.float64) - pixels(PNG)) ** 2)
        assert mse == pytest.approx(load(results)["mse"][0], rel=1e-6)


def test_write_names_the_file(tmp_path):
    """Beside the image; in a folder of its own for a folder."""
    (tmp_path / "images").mkdir()
    image = write_image(tmp_path / "images" / "a.png", 32, 32)
    compress("sga", tmp_path, image, "--write", "--its", 2)
    compress("mbt2018", tmp_path, tmp_path / "images", "--write")
    assert sorted(os.listdir(tmp_path / "images")) == ["a.png", "a.png.iinc"]
    assert os.listdir(tmp_path / "images.tfci") == ["a.png.tfci"]


# ------------------------------------------------------------------------ bits-back chains

def test_chain_costs_what_is_estimated(tmp_path):
    """24 images: the net bits of the z that were coded lie within 3 standard errors."""
    images = np.load(NPY).reshape(2, 3, 64, 4, 64, 3).swapaxes(2, 3).reshape(24, 64, 64, 3)
    np.save(tmp_path / "chain.npy", images)
    results = compress("bb_no_sga", tmp_path, tmp_path / "chain.npy", "--its", 100,
                       output=tmp_path / "file")
    net = results["pushed_y_bits"] + results["pushed_z_bits"] - results["popped_z_bits"]
    assert results["net_bpp"][0] == pytest.approx(net.sum() / images[..., 0].size)
    # One draw of z per image, 16 for the estimate; the noise of the estimate is common to all.
    error = np.sqrt(16 * np.sum(results["est_bpp_stderr"] ** 2)
                    + np.sum(results["est_bpp_stderr"]) ** 2)
    assert abs(net.sum() / 64 ** 2 - results["est_bpp"].sum()) < 3 * error
    check_size("bb_no_sga", os.path.getsize(tmp_path / "file"), results, run_of("bb_no_sga"))


@pytest.mark.parametrize("length", [1000, 1001])
def test_initial_bits_are_a_payload(length, tmp_path, fails):
    payload = bytes(random.Random(0).randrange(256) for _ in range(length - 4)) + b"\0" * 4
    (tmp_path / "payload").write_bytes(payload)
    compress("bb_plain", tmp_path, PNG, "--initial_bits", tmp_path / "payload",
             output=tmp_path / "file")
    run("bb_plain", "--checkpoint_dir", CHECKPOINTS, "decompress", run_of("bb_plain"),
        tmp_path / "file", "--initial_bits", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == payload
    (tmp_path / "payload").write_bytes(payload[:20])
    assert "20 bytes" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress",
                               "--results_dir", "", "--initial_bits", tmp_path / "payload",
                               run_of("bb_plain"), PNG)


# ------------------------------------------------------------------------ the original's files

def test_file_of_the_original(tmp_path, capfd, fails):
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, ORIGINAL,
        tmp_path / "out.png")
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), pixels(DECODED))
    assert "the original's format" in capfd.readouterr().err
    assert "mbt2018.py" in fails("sga", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN,
                                 ORIGINAL)


@pytest.mark.parametrize("script", CENTRED)
def test_the_original_reads_ours(script, tmp_path):
    """What its decoder does, which knows the five features alone, gives our pixels."""
    compress(script, tmp_path, PNG, *FAST[script], output=tmp_path / "file")
    run(script, "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, tmp_path / "file",
        tmp_path / "ours.png")
    kinds = [(tf.string, None)] * 2 + [(tf.int32, 2)] * 3
    with tf.Graph().as_default(), tf.Session(config=nic.session_config(2)) as sess:
        tensors = [tf.placeholder(dtype, [length]) for dtype, length in kinds]
        y_string, z_string, x_shape, y_shape, z_shape = tensors
        bottleneck = nic.tfc.EntropyBottleneck(name="entropy_bottleneck", dtype=tf.float32)
        z_hat = bottleneck.decompress(z_string, tf.concat([z_shape, [16]], 0), channels=16)
        _, y_static, z_static = nic.tfci_shapes(197, 251)
        z_hat.set_shape((1,) + z_static + (16,))
        mu, sigma = tf.split(nic.hyper_synthesis_transform(16)(z_hat)[
            :, :y_shape[0], :y_shape[1]], 2, axis=-1)
        conditional = nic.tfc.GaussianConditional(tf.exp(sigma), nic.SCALES, mean=mu,
                                                  name="gaussian_conditional", dtype=tf.float32)
        y_hat = conditional.decompress(y_string)
        y_hat.set_shape((1,) + y_static + (16,))
        x_hat = nic.synthesis_transform(16)(y_hat)
        x_hat = tf.saturate_cast(tf.round(255 * x_hat[0, :x_shape[0], :x_shape[1]]), tf.uint8)
        tf.train.Saver().restore(sess, os.path.join(CHECKPOINTS, BASE_RUN, "model.ckpt-3000"))
        packed = nic.tfc.PackedTensors((tmp_path / "file").read_bytes())
        decoded = sess.run(x_hat, dict(zip(tensors, packed.unpack(tensors))))
    np.testing.assert_array_equal(decoded, pixels(tmp_path / "ours.png")[0])


# ------------------------------------------------------------------------ damage

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind: script -> (bytes, pixels that it decodes to)."""
    folder, made = tmp_path_factory.mktemp("files"), {}
    for script in ("mbt2018", "sga", "bb_plain"):
        compress(script, folder, PNG, *FAST[script], output=folder / script)
        run(script, "--checkpoint_dir", CHECKPOINTS, "decompress", run_of(script), folder / script,
            folder / "out.npy")
        made[script] = (folder / script).read_bytes(), pixels(folder / "out.npy")
    return made


def damaged(rng, content, other):
    """Truncated, with flipped bits, with a piece cut out, overwritten, or spliced with another."""
    content, i, j = bytearray(content), rng.randrange(len(content)), rng.randrange(len(content))
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(content[:i])
    if kind == 1:
        for _ in range(rng.choice([1, 2, 50])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del content[min(i, j):max(i, j) + 1]
    elif kind == 3:
        content[i:i + 20] = bytes(rng.randrange(256) for _ in range(20))
    else:
        return bytes(content[:i]) + other[j % len(other):]
    return bytes(content)


def survives(script, content, tmp_path, capfd):
    """Decode: None after the one-line error, else the pixels."""
    (tmp_path / "file").write_bytes(content)
    capfd.readouterr()
    try:
        run(script, "--checkpoint_dir", CHECKPOINTS, "decompress", run_of(script),
            tmp_path / "file", tmp_path / "out.npy")
        return pixels(tmp_path / "out.npy")
    except SystemExit as error:
        assert error.code == 2
        assert len([line for line in capfd.readouterr().err.splitlines()
                    if not line.startswith("note: ")]) == 1
        return None


@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_plain"])
def test_damage_is_noticed(script, files, tmp_path, capfd):
    """Of 1 000 damaged files in all, each ends in the error or in the right picture."""
    rng = random.Random(script)
    content, expected = files[script]
    others = [other for other, _ in files.values()]
    noticed = 0
    for _ in range(334):
        decoded = survives(script, damaged(rng, content, rng.choice(others)), tmp_path, capfd)
        noticed += decoded is None
        assert decoded is None or np.array_equal(decoded, expected)
    assert noticed > 300


def test_damaged_files_of_the_original_neither_crash_nor_hang(tmp_path, capfd):
    """They can't be checked: an error or some picture."""
    rng = random.Random(0)
    with open(ORIGINAL, "rb") as file:
        content = file.read()
    for _ in range(20):
        survives("mbt2018", damaged(rng, content, content), tmp_path, capfd)


def test_decompress_errors(files, tmp_path, fails):
    for script, (content, _) in files.items():
        (tmp_path / script).write_bytes(content)

    def decode(script, *argv, checkpoints=CHECKPOINTS):
        return fails(script, "--checkpoint_dir", checkpoints, "decompress", *argv)
    assert "missing" in decode("sga", BASE_RUN, tmp_path / "missing")
    assert "out.jpg" in decode("sga", BASE_RUN, tmp_path / "sga", tmp_path / "out.jpg")
    assert "runs in" in decode("sga", "no_such_run", tmp_path / "sga")
    assert "mbt2018.py" in decode("sga", BASE_RUN, tmp_path / "mbt2018")
    assert "sga.py" in decode("bb_plain", run_of("bb_plain"), tmp_path / "sga")
    assert "bb_plain.py" in decode("danneal", BASE_RUN, tmp_path / "bb_plain")
    assert "--initial_bits" in decode("sga", "--initial_bits", "x", BASE_RUN, tmp_path / "sga")
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "runs" / "other-lmbda=1"))
    line = decode("sga", "other-lmbda=1", tmp_path / "sga", checkpoints=tmp_path / "runs")
    assert BASE_RUN in line and "other-lmbda=1" in line
    retrained = tmp_path / "retrained" / BASE_RUN
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(retrained))
    (data,) = retrained.glob("*.data*")
    with tf.Graph().as_default(), tf.Session() as sess:
        reader = tf.train.load_checkpoint(os.path.join(CHECKPOINTS, BASE_RUN))
        for name in reader.get_variable_to_shape_map():
            tf.Variable(reader.get_tensor(name) + (name == "synthesis_transform/layer_3/bias"),
                        name=name)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, str(retrained / "model.ckpt-3000"))
    assert "weights" in decode("sga", BASE_RUN, tmp_path / "sga",
                               checkpoints=tmp_path / "retrained")
