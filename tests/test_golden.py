"""Numbers of the original implementation on its own checkpoints."""

import numpy as np
import pytest

from conftest import NPY, PNG, compress, golden


@pytest.mark.parametrize("image", [NPY, PNG])
def test_mbt2018(image, tmp_path):
    expected = golden(image, "mbt2018")["runs"][0]
    results = compress("mbt2018", tmp_path, image)
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


@pytest.mark.parametrize("image", [NPY, PNG])
def test_sga(image, tmp_path):
    expected = golden(image, "sga")
    cost = compress("sga", tmp_path, image)["rd_cost"]
    tolerance = np.maximum(3 * np.array(expected["rd_cost_std"]),
                           0.01 * np.array(expected["rd_cost_mean"]))
    assert np.all(abs(cost - expected["rd_cost_mean"]) <= tolerance)


def test_losses_while_optimising(tmp_path, capfd):
    """Before the first update, and rounded after it, the original prints the same figures."""
    compress("sga", tmp_path, NPY, "--verbose", "--sga_its", 1)
    lines = [line for line in capfd.readouterr().out.splitlines() if "rd_loss=" in line]
    first, rounded = ({key: float(value) for key, value in
                       (item.split("=") for item in line.split() if "=" in item)
                       if key not in ("it", "T")} for line in
                      (line.replace("it=0,", "") for line in lines))
    expected = golden(NPY, "sga")["trajectory_seed0"][0]
    assert first["rd_loss"] == pytest.approx(expected["rd_loss"], rel=0.01)
    assert rounded["rd_loss"] == pytest.approx(expected["rounded"]["rd_loss"], rel=0.001)
    assert rounded["bpp"] == pytest.approx(expected["rounded"]["bpp"], rel=0.005)
    assert rounded["psnr"] == pytest.approx(expected["rounded"]["psnr"], abs=0.02)
