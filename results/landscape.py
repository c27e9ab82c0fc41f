"""Draw what SGA does: the R-D cost over two coordinates of y, with the path that SGA takes there.

    python results/landscape.py [<image>]

Of a 64x64 crop from the middle of the image, with the shipped base model at lambda = 0.01 and the
paper's settings. The two coordinates are those with the steepest cost at the encoder's y; all
others are at the values where SGA ends.
"""

import argparse
import contextlib
import functools
import importlib
import os
import sys

RESULTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(RESULTS))
import tf_boilerplate as nic
import numpy as np
import sga
import table1
from convergence import method_graph, RUNS

SIDE = 64
RESOLUTION = 81


def centre_crop(image, side):
    """The middle [side, side, 3] of uint8 [H, W, 3]."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top:top + side, left:left + side]


def sga_path(x):
    """y [its + 1, h, w, N] from the encoder's on, temperatures [its], and (y_hat, z_hat)."""
    args, graph = method_graph("sga", RUNS[0], [], x.shape)
    path, temperatures = [nic.encode(graph, x)[0]], []
    for _, T, _ in nic.descend(graph, {graph.x: x}, args.sga_its,
                               functools.partial(sga.temperature, args)):
        path.append(graph.sess.run(graph.free[0]))
        temperatures.append(T)
    return np.concatenate(path), temperatures, nic.integers(graph, *graph.sess.run(graph.free))


def end_of(script, x):
    """y_hat [1, h, w, N] of another method."""
    args, graph = method_graph(script, RUNS[0], [], x.shape)
    return importlib.import_module(script).METHOD.infer(graph, x, args)[0]


def cost_function(x):
    """Function: R-D cost [K] of y [K, h, w, N] and z [1, h, w, N]; RESOLUTION at a time."""
    shape = (RESOLUTION,) + x.shape[1:]
    _, graph = method_graph("mbt2018", RUNS[0], [], shape)
    images = np.broadcast_to(x, shape)

    def cost(y, z):
        z = np.broadcast_to(z, (RESOLUTION,) + z.shape[1:])
        padded = np.resize(y, (-(-len(y) // RESOLUTION), RESOLUTION) + y.shape[1:])
        return np.concatenate([nic.discrete_losses(graph, images, part, z)["rd_loss"]
                               for part in padded])[:len(y)]
    return cost


def steepest(cost, y, z):
    """Flat indices of the two elements of y [h, w, N] along which the cost changes most."""
    change = .02 * np.eye(y.size, dtype=np.float32).reshape((-1,) + y.shape)
    slopes = np.abs(cost(y + change, z) - cost(y - change, z))
    return np.argsort(slopes)[-2:][::-1]


def plane(y, i, j, first, second):
    """Copies of y [h, w, N] with all pairs of values of its elements i and j."""
    values = np.array([(a, b) for b in second for a in first])
    copies = np.tile(y.ravel(), (len(values), 1))
    copies[:, [i, j]] = values
    return copies.reshape((-1,) + y.shape)


def draw(path, temperatures, ends, axes_values, costs, names, picture):
    """path [its + 1, 2]; ends: label to (point, marker, colour); costs over axes_values."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker
    figure, axis = plt.subplots(figsize=(8.4, 6.4))
    filled = axis.contourf(*axes_values, costs, 40, cmap="Greys")
    figure.colorbar(filled, ax=axis, label="R-D cost, λ · MSE + bits per pixel", pad=.02,
                    format="%.3f")
    axis.grid(color="#1b6ca8", alpha=.6, linewidth=.8)
    axis.set_axisbelow(False)
    for which in (axis.xaxis, axis.yaxis):
        which.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    points = axis.scatter(*path[1:].T, c=temperatures, cmap="plasma", s=9, linewidths=0, zorder=3)
    figure.colorbar(points, ax=axis, label="temperature T of SGA", pad=.04)
    for label, (point, marker, colour) in ends.items():
        axis.plot(*point, marker, color=colour, markersize=18 if marker == "*" else 11,
                  markeredgecolor="white", linestyle="none", label=label, zorder=4)
    axis.set(xlabel="element (row, column, channel) = %s of y" % (names[0],),
             ylabel="element %s of y" % (names[1],), aspect="equal",
             title="R-D cost over two latents of one image")
    axis.legend(loc="best", fontsize=9)
    table1.save(figure, picture)


def run(args):
    image = nic.read_image(args.image)
    if min(image.shape[:2]) < SIDE:
        raise ValueError("%s: %d x %d pixels, needs %d x %d"
                         % ((args.image,) + image.shape[:2] + (SIDE, SIDE)))
    x = centre_crop(image, SIDE)[None]
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        path, temperatures, (y_hat, z_hat) = sga_path(x)
        base, mapped = end_of("mbt2018", x), end_of("map", x)
    cost = cost_function(x)
    chosen = i, j = steepest(cost, path[0], z_hat)
    flat = lambda y: y.reshape(len(y), -1)[:, chosen]
    flat_path = flat(path)
    colours = {method.script: method.colour for method in table1.METHODS}
    ends = {"encoder": (flat_path[0], "s", "#1b6ca8"),
            "base": (flat(base)[0], "D", colours["mbt2018"]),
            "MAP": (flat(mapped)[0], "^", colours["map"]),
            "SGA": (flat(y_hat)[0], "*", colours["sga"])}
    seen = np.concatenate([flat_path] + [point[None] for point, _, _ in ends.values()])
    middle, half = (seen.max(0) + seen.min(0)) / 2, np.ptp(seen, 0).max() / 2 + .8
    axes_values = [np.linspace(m - half, m + half, RESOLUTION) for m in middle]
    costs = cost(plane(y_hat[0], i, j, *axes_values), z_hat).reshape(RESOLUTION, RESOLUTION)
    draw(flat_path, temperatures, ends, axes_values, costs,
         [tuple(map(int, np.unravel_index(k, y_hat.shape[1:]))) for k in chosen],
         args.output)


def main(argv=None):
    parser = nic.Parser(prog="landscape.py", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?",
                        default=os.path.join(RESULTS, "images", "face-384x384.png"))
    parser.add_argument("--output", default="landscape.png",
                        help="picture to write (default: %(default)s)")
    nic.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
