"""Patches, the loop, and the folder of a run."""

import contextlib
import functools
import glob
import itertools
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import PIL.Image
import tqdm
import tensorflow.compat.v1 as tf

from plumbing import basics, image_files, runs


IMAGE_CACHE_BYTES = 2 ** 31  # decoded training images are kept in memory up to so many in all


def training_files(pattern, patchsize, held_out=()):
    """Paths that match `pattern`, are not held out, and hold a patch; whether all fit in memory."""
    held_out = set(map(os.path.realpath, held_out))
    paths = [path for path in matching(pattern) if os.path.realpath(path) not in held_out]
    if not paths:
        raise basics.UserError("--train_glob %s: no file matches" % pattern
                         + " that --eval_glob does not" * bool(held_out))
    sizes = dict(zip(paths, map(training_image_size, paths)))
    large = [path for path in paths if min(sizes[path]) >= patchsize]
    if not large:
        raise basics.UserError("--patchsize %d: larger than every image of %s; the largest is %d x %d"
                         % ((patchsize, pattern) + max(sizes.values(), key=min)))
    if len(large) < len(paths):
        basics.note("%d of %d training images are smaller than the patch and skipped"
             % (len(paths) - len(large), len(paths)))
    num_bytes = sum(np.prod(sizes[path]) * (12 if path.endswith(".npy") else 3) for path in large)
    return large, num_bytes <= IMAGE_CACHE_BYTES


def matching(pattern):
    """Sorted paths of a glob, or of the images and .npy in a folder."""
    if not os.path.isdir(pattern):
        return sorted(glob.glob(pattern))
    endings = image_files.readable_extensions() + (".npy",)
    return [os.path.join(pattern, name) for name in sorted(os.listdir(pattern))
            if name.lower().endswith(endings) and not name.startswith(".")]


def training_image_size(path):
    """(height, width) from the header of an image or float32 .npy."""
    try:
        if path.endswith(".npy"):
            image = np.load(path, mmap_mode="r", allow_pickle=False)
            if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3:
                raise basics.UserError("holds %s %s, accepted is float32 (H, W, 3)"
                                 % (image.dtype, image.shape))
            return image.shape[:2]
        with PIL.Image.open(path) as image:
            image_files.require_8_bits(image)
            return image.size[::-1]
    except Exception as error:  # decoders raise many types on damaged files
        raise basics.UserError("%s: not a training image (%s)" % (path, error))


def training_patches(paths, batchsize, patchsize, seed, start=0, replica=0, num_replicas=1,
                     in_memory=True, readers=4):
    """Dataset of float32 [batchsize, patchsize, patchsize, 3] in [0, 1].

    Patch k depends on (seed, k) alone, so that training continued at step `start` sees what an
    uninterrupted run would see, and replicas together see what one process with a batch of
    num_replicas times the size would see.
    """
    def read(path):
        return np.load(path, allow_pickle=False) if path.endswith(".npy") else image_files.read_image(path)
    read = functools.lru_cache(maxsize=None)(read) if in_memory else read

    def order():
        shuffled_epoch = None
        for batch in itertools.count(start * num_replicas + replica, num_replicas):
            for k in range(batch * batchsize, (batch + 1) * batchsize):
                epoch, i = divmod(k, len(paths))
                if epoch != shuffled_epoch:
                    shuffled = np.random.RandomState([seed, epoch]).permutation(paths)
                    shuffled_epoch = epoch
                yield shuffled[i], [seed, epoch, i]

    def crop(path, key):
        image = read(path.decode())
        top, left = (np.random.RandomState(key).random_sample(2)
                     * (np.array(image.shape[:2]) - patchsize + 1)).astype(int)
        patch = image[top:top + patchsize, left:left + patchsize]
        return patch.astype(np.float32) / np.float32(255 if patch.dtype == np.uint8 else 1)

    dataset = tf.data.Dataset.from_generator(order, (tf.string, tf.int64), ([], [3]))
    dataset = dataset.map(lambda path, key: tf.py_func(crop, [path, key], tf.float32),
                          num_parallel_calls=readers)
    dataset = dataset.map(lambda x: tf.ensure_shape(x, [patchsize, patchsize, 3]))
    return dataset.batch(batchsize, drop_remainder=True).prefetch(2)


def prepare_folder(args, folder, run):
    """Make the folder of a run that is to be continued or, if None, new, with its args.json."""
    basics.require_writable(os.path.join(folder, "args.json"), 2)
    for leftover in glob.glob(os.path.join(glob.escape(folder), "model.ckpt-*_temp_*")):
        shutil.rmtree(leftover)  # of a process that was killed while it saved
    basics.write_bytes(os.path.join(folder, "args.json"),
                json.dumps(vars(args), indent=4, sort_keys=True).encode())
    named = None
    with contextlib.suppress(UnicodeDecodeError, tf.errors.NotFoundError):
        named = tf.train.latest_checkpoint(folder)
    if run and named != run.checkpoint:  # else older ones would be forgotten, and stay for ever
        tf.train.update_checkpoint_state(folder, run.checkpoint)


