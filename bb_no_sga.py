"""Bits-back coding of z with q(z|y_hat) optimised, but no SGA: row A5 of Table 1.

    python bb_no_sga.py compress <run_name> <imgs>
"""

import tf_boilerplate as nic

SETTINGS = dict(its=1000, lr=5e-3, rate_samples=16, seed=0)


def build(args, run, shape):
    return nic.bits_back_graph(args, run, shape, rate_lr=args.lr)


def infer(args, graph, x):
    """The encoder's y, rounded, and q(z|y_hat) fitted to it."""
    y_hat, _, _ = nic.integer_y(graph, *nic.encode(graph, x))
    return nic.fit_posterior(args, graph, y_hat, args.its)


def main(argv=None):
    commands = nic.commands(build, infer, nic.BITS_BACK, nic.evaluate_bits_back)
    nic.main(argv, __file__, __doc__, commands, SETTINGS)


if __name__ == "__main__":
    main()
