"""When checkpoints of a training are saved, and their evaluation on images that are held out.

The evaluation never ends a training: what goes wrong is a note, and means that are nan.
"""

import contextlib
import os

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics

MEANS = ("rd_cost", "est_bpp", "mse", "psnr")


class CheckpointSaver(tf.train.SessionRunHook):
    """Saves a checkpoint at the start, now and then, and at the end; listeners are told.

    As tf.train.CheckpointSaverHook, which also writes the graph, of megabytes, at each start.
    """

    def __init__(self, folder, seconds, saver, listeners):
        self.path, self.saver, self.listeners = os.path.join(folder, "model.ckpt"), saver, listeners
        self.timer, self.saved = tf.train.SecondOrStepTimer(every_secs=seconds), None

    def after_create_session(self, session, coord):
        self.save(session)

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(tf.train.get_global_step())

    def after_run(self, run_context, run_values):
        if self.timer.should_trigger_for_step(run_values.results + 1):
            self.save(run_context.session)

    def end(self, session):
        self.save(session)

    def save(self, session):
        step = session.run(tf.train.get_global_step())
        if step != self.saved:
            self.saver.save(session, self.path, step)
            self.saved = step
            for listener in self.listeners:
                listener.after_save(session, step)
        # Now, as a listener may take longer than the time between two checkpoints.
        self.timer.update_last_triggered_step(step)


class Validation(tf.train.CheckpointSaverListener):
    """Evaluates every checkpoint of the run in a folder.

    evaluate() gives a list of results, dicts of arrays, on the held-out images. Their means are a
    line on stdout, a row of validation.csv in the folder, and summaries in logdir, unless it is "".
    """

    def __init__(self, folder, logdir, evaluate):
        self.folder, self.logdir, self.evaluate = folder, logdir, evaluate

    def complete(self, step):
        """Evaluate the newest checkpoint, of that step, unless that succeeded before."""
        with contextlib.suppress(OSError, ValueError):
            rows = rows_before(os.path.join(self.folder, "validation.csv"), step + 1)
            if rows and rows[-1].startswith("%d," % step) and "nan" not in rows[-1]:
                return
        self.after_save(None, step)

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


def rows_before(path, step):
    """Rows of earlier steps in a CSV, which may not be there, as text.

    ValueError if what is there is no such CSV, as one that was saved with other delimiters.
    """
    if not os.path.exists(path):
        return []
    return [row for row in basics.read_bytes(path).decode().split()[1:]
            if int(row.split(",")[0]) < step]


def append_row(path, step, means):
    """Add a row to a CSV: the step, and a dict of means by name.

    Rows of later steps go, which an interrupted run is ahead by. ValueError as rows_before.
    """
    rows = rows_before(path, step)
    rows.append(",".join(["%d" % step] + ["%.6f" % value for value in means.values()]))
    basics.write_bytes(path, "\n".join([",".join(["step", *means])] + rows + [""]).encode())


def summarise(folder, step, means):
    """Add the same to TensorBoard's summaries in a folder."""
    writer = tf.summary.FileWriterCache.get(folder)
    writer.add_summary(tf.Summary(value=[
        tf.Summary.Value(tag="validation/" + name, simple_value=value)
        for name, value in means.items()]), step)
