"""MAP, gradient descent without a relaxation: row A1 of Table 1.

    python map.py compress <run_name> <imgs>
"""

import functools
import operator

import tf_boilerplate as nic

SETTINGS = dict(its=2000, lr=5e-3, check_every=10)


def relax(v, T, key):
    """The latents as they are."""
    return v


def round_at_once(graph, y, z):
    """y rounded around mu(z) of the continuous z: no decoder has it, but it decides when to stop.

    With the decodable rounding in its place MAP would stop much earlier, at up to 14 % more cost.
    """
    mu = graph.sess.run(graph.mu, {graph.relaxed[1]: z})
    return nic.round_around(mu, y), nic.round_around(graph.median, z)


def infer(args, graph, x):
    """Latents of the last check before the loss after rounding rises, rounded z first, then y."""
    y, z = nic.optimise_until(operator.gt, graph, x, args, round_at_once)
    return nic.centred(graph, y, z)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    return nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.CENTRED), SETTINGS)


if __name__ == "__main__":
    main()
