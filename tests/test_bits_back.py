"""The bits-back model: its prior, its golden numbers, and what a decoder must repeat exactly."""

import argparse
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tf_boilerplate as nic
from plumbing import bits_back, compressed_files, fileformat, grid, runs
import tensorflow.compat.v1 as tf

import bb_no_sga
from conftest import (BB_RUN, CHECKPOINTS, FAST, IMAGES, NPY, PNG, ROOT, TINY, compress, golden,
                      load, parsed, pixels, require_golden, write_image)

SCRIPTS = ("bb_sga", "bb_no_sga", "bb_plain")


@pytest.mark.parametrize("image", [NPY, PNG], ids=["npy", "png"])
@pytest.mark.parametrize("script", ["bb_no_sga", "bb_plain"])
def test_golden_rates(script, image, results):
    found, runs = results(script, image), golden(image, script)["runs"]
    np.testing.assert_allclose(found["psnr"], runs[0]["psnr"], rtol=1e-4)
    require_golden(found, image, script, "est_bpp", "est_y_bpp")
    for field in ("est_z_bpp", "est_bpp_back"):  # of single draws, which differ more
        np.testing.assert_allclose(found[field], np.mean([one[field] for one in runs], axis=0),
                                   rtol=.05)


@pytest.mark.slow
@pytest.mark.parametrize("image", [NPY, PNG], ids=["npy", "png"])
def test_golden_cost_of_bb_sga(image, results):
    require_golden(results("bb_sga", image), image, "bb_sga", "rd_cost", "est_bpp", "psnr")


@pytest.mark.slow
@pytest.mark.parametrize("image", [NPY, PNG], ids=["npy", "png"])
def test_order_of_methods(image, results):
    sga, no_sga, plain = (results(script, image)["rd_cost"] for script in SCRIPTS)
    assert np.all(sga < no_sga) and np.all(no_sga <= plain)


@pytest.mark.parametrize("image", IMAGES)
def test_reported_rate_is_a_mean_over_draws(image, results, tmp_path):
    few = results("bb_plain", image)
    many = compress("bb_plain", tmp_path, image, "--rate_samples", 400, "--seed", 1)
    np.testing.assert_allclose(few["est_bpp"], few["est_y_bpp"] + few["est_z_bpp"]
                               - few["est_bpp_back"], rtol=1e-5)
    error = np.hypot(few["est_bpp_stderr"], many["est_bpp_stderr"])
    assert np.all(abs(few["est_bpp"] - many["est_bpp"]) < 4 * error)
    ratio = few["est_bpp_stderr"] / many["est_bpp_stderr"]
    assert np.all((1.5 < ratio) & (ratio < 15))  # 5, but for the noise of few draws
    coded = few["pushed_y_bits"] + few["pushed_z_bits"] - few["popped_z_bits"]
    assert few["net_bpp"][0] == pytest.approx(coded.sum() / pixels(image)[..., 0].size)
    of_one_draw = np.linalg.norm(few["est_bpp_stderr"] * 16 ** .5) / len(few["est_bpp"])
    assert abs(few["net_bpp"][0] - few["est_bpp"].mean()) < 4 * of_one_draw


def test_reported_draws_are_new_ones(tmp_path, monkeypatch):
    """Of iterations after those of both phases."""
    seen, rates_of = [], nic.BitsBackDecoder.sampled_rates

    def sampled_rates(decoder, latents, seed, iterations):
        seen.append((seed, iterations, rates_of(decoder, latents, seed, iterations)["est_bpp"]))
        return rates_of(decoder, latents, seed, iterations)
    monkeypatch.setattr(nic.BitsBackDecoder, "sampled_rates", sampled_rates)
    for its, rate_its in ((2, 5), (5, 2)):
        found = compress("bb_sga", tmp_path / str(its), TINY, "--its", its, "--rate_its", rate_its,
                         "--rate_samples", 3, "--seed", 7)
        seed, iterations, draws = seen.pop()
        assert (seed, list(iterations)) == (7, [5, 6, 7]) and found["est_bpp"] == draws.mean()
        assert found["est_bpp_stderr"] == pytest.approx(np.std(draws, ddof=1) / 3 ** .5)


# ------------------------------------------------------------------------ fit of q

@pytest.fixture(scope="module")
def y_hat():
    """[2, 1, h, w, N]: of two images, each of which is fitted alone."""
    run, images = runs.find_run(CHECKPOINTS, BB_RUN), np.load(NPY)
    options = parsed("bb_no_sga")
    graph = nic.inference_graph(bb_no_sga.METHOD, run, images.shape, options, .01, threads=2)
    return bb_no_sga.infer(graph, images, options).y[:, None]