def require_same_training(args, folder):
    """UserError if the last settings of the run in `folder` would have made it another one.

    With args.force only if it began from other weights, which args.init_from keeps naming.
    --last_step counts where the rate falls.
    """
    last = {}
    with contextlib.suppress(OSError, ValueError):  # it may be missing, or a stranger's
        last = dict(json.loads(basics.read_bytes(os.path.join(folder, "args.json")).decode()))
    if args.init_from and args.init_from != last.get("init_from", args.init_from):
        raise basics.UserError("--init_from %s: only for a new run, and %s is there"
                         % (args.init_from, folder))
    args.init_from = args.init_from or last.get("init_from")
    text = lambda value: "none" if value in (None, "") else value
    differ = ["--%s %s (now %s)" % (name, text(last[name]), text(getattr(args, name)))
              for name in ("batchsize", "patchsize", "train_glob", "eval_glob", "lr", "lr_warmup",
                           "lr_decay", "seed") + ("last_step",) * bool(args.lr_decay)
              if name in last and last[name] != getattr(args, name)]
    if differ and not args.force:
        raise basics.UserError("%s was trained with %s; --force continues it with the new ones"
                         % (folder, ", ".join(differ)))


def initialiser(run):
    """Scaffold's init_fn that starts training, at step 0, from the weights of a run.

    It takes the variables that both have by name and shape, and says which; UserError unless
    these are most of them.
    """
    stored = tf.train.load_checkpoint(run.checkpoint).get_variable_to_shape_map()
    weights = [v for v in tf.global_variables() if v.op.name != "global_step"
               and not runs.OPTIMISER_VARIABLES.fullmatch(v.op.name)]
    shared = [v for v in weights if v.op.name in stored
              and v.shape.is_compatible_with(stored[v.op.name])]
    fresh = [v.op.name for v in weights if v not in shared]
    if 2 * len(shared) <= len(weights):
        raise basics.UserError("--init_from %s: only %d of %d variables are there by name and shape"
                         % (run.checkpoint, len(shared), len(weights)))
    print("from %s: %d variables; fresh: %s"
          % (run.checkpoint, len(shared), ", ".join(fresh) or "none"), flush=True)
    saver = tf.train.Saver(shared)
    return lambda scaffold, sess: saver.restore(sess, run.checkpoint)


def summary_folder(logdir, folder):
    """Where TensorBoard finds a run's summaries."""
    return os.path.join(logdir, os.path.basename(folder))


def summary_hooks(args, folder, scalars, x, x_tilde):
    """TensorBoard: the scalars, and originals beside reconstructions; none with an empty logdir."""
    if not args.logdir:
        return []
    for name, value in scalars.items():
        tf.summary.scalar(name, value)
    as_bytes = lambda image: tf.saturate_cast(tf.round(255 * image), tf.uint8)
    tf.summary.image("original", as_bytes(x))
    tf.summary.image("reconstruction", as_bytes(x_tilde))
    return [tf.train.SummarySaverHook(
        save_secs=args.save_summary_secs, summary_op=tf.summary.merge_all(),
        output_dir=summary_folder(args.logdir, folder))]


