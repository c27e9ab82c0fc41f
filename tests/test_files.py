"""Compressed files: what compress wrote, decompress turns back into what was evaluated."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tf_boilerplate as nic
import tensorflow.compat.v1 as tf

from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, FAST, GOLDEN, NPY, PNG, ROOT, SHIPPED,
                      compress, decompress, pixels, reported_pixels, run, run_of, write_image)

ORIGINAL = os.path.join(GOLDEN, "tfci", "face-197x251.tfci")
DECODED = os.path.join(GOLDEN, "tfci", "face-197x251-decoded.png")
CENTRED = ("mbt2018", "map", "unoise")
INTEGER = ("sga", "ste", "danneal")
BITS_BACK = ("bb_sga", "bb_no_sga", "bb_plain")
SUFFIXES = [(script, suffix) for script in FAST
            for suffix in ((".tfci", ".iinc") if script in CENTRED else (".iinc",))]
# Decodes files of a kind of model: to <file>-<threads>.npy.
DECODE_ALL = """
import importlib, sys
sys.path.insert(0, {root!r})
threads, checkpoints = sys.argv[1:3]
for script, run_name, path in zip(*[iter(sys.argv[3:])] * 3):
    importlib.import_module(script).main(
        ["--checkpoint_dir", checkpoints, "--threads", threads, "decompress", run_name, path,
         "%s-%s.npy" % (path, threads)])