def decoder_of_npy(threads=2):
    return nic.decoder_of(runs.find_run(CHECKPOINTS, BB_RUN), 192, 256, threads)


def fit(decoder, y_hat, its):
    """q of every image, and the rates of all, means over 16 draws of z."""
    fitted = [decoder.fit(y, fileformat.Fit(its, 5e-3, 0))[0] for y in y_hat]
    rates = [decoder.sampled_rates(latents, 0, range(1000, 1016)) for latents in fitted]
    means = {name: np.array([rate[name].mean() for rate in rates]) for name in rates[0]}
    return [latents[1:] for latents in fitted], means


def test_fit_of_q_lowers_the_rates_of_y_and_z(y_hat):
    decoder = decoder_of_npy()
    (_, start), (_, rates) = fit(decoder, y_hat, 0), fit(decoder, y_hat, 200)
    assert np.all(rates["est_bpp"] < start["est_bpp"])
    assert np.all(rates["est_y_bpp"] <= start["est_y_bpp"])


FIT_IN_A_PROCESS = """
import sys
import numpy as np
sys.path[:0] = {paths!r}
import test_bits_back as t
y_hat = np.load(sys.argv[1])
np.save(sys.argv[1], t.fit(t.decoder_of_npy(threads=1), y_hat[::-1], 30)[0][::-1])
"""


def test_a_decoder_repeats_the_fit(y_hat, tmp_path):
    """In another process, with another number of threads, and in another order."""
    path = str(tmp_path / "y.npy")
    np.save(path, y_hat)
    subprocess.run([sys.executable, "-c",
                    FIT_IN_A_PROCESS.format(paths=[ROOT, os.path.dirname(__file__)]), path],
                   check=True, stdout=subprocess.DEVNULL)
    repeated = np.load(path)
    assert repeated.dtype == np.float64 and repeated.std() > .1
    np.testing.assert_allclose(repeated, fit(decoder_of_npy(), y_hat, 30)[0], rtol=0,
                               atol=grid.EDGE / 100)


@pytest.mark.parametrize("script", ["bb_sga", "bb_no_sga"])
def test_a_file_tells_the_decoder_how_to_fit(script, tmp_path):
    file = tmp_path / "x.iinc"
    compress(script, tmp_path, write_image(tmp_path / "x.png", 64, 64), *FAST[script],
             "--rate_its", 3, "--rate_lr", .01, "--seed", 5, output=file)
    parsed_file = compressed_files.parse_file(file.read_bytes(), runs.find_run(CHECKPOINTS, BB_RUN))
    assert parsed_file.file.fit == (3, pytest.approx(.01), 5)


def test_the_noise_of_z_is_the_same_for_every_image():
    with tf.Graph().as_default(), tf.Session() as sess:
        y, z = tf.zeros([2, 4, 8, 8]), tf.zeros([2, 1, 2, 8])
        _, _, z_tilde, _, _ = nic.bits_back_rates(y, z, z, nic.noise_key(0, 0, 1), (2, 64, 128, 3))
        sess.run(tf.global_variables_initializer())
        first, second = sess.run(z_tilde)
    assert np.std(first) > .5
    np.testing.assert_array_equal(first, second)


def test_fit_sees_y_hat_alone(y_hat):
    """Not what was fitted before it: the start is h_a(y_hat), and Adam forgets."""
    decoder = decoder_of_npy()
    first, second = (np.array(decoder.fit(y, fileformat.Fit(5, 5e-3, 0))[0][1:]) for y in y_hat)
    assert abs(first - second).max() > .1
    np.testing.assert_array_equal(decoder.fit(y_hat[0], fileformat.Fit(5, 5e-3, 0))[0][1:], first)


def test_all_of_q_is_coded():
    """Outside of the range of z is less than 1e-14 of the mass of q, in any element."""
    random = np.random.RandomState(0)
    z_mean, z_logvar = random.normal(0, 3, (1, 2, 2, 4)), random.normal(-4, 1, (1, 2, 2, 4))
    std = np.exp(.5 * z_logvar) / bits_back.Z_WIDTH
    for mean in (z_mean / bits_back.Z_WIDTH, 0 * z_mean):
        low, high = bits_back.posterior_range(mean * bits_back.Z_WIDTH, z_logvar)
        tails = [math.erfc(distance / 2 ** .5) for distance in np.ravel(
            [(mean - low + .5) / std, (high + .5 - mean) / std])]
        assert max(tails) < 1e-14


