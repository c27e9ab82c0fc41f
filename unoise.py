"""Uniform noise in place of rounding, as in training: row A3 of Table 1.

    python unoise.py compress <run_name> <imgs>

    y_tilde = y + u,  u ~ U(-1/2, 1/2),  and z_tilde likewise
"""

import operator

import tf_boilerplate as nic

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 5e-3, "learning rate of Adam"),
           nic.Option("--seed", nic.natural, 0, "seed of the noise")]


def relax(v, T, key, options):
    """v + U(-1/2, 1/2), with the same noise for every image."""
    return v + nic.uniform_noise(v.shape[1:], key)


def infer(graph, x, options):
    """Latents after all iterations, rounded z first, then y."""
    return nic.centred(graph, nic.optimise(graph, x, options.its, options.lr, nic.centred))


METHOD = nic.Method(infer, nic.CENTRED, OPTIONS, relax, seed=operator.attrgetter("seed"))


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
