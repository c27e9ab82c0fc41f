"""Straight-through estimator (STE): row A2 of Table 1.

    python ste.py compress <run_name> <imgs>

    y_tilde = round(y),  d y_tilde / d y = 1,  and z_tilde likewise
"""

import operator

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import tensorflow.compat.v1 as tf

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 1e-4, "learning rate of Adam"),
           nic.Option("--check_every", nic.count, 10, "iterations between checks when to stop")]


def relax(v, T, key, options):
    """round(v), with the gradient of the identity."""
    # Not v + stop_gradient(round(v) - v), whose value is off by a rounding error.
    return tf.stop_gradient(tf.round(v)) + (v - tf.stop_gradient(v))


def infer(graph, x, options):
    """Integers of the last check before the loss stops falling."""
    latents = nic.optimise(graph, x, options.its, options.lr, nic.integers, stop=operator.ge,
                           check_every=options.check_every)
    return nic.integers(graph, latents)


METHOD = nic.Method(infer, nic.INTEGER, OPTIONS, relax)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
