"""Straight-through estimator (STE): row A2 of Table 1.

    python ste.py compress <run_name> <imgs>
"""

import functools
import operator

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import tensorflow.compat.v1 as tf

SETTINGS = dict(its=2000, lr=1e-4, check_every=10)


def relax(v, T, key):
    """round(v), with the gradient of the identity."""
    # Not v + stop_gradient(round(v) - v), whose value is off by a rounding error.
    return tf.stop_gradient(tf.round(v)) + (v - tf.stop_gradient(v))


def infer(args, graph, x):
    """Integers of the last check before the loss stops falling."""
    y, z = nic.optimise_until(operator.ge, graph, x, args, nic.integers)
    return nic.integers(graph, y, z)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    return nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.INTEGER), SETTINGS)


if __name__ == "__main__":
    main()
