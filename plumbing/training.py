"""The learning rate, the loop, and the folder of a run.

Adam on the weights of a model whose objective is a script's, on one machine or as a task of a
Cluster. Training that is continued sees what it would have seen without the interruption: the
folder keeps the settings that a run was begun with.
"""

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import time

import numpy as np
import tqdm
import tensorflow.compat.v1 as tf

from plumbing import basics, quality, runs

# Settings of which one that changes makes another training, options of a script among them; with
# --lr_decay --last_step, too, as it counts where the rate falls.
DECISIVE = ("lmbda", "batchsize", "patchsize", "train_glob", "train_images", "lr", "lr_warmup",
            "lr_decay", "seed", "posterior_of", "num_replicas")
# How errors name those that are no option of that name.
LABELS = dict(lmbda="--lambda", train_images="images of checksum",
              num_replicas="number of replicas")


def learning_rate(step, last_step, lr, warmup, decay):
    """float32 rate of the update after `step`, an integer tensor: lr, by default throughout.

    It rises linearly over the first `warmup` steps, and falls to lr / 100 along a cosine over the
    last `decay` (a fraction) of all last_step.
    """
    done, total = tf.cast(step, tf.float32), tf.cast(last_step, tf.float32)
    rate = tf.cast(lr, tf.float32)
    if decay:
        falling = tf.maximum(0., done - (1 - decay) * total)
        rate = tf.train.cosine_decay(rate, falling, decay * total, alpha=.01)
    if warmup:
        rate *= tf.minimum(1., (done + 1) / warmup)
    return rate


def settings_of(options, paths, num_replicas):
    """Dict of all that makes a training, its args.json: options, and what they do not say."""
    names = "\n".join(map(os.path.basename, paths))
    return dict(options, num_replicas=num_replicas,
                train_images=basics.digest(names.encode()).hex())


def source_of_new_run(args):
    """The Run that --init_from names, in checkpoint_dir or elsewhere, or None.

    UserError if the name of the new run has another lambda than it is to be trained with.
    """
    if runs.lmbda_of(args.run_name) not in (None, args.lmbda):
        raise basics.UserError("--run_name %s: has another lambda than --lambda %g"
                               % (args.run_name, args.lmbda))
    if not args.init_from:
        return None
    is_there = runs.newest_checkpoint(os.path.join(args.checkpoint_dir, args.init_from))
    is_elsewhere = not is_there and os.path.isdir(args.init_from)
    return runs.find_run("" if is_elsewhere else args.checkpoint_dir, args.init_from)


def require_run_folder(folder):
    """UserError or OSError if a run can't be kept there; as far as that is known without trying."""
    runs.require_literal(os.path.join(folder, "model.ckpt"))
    basics.require_folder(os.path.dirname(os.path.dirname(os.path.abspath(folder))), missing=0)


@contextlib.contextmanager
def prepared_folder(folder, settings, run):
    """A context with the folder of a run that is to be continued or, if `run` is None, new.

    settings: dict, which becomes its args.json. UserError if another process trains there, or did
    since the run was looked for.
    """
    path = os.path.join(folder, "args.json")
    basics.require_writable(path, missing=2)
    with basics.locked(os.path.join(folder, "train.lock")):
        if runs.newest_checkpoint(folder) != (run and run.checkpoint):
            raise basics.UserError("%s: was trained by another process meanwhile; the same command "
                                   "continues" % folder)
        for leftover in glob.glob(os.path.join(glob.escape(folder), "model.ckpt-*_temp_*")):
            shutil.rmtree(leftover)  # of a process that was killed while it saved
        basics.write_bytes(path, json.dumps(settings, indent=4, sort_keys=True).encode())
        named = None
        with contextlib.suppress(ValueError, tf.errors.NotFoundError):  # damaged, or not there
            named = tf.train.latest_checkpoint(folder)
        if run and named != run.checkpoint:  # else older ones would be forgotten, and stay for ever
            tf.train.update_checkpoint_state(folder, run.checkpoint)
        yield


