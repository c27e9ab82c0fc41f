"""A file decodes to the same pixels on other machines, and by another program."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tf_boilerplate as nic
from plumbing import grid

import second_decoder
from conftest import (BASE_RUN, CHECKPOINTS, FAST, NPY, ROOT, compress, decompress, load, pixels,
                      reported_pixels, run_of, write_image)

pytestmark = pytest.mark.usefixtures("new_decoders")
IINC = [("centred", "map"), ("integer", "sga"), ("bits-back", "bb_no_sga")]


# ------------------------------------------------------------------------ numbers near edges

@pytest.mark.parametrize("suffix,script,margin", [
    (".iinc", "sga", 5e-6), pytest.param(".iinc", "bb_no_sga", 1e-6, marks=pytest.mark.slow),
    pytest.param(".iinc", "map", 5e-6, marks=pytest.mark.slow),
    pytest.param(".tfci", "map", 5e-6, marks=pytest.mark.slow)])
def test_images_whose_first_offset_fails(suffix, script, margin, tmp_path, monkeypatch):
    """With a wide margin most do; each image has its own offset, and results say which."""
    monkeypatch.setattr(grid, "EDGE", margin)
    monkeypatch.setattr(grid, "PIXEL_EDGE", 1e-5)
    images = np.load(NPY)[:, :80, :64]
    np.save(tmp_path / "four.npy", np.concatenate([images, images[:, ::-1]]))
    with reported_pixels() as reported:
        results = compress(script, tmp_path, tmp_path / "four.npy", *FAST[script],
                           output=tmp_path / ("file" + suffix))
    offsets = results["grid_offset"]
    assert offsets.shape == (4,) and len(set(offsets)) > 1, offsets
    monkeypatch.undo()
    np.testing.assert_array_equal(
        decompress(script, tmp_path / ("file" + suffix), tmp_path / "out.npy"), reported[0])


@pytest.mark.parametrize("is_encoder", [True, False])
def test_a_pixel_next_to_an_edge_moves_the_grid(is_encoder):
    """Of an encoder alone: a decoder must take what the file says."""
    decoder = nic.decoder_of(nic.load(os.path.join(CHECKPOINTS, BASE_RUN)), 16, 16, 1, is_encoder)
    pixels = np.full((1, 16, 16, 3), 7.5 + 1e-10)
    decoder.sess = argparse.Namespace(run=lambda *args: pixels)
    with pytest.raises(grid.NearEdge) if is_encoder else contextlib.nullcontext():
        decoder.picture(np.zeros((1, 1, 1, 16)), 0)


# ------------------------------------------------------------------------ other machines

@pytest.fixture
def on_another_machine(monkeypatch):
    """Function: what decoders compute is moved by as much as that, up or down, from now on."""
    def move(size):
        noise, make = np.random.RandomState(0), nic.Decoder.__init__

        def moved(value):
            if getattr(value, "dtype", None) != np.float64:
                return value
            return value + size * noise.choice([-1, 1], np.shape(value))

        def initialise(decoder, *args, **kwargs):
            make(decoder, *args, **kwargs)
            compute = decoder.sess.run
            decoder.sess.run = lambda *args: tf.nest.map_structure(moved, compute(*args))
        monkeypatch.setattr(nic.Decoder, "__init__", initialise)
        nic.kept_decoder.cache_clear()
    return move


@pytest.mark.parametrize("name", ["tfci", "centred", "integer", "bits-back"])
def test_numbers_that_differ_by_rounding(name, files, tmp_path, on_another_machine):
    """Pixels, mu, log sigma, p(z) and q may all be off by 1e-12."""
    (tmp_path / "file").write_bytes(files[name].content)
    on_another_machine(1e-12)
    np.testing.assert_array_equal(
        decompress(files[name].script, tmp_path / "file", tmp_path / "out.npy"),
        files[name].pixels)


@pytest.mark.parametrize("kind,script", [
    pytest.param(*item, marks=() if item[0] == "integer" else pytest.mark.slow) for item in IINC])
def test_numbers_that_differ_by_more_are_noticed(kind, script, tmp_path, fails,
                                                 on_another_machine):
    """The margin of a large image's many numbers is hardly ever 1e-6."""
    image = np.asarray(pixels(write_image(tmp_path / "x.png", 512, 512)))
    np.save(tmp_path / "x.npy", np.concatenate([image, image[:, ::-1]])[:1 + (kind != "integer")])
    with reported_pixels() as reported:
        compress(script, tmp_path, tmp_path / "x.npy", *FAST[script], output=tmp_path / "x.iinc")
    on_another_machine(1e-12)
    np.testing.assert_array_equal(
        decompress(script, tmp_path / "x.iinc", tmp_path / "out.npy"), reported[0])
    on_another_machine(1e-6)
    line = fails(script, "--checkpoint_dir", CHECKPOINTS, "decompress", run_of(script),
                 tmp_path / "x.iinc", tmp_path / "out.npy")
    assert "other latents" in line and "a .tfci" not in line


