"""Plots of a data set: R-D curves with the published ones and other codecs', and BD-rates."""

import itertools
import os
import re
import typing

from plumbing import basics
import numpy as np

import rd_curves

CODEC_COLOUR = "#888888"
CODEC_STYLES = ["-", "--", "-.", (0, (5, 1, 1, 1, 1, 1))]
LABEL_SIZE = 9  # of codecs' names at their curves, in points


class Metric(typing.NamedTuple):
    """A measure of quality, and the plot of it."""
    column: str  # of a curve
    label: str  # in plots, in dB
    file_name: str


METRICS = [Metric("psnr", "PSNR", "rd-psnr.png"), Metric("msssim_db", "MS-SSIM", "rd-msssim.png")]


class Group(typing.NamedTuple):
    """All that an R-D plot shows, as dicts of curves by name."""
    curves: dict  # the methods'
    codecs: dict  # other codecs'
    papers: dict  # the published ones


def pyplot():
    """Return matplotlib.pyplot, set up for files; it is imported here as that takes long."""
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")
    return plt


def save(figure, path):
    """Write a figure as PNG, with what stands outside of its axes."""
    figure.tight_layout()
    with basics.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight")
    print("plot: %s" % path)


def draw(folder, title, curves, codecs, papers, papers_label):
    """Write rd-psnr.png, rd-msssim.png and bd-rate.png of a data set, as far as there are values.

    Dicts of curves by name: the methods', other codecs', and the paper's, whose label says of what
    they are; their BD-rates are over the lambdas of base. Notes name curves that lack a plot's
    metric, and plots for which there is nothing.
    """
    title += filters_text(curves)
    for metric in METRICS:
        path = os.path.join(folder, metric.file_name)
        if any(is_known(curve, metric.column) for curve in curves.values()):
            shown = Group(*(with_metric(group, metric, path, prefix) for group, prefix in (
                (curves, ""), (codecs, ""), (papers, "published "))))
            draw_rates(path, title, metric, shown, papers_label)
        else:
            basics.note("%s: not drawn, as no method has %s for each point" % (path, metric.label))
    papers = rd_curves.at_lambdas_of(curves.get("mbt2018", {}), papers)
    draw_bars(folder, title, rd_curves.savings(curves, "psnr"), rd_curves.savings(papers, "psnr"),
              papers_label)


def filters_text(curves):
    """Return the end of a title: how many filters the models have by the names of all runs.

    It is empty if a name does not say so, or if they differ.
    """
    names = [name for curve in curves.values() for name in curve.get("run_name", [])]
    numbers = {tuple(re.findall(r"num_filters=(\d+)", name)) for name in names}
    if len(numbers) != 1 or len(min(numbers)) != 1:
        return ""
    return ", models of %s filters" % min(numbers)


def is_known(curve, quality):
    """Tell whether a curve has the column `quality`, without nan, as MS-SSIM of small images is."""
    return quality in curve and np.isfinite(curve[quality]).all()


def with_metric(curves, metric, path, prefix):
    """Return those of a dict of curves that have the Metric of the plot in `path`.

    A note names the others, with a prefix.
    """
    missing = [prefix + method.label for method in rd_curves.methods_of(curves)
               if not is_known(curves[method.script], metric.column)]
    if missing:
        basics.note("%s: not drawn, as they have no %s for each point: %s"
                    % (path, metric.label, ", ".join(missing)))
    return {name: curve for name, curve in curves.items() if is_known(curve, metric.column)}


# ---------------------------------------------------------------- R-D curves

def draw_rates(path, title, metric, shown, papers_label):
    """Write the R-D plot of a Group of curves that have the Metric.

    The methods' curves fill it, as far as there are no others beyond them; a second panel beside it
    has the whole range of all.
    """
    limits = limits_of(shown.curves, metric.column)
    has_more = any(is_beyond(curve, metric.column, limits)
                   for curve in [*shown.codecs.values(), *shown.papers.values()])
    if has_more:
        figure, axes = pyplot().subplots(1, 2, figsize=(10.5, 5.2),
                                         gridspec_kw=dict(width_ratios=[6, 5]))
        draw_whole_range(axes[1], metric, shown, limits)
    else:
        figure, axis = pyplot().subplots(figsize=(8, 5.2))
        axes = [axis]
    draw_methods(axes[0], shown.curves, metric.column)
    axes[0].axis(limits)
    draw_codecs(axes[0], shown.codecs, metric.column)
    axes[0].set_ylabel("%s, dB" % metric.label)
    for axis in axes:
        axis.set_xlabel("bits per pixel")
        axis.grid(alpha=.25)
    add_legend(figure, axes[0], shown, papers_label)
    figure.suptitle(title)
    save(figure, path)


