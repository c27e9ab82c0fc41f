"""SGA with bits-back coding of z: row M2 of Table 1, sections 3.2 and 3.3 of the paper.

    python bb_sga.py compress <run_name> <imgs>

Two phases of Adam, in which z ~ q = N(z_mean, exp(z_logvar)):

    1. y, z_mean, z_logvar are free, from y = g_a(x) and h_a(y) on: R-D cost with the net rate,
       y_tilde as in sga.py.  y_hat = round(y);  q is dropped
    2. z_mean, z_logvar are free, from h_a(y_hat) on: net rate alone, per pixel
       [-log2 p(y_hat | z) - log2 p(z) + log2 q(z)] / (H W);  a decoder repeats this phase
"""

import functools

import tf_boilerplate as nic

import bb_plain
import sga

# The seed is that of bb_plain.py, also of the initial bits.
OPTIONS = [option for option in sga.OPTIONS if option.name != "seed"] + bb_plain.OPTIONS + [
    nic.Option("--rate_its", nic.number(int, 1, high=nic.MAX_ITS), 2000,
               "iterations of the second phase, on the rate alone"),
    nic.Option("--rate_lr", nic.positive, 3e-3,
               "learning rate of Adam in the second phase")]
PRESETS = dict(fast=dict(sga.PRESETS["fast"], rate_its=200, rate_lr=0.06),
               thorough=dict(sga.PRESETS["thorough"], rate_lr=0.01))


def infer(graph, x, options):
    """Return y_hat, annealed jointly with q(z|y), and the settings of the second phase.

    The first phase's q is discarded. The second phase is not run here, but by BitsBackDecoder.fit,
    in the encoder, too: a decoder must repeat it, from y_hat alone.
    """
    latents = nic.optimise(graph, x, options.sga_its, options.lr, nic.integer_y,
                           functools.partial(sga.temperature, options), options.lr_decay)
    y_hat = nic.integer_y(graph, latents).y
    return nic.Unfitted(y_hat, nic.Fit(options.rate_its, options.rate_lr, options.seed))


METHOD = nic.Method(infer, nic.BITS_BACK, OPTIONS, sga.relax, seed=sga.METHOD.seed,
                    presets=PRESETS, rate_samples=bb_plain.METHOD.rate_samples)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
