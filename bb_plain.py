"""Bits-back coding of z without any iterative inference: row A6 of Table 1.

    python bb_plain.py compress <run_name> <imgs>

    y_hat = round(g_a(x)),  (z_mean, z_logvar) = h_a(y_hat)
"""

import operator

import tf_boilerplate as nic

OPTIONS = [nic.Option("--rate_samples", nic.number(int, 2), 16,
                      "draws of z that reported rates are means over"),
           nic.Option("--seed", nic.natural, 0, "seed of the noise and of random initial bits")]
RESULT_NAME = "rd-%(script)s+%(run_name)s-input=%(source)s"


def infer(graph, x, options):
    """The encoder's y, rounded, and a fit of no iterations: q(z|y_hat) is as h_a gives it."""
    y_hat = nic.integer_y(graph, nic.encoder_output(graph, x)).y
    return nic.Unfitted(y_hat, nic.Fit(its=0, lr=0, seed=options.seed))


METHOD = nic.Method(infer, nic.BITS_BACK, OPTIONS, is_iterative=False,
                    rate_samples=operator.attrgetter("rate_samples"), result_name=RESULT_NAME)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
