"""Numbers that come out the same on every machine.

What an entropy coder sees, and pixels, are rounded to a grid. Another machine's numbers differ by
some 1e-13, which matters only next to an edge between two points of the grid. The encoder sees
that, and shifts the grid by the next of OFFSETS steps; a file has the offset of each image.
"""

import contextlib

import numpy as np

from plumbing import basics


GRID = 2. ** -8  # distance of the grid's points; that of pixels is 1
OFFSETS = 256  # by which the grid can be shifted, steps of 1 / OFFSETS of the distance
# The encoder takes no number that is so close to an edge: on the grid, and of pixels.
EDGE, PIXEL_EDGE = 1e-10, 1e-9

# Of the Gaussians that an entropy coder is given.
MEAN_RANGE, STD_RANGE = (-2. ** 20, 2. ** 20), (1e-6, 1e6)


class NearEdge(Exception):
    """A number is so close to an edge that another machine may round it otherwise."""


def require_finite(*arrays):
    """UserError if a number of a model, in one of the arrays, is not finite."""
    if not all(np.isfinite(values).all() for values in arrays):
        raise basics.UserError("the model gives a number that is not finite")


def nearest(values, step, offset, margin):
    """k of the nearest points step * (k + offset / OFFSETS), whole doubles of values' shape.

    NearEdge if a value is within `margin` of an edge; UserError if one is not finite.
    """
    scaled = np.asarray(values, np.float64) / step - offset / OFFSETS
    require_finite(scaled)
    k = np.floor(scaled + .5)
    if margin and (.5 - np.abs(scaled - k)).min() * step < margin:
        raise NearEdge
    return k


def first_offset(attempt):
    """attempt(offset) of the first offset for which it does not raise NearEdge.

    UserError if there is none.
    """
    for offset in range(OFFSETS):
        with contextlib.suppress(NearEdge):
            return attempt(offset)
    raise basics.UserError("no grid suits the numbers of the model")


def as_single(values):
    """Doubles rounded to single precision, as the last bits of exp depend on the C library."""
    return np.float64(np.float32(values))


def as_std(log_std):
    """Standard deviations exp(log_std), as_single, and within STD_RANGE."""
    return np.clip(as_single(np.exp(np.minimum(log_std, 20))), *STD_RANGE)
