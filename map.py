"""MAP, gradient descent without a relaxation: row A1 of Table 1.

    python map.py compress <run_name> <imgs>

    y_tilde = y,  z_tilde = z
"""

import operator

import tf_boilerplate as nic

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 5e-3, "learning rate of Adam"),
           nic.Option("--check_every", nic.count, 10, "iterations between checks when to stop")]


def relax(v, T, key, options):
    """The latents as they are."""
    return v


def round_at_once(graph, latents):
    """y rounded around mu(z) of the continuous z: no decoder has it, but it decides when to stop.

    With the decodable rounding in its place MAP would stop much earlier, at up to 14 % more cost.
    """
    mu = graph.sess.run(graph.mu, {graph.relaxed.z: latents.z})
    return nic.Latents(nic.round_around(mu, latents.y),
                       nic.round_around(graph.medians, latents.z))


def infer(graph, x, options):
    """Latents of the last check before the loss after rounding rises, rounded z first, then y."""
    latents = nic.optimise(graph, x, options.its, options.lr, round_at_once, stop=operator.gt,
                           check_every=options.check_every)
    return nic.centred(graph, latents)


METHOD = nic.Method(infer, nic.CENTRED, OPTIONS, relax)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
