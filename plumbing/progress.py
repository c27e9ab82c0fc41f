"""What is told of an optimisation while it runs: lines on stdout, and a record of its losses.

A watcher is a function of an `Iteration`.
"""

import contextlib
import os
import time
import typing

import numpy as np

from plumbing import basics, quality

RECORD_EVERY = 10  # iterations between two entries of a record
PRINT_EVERY = 100  # iterations between two lines


class Iteration(typing.NamedTuple):
    """What a watcher is told after each iteration of an optimisation."""
    t: int  # from 0 on
    its: int  # number of iterations
    T: float  # temperature; nan where there is none
    losses: dict  # of [B], before update t; of the fit of q, bpp alone
    # () -> dict of [B], the losses after update t and after rounding; None of the fit of q
    after_rounding: typing.Optional[typing.Callable]


_beginning = ""  # of the lines


@contextlib.contextmanager
def about(path):
    """A context in which the lines of watchers begin with the name of an image."""
    global _beginning
    _beginning = os.path.basename(path) + ": "
    try:
        yield
    finally:
        _beginning = ""


class LossPrinter:
    """Watcher that prints a line every PRINT_EVERY iterations, and after the last of `its`.

    It has the temperature T, the losses of the relaxed latents before an update and those of the
    rounded ones after it, and the time left.
    """

    def __call__(self, iteration):
        if iteration.t == 0:
            self.start = time.time()
        t, its = iteration.t, iteration.its
        if not is_due(t, its, PRINT_EVERY):
            return
        parts = ["%sit=%d" % (_beginning, t)]
        if np.isfinite(iteration.T):
            parts[0] += " T=%.4f" % iteration.T
        if iteration.after_rounding:
            parts += ["relaxed: " + shown(iteration.losses),
                      "rounded: " + shown(iteration.after_rounding())]
        else:
            parts.append("fit of q: " + shown(iteration.losses))
        if 0 < t < its - 1:
            parts.append(duration((time.time() - self.start) / t * (its - 1 - t)) + " left")
        basics.print_line(" | ".join(parts))


def has_bar(watchers):
    """Whether a bar of the progress is shown: where the losses are printed."""
    return any(isinstance(watch, LossPrinter) for watch in watchers)


def is_due(t, its, every):
    """Whether iteration t is one of every so many, or the last."""
    return t % every == 0 or t == its - 1


def duration(seconds):
    """Text of a time with its unit."""
    if seconds < 90:
        return "%.0f s" % seconds
    if seconds < 5400:
        return "%.0f min" % (seconds / 60)
    return "%.1f h" % (seconds / 3600)


def shown(losses):
    """Averages over the batch, as text."""
    digits = dict(rd_loss=4, mse=3, bpp=4)
    terms = ["%s=%.*f" % (name, digits[name], np.mean(losses[name]))
             for name in digits if name in losses]
    if "mse" in losses:
        terms.append("psnr=%.4f" % np.mean(quality.psnr(losses["mse"])))
    return " ".join(terms)


class Record:
    """Watcher that remembers the number of iterations and, if it is kept, the losses over them.

    An entry (t, T, rd_loss, rd_loss after rounding) every RECORD_EVERY iterations, and the last.
    """

    def __init__(self, is_kept):
        self.is_kept, self.entries, self.its = is_kept, [], 0

    def __call__(self, iteration):
        if iteration.t == 0:
            self.its = iteration.its
        if not self.is_kept or not iteration.after_rounding:
            return
        if iteration.t == 0:
            self.entries = []
        if is_due(iteration.t, iteration.its, RECORD_EVERY):
            self.entries.append((iteration.t, iteration.T, iteration.losses["rd_loss"],
                                 iteration.after_rounding()["rd_loss"]))


def arrays_of(entries, reported):
    """The entries of a Record as a dict of arrays, which end with the cost of reported latents [B].

    its, T [K], the latter where there is one; rd_loss, rd_loss_after_rounding [K, B].
    """
    t, T, _, last = entries[-1]
    if not np.allclose(last, reported, rtol=1e-6, atol=0):
        entries = entries + [(t, T, reported, reported)]
    names = ("its", "T", "rd_loss", "rd_loss_after_rounding")
    return {name: np.array(values) for name, values in zip(names, zip(*entries))
            if np.isfinite(values).all()}


def require_finite(t, losses):
    """UserError if a loss is not finite."""
    if not np.isfinite(list(losses.values())).all():
        raise basics.UserError("it=%d: the loss is not finite: the optimisation diverged" % t)