def require_same_training(settings, folder, force):
    """The settings, a dict of options, to continue the run in `folder` with.

    These are the given ones and, if they have no init_from, that which the run began with.
    UserError if its last settings would have made another run of it; with `force`, only if it
    began with another init_from.
    """
    last = {"posterior_of": "y"}  # of runs from before it was an option
    with contextlib.suppress(OSError, TypeError, ValueError):  # it may be missing, or a stranger's
        last.update(json.loads(basics.read_bytes(os.path.join(folder, "args.json")).decode()))
    source = settings["init_from"] or last.get("init_from")
    if source != last.get("init_from", source):
        raise basics.UserError("--init_from %s: only for a new run, and %s is there"
                               % (source, folder))
    names = [*DECISIVE, "last_step"] if settings["lr_decay"] else DECISIVE
    differ = ["%s %s (now %s)" % (LABELS.get(name, "--" + name), shown(last[name]),
                                  shown(settings[name]))
              for name in names if name in last and last[name] != settings.get(name, last[name])]
    if differ and not force:
        raise basics.UserError("%s was trained with %s; --force continues it with the new ones"
                               % (folder, ", ".join(differ)))
    return dict(settings, init_from=source)


def shown(value):
    """The value of an option as errors have it."""
    return "none" if value in (None, "") else value


def initialiser(run):
    """Scaffold's init_fn that starts training, at step 0, from the weights of a run.

    It takes the variables that both have by name and shape, or of a run of fewer filters those
    that both have by name, and says which; UserError unless these are most of them. Tables for
    the range coder are restored, as their shapes are known only then; a wider run's are made anew.
    """
    weights = {v.op.name: v for v in tf.global_variables()
               if not (v.op.name == "global_step" or "cdf" in v.op.name
                       or runs.OPTIMISER_VARIABLES.fullmatch(v.op.name))}
    n, N = run.num_filters, weights["analysis_transform/layer_0/bias"].shape[0].value
    reader = tf.train.load_checkpoint(run.checkpoint)
    stored = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
              if not runs.OPTIMISER_VARIABLES.fullmatch(name)}
    if run.model == "base" and "matrix_0" in weights:
        stored = bits_back_of_base(stored, n)

    def fits(name):
        if n < N:
            return can_widen(name, stored[name], weights[name].shape, n, N)
        return weights[name].shape.is_compatible_with(stored[name].shape)
    tables = [v for v in tf.global_variables()
              if "cdf" in v.op.name and v.op.name in stored and n == N]
    saver = tf.train.Saver(tables) if tables else None
    shared = [name for name in weights if name in stored and fits(name)]
    fresh = [name for name in weights if name not in shared]
    if 2 * len(shared) <= len(weights):
        raise basics.UserError(
            "--init_from %s: only %d of %d variables are there by name and shape"
            % (run.checkpoint, len(shared), len(weights)))
    widening = ", of %d filters widened to %d" % (n, N) if n < N else ""
    basics.print_line("from %s: %d variables%s; fresh: %s" % (
        run.checkpoint, len(shared), widening, ", ".join(fresh) or "none"))

    def initialise(scaffold, sess):
        initial = sess.run({name: weights[name] for name in shared})
        sess.run([weights[name].initializer for name in shared], {
            weights[name].initializer.inputs[1]: widened(name, stored[name], initial[name], n, N)
            for name in shared})
        if tables:
            saver.restore(sess, run.checkpoint)
    return initialise


def bits_back_of_base(stored, n):
    """Variables of a bits-back model that are those of a base model of n filters, name -> array.

    z_mean is sqrt(12) z and z_logvar 0, so that the noise of z has the variance that rounding has
    in units of z. p(z) and h_s are scaled to match, and give the rates and pictures of before.
    """
    scale = 12 ** .5

    def converted(name, value):
        if name == "matrix_0":  # of p(z), which takes its softplus
            return np.log(np.expm1(np.log1p(np.exp(value)) / scale))
        if name == "mb_t2018hyper_synthesis_transform/layer_0/kernel":
            return value / scale
        if name.startswith("hyper_analysis_transform/layer_2/kernel"):
            mean = by_channel(name, scale * value, n)
            both = np.concatenate([mean, np.zeros_like(mean)], axis=2)
            return both.reshape(value.shape[:-1] + (-1,))
        return value
    names = {name: name.replace(runs.PRIOR_SCOPE + "/", "") for name in stored}
    return {names[name]: converted(names[name], value) for name, value in stored.items()}


def is_matrix(name):
    """Whether a variable is a kernel, or GDN's gamma, which has inputs and outputs."""
    return "kernel" in name or name.endswith("gamma")


