"""Evaluation of the checkpoints of a training on images that are held out.

It never ends a training: what goes wrong is a note, and means that are nan.
"""

import os

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics

MEANS = ("rd_cost", "est_bpp", "mse", "psnr")


class Validation(tf.train.CheckpointSaverListener):
    """Evaluates every checkpoint of the run in a folder.

    evaluate() gives a list of results, dicts of arrays, on the held-out images. Their means are a
    line on stdout, a row of validation.csv in the folder, and summaries in logdir, unless it is "".
    """

    def __init__(self, folder, logdir, evaluate):
        self.folder, self.logdir, self.evaluate = folder, logdir, evaluate

    def after_save(self, session, global_step_value):
        step, means = int(global_step_value), dict.fromkeys(MEANS, np.nan)
        try:
            results = self.evaluate()
            means = {name: float(np.mean(np.concatenate([result[name] for result in results])))
                     for name in MEANS}
        except Exception as error:
            basics.note("no validation at step %d: %s" % (step, error))
        basics.print_line("step=%d validation rd_cost=%.4f bpp=%.4f mse=%.3f psnr=%.3f"
                          % (step, *means.values()))
        try:
            append_row(os.path.join(self.folder, "validation.csv"), step, means)
        except (OSError, ValueError) as error:
            basics.note("validation.csv of %s has no row of step %d: %s"
                        % (self.folder, step, error))
        if self.logdir:
            summarise(self.logdir, step, means)


def append_row(path, step, means):
    """Add a row to a CSV: the step, and a dict of means by name.

    Rows of later steps go, which an interrupted run is ahead by. ValueError if what is there is no
    such CSV, as one that was saved with other delimiters.
    """
    rows = []
    if os.path.exists(path):
        rows = [row for row in basics.read_bytes(path).decode().split()[1:]
                if int(row.split(",")[0]) < step]
    rows.append(",".join(["%d" % step] + ["%.6f" % value for value in means.values()]))
    basics.write_bytes(path, "\n".join([",".join(["step", *means])] + rows + [""]).encode())


def summarise(folder, step, means):
    """Add the same to TensorBoard's summaries in a folder."""
    writer = tf.summary.FileWriterCache.get(folder)
    writer.add_summary(tf.Summary(value=[
        tf.Summary.Value(tag="validation/" + name, simple_value=value)
        for name, value in means.items()]), step)
