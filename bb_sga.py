"""SGA with bits-back coding of z: row M2 of Table 1, sections 3.2 and 3.3 of the paper.

    python bb_sga.py compress <run_name> <imgs>
"""

import tf_boilerplate as nic

import sga

SETTINGS = dict(sga.SETTINGS, rate_its=2000, rate_lr=3e-3, rate_samples=16)
PRESETS = dict(fast=dict(sga.PRESETS["fast"], rate_its=200, rate_lr=0.06),
               thorough=dict(sga.PRESETS["thorough"], rate_lr=0.01))


def build(args, run, shape):
    return nic.bits_back_graph(args, run, shape, relax=sga.relax, rate_lr=args.rate_lr)


def infer(args, graph, x):
    """y annealed to integers, jointly with q(z|y); then q(z|y_hat) fitted anew from y_hat alone."""
    y_hat, _, _ = nic.optimise(graph, x, args, args.sga_its, nic.integer_y, sga.temperature)
    return nic.fit_posterior(args, graph, y_hat, args.rate_its)


def main(argv=None):
    commands = nic.commands(build, infer, nic.BITS_BACK, nic.evaluate_bits_back)
    nic.main(argv, __file__, __doc__, commands, SETTINGS, PRESETS)


if __name__ == "__main__":
    main()
