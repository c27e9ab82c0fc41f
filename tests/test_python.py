"""The compressor without a command line: what goes in and comes out, and errors as exceptions."""

import functools
import os

import numpy as np
import pytest
import tf_boilerplate as nic
import tensorflow.compat.v1 as tf

import bb_sga
import map as map_method
import mbt2018
import sga
import ste
from plumbing import command_line, compressed_files, machine
from conftest import BASE_RUN, BB_RUN, CHECKPOINTS, NPY, compress, write_image


def load(name):
    return nic.load(os.path.join(CHECKPOINTS, name))


@pytest.fixture(scope="module")
def images():
    return np.load(NPY)[:, :64, :80]


@pytest.mark.parametrize("method, name, options", [
    (sga.METHOD, BASE_RUN, dict(its=12)), (mbt2018.METHOD, BASE_RUN, {}),
    (bb_sga.METHOD, BB_RUN, dict(sga_its=3, rate_its=2, rate_samples=2))])
def test_there_and_back(method, name, options, images, tmp_path, capfd, monkeypatch):
    """As on the command line, but nothing is printed; a second call builds no graph."""
    run, told = load(name), []
    compressor = nic.make_compressor(run, method, watchers=[told.append], **options)
    coded = compressor.compress(images)
    np.testing.assert_array_equal(nic.decode(run, coded.content), coded.x_hat)
    assert coded.x_hat.shape == images.shape and coded.x_hat.dtype == np.uint8
    assert coded.y_hat.shape == (2, 4, 5, 16) and coded.z_hat.shape == (2, 1, 2, 16)
    built = []
    monkeypatch.setattr(tf.Graph, "__init__", lambda graph: built.append(graph))
    again = compressor.compress(images[::-1])
    assert not built
    monkeypatch.undo()
    np.testing.assert_allclose(again.results["rd_cost"][::-1], coded.results["rd_cost"], rtol=1e-3)
    assert capfd.readouterr() == ("", "")
    its = options.get("its", options.get("sga_its", 0))
    assert [iteration.t for iteration in told[:its]] == list(range(its))
    assert bool(told) == bool(its) and all("bpp" in iteration.losses for iteration in told)
    for losses in (iteration.losses for iteration in told[:its]):
        np.testing.assert_allclose(losses["rd_loss"], .01 * losses["mse"] + losses["est_bpp"],
                                   rtol=1e-5)
    np.save(tmp_path / "two.npy", images)
    expected = compress(method.infer.__module__, tmp_path, tmp_path / "two.npy", *[
        "--%s=%s" % item for item in options.items()])
    for field, values in coded.results.items():
        np.testing.assert_array_equal(values, expected[field])


def test_the_latents_are_those_of_the_file(images):
    """SGA's are integers; the picture is g_s(y_hat)."""
    run = load(BASE_RUN)
    coded = nic.make_compressor(run, sga.METHOD, its=2, lmbda=.02, script="mine").compress(
        images[:1])
    assert compressed_files.parse_file(coded.content, run).header.script == "mine"
    assert np.all(coded.y_hat % 1 == 0) and np.all(coded.z_hat % 1 == 0)
    decoder = nic.decoder_of(run, 64, 80, None)
    np.testing.assert_array_equal(decoder.picture(coded.y_hat, 0), coded.x_hat)
    assert coded.results["rd_cost"] == pytest.approx(
        .02 * coded.results["mse"] + coded.results["est_bpp"])


def test_presets_and_their_options():
    compressor = nic.make_compressor(load(BASE_RUN), sga.METHOD, preset="fast", its=40)
    assert vars(compressor.options).items() >= dict(sga_its=40, lr=.03, logits="ssl", t0=0).items()
    assert compressor.options.annealing_rate == 2 / 40


