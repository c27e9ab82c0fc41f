"""Plots of a data set: R-D curves with the published ones and other codecs', and BD-rates."""

import itertools
import os

from plumbing import basics
import numpy as np

import rd_curves


def pyplot():
    """Return matplotlib.pyplot, set up for files; it is imported here as that takes long."""
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")
    return plt


def save(figure, path):
    """Write a figure as PNG."""
    figure.tight_layout()
    with basics.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    print("plot: %s" % path)


def draw(folder, title, curves, codecs, papers, papers_label):
    """Write rd-psnr.png, rd-msssim.png and bd-rate.png of a data set, as far as there are values.

    Dicts of curves by name: the methods', other codecs', and the paper's, whose label says of what
    they are. A note names curves that lack a plot's metric.
    """
    for quality, label, name in (("psnr", "PSNR, dB", "rd-psnr.png"),
                                 ("msssim_db", "MS-SSIM, dB", "rd-msssim.png")):
        if any(is_known(curve, quality) for curve in curves.values()):
            figure, axis = pyplot().subplots(figsize=(8, 5.2))
            draw_methods(axis, curves, papers, quality)
            draw_codecs(axis, codecs, quality)
            axis.set(xlabel="bits per pixel (information content)", ylabel=label,
                     title=title)
            axis.grid(alpha=.25)
            if quality == "psnr" and papers:
                axis.plot([], [], "--", color="#888888", label=papers_label, linewidth=1)
            axis.legend(fontsize=9)
            save(figure, os.path.join(folder, name))
    draw_bars(folder, title, rd_curves.savings(curves, "psnr"), rd_curves.savings(papers, "psnr"),
              papers_label)


def is_known(curve, quality):
    """Tell whether a curve has the column `quality`, without nan, as MS-SSIM of small images is."""
    return quality in curve and np.isfinite(curve[quality]).all()


def draw_methods(axis, curves, papers, quality):
    """Draw the methods' curves, and with dashes the published ones of the same colour."""
    for method in rd_curves.methods_of(curves):
        curve, paper = curves[method.script], papers.get(method.script, {})
        if is_known(curve, quality):
            axis.plot(curve["est_bpp"], curve[quality], "o-", color=method.colour,
                      label=method.label, markersize=4, linewidth=1.5)
        else:
            basics.note("%s has no %s for each point, is not drawn" % (method.label, quality))
        if quality in paper:
            axis.plot(paper["est_bpp"], paper[quality], "--", color=method.colour, linewidth=1,
                      zorder=1)


def draw_codecs(axis, codecs, quality):
    """Draw the curves of codecs in grey, within the limits of what is drawn already."""
    limits = axis.axis()
    styles = itertools.cycle([":", "-.", "--", "-"])
    for (name, curve), style in zip(sorted(codecs.items()), styles):
        if is_known(curve, quality):
            axis.plot(curve["est_bpp"], curve[quality], style, color="#999999", label=name,
                      linewidth=1.2, zorder=0)
    axis.axis(limits)


def bar_label(saving):
    """Return the text beside the bar of a Saving; a star marks one that is not to be trusted."""
    text = "%.1f %%" % saving.rate
    if saving.caveats:
        text += " *"
    return text


def draw_bars(folder, title, rates, papers, papers_label):
    """Write bd-rate.png of a data set: the Saving per script, and the published one's mark."""
    shown = [method for method in rd_curves.methods_of(rates)
             if method.script != "mbt2018" and np.isfinite(rates[method.script].rate)]
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
    save(figure, os.path.join(folder, "bd-rate.png"))
