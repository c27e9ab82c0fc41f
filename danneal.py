"""Deterministic annealing: row A4 of Table 1.

    python danneal.py compress <run_name> <imgs>
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np

OPTIONS = [nic.Option("--its", nic.count, 2000, "iterations"),
           nic.Option("--lr", nic.positive, 5e-3, "learning rate of Adam"),
           nic.Option("--annealing_rate", nic.number(float, 0), None,
                      "decay of the temperature per iteration (default: 8 / its)"),
           nic.Option("--T_max", nic.number(float, 0, exclusive=True, high=1), 0.2,
                      "highest temperature")]


def resolve(args):
    """The schedule's default, which depends on the number of iterations."""
    if args.annealing_rate is None:
        args.annealing_rate = 8 / args.its


def relax(v, T, key, args):
    """Softmax between floor(v) and ceil(v): SGA without its noise."""
    return nic.two_way(v, T)


def temperature(args, t):
    """T(t): exponential decay, but T_max at most."""
    return np.clip(np.exp(-args.annealing_rate * t), 1e-8, args.T_max)


def infer(graph, x, args):
    """Latents annealed to integers."""
    return nic.integers(graph, *nic.optimise(graph, x, args.its, nic.integers,
                                             functools.partial(temperature, args)))


METHOD = nic.Method(infer, nic.INTEGER, OPTIONS, relax, resolve)


def main(argv=None):
    return nic.main(argv, __file__, __doc__, METHOD)


if __name__ == "__main__":
    main()
