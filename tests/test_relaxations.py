"""Limits and identities of the relaxations, as of the paper's section 3.2."""

import argparse
import functools
import importlib
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tf_boilerplate as nic

import bb_sga
import danneal
import sga
from conftest import BASE_RUN, BB_RUN, CHECKPOINTS, PNG, parsed

VALUES = np.array([-2.5, -2., -1.75, -0.5, -0.2, 0., 0.3, 0.5, 0.99999, 1., 7.25], np.float32)
RELAX = {script: functools.partial(importlib.import_module(script).relax, options=parsed(script))
         for script in ("sga", "map", "ste", "unoise", "danneal")}
RELAX.update(("sga " + name, functools.partial(sga.relax, options=parsed("sga", "--logits", name)))
             for name in ("linear", "ssl"))
ANNEALED = ("sga", "sga linear", "sga ssl", "danneal")


def relaxed(relax, T, seed=0, values=VALUES):
    """Relaxed values and their gradients with respect to the free ones."""
    with tf.Graph().as_default(), tf.Session() as sess:
        v = tf.constant(values[None])
        v_tilde = relax(v, tf.constant(T, tf.float32), tf.constant([seed, 0]))
        value, gradient = sess.run([v_tilde, tf.gradients(v_tilde, v)[0]])
    return value[0], gradient[0]


@pytest.mark.parametrize("script", RELAX)
@pytest.mark.parametrize("T", [0.5, 0.01, 1e-8])
def test_finite_at_integers_and_half_integers(script, T):
    value, gradient = relaxed(RELAX[script], T)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("script", ANNEALED)
@pytest.mark.parametrize("T", [0.5, 0.01, 1e-8])
def test_annealed_is_between_floor_and_ceil(script, T):
    value, _ = relaxed(RELAX[script], T)
    assert np.all(value >= np.floor(VALUES) - 1e-6) and np.all(value <= np.ceil(VALUES) + 1e-6)


@pytest.mark.parametrize("script", ANNEALED)
def test_low_temperature_rounds(script):
    distinct = VALUES[VALUES % 1 != 0.5]
    value, _ = relaxed(RELAX[script], 1e-4, values=distinct)
    np.testing.assert_allclose(value, np.round(distinct), atol=1e-6)


@pytest.mark.parametrize("script", ANNEALED)
def test_high_temperature_averages(script):
    value, _ = relaxed(RELAX[script], 1e5)
    np.testing.assert_allclose(value, (np.floor(VALUES) + np.ceil(VALUES)) / 2, atol=1e-3)


