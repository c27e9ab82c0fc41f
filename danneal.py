"""Deterministic annealing: row A4 of Table 1.

    python danneal.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np

def annealing_rate(its):
    """8 / its"""
    return 8 / its


SETTINGS = dict(its=2000, lr=5e-3, annealing_rate=annealing_rate, T_max=0.2)


def relax(v, T, key):
    """Softmax between floor(v) and ceil(v): SGA without its noise."""
    return nic.two_way(v, T)


def temperature(args, t):
    """T(t): exponential decay, but T_max at most."""
    return np.clip(np.exp(-args.annealing_rate * t), 1e-8, args.T_max)


def infer(args, graph, x):
    """Latents annealed to integers."""
    return nic.optimise(graph, x, args, args.its, nic.integers, temperature)


def main(argv=None):
    build = functools.partial(nic.base_graph, relax=relax)
    return nic.main(argv, __file__, __doc__, nic.commands(build, infer, nic.INTEGER), SETTINGS)


if __name__ == "__main__":
    main()