# Runs the command lines of its argument, a list in JSON of [script, words...]; a forecast by the
# rate of an emulated processor takes as long as all else.
RUN_ALL = """
import importlib, json, sys
sys.path.insert(0, {root!r})
from plumbing import tasks
tasks.matrix_rate = lambda: 1e9
for script, *words in json.loads(sys.argv[1]):
    importlib.import_module(script).main(words)
"""


def start(cpu, lines):
    """Process of command lines on an emulated processor; qemu warns a lot."""
    return subprocess.Popen(
        ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", RUN_ALL.format(root=ROOT),
         json.dumps([list(map(str, line)) for line in lines])],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"),
                    reason="emulates processors: apt-get install qemu-user")
def test_other_processors(tmp_path):
    """Files decode with AVX2, and with AVX alone, and one that was written there decodes here.

    Of bits-back a chain, whose second q is fitted: with AVX alone only that, as its fit is what
    small differences would change first.
    """
    images, expected, lines = np.load(NPY)[:, :64, :64], {}, {"Haswell": [], "SandyBridge": []}
    for kind, script in IINC:
        np.save(tmp_path / "x.npy", images if kind == "bits-back" else images[:1])
        with reported_pixels() as reported:
            compress(script, tmp_path, tmp_path / "x.npy", *FAST[script], output=tmp_path / kind)
        for cpu in lines if kind == "bits-back" else ["Haswell"]:
            expected[tmp_path / ("%s-%s.npy" % (cpu, kind))] = reported[0]
            lines[cpu].append([script, "--checkpoint_dir", CHECKPOINTS, "decompress",
                               run_of(script), tmp_path / kind, list(expected)[-1]])
    image = write_image(tmp_path / "x.png", 64, 64)
    lines["Haswell"].append(
        ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
         tmp_path / "there", BASE_RUN, image, tmp_path / "file.iinc"])
    processes = [start(*item) for item in lines.items()]
    assert [process.wait() for process in processes] == [0, 0]
    for path, picture in expected.items():
        np.testing.assert_array_equal(pixels(path), picture)
    (results,) = (tmp_path / "there").glob("rd-*.npz")
    decoded = np.float64(decompress("sga", tmp_path / "file.iinc", tmp_path / "out.png"))
    assert np.mean((decoded - pixels(image)) ** 2) == pytest.approx(load(results)["mse"][0],
                                                                    rel=1e-7)


# ------------------------------------------------------------------------ another program

@pytest.fixture(scope="module")
def second():
    """Function: pixels of an .iinc by the second decoder, and the noise that it asked for."""
    def decode(content, run_name):
        reader = tf.train.load_checkpoint(os.path.join(CHECKPOINTS, run_name))
        weights = {name: np.float64(reader.get_tensor(name))
                   for name in reader.get_variable_to_shape_map() if name != "global_step"}
        asked = []

        def noise(shape, seed, number):
            asked.append((seed, number))
            with tf.Graph().as_default(), tf.Session() as sess:
                return sess.run(tf.random.stateless_normal(shape, [seed, number], dtype=tf.float64))
        return second_decoder.decode(content, weights, noise), asked
    return decode


@pytest.mark.parametrize("name", ["centred", "integer", "bits-back"])
def test_second_decoder(name, files, second):
    decoded, _ = second(files[name].content, run_of(files[name].script))
    np.testing.assert_array_equal(decoded, files[name].pixels)


def test_second_decoder_repeats_the_fit(second, tmp_path):
    """Of every image but the first, with the seed of the file."""
    images = np.load(NPY)[:, :70, :33]
    np.save(tmp_path / "three.npy", np.concatenate([images, images[:1, ::-1]]))
    with reported_pixels() as reported:
        compress("bb_no_sga", tmp_path, tmp_path / "three.npy", "--its", 3, "--seed", 7,
                 "--rate_samples", 2, "--lr", .03, output=tmp_path / "file")
    decoded, asked = second((tmp_path / "file").read_bytes(), run_of("bb_no_sga"))
    np.testing.assert_array_equal(decoded, reported[0])
    assert asked == 2 * [(7, 1), (7, 3), (7, 5)]


@pytest.mark.slow
def test_second_decoder_of_a_tall_image(second, tmp_path):
    """Which our decoder has in strips."""
    image = write_image(tmp_path / "x.png", 600, 40)
    with reported_pixels() as reported:
        compress("sga", tmp_path, image, *FAST["sga"], output=tmp_path / "file")
    decoded, _ = second((tmp_path / "file").read_bytes(), run_of("sga"))
    np.testing.assert_array_equal(decoded, reported[0])
