"""Deterministic annealing: row A4 of Table 1.

    python danneal.py compress <run_name> <imgs>

    y_tilde = r floor(y) + (1 - r) ceil(y),  r = softmax(-atanh(distances) / T)[0]

and z_tilde likewise: SGA with the softmax in the place of its sample, and another schedule:

    T = min(T_max, exp(-annealing_rate t))    # by default 0.2 until t = 402, 3e-4 at the end
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np
import tensorflow.compat.v1 as tf

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 5e-3, "learning rate of Adam"),
           nic.Option("--annealing_rate", nic.number(float, 0), lambda options: 8 / options.its,
                      "decay of the temperature per iteration (default: 8 / its)"),
           nic.Option("--T_max", nic.number(float, 0, exclusive=True, high=1), 0.2,
                      "highest temperature")]


def relax(v, T, key, options):
    """Softmax between floor(v) and ceil(v): SGA without its noise."""
    neighbours, distances = nic.floor_and_ceil(v)
    r = tf.nn.softmax(nic.atanh_logits(distances) / T)
    return tf.reduce_sum(r * neighbours, -1)


def temperature(options, t):
    """T(t): exponential decay, but T_max at most."""
    return np.clip(np.exp(-options.annealing_rate * t), 1e-8, options.T_max)


def infer(graph, x, options):
    """Latents annealed to integers."""
    latents = nic.optimise(graph, x, options.its, options.lr, nic.integers,
                           functools.partial(temperature, options))
    return nic.integers(graph, latents)


METHOD = nic.Method(infer, nic.INTEGER, OPTIONS, relax)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