def can_widen(name, narrow, wide, n, N):
    """Whether an array of a run of n filters is part of a variable of this shape in one of N.

    The last kernel of h_a has two halves in the bits-back model and one in the base model.
    """
    if not is_matrix(name):
        return True
    old, new = by_channel(name, narrow, n), by_channel(name, np.empty(wide), N)
    return old.shape[2] == new.shape[2]


def widened(name, narrow, wide, n, N):
    """The initial value `wide` of a variable with that of a run of n filters in its first channels.

    The other channels keep their initial values, and have no effect on the first ones, so that
    pictures stay the same; that of the other latents costs bits until it is trained.
    """
    wide = wide.copy()
    if is_matrix(name):
        old, new = by_channel(name, narrow, n), by_channel(name, wide, N)
        _, inputs, _, outputs = old.shape
        new[:, inputs:, :, :outputs] = 0 if "kernel" in name else ZERO_OF_GAMMA
        new[:, :inputs, :, :outputs] = old
    else:  # an array whose first axis is the channels, or two halves as of mu and log sigma
        halves = 2 if len(narrow) == 2 * n else 1
        old, new = (v.reshape((halves, -1) + v.shape[1:]) for v in (narrow, wide))
        new[:, :old.shape[1]] = old
    return wide


ZERO_OF_GAMMA = 2 ** -18  # GDN's gamma, as tensorflow-compression stores it, of no effect


