"""Metrics of pictures, against TensorFlow's own."""

import numpy as np
import PIL.Image
import pytest
import tensorflow.compat.v1 as tf

from conftest import PNG
from plumbing import quality


@pytest.mark.parametrize("height, width, noise", [(161, 161, 3), (197, 251, 40), (178, 165, 200)])
def test_metrics_are_those_of_tensorflow(height, width, noise):
    """Also where an odd side is halved, and where a structure is inverted."""
    image = np.asarray(PIL.Image.open(PNG).convert("RGB"))[:height, :width]
    x = np.stack([image, image[::-1]])
    shift = np.random.RandomState(0).normal(0, noise, x.shape)
    x_hat = np.uint8(np.clip(x + shift, 0, 255))
    x_hat[1] = 255 - x_hat[1]
    found = quality.measure(x, x_hat)
    with tf.Graph().as_default(), tf.Session() as sess:
        a, b = np.float32(x_hat), np.float32(x)
        msssim, psnr = sess.run([tf.image.ssim_multiscale(a, b, 255), tf.image.psnr(a, b, 255)])
    assert found["msssim"] == pytest.approx(msssim, abs=1e-5)
    assert found["psnr"] == pytest.approx(psnr, abs=1e-4)
    assert found["msssim_db"] == pytest.approx(-10 * np.log10(1 - msssim), abs=1e-3)
    assert found["mse"] == pytest.approx(np.mean((np.float64(x) - x_hat) ** 2, (1, 2, 3)))


def test_equal_pictures():
    x = np.full((1, 200, 200, 3), 7, np.uint8)
    found = quality.measure(x, x)
    assert found["mse"] == 0 and np.isposinf(found["psnr"]) and found["msssim"] == 1
    assert np.isnan(quality.measure(x[:, :160], x[:, :160])["msssim"])
