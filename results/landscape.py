"""Draw what SGA does: the R-D cost over two elements of y that it does not simply round.

    python results/landscape.py [<image>]

Of a 64x64 crop from the middle of the image, with the shipped base model at lambda = 0.01 and the
paper's settings. All other elements, and z, are where SGA ends, also at the marked points. Of the
elements that SGA rounds otherwise than the encoder's y would be, the two are those for which that
saves most. The path is that of the two alone: while SGA moves, so do all others.
"""

import argparse
import contextlib
import functools
import os
import sys

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(RESULTS))
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files
import numpy as np
import sga
import plots
from convergence import RUNS, sga_graph

SIDE = 64
RESOLUTION = 81


def read_large_image(path, side):
    """uint8 [H, W, 3] of an image file; UserError if it has less than side x side pixels."""
    image = image_files.read_image(path)
    if min(image.shape[:2]) < side:
        raise basics.UserError("%s: %d x %d pixels, needs %d x %d"
                         % ((path,) + image.shape[:2] + (side, side)))
    return image


def centre_crop(image, side):
    """The middle [side, side, 3] of uint8 [H, W, 3]."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top:top + side, left:left + side]


def sga_path(x):
    """y [its + 1, h, w, N] from the encoder's on, temperatures [its], and (y_hat, z_hat)."""
    args, graph = sga_graph(RUNS[0], [], x.shape)
    path, temperatures = [nic.encode(graph, x)[0]], []
    for _, T, _ in nic.descend(graph, {graph.x: x}, args.sga_its,
                               functools.partial(sga.temperature, args)):
        path.append(graph.sess.run(graph.free[0]))
        temperatures.append(T)
    return np.concatenate(path), temperatures, nic.integers(graph, *graph.sess.run(graph.free))


def cost_function(x):
    """Function: R-D cost [K] of y [K, h, w, N] and z [1, h, w, N]; RESOLUTION at a time."""
    shape = (RESOLUTION,) + x.shape[1:]
    _, graph = sga_graph(RUNS[0], [], shape)
    images = np.broadcast_to(x, shape)

    def cost(y, z):
        z = np.broadcast_to(z, (RESOLUTION,) + z.shape[1:])
        padded = np.resize(y, (-(-len(y) // RESOLUTION), RESOLUTION) + y.shape[1:])
        return np.concatenate([nic.discrete_losses(graph, images, part, z)["rd_loss"]
                               for part in padded])[:len(y)]
    return cost


def decisive(cost, y_hat, rounded, z):
    """Flat indices of two elements of y_hat [h, w, N], where `rounded` differs.

    Those of the highest cost if one element of y_hat is as in `rounded`; UserError if only one
    differs.
    """
    differ = np.flatnonzero(y_hat != rounded)
    if len(differ) < 2:
        raise basics.UserError("SGA rounds fewer than two elements of y otherwise than the encoder")
    copies = np.tile(y_hat.ravel(), (len(differ), 1))
    copies[range(len(differ)), differ] = rounded.ravel()[differ]
    return differ[np.argsort(cost(copies.reshape((-1,) + y_hat.shape), z))[-2:][::-1]]


def plane(y, i, j, first, second):
    """Copies of y [h, w, N] with all pairs of values of its elements i and j."""
    values = np.array([(a, b) for b in second for a in first])
    copies = np.tile(y.ravel(), (len(values), 1))
    copies[:, [i, j]] = values
    return copies.reshape((-1,) + y.shape)


def draw(path, temperatures, marked, axes_values, costs, names, picture):
    """path [its + 1, 2]; marked: label to (point, marker, colour); costs over axes_values."""
    import matplotlib.pyplot as plt
    import matplotlib.ticker
    plt.switch_backend("Agg")
    figure, axis = plt.subplots(figsize=(8.4, 6.4))
    levels = np.quantile(costs, np.linspace(0, 1, 15))
    axis.contourf(*axes_values, costs, levels, cmap="Greys")
    axis.clabel(axis.contour(*axes_values, costs, levels[1:-1:2], colors="#555555", linewidths=.7),
                fmt="%.2f", fontsize=8)
    for which in (axis.xaxis, axis.yaxis):
        which.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    axis.grid(color="#1b6ca8", alpha=.5, linewidth=.8)
    points = axis.scatter(*path.T, c=[temperatures[0]] + temperatures, cmap="plasma", s=9,
                          linewidths=0, zorder=3)
    figure.colorbar(points, ax=axis, label="temperature T of SGA")
    for label, (point, marker, colour) in marked.items():
        axis.plot(*point, marker, color=colour, markersize=18 if marker == "*" else 11,
                  markeredgecolor="white", linestyle="none", label=label, zorder=4)
    axis.set(xlabel="element (row, column, channel) = %s of y" % (names[0],),
             ylabel="element %s of y" % (names[1],),
             title="R-D cost over two latents of one image, % above SGA's")
    axis.legend(loc="best", fontsize=9)
    plots.save(figure, picture)


def run(args):
    x = centre_crop(read_large_image(args.image, SIDE), SIDE)[None]
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        path, temperatures, (y_hat, z_hat) = sga_path(x)
    cost = cost_function(x)
    chosen = i, j = decisive(cost, y_hat[0], np.round(path[0]), z_hat)
    path, end = path.reshape(len(path), -1)[:, chosen], y_hat.ravel()[[i, j]]
    above = lambda points: 100 * (cost(points, z_hat) / cost(y_hat, z_hat)[0] - 1)
    marked = {name: (point, marker, colour) for name, point, marker, colour in [
        ("encoder", path[0], "s", "#1b6ca8"), ("rounded", np.round(path[0]), "D", "#222222"),
        ("SGA", end, "*", "#d62728")]}
    marked = {"%s: %+.2f %%" % (name, above(plane(y_hat[0], i, j, *of[0][:, None]))[0]): of
              for name, of in marked.items()}
    seen = np.concatenate([path] + [point[None] for point, _, _ in marked.values()])
    axes_values = [np.linspace(low - .4, high + .4, RESOLUTION)
                   for low, high in zip(seen.min(0), seen.max(0))]
    costs = above(plane(y_hat[0], i, j, *axes_values)).reshape(RESOLUTION, RESOLUTION)
    draw(path, temperatures, marked, axes_values, costs,
         [tuple(map(int, np.unravel_index(k, y_hat.shape[1:]))) for k in chosen],
         args.output)


def main(argv=None):
    parser = command_line.Parser(prog="landscape.py", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--output", default="landscape.png",
                        help="picture to write (default: %(default)s)")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
