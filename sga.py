"""Stochastic Gumbel Annealing (SGA): row M1 of Table 1, section 3.2 of the paper.

    python sga.py compress <run_name> <imgs>

Minimises over continuous y and z, which start from the encoder's output,

    E_r [ lambda 255^2 MSE(x, g_s(y_tilde)) - log2(p(y_tilde | z_tilde) p(z_tilde)) / (H W) ]
    y_tilde = r floor(y) + (1 - r) ceil(y),   r ~ GumbelSoftmax(logits -atanh(distance) / T; T)

and z_tilde likewise. Adam sees one sample of r per iteration:

    y = g_a(x);  z = h_a(y)
    for t = 0, ..., its - 1:
        T = T_max exp(-annealing_rate max(0, t - t0))    # from 0.5 to 0.14 by default
        y_tilde, z_tilde = relax(y, T), relax(z, T)      # noise keyed by (seed, t)
        y, z = Adam(gradient of the loss of y_tilde, z_tilde with respect to y, z)
    y_hat, z_hat = round(y), round(z)                    # where relax ends as T -> 0

--logits linear and ssl are those of SGA+ (Perugachi-Diaz et al. 2024, arXiv 2401.17789).
"""

import functools
import operator

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow_probability as tfp


def sigmoid_logits(a):
    """Function like atanh_logits: log sigmoid(-a logit(distance)); log(1 - distance) if a = 1."""
    def logits(distance):
        distance = tf.clip_by_value(distance, 1e-5, 1 - 1e-5)
        return tf.log_sigmoid(a * (tf.log(1 - distance) - tf.log(distance)))
    return logits


LOGITS = dict(atanh=nic.atanh_logits, linear=sigmoid_logits(1), ssl=sigmoid_logits(4 / 3))
OPTIONS = [nic.Option("--sga_its --its", nic.count, 2000, "iterations of SGA"),
           nic.Option("--lr", nic.positive, 5e-3, "learning rate of Adam"),
           nic.Option("--lr_decay", nic.number(float, 0, high=1), 0,
                      "fraction of the iterations, the last ones, in which lr falls to lr / 100"),
           nic.Option("--annealing_rate", nic.number(float, 0), lambda options: 2 / options.sga_its,
                      "decay of the temperature per iteration (default: 2 / sga_its)"),
           nic.Option("--t0", nic.number(float, 0), lambda options: 0.35 * options.sga_its,
                      "iteration from which the temperature decays (default: 0.35 * sga_its)"),
           nic.Option("--T_max", nic.positive, 0.5, "highest temperature"),
           nic.Option("--logits", nic.one_of(LOGITS), "atanh",
                      "logits of rounding, as a function of the distance"),
           nic.Option("--seed", nic.natural, 0, "seed of the noise")]
SSL = dict(lr_decay=1, logits="ssl", T_max=1, t0=0)
# fast: about the default's R-D cost, in a fifth of its time; thorough: the lowest that was found.
PRESETS = dict(fast=dict(SSL, sga_its=360, lr=0.03), thorough=dict(SSL, lr=0.02))


def relax(v, T, key, options):
    """Gumbel-softmax sample between floor(v) and ceil(v), with the same noise for every image."""
    neighbours, distances = nic.floor_and_ceil(v)
    logits = LOGITS[options.logits](distances) / T
    uniform = tf.random.stateless_uniform(neighbours.shape[1:], key,
                                          minval=np.finfo(np.float32).tiny)
    gumbel = tfp.distributions.Gumbel(0., 1.).quantile(uniform)
    r = tf.nn.softmax((logits + gumbel) / T)  # by T again, as in the original
    return tf.reduce_sum(r * neighbours, -1)


def temperature(options, t):
    """T(t): T_max until t0, then decaying exponentially."""
    return max(1e-8, options.T_max * np.exp(-options.annealing_rate * max(0, t - options.t0)))


def infer(graph, x, options):
    """Latents annealed to integers."""
    latents = nic.optimise(graph, x, options.sga_its, options.lr, nic.integers,
                           functools.partial(temperature, options), options.lr_decay)
    return nic.integers(graph, latents)


METHOD = nic.Method(infer, nic.INTEGER, OPTIONS, relax, seed=operator.attrgetter("seed"),
                    presets=PRESETS)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