def by_channel(name, value, n):
    """A view [taps, inputs, halves, outputs] of a kernel, or GDN's gamma, in a model of n filters.

    There are two halves of 2 n outputs, as of mu and log sigma, else one.
    """
    if name.endswith("gamma"):
        inputs, outputs = n, n
    elif name.endswith("/kernel"):  # [height, width, inputs, outputs]
        inputs, outputs = value.shape[2:]
    else:  # of RDFT, [taps, inputs * outputs]
        inputs = 3 if name.startswith("analysis_transform/layer_0/") else n
        outputs = value.shape[1] // inputs
    halves = 2 if outputs == 2 * n else 1
    return value.reshape(-1, inputs, halves, outputs // halves)


def summary_folder(logdir, folder):
    """Where TensorBoard finds a run's summaries: by default in its folder; "" with an empty logdir.
    """
    if logdir is None:
        return os.path.join(folder, "summaries")
    return logdir and os.path.join(logdir, os.path.basename(folder))


class SummarySaver(tf.train.SummarySaverHook):
    """Writes summaries now and then, and after the last step."""

    def __init__(self, folder, seconds, summary):
        super().__init__(save_secs=seconds, summary_op=summary, output_dir=folder)
        self.folder, self.summary = folder, summary

    def end(self, session):
        step, summary = session.run([tf.train.get_global_step(), self.summary])
        tf.summary.FileWriterCache.get(self.folder).add_summary(summary, step)
        super().end(session)


def summary_hooks(folder, seconds, scalars, images):
    """Hooks that write summaries of a run for TensorBoard, as often; none with an empty folder.

    scalars: names -> scalars. images: names -> [B, H, W, 3] in [0, 1].
    """
    if not folder:
        return []
    for name, value in scalars.items():
        tf.summary.scalar(name, value)
    for name, image in images.items():
        tf.summary.image(name, tf.saturate_cast(tf.round(255 * image), tf.uint8))
    basics.print_line("summaries: tensorboard --logdir %s" % shlex.quote(folder))
    return [SummarySaver(folder, seconds, tf.summary.merge_all())]


@contextlib.contextmanager
def training_errors(folder):
    """A context in which TensorFlow's errors that a user can mend become UserErrors."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # TensorFlow may put the node's name before it, a traceback its module.
        unreadable = re.search(r"(?:^|}} )UserError: (.*)$", error.message, re.MULTILINE)
        if unreadable:
            raise basics.UserError(unreadable.group(1))
        if "gradient of" not in error.message:
            raise
        raise basics.UserError(
            "the loss turned NaN or infinite; %s keeps the last good checkpoint" % folder)


@contextlib.contextmanager
def interruptible():
    """A context that Ctrl-C, or SIGTERM as of a scheduler's time limit, ends without an error."""
    with basics.terminable(), contextlib.suppress(KeyboardInterrupt):
        yield


def training_loop(train_op, scalars, last_step, folder, cluster, scaffold, hooks):
    """Train to last_step; prints the scalars and the speed now and then.

    Alone, Ctrl-C or SIGTERM ends the loop only: the session, when it is closed, saves a checkpoint.
    """
    with tf.control_dependencies([train_op]):
        next_step = tf.train.get_global_step().read_value()
    is_alone = not cluster.server
    with training_errors(folder), tf.train.MonitoredTrainingSession(
            master="" if is_alone else cluster.server.target, hooks=hooks,
            is_chief=cluster.replica == 0, checkpoint_dir=folder, scaffold=scaffold,
            save_checkpoint_secs=None, save_checkpoint_steps=None, save_summaries_steps=None,
            save_summaries_secs=None, log_step_count_steps=None, config=cluster.config,
            stop_grace_period_secs=5) as sess:
        step = train_to(last_step, sess, next_step, scalars, is_alone)
    if step < last_step and is_alone:
        basics.print_line("stopped; a checkpoint is saved")
        raise KeyboardInterrupt


def train_to(last_step, sess, next_step, scalars, is_alone):
    """Run next_step until it is last_step, or the session or, alone, the user stops; the last step.

    A line after the first step, after those that are multiples of 100, and after the last has the
    means since the line before; the PSNR is that of the mean MSE.
    """
    # Not sess.run, which would call hooks: that of summaries takes a batch.
    step = first = printed = sess.run_step_fn(
        lambda step_context: step_context.session.run(tf.train.get_global_step()))
    since, values = time.time(), []
    with tqdm.tqdm(total=last_step, initial=step, disable=None, leave=False) as bar, \
            (interruptible() if is_alone else contextlib.nullcontext()):
        while step < last_step and not sess.should_stop():
            # With several replicas, a step can be seen twice or not at all.
            next_line = min(last_step, printed // 100 * 100 + 100)
            step, latest = sess.run([next_step, scalars])
            values.append(latest)
            if printed == first or step >= next_line:
                means = {name: np.mean([one[name] for one in values]) for name in latest}
                means.update(psnr=quality.psnr(means["mse"]), lr=latest["lr"])
                speed = (step - printed) / (time.time() - since)
                basics.print_line(
                    "step={step} loss={loss:.4f} bpp={bpp:.4f} mse={mse:.3f} psnr={psnr:.3f} "
                    "lr={lr:.3g} steps/s={speed:.2f}".format(step=step, speed=speed, **means))
                since, printed, values = time.time(), step, []
            bar.update(step - bar.n)
    return step


class Adam(tf.train.AdamOptimizer):
    """Adam; a step also runs the ops that then() gives, however many replicas gave gradients.

    Ops that then() creates run after the step; of those that were there, the order is open.
    """

    def __init__(self, rate, then=lambda: []):
        super().__init__(rate)
        self.then = then

    def apply_gradients(self, *args, **kwargs):
        step = super().apply_gradients(*args, **kwargs)
        with tf.control_dependencies([step]):
            return tf.group(step, *self.then())


def minimise(optimiser, loss, cluster):
    """Op: one step on the mean loss of the replicas, once all have given gradients; its hooks.

    Fails, changing no weight, when a gradient is NaN or infinite.
    """
    if cluster.server:
        optimiser = tf.train.SyncReplicasOptimizer(optimiser, cluster.num_replicas,
                                                   cluster.num_replicas)
    gradients, variables = zip(*[
        (tf.check_numerics(gradient, "gradient of " + variable.op.name), variable)
        for gradient, variable in optimiser.compute_gradients(loss) if gradient is not None])
    # tuple: none before all are checked. A control dependency would also be one of the chief's
    # thread that applies gradients, which would then compute its own.
    step = optimiser.apply_gradients(zip(tf.tuple(gradients), variables),
                                     global_step=tf.train.get_or_create_global_step())
    return step, replica_hooks(optimiser, cluster) if cluster.server else []


def replica_hooks(optimiser, cluster):
    """Hooks with which a replica's SyncReplicasOptimizer begins and ends."""
    # A replica that ends gives the others what they may wait for, a token for one more step: a fast
    # one can have taken two of the last. The chief's thread that applies gradients still waits for
    # some when the session is closed, which is no error.
    last_token = tf.train.FinalOpsHook(optimiser.get_init_tokens_op())
    optimiser.get_chief_queue_runner()._queue_closed_exception_types += (tf.errors.CancelledError,)
    return [optimiser.make_session_run_hook(is_chief=cluster.replica == 0), last_token]