"""


def decode_in_processes(checkpoints, items):
    """Decode (script, run name, path) with 1, 2 and 4 threads, each in a process of its own.

    A list over the items of the bytes of the three decoded files. A process has the threads of its
    first session.
    """
    for threads in (1, 2, 4):
        subprocess.run(
            [sys.executable, "-c", DECODE_ALL.format(root=ROOT), str(threads), checkpoints]
            + [str(word) for item in items for word in item], check=True,
            stdout=subprocess.DEVNULL)
    decoded = []
    for _, _, path in items:
        decoded.append([])
        for threads in (1, 2, 4):
            with open("%s-%d.npy" % (path, threads), "rb") as file:
                decoded[-1].append(file.read())
    return decoded


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


def test_threads_do_not_matter(files, tmp_path):
    items = []
    for name, written in files.items():
        (tmp_path / name).write_bytes(written.content)
        items.append((written.script, run_of(written.script), tmp_path / name))
    for decoded, path, written in zip(decode_in_processes(CHECKPOINTS, items), files,
                                      files.values()):
        assert len(set(decoded)) == 1
        np.testing.assert_array_equal(pixels("%s-1.npy" % (tmp_path / path)), written.pixels)


@pytest.mark.slow
@pytest.mark.parametrize("num_filters,checkpoints,sizes", [
    pytest.param(16, CHECKPOINTS, [(1, 1), (128, 128), (197, 251), (512, 768)], id="golden"),
    pytest.param(32, SHIPPED, [(128, 128), (197, 251)], id="shipped")])
@pytest.mark.parametrize("script,suffix", SUFFIXES)
def test_round_trip(script, suffix, num_filters, checkpoints, sizes, tmp_path):
    """In fresh processes, from the file and the model alone: the pixels that were evaluated."""
    images = [write_image(tmp_path / ("%dx%d.png" % size), *size) for size in sizes]
    np.save(tmp_path / "four.npy", np.load(NPY)[:, :80, :64].repeat(2, axis=0))
    images.append(tmp_path / "four.npy")
    run_name, items, expected = run_of(script, num_filters), [], []
    for image in images:
        file = tmp_path / (image.name + suffix)
        with reported_pixels() as reported:
            results = compress(script, tmp_path, image, *FAST[script], run_name=run_name,
                               output=file, checkpoints=checkpoints)
        expected.append(reported[0])
        items.append((script, run_name, file))
        x, size = pixels(image), os.path.getsize(str(file))
        np.testing.assert_allclose(np.mean((np.float64(reported[0]) - x) ** 2, axis=(1, 2, 3)),
                                   results["mse"], rtol=1e-6)
        assert results["actual_bpp"][0] == 8 * size / x[..., 0].size
        assert len(results["grid_offset"]) == len(x)
        check_size(script, size, results, run_name)
    for decoded, (_, _, file), x_hat in zip(decode_in_processes(checkpoints, items), items,
                                            expected):
        assert len(set(decoded)) == 1
        np.testing.assert_array_equal(pixels("%s-1.npy" % file), x_hat)


@pytest.mark.parametrize("script,reader", [
    ("unoise", "mbt2018"), ("ste", "danneal"), ("bb_plain", "bb_sga")])
def test_any_script_of_the_model_decodes(script, reader, tmp_path):
    """Sizes and pixels of a single image; one script's files are no business of another's."""
    with reported_pixels() as reported:
        results = compress(script, tmp_path, write_image(tmp_path / "x.png", 65, 33),
                           *FAST[script], output=tmp_path / "file")
    check_size(script, os.path.getsize(str(tmp_path / "file")), results, run_of(script))
    np.testing.assert_array_equal(
        decompress(reader, tmp_path / "file", tmp_path / "out.png"), reported[0])


@pytest.mark.parametrize("script", [
    "mbt2018", pytest.param("sga", marks=pytest.mark.slow),
    pytest.param("bb_no_sga", marks=pytest.mark.slow)])
def test_npy_of_several_batches(script, tmp_path, monkeypatch):
    """One file for all of them."""
    images = np.load(NPY)[:, :80, :64].repeat(2, axis=0)
    np.save(tmp_path / "four.npy", images)
    monkeypatch.setattr(nic, "BATCH_PIXELS", 3 * 80 * 64)
    results = compress(script, tmp_path, tmp_path / "four.npy", *FAST[script],
                       output=tmp_path / "file")
    decoded = decompress(script, tmp_path / "file", tmp_path / "out.npy").astype(np.float64)
    np.testing.assert_allclose(np.mean((decoded - images) ** 2, axis=(1, 2, 3)), results["mse"],
                               rtol=1e-6)


def test_write_names_the_file(tmp_path):
    """Beside the image; in a folder of its own for a folder."""
    (tmp_path / "images").mkdir()
    image = write_image(tmp_path / "images" / "a.png", 32, 32)
    compress("sga", tmp_path, image, "--write", "--its", 2)
    compress("mbt2018", tmp_path, tmp_path / "images", "--write")
    assert sorted(os.listdir(tmp_path / "images")) == ["a.png", "a.png.iinc"]
    assert os.listdir(tmp_path / "images.tfci") == ["a.png.tfci"]


def test_long_names_of_runs(tmp_path, fails):
    """The header has room for 255 bytes of script and run; more is an error."""
    image = write_image(tmp_path / "x.png", 16, 16)
    for length in (244, 248):
        name = "lmbda=1".ljust(length, "x")
        os.symlink(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / name))
        argv = ["--checkpoint_dir", tmp_path, "compress", "--results_dir", "", name, image,
                tmp_path / "x.iinc"]
        if length == 244:
            run("map", *argv, *FAST["map"])
            decompress("map", tmp_path / "x.iinc", tmp_path / "out.png", run_name=name,
                       checkpoints=tmp_path)
        else:
            assert "name" in fails("mbt2018", *argv)


# ------------------------------------------------------------------------ the decoder

@pytest.mark.parametrize("script", ["sga", "bb_no_sga"])
def test_a_decoder_is_the_decoder_alone(script, files, tmp_path, monkeypatch):
    """No encoder is built, nor an optimiser but for q, and all of it is on the CPU."""
    built = []
    monkeypatch.setattr(nic, "analysis_transform", built.append)
    if script == "sga":
        monkeypatch.setattr(nic.tf.train, "AdamOptimizer", built.append)
    decoders, make = [], nic.Decoder
    monkeypatch.setattr(nic, "Decoder", lambda *args, **kwargs: decoders.append(
        make(*args, **kwargs)) or decoders[-1])
    name = {"sga": "integer", "bb_no_sga": "bits-back"}[script]
    (tmp_path / "file").write_bytes(files[name].content)
    np.testing.assert_array_equal(decompress(script, tmp_path / "file", tmp_path / "out.npy"),
                                  files[name].pixels)
    (decoder,) = decoders
    operations = decoder.sess.graph.get_operations()
    assert not built and {op.device for op in operations} <= {"", "/device:CPU:0"}
    if script == "sga":
        assert not any(word in op.name for op in operations
                       for word in ("analysis_transform", "gradients", "Adam"))


# ------------------------------------------------------------------------ bits-back chains

def count_fits(monkeypatch):
    """A list that grows with every call of Decoder.fit."""
    fits, fit = [], nic.Decoder.fit
    monkeypatch.setattr(nic.Decoder, "fit", lambda *args: fits.append(1) or fit(*args))
    return fits


def move_first_fit(monkeypatch, move):
    """Move z_mean of the first image of a chain of two, which a decoder comes to last."""
    fits, fit = [], nic.Decoder.fit

    def moved(decoder, y_hat, settings):
        (z_mean, z_logvar), record = fit(decoder, y_hat, settings)
        fits.append(1)
        return (z_mean + move * (len(fits) == 2), z_logvar), record
    monkeypatch.setattr(nic.Decoder, "fit", moved)


def test_no_needless_fits(files, tmp_path, monkeypatch):
    """n images have n - 1 that the decoding of others depends on."""
    compress("bb_no_sga", tmp_path, write_image(tmp_path / "x.png", 32, 32), "--its", 2,
             output=tmp_path / "one")
    (tmp_path / "two").write_bytes(files["bits-back"].content)
    fits = count_fits(monkeypatch)
    decompress("bb_no_sga", tmp_path / "one", tmp_path / "out.png")
    assert not fits
    decompress("bb_no_sga", tmp_path / "two", tmp_path / "out.npy")
    assert len(fits) == 1


@pytest.mark.slow
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
    check_size("bb_no_sga", os.path.getsize(str(tmp_path / "file")), results,
               run_of("bb_no_sga"))


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    """Function: paths of a payload of so many bytes, and of a chain of two with it."""
    def written(length):
        folder = tmp_path_factory.mktemp("payload")
        content = bytes(random.Random(0).randrange(256) for _ in range(length - 4)) + b"\0" * 4
        (folder / "payload").write_bytes(content)
        np.save(folder / "two.npy", np.load(NPY)[:, :80, :64])
        compress("bb_no_sga", folder, folder / "two.npy", *FAST["bb_no_sga"], "--initial_bits",
                 folder / "payload", output=folder / "file")
        return folder / "payload", folder / "file"
    return written


@pytest.mark.parametrize("length", [1000, pytest.param(1001, marks=pytest.mark.slow)])
def test_initial_bits_are_a_payload(length, payload, tmp_path, fails, monkeypatch):
    """They come back, or with a fit that is off by a step of the grid nothing is written."""
    bits, file = payload(length)
    decompress("bb_no_sga", file, tmp_path / "x.npy", "--initial_bits", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bits.read_bytes()
    for move in (nic.GRID, 1.):
        with monkeypatch.context() as patch:
            move_first_fit(patch, move)
            assert "other initial bits" in fails(
                "bb_no_sga", "--checkpoint_dir", CHECKPOINTS, "decompress", "--initial_bits",
                tmp_path / "no", BB_RUN, file, tmp_path / "no.npy")
    assert sorted(os.listdir(str(tmp_path))) == ["out", "x.npy"]


def test_errors_of_initial_bits(files, tmp_path, fails):
    (tmp_path / "file").write_bytes(files["bits-back"].content)
    assert "without --initial_bits" in fails(
        "bb_no_sga", "--checkpoint_dir", CHECKPOINTS, "decompress", "--initial_bits",
        tmp_path / "out", BB_RUN, tmp_path / "file")
    assert os.listdir(str(tmp_path)) == ["file"]
    (tmp_path / "payload").write_bytes(b"\1" * 20)
    assert "20 bytes" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress",
                               "--results_dir", "", "--initial_bits", tmp_path / "payload",
                               BB_RUN, PNG)


# ------------------------------------------------------------------------ the original's files

def differs_by_rounding(one, other):
    """Whether at most 5 values differ, by 1: single precision rounds otherwise, as machines do."""
    difference = abs(np.int32(one) - np.int32(other))
    return difference.max() <= 1 and np.count_nonzero(difference) <= 5


def test_file_of_the_original(tmp_path, capfd, fails):
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, ORIGINAL,
        tmp_path / "out.png")
    assert differs_by_rounding(pixels(tmp_path / "out.png"), pixels(DECODED))
    assert "the original's format" in capfd.readouterr().err
    np.testing.assert_array_equal(decompress("sga", ORIGINAL, tmp_path / "sga.png"),
                                  pixels(tmp_path / "out.png"))
    assert "mbt2018.py" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "decompress", BB_RUN,
                                 ORIGINAL)


@pytest.mark.parametrize("script", [
    pytest.param(script, marks=() if script == "mbt2018" else pytest.mark.slow)
    for script in CENTRED])
def test_the_original_reads_ours(script, tmp_path):
    """What its decoder does, which knows the five features alone and is in single precision."""
    with reported_pixels() as ours:
        compress(script, tmp_path, PNG, *FAST[script], output=tmp_path / "file")
    kinds = [(tf.string, None)] * 2 + [(tf.int32, 2)] * 3
    with tf.Graph().as_default(), tf.Session(config=nic.session_config(2)) as sess:
        tensors = [tf.placeholder(dtype, [length]) for dtype, length in kinds]
        y_string, z_string, x_shape, y_shape, z_shape = tensors
        bottleneck = nic.tfc.EntropyBottleneck(name="entropy_bottleneck", dtype=tf.float32)
        z_hat = bottleneck.decompress(z_string, tf.concat([z_shape, [16]], 0), channels=16)
        _, y_static, z_static = nic.latent_shapes(197, 251)
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
    assert differs_by_rounding(decoded, ours[0][0])


# ------------------------------------------------------------------------ errors

def test_decompress_errors(files, tmp_path, fails):
    for name, written in files.items():
        (tmp_path / name).write_bytes(written.content)

    def decode(script, *argv, checkpoints=CHECKPOINTS):
        return fails(script, "--checkpoint_dir", checkpoints, "decompress", *argv)
    assert "missing" in decode("sga", BASE_RUN, tmp_path / "missing")
    assert "out.png" in decode("sga", BASE_RUN, tmp_path / "integer", tmp_path / "out.png")
    assert "runs in" in decode("sga", "no_such_run", tmp_path / "integer")
    assert "written by sga.py" in decode("bb_plain", BB_RUN, tmp_path / "integer")
    assert "written by mbt2018.py" in decode("bb_plain", BB_RUN, tmp_path / "tfci")
    assert "written by bb_no_sga.py" in decode("danneal", BASE_RUN, tmp_path / "bits-back")
    assert "--initial_bits" in decode("sga", "--initial_bits", "x", BASE_RUN, tmp_path / "integer")
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / "runs" / "other-lmbda=1"))
    line = decode("sga", "other-lmbda=1", tmp_path / "integer", checkpoints=tmp_path / "runs")
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
    assert "weights" in decode("sga", BASE_RUN, tmp_path / "integer",
                               checkpoints=tmp_path / "retrained")
