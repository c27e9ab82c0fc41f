"""Uniform noise in place of rounding, as in training: row A3 of Table 1.

    python unoise.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic

SETTINGS = dict(its=2000, lr=5e-3, seed=0)


def relax(v, T, key):
    """v + U(-1/2, 1/2), with the same noise for every image."""
    return v + nic.uniform_noise(v.shape[1:], key)


def infer(args, graph, x):
    """Latents after all iterations, rounded z first, then y."""
    return nic.optimise(graph, x, args, args.its, nic.centred)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    return nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.CENTRED), SETTINGS)


if __name__ == "__main__":
    main()