@contextlib.contextmanager
def training_errors(folder):
    """What a user can do something about becomes a UserError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        unreadable = re.search("^UserError: (.*)$", error.message, re.MULTILINE)
        if unreadable:
            raise basics.UserError(unreadable.group(1))
        if "gradient of" not in error.message:
            raise
        raise basics.UserError("the loss turned NaN or infinite; %s keeps the last good checkpoint"
                         % folder)


@contextlib.contextmanager
def interruptible():
    """A context that Ctrl-C, or SIGTERM as of a scheduler's time limit, ends without an error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def training_loop(train_op, scalars, last_step, folder, cluster, scaffold, hooks):
    """Train to last_step; prints the scalars and the speed now and then.

    Alone, Ctrl-C or SIGTERM ends the loop only: the session, when it is closed, saves a checkpoint.
    """
    with tf.control_dependencies([train_op]):
        next_step = tf.train.get_global_step().read_value()
    with training_errors(folder), tf.train.MonitoredTrainingSession(
            master=cluster.server.target if cluster.server else "", hooks=hooks,
            is_chief=cluster.replica == 0, checkpoint_dir=folder, scaffold=scaffold,
            save_checkpoint_secs=None, save_checkpoint_steps=None, save_summaries_steps=None,
            save_summaries_secs=None, log_step_count_steps=None, config=cluster.config,
            stop_grace_period_secs=5) as sess:
        # Not sess.run, which would call hooks: that of summaries takes a batch.
        step = first = previous = sess.run_step_fn(
            lambda step_context: step_context.session.run(tf.train.get_global_step()))
        since = time.time()
        with tqdm.tqdm(total=last_step, initial=step, disable=None, leave=False) as bar, \
                (contextlib.nullcontext() if cluster.server else interruptible()):
            while step < last_step and not sess.should_stop():
                # With several replicas, a step can be seen twice or not at all.
                printing = previous == first or step + 1 >= min(
                    last_step, ((previous + 1) // 100 + 1) * 100)
                step, values = sess.run([next_step, scalars if printing else {}])
                if printing:
                    values.update(step=step, speed=(step - previous) / (time.time() - since))
                    basics.print_line("step={step} loss={loss:.4f} bpp={bpp:.4f} mse={mse:.3f} "
                               "psnr={psnr:.3f} lr={lr:.3g} steps/s={speed:.2f}".format(**values))
                    since, previous = time.time(), step
                bar.update(step - bar.n)
    if step < last_step and not cluster.server:
        basics.print_line("stopped; a checkpoint is saved")
        raise KeyboardInterrupt


class Adam(tf.train.AdamOptimizer):
    """Adam; after a step come the ops that then() gives, however many replicas gave gradients."""

    def __init__(self, learning_rate, then=lambda: []):
        super().__init__(learning_rate)
        self.then = then

    def apply_gradients(self, *args, **kwargs):
        step = super().apply_gradients(*args, **kwargs)
        with tf.control_dependencies([step]):
            return tf.group(step, *self.then())


def minimise(optimiser, loss, cluster):
    """Op: one step on the mean loss of the replicas, once all have given gradients; its hooks.

    Fails, changing nothing, when a gradient is NaN or infinite.
    """
    hooks = []
    if cluster.server:
        optimiser = tf.train.SyncReplicasOptimizer(optimiser, cluster.num_replicas,
                                                   cluster.num_replicas)
        hooks.append(optimiser.make_session_run_hook(is_chief=cluster.replica == 0))
    gradients, variables = zip(*[
        (tf.check_numerics(gradient, "gradient of " + variable.op.name), variable)
        for gradient, variable in optimiser.compute_gradients(loss) if gradient is not None])
    # tuple: none before all are checked. A control dependency would also be one of the chief's
    # thread that applies gradients, which would then compute its own.
    step = optimiser.apply_gradients(zip(tf.tuple(gradients), variables),
                                     global_step=tf.train.get_or_create_global_step())
    if cluster.server:
        # A replica that ends gives the others what they may wait for, a token for one more step:
        # a fast one can have taken two of the last. The chief's thread that applies gradients
        # still waits for some when the session is closed, which is no error.
        hooks.append(tf.train.FinalOpsHook(optimiser.get_init_tokens_op()))
        optimiser.get_chief_queue_runner()._queue_closed_exception_types += (
            tf.errors.CancelledError,)
    return step, hooks


def append_validation(folder, step, means):
    """Add a row to validation.csv in a run's folder: the step, and a dict of means by name.

    Rows of later steps go, which an interrupted run is ahead by.
    """
    path, rows = os.path.join(folder, "validation.csv"), []
    if os.path.exists(path):
        rows = [row for row in basics.read_bytes(path).decode().split()[1:]
                if int(row.split(",")[0]) < step]
    rows.append(",".join(["%d" % step] + ["%.6f" % value for value in means.values()]))
    basics.write_bytes(path, "\n".join([",".join(["step", *means])] + rows + [""]).encode())


def summarise_validation(logdir, folder, step, means):
    """Add the same to TensorBoard's summaries of the run."""
    writer = tf.summary.FileWriterCache.get(summary_folder(logdir, folder))
    writer.add_summary(tf.Summary(value=[
        tf.Summary.Value(tag="validation/" + name, simple_value=value)
        for name, value in means.items()]), step)


def learning_rate(step, last_step, lr, warmup, decay):
    """Tensor: the rate of the update after `step`, a tensor: lr, by default throughout.

    It rises linearly over the first `warmup` steps, and falls to lr / 100 along a cosine over the
    last `decay` (a fraction) of all last_step.
    """
    step, rate = tf.cast(step, tf.float32), tf.constant(lr, tf.float32)
    if decay:
        steps_of_decay = decay * last_step
        rate = tf.train.cosine_decay(lr, tf.maximum(0., step - (last_step - steps_of_decay)),
                                     steps_of_decay, alpha=.01)
    if warmup:
        rate *= tf.minimum(1., (step + 1) / warmup)
    return rate
