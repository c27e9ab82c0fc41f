"""Numbers of the original implementation on its own checkpoints."""

import importlib
import itertools
import math

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tf_boilerplate as nic

from conftest import IMAGES, NPY, PNG, compress, golden, require_golden


@pytest.mark.parametrize("image", [NPY, PNG], ids=["npy", "png"])
def test_mbt2018(image, results):
    expected = golden(image, "mbt2018")["runs"][0]
    results = results("mbt2018", image)
    for field in ("est_bpp", "est_y_bpp", "est_z_bpp", "mse", "psnr", "msssim"):
        np.testing.assert_allclose(results[field], expected[field], rtol=1e-4, err_msg=field)
    np.testing.assert_allclose(results["rd_cost"], expected["rd_cost"], rtol=1e-4)
    # Our header is 100 bytes of the file, which is counted.
    pixels = {NPY: 192 * 256, PNG: 197 * 251}[image]
    header = 8 * 100 / pixels
    assert results["batch_actual_bpp"] == pytest.approx(
        np.array(expected["batch_actual_bpp"]) + header, abs=8 * 4 / pixels)
    assert results["avg_batch_actual_bpp"] == pytest.approx(
        results["batch_actual_bpp"].sum() / results["batch_sizes"].sum())


@pytest.mark.parametrize("script, sigma", [("mbt2018", .11), ("sga", math.exp(-4))])
def test_sigma_is_bounded_in_the_base_row_alone(script, sigma, monkeypatch):
    """As the original's methods are evaluated; of a latent one away from mu where sigma is e^-4."""
    monkeypatch.setattr(nic, "gaussian_parameters", lambda h_s, z, shape: (tf.zeros(shape),
                                                                         tf.fill(shape, -4.)))
    bound = importlib.import_module(script).METHOD.scale_bound
    with tf.Graph().as_default(), tf.Session() as sess:
        rates, _ = nic.base_rates(tf.ones([1, 4, 4, 2]), tf.zeros([1, 1, 1, 2]), (1, 64, 64, 3),
                                  bound)
        sess.run(tf.global_variables_initializer())
        bpp = sess.run(rates["est_y_bpp"])
    mass = max(1e-9, .5 * math.erfc(.5 / sigma / 2 ** .5))
    assert bpp == pytest.approx(-32 * math.log2(mass) / 64 ** 2, rel=1e-4)


def mean_cost(image, script):
    entry = golden(image, script)
    return np.array(entry.get("rd_cost_mean", entry["runs"][0]["rd_cost"]))


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("script", ["sga", "unoise"])
def test_stochastic(script, image, results):
    require_golden(results(script, image), image, script, "rd_cost", "est_bpp", "psnr")


# The original's map with its last rounding staged (z_hat first), which makes it decodable.
STAGED_MAP = {NPY: dict(est_bpp=[0.15648, 0.15587], psnr=[20.0004, 23.5983]),
              PNG: dict(est_bpp=[0.17855], psnr=[21.2757])}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("script", ["map", "danneal"])
def test_deterministic(script, image, results):
    expected = STAGED_MAP[image] if script == "map" else golden(image, "danneal")["runs"][0]
    found = results(script, image)
    np.testing.assert_allclose(found["est_bpp"], expected["est_bpp"], rtol=0.01)
    np.testing.assert_allclose(found["psnr"], expected["psnr"], atol=0.05)


@pytest.mark.parametrize("image", IMAGES)
def test_ste(image, results):
    """The original returns latents one update away from those it evaluated; ours may be better."""
    assert np.all(results("ste", image)["rd_cost"] <= 1.01 * mean_cost(image, "ste"))


@pytest.mark.parametrize("image", IMAGES)
def test_order_of_methods(image, results):
    """Methods that are over 1 % apart in the original come out in the same order."""
    scripts = ("mbt2018", "sga", "map", "ste", "unoise", "danneal")
    for first, second in itertools.permutations(scripts, 2):
        lower = mean_cost(image, first) * 1.01 < mean_cost(image, second)
        found = results(first, image)["rd_cost"] < results(second, image)["rd_cost"]
        assert np.all(found[lower]), (first, second)


def test_losses_while_optimising(tmp_path, capfd):
    """Before the first update, and rounded after it, the original prints the same figures."""
    compress("sga", tmp_path, NPY, "--sga_its", 1)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("it=")]
    first, rounded = ({key: float(value) for key, value in
                       (item.split("=") for item in part.split() if "=" in item)}
                      for part in line.split(" | ")[1:])
    expected = golden(NPY, "sga")["trajectory_seed0"][0]
    assert first["rd_loss"] == pytest.approx(expected["rd_loss"], rel=0.01)
    assert rounded["rd_loss"] == pytest.approx(expected["rounded"]["rd_loss"], rel=0.001)
    assert rounded["bpp"] == pytest.approx(expected["rounded"]["bpp"], rel=0.005)
    assert rounded["psnr"] == pytest.approx(expected["rounded"]["psnr"], abs=0.02)