def limits_of(curves, quality):
    """Return the limits (left, right, bottom, top) of axes that a dict of curves fills."""
    limits = []
    for column in ("est_bpp", quality):
        values = np.concatenate([curve[column] for curve in curves.values()])
        margin = .05 * np.ptp(values) or .1
        limits += [values.min() - margin, values.max() + margin]
    limits[0] = max(limits[0], .5 * min(curve["est_bpp"].min() for curve in curves.values()))
    return limits


def is_beyond(curve, quality, limits):
    """Tell whether a curve has points outside the limits."""
    left, right, bottom, top = limits
    rate, values = curve["est_bpp"], curve[quality]
    return (min(rate) < left or max(rate) > right or min(values) < bottom or max(values) > top)


def draw_whole_range(axis, metric, shown, limits):
    """Draw all curves of a Group, over the logarithm of the rate, and the limits as a frame."""
    import matplotlib.ticker
    draw_methods(axis, shown.curves, metric.column, markersize=3)
    for method in rd_curves.methods_of(shown.papers):
        curve = shown.papers[method.script]
        axis.plot(curve["est_bpp"], curve[metric.column], ":", color=method.colour, linewidth=1.6)
    for curve in shown.codecs.values():
        axis.update_datalim(np.transpose([curve["est_bpp"], curve[metric.column]]))
    axis.set_xscale("log")
    axis.autoscale_view()
    axis.axis(axis.axis())
    left, right, bottom, top = limits
    axis.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom],
              color="#222222", linewidth=.8)
    draw_codecs(axis, shown.codecs, metric.column)
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axis.set_title("whole range (frame: left plot)", fontsize=10)


def draw_methods(axis, curves, quality, markersize=5):
    """Draw the methods' curves, those with bits-back dashed and hollow, on top of the others."""
    for method in rd_curves.methods_of(curves):
        curve = curves[method.script]
        style = dict(linewidth=2)
        if method.script.startswith("bb_"):
            style = dict(linewidth=1.4, linestyle="--", markerfacecolor="white", zorder=3)
        axis.plot(curve["est_bpp"], curve[quality], marker="o", color=method.colour,
                  label=method.label, markersize=markersize, **style)


def draw_codecs(axis, codecs, quality):
    """Draw the curves of codecs in grey, with their names at them; the axes keep their limits."""
    limits = axis.axis()
    lines = [axis.plot(curve["est_bpp"], curve[quality], linestyle=style, color=CODEC_COLOUR,
                       marker="." if len(curve["est_bpp"]) == 1 else "", label=name, linewidth=1.2,
                       zorder=1)[0]
             for (name, curve), style in zip(sorted(codecs.items()),
                                             itertools.cycle(CODEC_STYLES))]
    axis.axis(limits)
    axis.figure.tight_layout()
    taken = {line: points_on(line) for line in axis.lines}
    for line in lines:
        label_line(axis, line, taken)


def points_on(line):
    """Return many points [n, 2] on a line of a plot, in pixels."""
    corners = line.axes.transData.transform(line.get_xydata())
    positions = np.linspace(0, len(corners) - 1, 50 * len(corners))
    return np.transpose([np.interp(positions, range(len(corners)), side) for side in corners.T])