@pytest.mark.parametrize("call, message", [
    (lambda run: nic.make_compressor(run, sga.METHOD, itz=3), "no option 'itz'; there are sga_its"),
    (lambda run: nic.make_compressor(run, sga.METHOD, its=0), "its: '0': must be an integer >= 1"),
    (lambda run: nic.make_compressor(run, sga.METHOD, logits="x"), "must be one of atanh"),
    (lambda run: nic.make_compressor(run, sga.METHOD, preset="slow"), "there are fast, thorough"),
    (lambda run: nic.make_compressor(run, bb_sga.METHOD), "is a base model"),
    (lambda run: nic.load("nowhere/at all"), "no checkpoint in"),
    (lambda run: nic.make_compressor(run, mbt2018.METHOD).compress(np.zeros((64, 64, 3))),
     r"images: holds float64 \(64, 64, 3\), accepted is uint8"),
    (lambda run: nic.make_compressor(run, mbt2018.METHOD).compress([1]), "not an array but list"),
    (lambda run: nic.make_compressor(run, sga.METHOD).compress(
        np.zeros((1, 16, 65536, 3), np.uint8)), "sides under 65536"),
    (lambda run: nic.make_compressor(run, sga.METHOD).compress(
        np.zeros((1, 64, 64, 3), np.uint8), b"payload"), "initial_bits: only for models of bits"),
    (lambda run: nic.decode(run, b"not a file"), "not a compressed file")])
def test_errors_are_exceptions(call, message):
    with pytest.raises(nic.UserError, match=message):
        call(load(BASE_RUN))


def test_another_objective(images):
    """The rate alone. Reported is the R-D cost."""
    def rate(lmbda, x, x_tilde, bpp):
        return dict(nic.rd_losses(lmbda, x, x_tilde, bpp), rd_loss=bpp)
    ours, other = (nic.make_compressor(load(BASE_RUN), method, its=20, lr=.05).compress(
        images[:1]).results for method in (sga.METHOD, sga.METHOD._replace(losses=rate)))
    assert other["est_bpp"] < .9 * ours["est_bpp"] and other["mse"] > 1.2 * ours["mse"]
    np.testing.assert_allclose(other["rd_cost"], .01 * other["mse"] + other["est_bpp"])


@pytest.mark.parametrize("method", [map_method.METHOD, ste.METHOD])
def test_the_cost_after_rounding_is_not_finite(method, images):
    """Though the losses before the update are; ste compares it to an infinite one at first."""
    with pytest.raises(nic.UserError, match="it=0: the loss is not finite"):
        nic.make_compressor(load(BASE_RUN), method, its=5, lr=1e7).compress(images[:1])


def test_bits_back_without_options(images):
    def infer(graph, x, options):
        return nic.Unfitted(nic.integer_y(graph, nic.encoder_output(graph, x)).y, nic.Fit(0, 0, 0))
    method = nic.Method(infer, nic.BITS_BACK)
    results = nic.make_compressor(load(BB_RUN), method).compress(images[:1]).results
    assert np.isfinite(results["est_bpp"]) and results["est_bpp_stderr"] > 0


def test_codec_and_records(images):
    run = load(BASE_RUN)
    compressor = nic.make_compressor(run, map_method.METHOD, codec=map_method.METHOD.codecs[1],
                                     keeps_records=True, its=1)
    coded = compressor.compress(images[:1])
    assert compressed_files.parse_file(coded.content, run).codec.suffix == ".iinc"
    assert list(coded.records[0]["its"])[0] == 0


@pytest.mark.parametrize("method", [map_method.METHOD._replace(codecs=nic.INTEGER),
                                    bb_sga.METHOD._replace(infer=lambda graph, x, options:
                                                           nic.Unfitted(np.full((1, 4, 5, 16), .5),
                                                                        nic.Fit(0, 0, 0)))])
def test_latents_that_are_no_integers(method, images):
    run = load(BB_RUN if method.model == "bits-back" else BASE_RUN)
    with pytest.raises(TypeError, match="no integers; Method.infer"):
        nic.make_compressor(run, method, its=1).compress(images[:1])


