"""Draw what SGA does: the R-D cost over two elements of y that it does not simply round.

    python results/landscape.py [<image>]

Of a 64x64 crop from the middle of the image, with the shipped base model at lambda = 0.01 and the
paper's settings. All other elements, and z, are where SGA ends, also at the marked points. Of the
elements that SGA rounds otherwise than the encoder's y would be, the two are those for which that
saves most. The path is that of the two alone: while SGA moves, so do all others. It ends where y is
before it is rounded, and the result is the integers nearest to that.
"""

import argparse
import os
import sys
import typing

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(RESULTS))
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files
import numpy as np
import sga

import convergence
import plots

SIDE = 64
RESOLUTION = 81


class Mark(typing.NamedTuple):
    """A point that is marked in the plot."""
    point: np.ndarray  # [2] values of the two elements
    marker: str  # its shape, as matplotlib names it
    colour: str  # as matplotlib takes it


class Landscape(typing.NamedTuple):
    """R-D costs over two elements of y, and SGA's path there."""
    path: np.ndarray  # [its + 1, 2] of y
    temperatures: list  # [its]
    marks: dict  # Mark by label
    axes_values: list  # of the two elements
    costs: np.ndarray  # over axes_values, in % above SGA's
    elements: list  # (row, column, channel) of the two


def read_large_image(path, side):
    """Return uint8 [H, W, 3] of a file; UserError if it has less than side x side pixels."""
    image = image_files.read_image(path)
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise basics.UserError("%s: %d x %d pixels, needs %d x %d"
                               % (path, height, width, side, side))
    return image


def centre_crop(image, side):
    """Return the middle [side, side, 3] of uint8 [H, W, 3]."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top:top + side, left:left + side]


def sga_path(x):
    """Return y [its + 1, h, w, N] from the encoder's on, temperatures [its], rounded Latents."""
    path, temperatures = [], []

    def watch(iteration):
        path.append(graph.sess.run(graph.free.y))
        temperatures.append(iteration.T)
    compressor = convergence.sga_compressor(convergence.RUNS[0], watchers=[watch])
    graph = compressor.graph_for(x.shape)
    path.append(nic.encoder_output(graph, x).y)
    rounded = sga.infer(graph, x, compressor.options)
    return np.concatenate(path), temperatures, rounded


