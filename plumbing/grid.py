"""Numbers that come out the same on every machine."""

import contextlib

import numpy as np

from plumbing import basics


# Distance of the grid's points, and of edges within which the encoder takes no number.
GRID, EDGE, PIXEL_EDGE = 2. ** -8, 1e-10, 1e-9
OFFSETS = 256

MEAN_RANGE, STD_RANGE = (-2. ** 20, 2. ** 20), (1e-6, 1e6)


class NearEdge(Exception):
    """A number is so close to an edge that another machine may round it otherwise."""


def nearest(values, step, offset, margin):
    """k of the nearest points step * (k + offset / OFFSETS); NearEdge within margin of an edge.

    UserError if a value is not finite.
    """
    scaled = np.asarray(values, np.float64) / step - offset / OFFSETS
    if not np.isfinite(scaled).all():
        raise basics.UserError("the model gives a number that is not finite")
    k = np.floor(scaled + .5)
    if margin and (.5 - np.abs(scaled - k)).min() * step < margin:
        raise NearEdge
    return k


def first_offset(attempt):
    """attempt(offset) of the first offset that is not NearEdge."""
    for offset in range(OFFSETS):
        with contextlib.suppress(NearEdge):
            return attempt(offset)
    raise basics.UserError("no grid suits the numbers of the model")


def as_single(values):
    """Rounded to single precision, as the last bit of exp is the C library's; as doubles."""
    return np.float64(np.float32(values))


def as_std(log_std):
    """Standard deviations, single numbers in STD_RANGE."""
    return np.clip(as_single(np.exp(np.minimum(log_std, 20))), *STD_RANGE)
