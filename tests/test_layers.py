"""What makes the layers fast changes no result."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc

from plumbing import layers


@pytest.mark.parametrize("corr", [False, True])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (7, 9), (8, 6), (33, 17)])
def test_fast_convolution_is_exact(corr, height, width):
    """Same variables, output and gradients as SignalConv2D, to 1e-5."""
    random = np.random.RandomState(height)
    strides = dict(strides_down=2) if corr else dict(strides_up=2)
    values = []
    for conv in (layers.conv, layers.fast_conv):
        with tf.Graph().as_default(), tf.Session() as sess:
            x = tf.constant(random.randn(2, height, width, 5).astype(np.float32))
            random.seed(0)
            layer = conv(0, 8, 5, corr=corr, activation=tfc.GDN(name="gdn"), **strides)
            y = layer(x)
            g = tf.constant(random.randn(*y.shape.as_list()).astype(np.float32))
            variables = sorted(tf.global_variables(), key=lambda v: v.name)
            sess.run(tf.global_variables_initializer())
            for variable in variables:
                variable.load(.1 + random.random_sample(variable.shape.as_list()), sess)
            random.seed(height)
            values.append([v.name for v in variables])
            values.append(sess.run([y] + tf.gradients(y, [x] + variables, g)))
    assert values[0] == values[2] and len(values[0]) == 4
    for exact, fast in zip(values[1], values[3]):
        assert np.abs(fast - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_exact(inverse):
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as sess:
        x, g = (tf.constant(random.randn(2, 5, 7, 6).astype(np.float32)) for _ in range(2))
        values = []
        for layer in (tfc.GDN(inverse=inverse), layers.gdn("gdn", inverse=inverse)):
            known = tf.global_variables()
            y = layer(x)
            variables = [v for v in tf.global_variables() if v not in known]
            values.append([y] + tf.gradients(y, [x] + variables, g))
        sess.run(tf.global_variables_initializer())
        for exact, fast in zip(*sess.run(values)):
            assert np.abs(fast - exact).max() <= 1e-5 * np.abs(exact).max()
