"""Bits-back coding of z with q(z|y_hat) optimised, but no SGA: row A5 of Table 1.

    python bb_no_sga.py compress <run_name> <imgs>

    y_hat = round(g_a(x)),  then phase 2 of bb_sga.py
"""

import tf_boilerplate as nic

import bb_plain

OPTIONS = bb_plain.OPTIONS + [
    nic.Option("--rate_its --its", nic.number(int, 1, high=nic.MAX_ITS), 1000,
               "iterations on the rate"),
    nic.Option("--rate_lr --lr", nic.positive, 5e-3,
               "learning rate of Adam on the rate")]


def infer(graph, x, options):
    """The encoder's y, rounded, and how q(z|y_hat) is then fitted to it alone."""
    y_hat = nic.integer_y(graph, nic.encoder_output(graph, x)).y
    return nic.Unfitted(y_hat, nic.Fit(options.rate_its, options.rate_lr, options.seed))


METHOD = nic.Method(infer, nic.BITS_BACK, OPTIONS, rate_samples=bb_plain.METHOD.rate_samples,
                    result_name=bb_plain.RESULT_NAME)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