def label_line(axis, line, taken):
    """Write a line's label along it, where it is the furthest from other lines and labels.

    taken: dict of points by line, as of points_on, to which the label's corners are added.
    """
    label, points = line.get_label(), taken[line]
    # Half the size of the text, whose letters are about .6 of its height wide.
    half = .5 * LABEL_SIZE * np.array([.6 * len(label), 1.2]) * axis.figure.dpi / 72
    steps = np.gradient(points, axis=0)
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    along = np.where(lengths > 0, steps / np.maximum(lengths, 1e-9), (1, 0))  # of one point: right
    frames = np.stack([along, along[:, ::-1] * [-1, 1]], axis=1)  # [n, 2, 2]: along and across it
    extent = half @ np.abs(frames)
    low, high = axis.bbox.get_points()
    visible = ((points > low) & (points < high)).all(axis=1)
    fitting = ((points - extent > low) & (points + extent < high)).all(axis=1)
    candidates = np.flatnonzero(fitting if fitting.any() else visible)
    if not len(candidates):
        return
    others = np.concatenate([[(1e6, 1e6)]] + [taken[other] for other in taken if other is not line])
    gaps = points[candidates, None] - others
    distances = np.abs(gaps @ frames[candidates].transpose(0, 2, 1)) / half
    best = candidates[distances.max(axis=2).min(axis=1).argmax()]
    corners = half * [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    taken[label] = points[best] + corners @ frames[best]
    axis.text(*axis.transAxes.inverted().transform(points[best]), label, transform=axis.transAxes,
              rotation=np.degrees(np.arctan2(*along[best, ::-1])), rotation_mode="anchor",
              ha="center", va="center", zorder=1.5, fontsize=LABEL_SIZE, color="#555555",
              bbox=dict(facecolor="white", edgecolor="none", alpha=.85, pad=.8))


def add_legend(figure, axis, shown, papers_label):
    """Write the legend below a figure, of the methods in its axis and of what else is shown."""
    handles = [line for line in axis.lines if line.get_label() not in shown.codecs]
    if shown.papers:
        handles += axis.plot([], [], ":", color=CODEC_COLOUR, label=papers_label, linewidth=1.6)
    if shown.codecs:
        handles += axis.plot([], [], color=CODEC_COLOUR, label="other codecs: bits of files",
                             linewidth=1.2)
    figure.legend(handles=handles, title="curves with points: bits are information content",
                  loc="upper center", bbox_to_anchor=(.5, .015), ncol=3, fontsize=10)


# ---------------------------------------------------------------- BD-rates

def bar_label(saving):
    """Return the text beside the bar of a Saving; a star marks one that is not to be trusted."""
    text = "%.1f %%" % saving.rate
    if saving.caveats:
        text += " *"
    return text


def methods_of_bars(path, rates):
    """Return the methods whose Saving, of a dict by script, has a BD-rate; a note names others."""
    methods = [method for method in rd_curves.methods_of(rates) if method.script != "mbt2018"]
    shown = [method for method in methods if np.isfinite(rates[method.script].rate)]
    missing = [method.label for method in methods if method not in shown]
    if not shown:
        basics.note("%s: not drawn, as no method has a BD-rate" % path)
    elif missing:
        basics.note("%s: without a BD-rate, not drawn: %s" % (path, ", ".join(missing)))
    return shown


def draw_bars(folder, title, rates, papers, papers_label):
    """Write bd-rate.png of a data set: the Saving per script, and the published one's mark."""
    path = os.path.join(folder, "bd-rate.png")
    shown = methods_of_bars(path, rates)
    if not shown:
        return
    figure, axis = pyplot().subplots(figsize=(8, .45 * len(shown) + 1.3))
    bars = axis.barh([method.label for method in shown],
                     [rates[method.script].rate for method in shown],
                     color=[method.colour for method in shown])
    axis.bar_label(bars, [bar_label(rates[method.script]) for method in shown], padding=3)
    known = [i for i, method in enumerate(shown) if method.script in papers]
    if known:
        axis.plot([papers[shown[i].script].rate for i in known], known, "D", color="white",
                  markeredgecolor="#222222", label=papers_label)
        axis.legend(loc="lower left", fontsize=9)
    axis.margins(x=.15)
    axis.invert_yaxis()
    axis.axvline(0, color="#222222", linewidth=.8)
    axis.set(xlabel="BD-rate against the base hyperprior, % (PSNR)",
             title=title)
    save(figure, path)