def test_sga_draws_the_gumbel_softmax():
    """The share of samples near ceil(v) is softmax(logits), as of RelaxedOneHotCategorical."""
    v, T, n = 0.3, 0.2, 20000
    value, _ = relaxed(RELAX["sga"], T, values=np.full(n, v, np.float32))
    odds = np.exp((np.arctanh(v) - np.arctanh(1 - v)) / T)  # of ceil against floor
    assert np.mean(value > 0.5) == pytest.approx(odds / (1 + odds), abs=4 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize("name, expected", [
    ("atanh", lambda d: -np.arctanh(d)), ("linear", lambda d: np.log(1 - d)),
    ("ssl", lambda d: -np.log(1 + (d / (1 - d)) ** (4 / 3)))])
def test_logits(name, expected):
    """Highest, and 0, at distance 0; finite at 1; those of the two neighbours are d <-> 1 - d."""
    distances = np.array([0, .1, .3, .5, .7, .9, 1], np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        d = tf.constant(distances)
        logits = sga.LOGITS[name](d)
        values, slopes = sess.run([logits, tf.gradients(logits, d)[0]])
    np.testing.assert_allclose(values[1:-1], expected(distances[1:-1]), rtol=2e-5)
    assert values[0] == pytest.approx(0, abs=2e-5) and values[-1] < -5
    assert np.all(np.diff(values) < 0) and np.all(np.isfinite(slopes))


@pytest.mark.parametrize("T", [.1, .5])
def test_logits_by_default_are_those_of_the_paper(T):
    values = [relaxed(RELAX[name], T)[0] for name in ("sga", "sga linear")]
    args = argparse.Namespace(logits="atanh")
    relax = functools.partial(sga.relax, options=args)
    np.testing.assert_array_equal(values[0], relaxed(relax, T)[0])
    assert np.any(values[0] != values[1])


def test_linear_logits_at_temperature_one_keep_the_mean():
    """The share of samples near ceil(v) is then v - floor(v): stochastic rounding."""
    value, _ = relaxed(RELAX["sga linear"], 1., values=np.full(20000, 3.3, np.float32))
    assert np.mean(value > 3.5) == pytest.approx(.3, abs=4 * .5 / np.sqrt(20000))


def test_unknown_logits_are_an_error(fails):
    assert "must be one of atanh, linear, ssl" in fails("sga", "compress", "run", PNG, "--logits",
                                                        "cosine")


def test_map_keeps_the_latents():
    value, gradient = relaxed(RELAX["map"], 0.5)
    np.testing.assert_array_equal(value, VALUES)
    np.testing.assert_array_equal(gradient, 1)


def test_ste_is_exact_integers_with_identity_gradient():
    value, gradient = relaxed(RELAX["ste"], 0.5)
    np.testing.assert_array_equal(value, np.round(VALUES))
    np.testing.assert_array_equal(gradient, 1)


def test_unoise_is_uniform_of_width_one():
    value, gradient = relaxed(RELAX["unoise"], 0.5, values=np.full(20000, 3.25, np.float32))
    assert value.min() >= 2.75 and value.max() <= 3.75
    assert np.mean(value) == pytest.approx(3.25, abs=4 / np.sqrt(12 * 20000))
    assert np.var(value) == pytest.approx(1 / 12, rel=0.03)
    np.testing.assert_array_equal(gradient, 1)


def test_danneal_is_sga_without_noise():
    """Its logits are the log odds of SGA's samples (test_sga_draws_the_gumbel_softmax)."""
    value, _ = relaxed(RELAX["danneal"], 0.2, values=np.array([0.3], np.float32))
    odds = np.exp((np.arctanh(0.3) - np.arctanh(0.7)) / 0.2)
    assert value == pytest.approx(odds / (1 + odds), rel=1e-5)


@pytest.mark.parametrize("script", ["sga", "unoise"])
def test_noise_is_the_same_for_every_image_and_another_in_every_iteration(script):
    values = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    with tf.Graph().as_default(), tf.Session() as sess:
        both, alone, later = (sess.run(RELAX[script](tf.constant(v), 0.5, tf.constant(key)))
                              for v, key in [(np.stack([values, values]), [3, 8]),
                                             (values[None], [3, 8]), (values[None], [3, 10])])
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], alone[0])
    assert np.any(later != alone)


def test_danneal_temperature():
    args = parsed("danneal")
    assert danneal.temperature(args, 0) == danneal.temperature(args, 402) == 0.2
    assert danneal.temperature(args, 500) == pytest.approx(np.exp(-2))
    assert danneal.temperature(args, 10 ** 6) == 1e-8


def test_sga_temperature():
    args = parsed("sga")
    assert sga.temperature(args, 0) == sga.temperature(args, 700) == 0.5
    assert sga.temperature(args, 1700) == pytest.approx(0.5 * np.exp(-1))
    assert sga.temperature(args, 10 ** 6) == 1e-8
    assert sga.temperature(argparse.Namespace(T_max=.5, annealing_rate=1, t0=1000), 0) == .5


@pytest.mark.parametrize("script, stops", [("map", False), ("ste", True)])
def test_an_equal_cost_stops_ste_but_not_map(script, stops, monkeypatch):
    """As in the original: map.py ends when the cost rises, ste.py when it does not fall."""
    rules = []

    def optimise(*_, stop, check_every):
        rules.append([stop(cost, 1) for cost in (2, 1, 0)])
    monkeypatch.setattr(nic, "optimise", optimise)
    monkeypatch.setattr(nic, "centred", lambda *_: None)
    monkeypatch.setattr(nic, "integers", lambda *_: None)
    importlib.import_module(script).infer(None, None, parsed(script))
    assert rules == [[True, stops, False]]


@pytest.mark.parametrize("name, method", [(BASE_RUN, sga.METHOD), (BB_RUN, bb_sga.METHOD)])
def test_y_and_z_have_noise_of_their_own(name, method, monkeypatch):
    asked, noise_key = [], nic.noise_key
    monkeypatch.setattr(nic, "noise_key", lambda seed, t, i: asked.append(i) or noise_key(
        seed, t, i))
    nic.make_compressor(nic.load(os.path.join(CHECKPOINTS, name)), method).graph_for((1, 64, 64, 3))
    assert asked == [0, 1]


def test_noise_is_another_for_each_iteration_and_latents():
    with tf.Graph().as_default(), tf.Session() as sess:
        keys = sess.run([nic.noise_key(tf.constant(seed, tf.int64), tf.constant(t, tf.int64), i)
                         for seed in (0, 7) for t in range(3) for i in (0, 1)])
    assert len(set(map(tuple, keys))) == 12