def cost_function(x):
    """Return a function: R-D cost [K] of y [K, h, w, N] and z [1, h, w, N].

    It computes RESOLUTION of them at a time.
    """
    shape = (RESOLUTION,) + x.shape[1:]
    graph = convergence.sga_compressor(convergence.RUNS[0]).graph_for(shape)
    images = np.broadcast_to(x, shape)

    def cost(y, z):
        z = np.broadcast_to(z, (RESOLUTION,) + z.shape[1:])
        padded = np.resize(y, (-(-len(y) // RESOLUTION), RESOLUTION) + y.shape[1:])
        return np.concatenate([nic.score(graph, images, nic.Latents(part, z))["rd_loss"]
                               for part in padded])[:len(y)]
    return cost


def decisive(cost, y_hat, rounded, z):
    """Return the flat indices of two elements of y_hat [h, w, N], where `rounded` differs.

    They are those of the highest cost if one element of y_hat is as in `rounded`; UserError if
    only one differs.
    """
    differ = np.flatnonzero(y_hat != rounded)
    if len(differ) < 2:
        raise basics.UserError("SGA rounds fewer than two elements of y otherwise than the encoder")
    copies = np.tile(y_hat.ravel(), (len(differ), 1))
    copies[range(len(differ)), differ] = rounded.ravel()[differ]
    return differ[np.argsort(cost(copies.reshape((-1,) + y_hat.shape), z))[-2:][::-1]]


def plane(y, i, j, first, second):
    """Return copies of y [h, w, N] with all pairs of values of its elements i and j."""
    values = np.array([(a, b) for b in second for a in first])
    copies = np.tile(y.ravel(), (len(values), 1))
    copies[:, [i, j]] = values
    return copies.reshape((-1,) + y.shape)


def percent(value, sign=""):
    """Return text of a value in %. sign: "+" shows a plus. What rounds to 0 has no minus."""
    return ("%" + sign + ".2f %%") % (round(float(value), 2) + 0)  # -0. + 0 is 0.


def draw_costs(axis, axes_values, costs):
    """Draw costs [RESOLUTION, RESOLUTION] over two axes, and lines at the integers."""
    import matplotlib.ticker
    levels = np.quantile(costs, np.linspace(0, 1, 15))
    axis.contourf(*axes_values, costs, levels, cmap="Greys", vmax=1.6 * levels[-1])
    lines = axis.contour(*axes_values, costs, levels[1:-1:2], colors="#555555", linewidths=.8)
    axis.clabel(lines, fmt=percent, fontsize=11, colors="#222222", zorder=3.5)
    axis.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    axis.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    axis.grid(color="#1b6ca8", alpha=.5, linewidth=.8)


def draw_path(figure, axis, path, temperatures):
    """Draw SGA's path [its + 1, 2], coloured by its temperatures [its], on a dark line."""
    axis.plot(*path.T, color="#333333", linewidth=6, solid_capstyle="round", zorder=2.5)
    points = axis.scatter(*path.T, c=[temperatures[0]] + temperatures, cmap="plasma", s=14,
                          linewidths=0, zorder=3)
    bar = figure.colorbar(points, ax=axis)
    bar.set_label("temperature T of SGA along its path", fontsize=13)
    bar.ax.tick_params(labelsize=12)


def draw_marks(axis, marks):
    """Draw a dict of Marks by label."""
    for label, mark in marks.items():
        size = 22 if mark.marker == "*" else 11
        axis.plot(*mark.point, mark.marker, color=mark.colour, markersize=size,
                  markeredgecolor="white", linestyle="none", label=label, zorder=4)


def element_label(element):
    """Return the label of the axis of an element (row, column, channel) of y."""
    return "element (row %d, column %d, channel %d) of y" % element


def draw(landscape, picture):
    """Write the plot of a Landscape."""
    figure, axis = plots.pyplot().subplots(figsize=(8.4, 6.4))
    draw_costs(axis, landscape.axes_values, landscape.costs)
    draw_path(figure, axis, landscape.path, landscape.temperatures)
    draw_marks(axis, landscape.marks)
    axis.set_xlabel(element_label(landscape.elements[0]), fontsize=13)
    axis.set_ylabel(element_label(landscape.elements[1]), fontsize=13)
    axis.set_title("R-D cost over two latents of one image, % above SGA's", fontsize=14)
    axis.tick_params(labelsize=13)
    axis.legend(loc="upper center", bbox_to_anchor=(.5, -.11), ncol=2, fontsize=12)
    plots.save(figure, picture)


def axes_around(points):
    """Return values for two axes, RESOLUTION each, around points [n, 2]."""
    return [np.linspace(low - .4, high + .4, RESOLUTION)
            for low, high in zip(points.min(0), points.max(0))]


def measure(x):
    """Return the Landscape of x [1, H, W, 3]."""
    path, temperatures, (y_hat, z_hat) = sga_path(x)
    cost = cost_function(x)
    chosen = decisive(cost, y_hat[0], np.round(path[0]), z_hat)
    lowest = cost(y_hat, z_hat)[0]

    def costs_above(first, second):
        points = plane(y_hat[0], *chosen, first, second)
        return 100 * (cost(points, z_hat) / lowest - 1)

    path = path.reshape(len(path), -1)[:, chosen]
    marks = {"encoder's y": Mark(path[0], "s", "#1b6ca8"),
             "encoder's y, rounded": Mark(np.round(path[0]), "D", "#222222"),
             "SGA's y, rounded: the result": Mark(y_hat.ravel()[chosen], "*", "#d62728"),
             "SGA's y before rounding": Mark(path[-1], "o", "#2ca02c")}
    axes_values = axes_around(np.array([*path, *(mark.point for mark in marks.values())]))
    costs = costs_above(*axes_values).reshape(RESOLUTION, RESOLUTION)
    labelled = {"%s: %s" % (name, percent(costs_above(*mark.point[:, None])[0], "+")): mark
                for name, mark in marks.items()}
    elements = [tuple(map(int, np.unravel_index(i, y_hat.shape[1:]))) for i in chosen]
    return Landscape(path, temperatures, labelled, axes_values, costs, elements)


def run(args):
    """Measure the landscape of the image's middle and draw it."""
    x = centre_crop(read_large_image(args.image, SIDE), SIDE)[None]
    basics.require_distinct(args.image, args.output)
    basics.require_writable(args.output, missing=1)
    draw(measure(x), args.output)


def main(argv=None):
    parser = command_line.Parser(prog="landscape.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--output", default="outputs/landscape.png",
                        help="picture to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