def test_record(tmp_path):
    np.save(tmp_path / "two.npy", np.load(NPY)[:, :80, :64])
    compress("bb_sga", tmp_path, tmp_path / "two.npy", "--save_opt_record", "--its", 21,
             "--rate_its", 11)
    (path,) = (tmp_path / "results").glob("opt-*")
    record = load(path)
    assert list(record["rate_its"]) == [0, 10] and record["rate"].shape == (2, 2)
    assert list(record["its"]) == [0, 10, 20, 20] and record["rd_loss"].shape == (4, 2)
    compress("bb_no_sga", tmp_path / "no_sga", tmp_path / "two.npy", "--save_opt_record",
             "--its", 21)
    (path,) = (tmp_path / "no_sga" / "results").glob("opt-*")
    assert set(load(path)) == {"rate_its", "rate"}


# ------------------------------------------------------------------------ p(z)

@pytest.fixture(scope="module")
def prior():
    """Function of z [n, N] to (logits of the CDF, density) of the golden model."""
    run = runs.find_run(CHECKPOINTS, BB_RUN)
    with tf.Graph().as_default() as graph:
        z = tf.placeholder(tf.float32, [None, run.num_filters])
        values = nic.factorized_prior(run.num_filters)(z)
        sess = runs.restored_session(graph, run, runs.session_config(2))
    return lambda points: [v.astype(np.float64) for v in sess.run(values, {
        z: np.tile(np.asarray(points, np.float32)[:, None], run.num_filters)})]


def test_density_integrates_to_one(prior):
    points = np.linspace(-300, 300, 600001)
    _, density = prior(points)
    np.testing.assert_allclose(np.trapz(density, points, axis=0), 1, atol=1e-3)


def test_density_is_the_derivative_of_the_cdf(prior):
    points, step = np.linspace(-8, 8, 401), 2.0 ** -6
    sigmoid = lambda logits: 1 / (1 + np.exp(-logits))
    _, density = prior(points)
    slope = (sigmoid(prior(points + step)[0]) - sigmoid(prior(points - step)[0])) / (2 * step)
    np.testing.assert_allclose(density, slope, atol=2e-3 * density.max())


def test_far_tails_are_finite(prior):
    logits, density = prior([-1e30, -1e6, -1e3, 1e3, 1e6, 1e30])
    assert np.isfinite(logits).all() and np.isfinite(density).all()
    assert np.all(density >= 1e-9 * (1 - 1e-6))


def test_model_of_the_original_has_the_same_variables():
    """The prior's variables have no scope, and none of the bottleneck's are there."""
    names = dict(tf.train.list_variables(os.path.join(CHECKPOINTS, BB_RUN)))
    with tf.Graph().as_default():
        nic.factorized_prior(16)
        own = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    assert own == {name: shape for name, shape in names.items() if name.split("_")[0] in
                   ("matrix", "bias", "factor") and "Adam" not in name and "/" not in name}


def test_a_picture_without_a_file_may_be_next_to_an_edge():
    """Where another machine may round a pixel otherwise, the grid is shifted, as for files."""
    def picture(y, offset):
        if offset < 3:
            raise grid.NearEdge
        return offset
    decoder = argparse.Namespace(z_shape=(2,), picture=picture)
    encoded = bits_back.uncoded(decoder, [argparse.Namespace(y=np.zeros(3))], [], "why")
    assert encoded.images[0].x_hat == 3 and encoded.uncodable == "why"


def test_rates_of_latents_that_no_coder_takes(tmp_path, monkeypatch, fails, capfd):
    """As of a model that was trained little: all but the file's size, which only files need."""
    options = ["--rate_samples", 2]
    expected = compress("bb_plain", tmp_path / "coded", TINY, *options)
    monkeypatch.setattr(fileformat, "MAX_Z_VALUES", 4)
    found = compress("bb_plain", tmp_path, TINY, *options)
    assert found.keys() == expected.keys() and np.isnan(found["actual_bpp"]).all()
    for name in ("est_bpp", "est_y_bpp", "est_z_bpp", "rd_cost", "psnr"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-2)
    assert "note: %s: can't be coded, actual_bpp is nan: the highest z is" % os.path.basename(
        TINY) in capfd.readouterr().err
    assert "the highest z is" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS, "compress",
                                       *options, "--results_dir", "", BB_RUN, TINY,
                                       tmp_path / "x.iinc")
    assert not (tmp_path / "x.iinc").exists()
