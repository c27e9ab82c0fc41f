"""Rounding to a grid that moves where a number is near an edge."""

import numpy as np
import pytest

from plumbing import basics, grid


def test_nearest_point_of_the_grid():
    """Points are step * (k + offset / 256)."""
    values = np.array([-1.3, -.2, 0, .1, .74, .76, 5])
    np.testing.assert_array_equal(grid.nearest(values, .5, 0, 0), [-3, 0, 0, 0, 1, 2, 10])
    np.testing.assert_array_equal(grid.nearest(values, .5, 128, 0), [-3, -1, 0, 0, 1, 1, 10])
    for offset in (0, 1, 100, 255):
        points = .5 * (grid.nearest(values, .5, offset, 0) + offset / 256)
        assert abs(points - values).max() <= .25


@pytest.mark.parametrize("away", [0, 1e-12, -1e-12, 9e-11, -9e-11])
def test_the_grid_moves_where_a_number_is_near_an_edge(away):
    """The edge of an offset lies well within a cell of the next."""
    for k in (-3, 0, 1000):
        values = np.array([0., grid.GRID * (k + .5) + away])
        grid.nearest(values, grid.GRID, 0, 0)
        with pytest.raises(grid.NearEdge):
            grid.nearest(values, grid.GRID, 0, grid.EDGE)
        tried = []

        def attempt(offset):
            tried.append(offset)
            return grid.nearest(values, grid.GRID, offset, grid.EDGE)
        grid.first_offset(attempt)
        assert tried == [0, 1]


def test_no_offset_and_numbers_that_are_not_finite():
    edges = grid.GRID * (np.arange(256) / 256 + .5)
    with pytest.raises(basics.UserError, match="no grid"):
        grid.first_offset(lambda offset: grid.nearest(edges, grid.GRID, offset, grid.EDGE))
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(basics.UserError, match="not finite"):
            grid.nearest([0., value], grid.GRID, 0, 0)


def test_standard_deviations_are_single_numbers_in_a_range():
    log_std = np.array([-100., -1.3, 0, 3.7, 100])
    std = grid.as_std(log_std)
    assert std.dtype == np.float64
    np.testing.assert_array_equal(std[1:4], np.float32(std[1:4]))
    np.testing.assert_allclose(std, np.exp([np.log(1e-6), -1.3, 0, 3.7, np.log(1e6)]), rtol=1e-7)


def test_a_last_bit_of_exp_does_not_matter():
    values = np.exp(np.linspace(-5, 5, 101))
    for other in (np.nextafter(values, 0), np.nextafter(values, np.inf)):
        np.testing.assert_array_equal(grid.as_single(values), grid.as_single(other))
