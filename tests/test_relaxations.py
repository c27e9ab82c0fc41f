"""Limits and identities of the relaxations, as of the paper's section 3.2."""

import numpy as np
import pytest
import tf_boilerplate as nic
import tensorflow.compat.v1 as tf

import sga

VALUES = np.array([-2.5, -2., -1.75, -0.5, -0.2, 0., 0.3, 0.5, 0.99999, 1., 7.25], np.float32)
RELAXATIONS = {"two_way": lambda v, T, key: nic.two_way(v, T), "sga": sga.relax}


def relaxed(relax, T, seed=0, values=VALUES):
    """Relaxed values and their gradients with respect to the free ones."""
    with tf.Graph().as_default(), tf.Session() as sess:
        v = tf.constant(values[None])
        v_tilde = relax(v, tf.constant(T, tf.float32), tf.constant([seed, 0]))
        value, gradient = sess.run([v_tilde, tf.gradients(v_tilde, v)[0]])
    return value[0], gradient[0]


@pytest.mark.parametrize("relax", RELAXATIONS.values(), ids=RELAXATIONS)
@pytest.mark.parametrize("T", [0.5, 0.01, 1e-8])
def test_finite_and_between_floor_and_ceil(relax, T):
    value, gradient = relaxed(relax, T)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
    assert np.all(value >= np.floor(VALUES) - 1e-6) and np.all(value <= np.ceil(VALUES) + 1e-6)


@pytest.mark.parametrize("relax", RELAXATIONS.values(), ids=RELAXATIONS)
def test_low_temperature_rounds(relax):
    distinct = VALUES[VALUES % 1 != 0.5]
    value, _ = relaxed(relax, 1e-4, values=distinct)
    np.testing.assert_allclose(value, np.round(distinct), atol=1e-6)


@pytest.mark.parametrize("relax", RELAXATIONS.values(), ids=RELAXATIONS)
def test_high_temperature_averages(relax):
    value, _ = relaxed(relax, 1e5)
    np.testing.assert_allclose(value, (np.floor(VALUES) + np.ceil(VALUES)) / 2, atol=1e-3)


def test_sga_draws_the_gumbel_softmax():
    """The share of samples near ceil(v) is softmax(logits), as of RelaxedOneHotCategorical."""
    v, T, n = 0.3, 0.2, 20000
    value, _ = relaxed(sga.relax, T, values=np.full(n, v, np.float32))
    odds = np.exp((np.arctanh(v) - np.arctanh(1 - v)) / T)  # of ceil against floor
    assert np.mean(value > 0.5) == pytest.approx(odds / (1 + odds), abs=4 * 0.5 / np.sqrt(n))


def test_sga_noise_is_the_same_for_every_image_and_another_in_every_iteration():
    values = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    with tf.Graph().as_default(), tf.Session() as sess:
        both, alone, later = (sess.run(sga.relax(tf.constant(v), 0.5, tf.constant(key)))
                              for v, key in [(np.stack([values, values]), [3, 8]),
                                             (values[None], [3, 8]), (values[None], [3, 10])])
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], alone[0])
    assert np.any(later != alone)


def test_sga_temperature():
    args = type("args", (), dict(sga.SETTINGS))
    assert sga.temperature(args, 0) == sga.temperature(args, 700) == 0.5
    assert sga.temperature(args, 1700) == pytest.approx(0.5 * np.exp(-1))
    assert sga.temperature(args, 10 ** 6) == 1e-8
