"""SGA with bits-back coding of z: row M2 of Table 1, sections 3.2 and 3.3 of the paper.

    python bb_sga.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic

import sga

SETTINGS = dict(sga.SETTINGS, rate_its=2000, rate_lr=3e-3, rate_samples=16)
PRESETS = dict(fast=dict(sga.PRESETS["fast"], rate_its=200, rate_lr=0.06),
               thorough=dict(sga.PRESETS["thorough"], rate_lr=0.01))


def infer(args, graph, x):
    """y annealed to integers, jointly with q(z|y); how q(z|y_hat) is then fitted to it alone."""
    y_hat, _, _ = nic.optimise(graph, x, args, args.sga_its, nic.integer_y, sga.temperature)
    return y_hat, nic.Fit(args.rate_its, args.rate_lr, args.seed)


def main(argv=None):
    build = functools.partial(nic.bits_back_graph, relax=sga.relax)
    commands = nic.commands(build, infer, nic.BITS_BACK, nic.evaluate_bits_back)
    return nic.main(argv, __file__, __doc__, commands, SETTINGS, PRESETS)


if __name__ == "__main__":
    main()
