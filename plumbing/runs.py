"""Checkpoints by run name, and sessions with their weights.

A run is a folder of checkpoints of one model; all else that is known of it is read from its newest
checkpoint. The names of variables are those of the authors' checkpoints.
"""

import contextlib
import glob
import itertools
import os
import re
import typing

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics, machine


PRIOR_SCOPE = "entropy_bottleneck"  # of the variables of p(z) in the base model
OPTIMISER_VARIABLES = re.compile(r".*/Adam(_1)?|beta[12]_power(_1)?")  # their names


class Run(typing.NamedTuple):
    """A trained model."""
    name: str  # <script>-num_filters=<N>-lmbda=<lambda>, its folder in checkpoint_dir
    checkpoint: str  # path prefix of its newest checkpoint
    num_filters: int  # N
    step: int  # number of training steps behind it
    fingerprint: bytes  # digest of the model's variables, whether or not it is resumable
    resumable: bool  # whether the optimiser's slots are stored
    model: str  # "base" or "bits-back"


def newest_checkpoint(folder):
    """Path prefix of the newest checkpoint in `folder`, or None.

    It is in the file `checkpoint`; where that is missing, empty, damaged or names one that is not
    there, it is the one of the most steps.
    """
    state, named = None, None
    with contextlib.suppress(ValueError):  # UnicodeDecodeError is one
        state = tf.train.get_checkpoint_state(folder)
    if state and state.model_checkpoint_path:  # which may have been written on Windows
        named = os.path.join(folder, re.split(r"[/\\]", state.model_checkpoint_path)[-1])
        if os.path.exists(named + ".index"):
            return named
    found = [re.search(r"/model\.ckpt-(\d+)\.index$", path) for path in
             glob.glob(os.path.join(glob.escape(folder), "*.index"))]
    steps = [int(name.group(1)) for name in found if name]
    return os.path.join(folder, "model.ckpt-%d" % max(steps)) if steps else named


def require_literal(path):
    """UserError if TensorFlow can't take a checkpoint's path, or only for a pattern of several."""
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        raise basics.UserError("%s: TensorFlow takes paths in UTF-8 alone"
                               % basics.printable(os.path.abspath(path)))
    special = sorted(set(path) & set("*?[\\"))
    if special:
        raise basics.UserError("%s: TensorFlow takes it for a pattern of several checkpoints; "
                               "accepted are paths without %s" % (path, " ".join(special)))


def run_names(checkpoint_dir):
    """Sorted names of the runs in a folder, none if it is not there."""
    folders = glob.glob(os.path.join(glob.escape(checkpoint_dir), "*"))
    return sorted(os.path.basename(folder) for folder in folders if newest_checkpoint(folder))


def find_run(checkpoint_dir, run_name):
    """The Run in a folder of checkpoint_dir; UserError if there is no readable checkpoint."""
    folder = os.path.join(checkpoint_dir, run_name)
    checkpoint = newest_checkpoint(folder)
    if not checkpoint:
        names, hint = run_names(checkpoint_dir), ""
        if not names:
            hint = "; give another folder by --checkpoint_dir"
        if newest_checkpoint(run_name):
            hint = "; give --checkpoint_dir %s and the run's name" % os.path.dirname(
                os.path.abspath(run_name))
        raise basics.UserError("no checkpoint in %s; runs in %s: %s%s" % (
            folder, checkpoint_dir, ", ".join(names) or "none", hint))
    require_literal(checkpoint)
    try:
        return read_run(checkpoint)
    except tf.errors.OpError as error:
        raise basics.UserError("%s: not a readable checkpoint (%s)" % (checkpoint, error.message))


def read_run(checkpoint):
    """Run of a checkpoint, a path prefix; UserError if it is not one of these models."""
    reader = tf.train.NewCheckpointReader(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    model = "base" if PRIOR_SCOPE + "/matrix_0" in shapes else "bits-back"
    bias_shape = shapes.get("analysis_transform/layer_0/bias")
    if not bias_shape or (model == "bits-back" and "matrix_0" not in shapes):
        raise basics.UserError("%s: not a checkpoint of mbt2018.py or mbt2018_bb.py" % checkpoint)
    slots = {name for name in shapes if OPTIMISER_VARIABLES.fullmatch(name)}
    names = sorted(set(shapes) - slots - {"global_step"})
    fingerprint = basics.digest(*itertools.chain.from_iterable(
        (name.encode(), np.asarray(reader.get_tensor(name))) for name in names))
    step = int(reader.get_tensor("global_step")) if "global_step" in shapes else 0
    return Run(name=os.path.basename(os.path.dirname(checkpoint)), checkpoint=checkpoint,
               num_filters=bias_shape[0], step=step, fingerprint=fingerprint,
               resumable=bool(slots), model=model)


def lmbda_of(run_name):
    """The lambda in a run's name, or None."""
    found = re.search(r"(?<![a-z0-9])lmbda=((\d+\.?\d*|\.\d+)(e[-+]?\d+)?)(?![\w.,])", run_name,
                      re.ASCII | re.IGNORECASE)
    if found and np.isfinite(float(found.group(1))):
        return float(found.group(1))
    return None


def require_lmbda(run_name):
    """The lambda in a run's name; UserError if there is none."""
    lmbda = lmbda_of(run_name)
    if lmbda is None:
        raise basics.UserError("the run name %s has no lmbda=<number>; give --lambda" % run_name)
    return lmbda


def medians(run):
    """[N] medians of a base model's p(z), around which centred z are rounded."""
    quantiles = tf.train.load_checkpoint(run.checkpoint).get_tensor(PRIOR_SCOPE + "/quantiles")
    return quantiles[:, 0, 1]


def session_config(threads, gpu=True):
    """tf.ConfigProto with so many threads, as floats depend on them; None stands for all cores.

    TensorFlow takes no more memory than there is. That of a GPU is taken as it is needed; without
    `gpu`, none is used.
    """
    number = machine.num_threads(threads)
    limit = machine.free_memory() / 2 ** 20  # TensorFlow's own is 64 GB
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", "%d" % limit)
    return tf.ConfigProto(intra_op_parallelism_threads=number,
                          inter_op_parallelism_threads=number,
                          device_count={} if gpu else {"GPU": 0},
                          gpu_options=tf.GPUOptions(allow_growth=True))


def restored_session(graph, run, config):
    """Session with all global variables of the graph restored, in their precision, from a run."""
    sess = tf.Session(graph=graph, config=config)
    weights = tf.train.load_checkpoint(run.checkpoint)
    with graph.as_default():
        variables = tf.global_variables()
    # At once, as each sess.run that has not been before takes some 10 ms.
    sess.run([v.initializer for v in variables], {
        v.initializer.inputs[1]: weights.get_tensor(v.op.name) for v in variables})
    return sess


def require_usable(run, model, num_filters=None):
    """UserError unless a run is of a model, and has so many filters, if that is given."""
    if run.model != model:
        scripts = "mbt2018.py, sga.py and others without bb_"
        if run.model == "bits-back":
            scripts = "mbt2018_bb.py to train, bb_sga.py and others with bb_"
        raise basics.UserError("%s is a %s model, which this script can't use; scripts for it: %s"
                               % (run.checkpoint, run.model, scripts))
    if num_filters not in (None, run.num_filters):
        raise basics.UserError("--num_filters %d: the model %s has %d"
                               % (num_filters, run.checkpoint, run.num_filters))