def test_a_preset_of_what_is_no_option():
    method = sga.METHOD._replace(presets=dict(quick=dict(powr=3)))
    with pytest.raises(TypeError, match="no option: powr"):
        nic.make_compressor(load(BASE_RUN), method, preset="quick")


def test_a_second_descent_is_not_in_the_record(images):
    """It has no cost after rounding; the entries are those of the first, `its` those of the last."""
    def infer(graph, x, options):
        latents = sga.infer(graph, x, options)
        feed = {graph.x: x, graph.T: .1, graph.lr: 1e-3}
        for _ in nic.descend(graph.sess, graph.step, graph.losses, 3,
                             lambda t: {**feed, graph.t: t}, graph.watchers):
            pass
        return latents
    method = sga.METHOD._replace(infer=infer)
    compressor = nic.make_compressor(load(BASE_RUN), method, its=11, keeps_records=True)
    (record,) = compressor.compress(images[:1]).records
    assert record["its"].tolist() == [0, 10] and compressor.record.its == 3


def test_an_option_with_a_hyphen(capfd):
    """Its name is the attribute's."""
    option = nic.Option("--edge-width --ew", nic.positive, 2., "")
    method = sga.METHOD._replace(options=sga.OPTIONS + [option],
                                 presets=dict(wide=dict(edge_width=3.)))
    made = functools.partial(nic.make_compressor, load(BASE_RUN), method)
    assert made().options.edge_width == 2 and made(preset="wide").options.edge_width == 3
    assert made(edge_width=4).options.edge_width == made(ew=4).options.edge_width == 4
    parser = nic.make_parser("own", None, method)
    argv = ["compress", "run", "image.png"]
    args = command_line.parse_arguments(parser, method, argv + ["--edge-width", "5"])
    assert args.options.edge_width == args.changed["edge_width"] == 5
    with pytest.raises(SystemExit):
        parser.parse_args(argv[:1] + ["--help"])
    assert "--wide --edge-width 3.0" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("option, message", [
    (nic.Option("--model", str, "large", ""), "model"), (nic.Option("--mse", float, 1, ""), "mse"),
    (nic.Option("--width", int, None, ""), "--width must be a number or text")])
def test_options_that_results_cannot_have(option, message, tmp_path, monkeypatch):
    """Fields of results have these names already, or can't hold the value."""
    monkeypatch.setattr(mbt2018, "METHOD", mbt2018.METHOD._replace(options=[option]))
    write_image(tmp_path / "image.png", 64, 64)
    with pytest.raises(TypeError, match=message):
        compress("mbt2018", tmp_path, tmp_path / "image.png")


def test_little_memory(images, monkeypatch):
    run = load(BASE_RUN)
    compressor = nic.make_compressor(run, mbt2018.METHOD)
    content = compressor.compress(images).content
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    for call in (lambda: compressor.compress(images), lambda: nic.decode(run, content)):
        with pytest.raises(nic.UserError, match="memory"):
            call()


def test_a_second_image_of_a_shape_builds_nothing(tmp_path, monkeypatch, new_decoders):
    """In a folder of pictures in both orientations, neither graphs nor coders."""
    built, make = [], tf.Graph
    monkeypatch.setattr(tf, "Graph", lambda: built.append(1) or make())
    folder = tmp_path / "images"
    folder.mkdir()
    counts = []
    for number in (2, 6):
        for i in range(number):
            write_image(folder / ("%d.png" % i), *((64, 80) if i % 2 else (80, 64)))
        nic.kept_decoder.cache_clear()
        nic.kept_range_coder.cache_clear()
        nic.kept_compressor.cache_clear()
        del built[:]
        compress("mbt2018", tmp_path / str(number), folder)
        counts.append(len(built))
    assert counts[0] == counts[1] == 4  # two of the method, the decoder, the range coder
