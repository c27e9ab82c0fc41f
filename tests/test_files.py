"""Compressed files: what compress wrote, decompress turns back into what was evaluated."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tf_boilerplate as nic
from plumbing import basics, fileformat, grid, runs
import tensorflow.compat.v1 as tf

from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, FAST, GOLDEN, KINDS, NPY, PNG, ROOT,
                      ORIGINAL, SHIPPED, SHIPPED_FILTERS, compress, decompress, pixels,
                      reported_pixels, run, run_of, write_image)

DECODED = os.path.join(GOLDEN, "tfci", "face-197x251-decoded.png")
CENTRED = ("mbt2018", "map", "unoise")
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


def decode_in_processes(checkpoints, items, threads=(1, 4)):
    """Decode all (script, run name, path), with each number of threads in a process of its own.

    A process has the threads of its first session. Returns a list over the items of sets of what
    the decoded files are, bytes.
    """
    processes = [subprocess.Popen(
        [sys.executable, "-c", DECODE_ALL.format(root=ROOT), str(number), checkpoints]
        + [str(word) for item in items for word in item], stdout=subprocess.DEVNULL)
        for number in threads]
    assert not any([process.wait() for process in processes])
    decoded = []
    for _, _, path in items:
        decoded.append(set())
        for number in threads:
            with open("%s-%d.npy" % (path, number), "rb") as file:
                decoded[-1].add(file.read())
    return decoded


def check_size(script, size, results, run_name, suffix=".iinc"):
    """The file is as small as its coder promises."""
    pixels_each = 8 * size / results["actual_bpp"][0] / len(results["est_bpp"])
    estimate = results["est_bpp"].sum() * pixels_each / 8
    if suffix == ".tfci":
        limit = estimate * 1.02 + 192
    elif script not in BITS_BACK:
        limit = estimate * 1.005 + 96
    else:
        net = results["net_bpp"][0] * len(results["est_bpp"]) * pixels_each / 8
        limit = net * 1.02 + results["popped_z_bits"][0] / 8 + 96
    assert size <= limit + len(run_name)


@pytest.mark.slow
@pytest.mark.parametrize("num_filters, checkpoints, scripts", [
    (16, CHECKPOINTS, FAST), (SHIPPED_FILTERS, SHIPPED, KINDS)], ids=["golden", "shipped"])
def test_round_trip(num_filters, checkpoints, scripts, tmp_path):
    """In fresh processes, from the file and the model alone: the pixels that were evaluated."""
    image, four = write_image(tmp_path / "image.png", 197, 251), tmp_path / "four.npy"
    np.save(four, np.load(NPY)[:, :80, :64].repeat(2, axis=0))
    lines = [(script, suffix, image) for script, suffix in SUFFIXES if script in scripts]
    if num_filters == 16:
        lines += [(script, ".iinc", four) for script in KINDS]
    items, expected = [], []
    for script, suffix, image in lines:
        run_name, file = run_of(script, num_filters), tmp_path / (script + image.name + suffix)
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
        check_size(script, size, results, run_name, suffix)
    for decoded, (_, _, file), x_hat in zip(decode_in_processes(checkpoints, items), items,
                                            expected):
        assert len(decoded) == 1, file
        np.testing.assert_array_equal(pixels("%s-1.npy" % file), x_hat, err_msg=str(file))


@pytest.mark.slow
@pytest.mark.parametrize("script", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (512, 768)])
def test_small_and_large_images(script, size, tmp_path):
    with reported_pixels() as reported:
        results = compress(script, tmp_path, write_image(tmp_path / "x.png", *size),
                           *FAST[script], output=tmp_path / "file.iinc")
    check_size(script, os.path.getsize(str(tmp_path / "file.iinc")), results, run_of(script))
    np.testing.assert_array_equal(
        decompress(script, tmp_path / "file.iinc", tmp_path / "out.png"), reported[0])


@pytest.mark.parametrize("script,reader", [
    ("ste", "mbt2018"), ("bb_plain", "bb_sga"),
    pytest.param("unoise", "danneal", marks=pytest.mark.slow)])
def test_any_script_of_the_model_decodes(script, reader, tmp_path, monkeypatch):
    """A single image, without any fit of q."""
    with reported_pixels() as reported:
        results = compress(script, tmp_path, write_image(tmp_path / "x.png", 65, 33),
                           *FAST[script], output=tmp_path / "file")
    check_size(script, os.path.getsize(str(tmp_path / "file")), results, run_of(script),
               ".tfci" if script in CENTRED else ".iinc")
    monkeypatch.delattr(nic.BitsBackDecoder, "fit")
    np.testing.assert_array_equal(
        decompress(reader, tmp_path / "file", tmp_path / "out.png"), reported[0])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_no_sga"])
def test_npy_of_several_batches(script, tmp_path, monkeypatch):
    """One file for all of them."""
    images = np.load(NPY)[:, :80, :64].repeat(2, axis=0)
    np.save(tmp_path / "four.npy", images)
    monkeypatch.setattr(fileformat, "BATCH_PIXELS", 3 * 80 * 64)
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
    for name in ("1", "2"):
        (tmp_path / "years" / name).mkdir(parents=True)
        write_image(tmp_path / "years" / name / (name + ".png"), 32, 32)
    compress("mbt2018", tmp_path, tmp_path / "years" / "*" / "*.png", "--write")
    assert sorted(os.listdir(tmp_path / "years.tfci")) == ["1.png.tfci", "2.png.tfci"]


def test_names_that_the_header_has_no_room_for():
    run = runs.find_run(CHECKPOINTS, BASE_RUN)
    fileformat.pack_header("integer", "sga", run._replace(name="x" * 251), b"", [])
    with pytest.raises(basics.UserError, match="256"):
        fileformat.pack_header("integer", "sga", run._replace(name="x" * 252), b"", [])


# ------------------------------------------------------------------------ the decoder

@pytest.mark.parametrize("script", ["sga", "bb_no_sga"])
def test_a_decoder_is_the_decoder_alone(script, files, tmp_path, monkeypatch, new_decoders):
    """No encoder is built, nor an optimiser but for q, and all of it is on the CPU."""
    built = []
    monkeypatch.setattr(nic, "analysis_transform", built.append)
    if script == "sga":
        monkeypatch.setattr(nic.tf.train, "AdamOptimizer", built.append)
    decoders, make = [], nic.decoder_of
    monkeypatch.setattr(nic, "decoder_of", lambda *args, **kwargs: decoders.append(
        make(*args, **kwargs)) or decoders[-1])
    name = {"sga": "integer", "bb_no_sga": "bits-back"}[script]
    (tmp_path / "file").write_bytes(files[name].content)
    np.testing.assert_array_equal(decompress(script, tmp_path / "file", tmp_path / "out.npy"),
                                  files[name].pixels)
    (decoder,) = decoders
    operations = decoder.sess.graph.get_operations()
    assert not built and {op.device for op in operations} <= {"", "/device:CPU:0"}
    assert {op.device for op in operations if op.type in ("Conv2D", "Erfc")} == {"/device:CPU:0"}
    if script == "sga":
        assert not any(word in op.name for op in operations
                       for word in ("analysis_transform", "gradients", "Adam"))


# ------------------------------------------------------------------------ bits-back chains

def test_no_needless_fits(files, tmp_path, monkeypatch):
    """Of n images n - 1 have a q that the decoding of others depends on."""
    fits, fit = [], nic.BitsBackDecoder.fit
    monkeypatch.setattr(nic.BitsBackDecoder, "fit", lambda *args: fits.append(1) or fit(*args))
    (tmp_path / "file").write_bytes(files["bits-back"].content)
    decompress("bb_no_sga", tmp_path / "file", tmp_path / "out.npy")
    assert len(fits) == len(files["bits-back"].pixels) - 1


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
    """They come back; if the last fit of q is off by a step of the grid, nothing is written."""
    bits, file = payload(length)
    fit, fits = nic.BitsBackDecoder.fit, []
    decompress("bb_no_sga", file, tmp_path / "x.npy", "--initial_bits", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bits.read_bytes()
    for move in (grid.GRID, 1.):
        def moved(decoder, y_hat, settings):
            latents, record = fit(decoder, y_hat, settings)
            fits.append(1)
            if len(fits) % 2 == 0:
                latents = latents._replace(z_mean=latents.z_mean + move)
            return latents, record
        monkeypatch.setattr(nic.BitsBackDecoder, "fit", moved)
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
    for payload, message in ((b"\1" * 20, "20 bytes"), (b"", "is empty")):
        (tmp_path / "payload").write_bytes(payload)
        assert message in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress",
                                "--results_dir", "", "--initial_bits", tmp_path / "payload",
                                BB_RUN, PNG)


# ------------------------------------------------------------------------ the original's files

def differs_by_rounding(one, other):
    """Whether at most 20 values differ, by 1: single precision rounds otherwise, as machines do."""
    difference = abs(np.int32(one) - np.int32(other))
    return difference.max() <= 1 and np.count_nonzero(difference) <= 20


def test_file_of_the_original(tmp_path, capfd, fails):
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, ORIGINAL,
        tmp_path / "out.png")
    assert differs_by_rounding(pixels(tmp_path / "out.png"), pixels(DECODED))
    assert "the original's format" in capfd.readouterr().err
    np.testing.assert_array_equal(decompress("sga", ORIGINAL, tmp_path / "sga.png"),
                                  pixels(tmp_path / "out.png"))
    assert "mbt2018.py" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "decompress", BB_RUN,
                                 ORIGINAL)


@pytest.mark.slow
@pytest.mark.parametrize("script", CENTRED)
def test_the_original_reads_ours(script, tmp_path):
    """What its decoder does, which knows the five features alone and is in single precision."""
    with reported_pixels() as ours:
        compress(script, tmp_path, PNG, *FAST[script], output=tmp_path / "file")
    kinds = [(tf.string, None)] * 2 + [(tf.int32, 2)] * 3
    with tf.Graph().as_default(), tf.Session(config=runs.session_config(2)) as sess:
        tensors = [tf.placeholder(dtype, [length]) for dtype, length in kinds]
        y_string, z_string, x_shape, y_shape, z_shape = tensors
        bottleneck = nic.tfc.EntropyBottleneck(name="entropy_bottleneck", dtype=tf.float32)
        z_hat = bottleneck.decompress(z_string, tf.concat([z_shape, [16]], 0), channels=16)
        _, y_static, z_static = fileformat.latent_shapes(197, 251)
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
    decoded = decompress("sga", tmp_path / "integer", tmp_path / "renamed.npy",
                         run_name="other-lmbda=1", checkpoints=tmp_path / "runs")
    np.testing.assert_array_equal(decoded, files["integer"].pixels)  # the weights are the same
    retrained = tmp_path / "retrained" / BASE_RUN
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(retrained))
    with tf.Graph().as_default(), tf.Session() as sess:
        reader = tf.train.load_checkpoint(os.path.join(CHECKPOINTS, BASE_RUN))
        for name in reader.get_variable_to_shape_map():
            tf.Variable(reader.get_tensor(name) + (name == "synthesis_transform/layer_3/bias"),
                        name=name)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, str(retrained / "model.ckpt-3000"))
    assert "weights" in decode("sga", BASE_RUN, tmp_path / "integer",
                               checkpoints=tmp_path / "retrained")
    retrained.rename(retrained.parent / "other-lmbda=1")
    line = decode("sga", "other-lmbda=1", tmp_path / "integer", checkpoints=retrained.parent)
    assert BASE_RUN in line and "other-lmbda=1" in line
