"""Straight-through estimator (STE): row A2 of Table 1.

    python ste.py compress <run_name> <imgs>
"""

import operator

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import tensorflow.compat.v1 as tf

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 1e-4, "learning rate of Adam"),
           nic.Option("--check_every", nic.count, 10, "iterations between checks when to stop")]


def relax(v, T, key, args):
    """round(v), with the gradient of the identity."""
    # Not v + stop_gradient(round(v) - v), whose value is off by a rounding error.
    return tf.stop_gradient(tf.round(v)) + (v - tf.stop_gradient(v))


def infer(graph, x, args):
    """Integers of the last check before the loss stops falling."""
    return nic.integers(graph, *nic.optimise(graph, x, args.its, nic.integers, stop=operator.ge,
                                             check_every=args.check_every))


METHOD = nic.Method(infer, nic.INTEGER, OPTIONS, relax)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
