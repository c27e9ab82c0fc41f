"""Stochastic Gumbel Annealing (SGA): row M1 of Table 1, section 3.2 of the paper.

    python sga.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow_probability as tfp

def annealing_rate(its):
    """2 / sga_its"""
    return 2 / its


def t0(its):
    """0.35 * sga_its"""
    return 0.35 * its


SETTINGS = dict(sga_its=2000, lr=5e-3, annealing_rate=annealing_rate, t0=t0, T_max=0.5, seed=0)
# fast: the same R-D cost, to 0.3 %, after a fifth of the iterations; thorough: the lowest in 2000.
PRESETS = dict(fast=dict(sga_its=400, lr=0.04), thorough=dict(lr=0.02))


def relax(v, T, key):
    """Gumbel-softmax sample between floor(v) and ceil(v), with the same noise for every image."""
    shape = v.shape[1:].concatenate(2)
    uniform = tf.random.stateless_uniform(shape, key, minval=np.finfo(np.float32).tiny)
    gumbel = tfp.distributions.Gumbel(0., 1.).quantile(uniform)
    return nic.two_way(v, T, lambda logits: tf.nn.softmax((logits + gumbel) / T))


def temperature(args, t):
    """T(t): T_max until t0, then decaying exponentially."""
    return np.clip(args.T_max * np.exp(-args.annealing_rate * (t - args.t0)), 1e-8, args.T_max)


def infer(args, graph, x):
    """Latents annealed to integers."""
    return nic.optimise(graph, x, args, args.sga_its, nic.integers, temperature)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    return nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.INTEGER), SETTINGS,
                    PRESETS)


if __name__ == "__main__":
    main()
