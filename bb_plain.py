"""Bits-back coding of z without any iterative inference: row A6 of Table 1.

    python bb_plain.py compress <run_name> <imgs>
"""

import tf_boilerplate as nic

SETTINGS = dict(rate_samples=16, seed=0)


def infer(args, graph, x):
    """The encoder's y, rounded, and the q(z|y_hat) that h_a gives, without iterations."""
    y_hat, _, _ = nic.integer_y(graph, *nic.encode(graph, x))
    return y_hat, nic.Fit(its=0, lr=0, seed=args.seed)


def main(argv=None):
    commands = nic.commands(nic.bits_back_graph, infer, nic.BITS_BACK, nic.evaluate_bits_back)
    return nic.main(argv, __file__, __doc__, commands, SETTINGS)


if __name__ == "__main__":
    main()
