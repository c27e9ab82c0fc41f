"""Uniform noise in place of rounding, as in training: row A3 of Table 1.

    python unoise.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import tensorflow.compat.v1 as tf

SETTINGS = dict(its=2000, lr=5e-3, seed=0)


def relax(v, T, key):
    """v + U(-1/2, 1/2), with the same noise for every image."""
    return v + tf.random.stateless_uniform(v.shape[1:], key, minval=-0.5, maxval=0.5)


def infer(args, graph, x):
    """Latents after all iterations, rounded z first, then y."""
    return nic.optimise(graph, x, args, args.its, nic.centred)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.CENTRED), SETTINGS)


if __name__ == "__main__":
    main()
