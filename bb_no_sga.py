"""Bits-back coding of z with q(z|y_hat) optimised, but no SGA: row A5 of Table 1.

    python bb_no_sga.py compress <run_name> <imgs>
"""

import tf_boilerplate as nic

SETTINGS = dict(its=1000, lr=5e-3, rate_samples=16, seed=0)


def infer(args, graph, x):
    """The encoder's y, rounded, and how q(z|y_hat) is then fitted to it alone."""
    y_hat, _, _ = nic.integer_y(graph, *nic.encode(graph, x))
    return y_hat, nic.Fit(args.its, args.lr, args.seed)


def main(argv=None):
    commands = nic.commands(nic.bits_back_graph, infer, nic.BITS_BACK, nic.evaluate_bits_back)
    return nic.main(argv, __file__, __doc__, commands, SETTINGS)


if __name__ == "__main__":
    main()
