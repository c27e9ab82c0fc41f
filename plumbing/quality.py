"""Metrics of decoded pictures."""

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import runs

MSSSIM_MIN_SIDE = 161  # of images that MS-SSIM is defined for


def meter(shape, threads):
    """Function of uint8 images and reconstructions, [B, H, W, 3] = shape: metrics, arrays [B]."""
    with tf.Graph().as_default() as graph:
        inputs = tf.placeholder(tf.uint8, shape), tf.placeholder(tf.uint8, shape)
        original, decoded = (tf.cast(images, tf.float32) for images in inputs)
        msssim = tf.fill([shape[0]], np.nan)
        if min(shape[1:3]) >= MSSSIM_MIN_SIDE:
            msssim = tf.image.ssim_multiscale(decoded, original, 255)
        metrics = dict(
            mse=tf.reduce_mean(tf.squared_difference(original, decoded), axis=[1, 2, 3]),
            psnr=tf.image.psnr(decoded, original, 255),
            msssim=msssim,
            msssim_db=-10 * tf.log(1 - msssim) / np.log(10))
    sess = tf.Session(graph=graph, config=runs.session_config(threads))

    def measure(x, x_hat):
        return sess.run(metrics, dict(zip(inputs, (x, x_hat))))
    return measure
