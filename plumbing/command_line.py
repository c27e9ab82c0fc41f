"""Options, parsing, and errors of one line."""

import argparse
import contextlib
import os
import re
import sys
import typing

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.util import deprecation

from plumbing import basics, machine


class Option(typing.NamedTuple):
    """An option of a method."""
    flags: str  # "--name --alias"
    type: typing.Callable  # parser of its text, as of `number`
    default: typing.Any
    help: str

    @property
    def name(self):
        return self.flags.split()[0].strip("-")


def check_flags(args, paths, many):
    """UserError if flags of compress do not go together, or not with the images that were found."""
    if (args.shard or args.jobs > 1) and not (many and args.results_dir):
        raise basics.UserError("%s: only for a folder or glob, with --results_dir"
                        % ("--shard" if args.shard else "--jobs"))
    if args.save_opt_record and not args.results_dir:
        raise basics.UserError("--save_opt_record: only with --results_dir")
    if args.shard and args.jobs > 1:
        raise basics.UserError("--shard %d/%d, --jobs %d: accepted is one of the two"
                        % (*args.shard, args.jobs))
    if args.shard and args.shard[1] > len(paths):
        raise basics.UserError("--shard %d/%d: there are only %d images" % (*args.shard, len(paths)))


def options_of(method, args):
    """Dict of a method's options; UserError if its `resolve` leaves one None."""
    options = {option.name: getattr(args, option.name) for option in method.options}
    unresolved = [name for name, value in options.items() if value is None]
    if unresolved:
        raise basics.UserError("%s.py: METHOD.resolve leaves %s None" % (args.script, unresolved))
    return options


def number(kind, low, exclusive=False, high=2 ** 31 - 1):
    """Parser of an int or float from low (not low itself if exclusive) to high, for argparse."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = np.nan
        if not (low < value if exclusive else low <= value) or value > high:
            raise argparse.ArgumentTypeError("%r: must be %s %s %g and <= %d" % (
                text, "an integer" if kind is int else "a number", ">" if exclusive else ">=", low,
                high))
        return value
    return parse


def one_of(names):
    """Parser of a name, likewise."""
    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError("%r: must be one of %s" % (text, ", ".join(names)))
        return text
    parse.metavar = "{%s}" % ",".join(names)
    return parse


count, natural, positive = number(int, 1), number(int, 0), number(float, 0, exclusive=True)


def shard(text):
    """Parser of i/n with 1 <= i <= n, for argparse: (i, n)."""
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if not found or int(found.group(1)) > int(found.group(2)):
        raise argparse.ArgumentTypeError("%r: must be i/n with 1 <= i <= n" % text)
    return int(found.group(1)), int(found.group(2))


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, which can't do anything to a terminal."""

    def error(self, message):
        line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
        self.exit(2, "%s: error: %s\n" % (self.prog.split()[0], line))


def add_global_options(parser, **default):
    """Options that may stand before or after the subcommand."""
    parser.add_argument("--verbose", action="store_true", **default,
                        help="show TensorFlow's messages, and losses after rounding")
    parser.add_argument("--num_filters", type=count, metavar="N", **default,
                        help="filters per layer (default: those of the run; to train: 192)")
    parser.add_argument("--checkpoint_dir", metavar="DIR", **default,
                        help="folder of all runs (default: ./checkpoints)")
    parser.add_argument("--threads", type=number(int, 1, high=1024), metavar="N", **default,
                        help="threads of an operation (default: one per core); results depend on "
                        "it by rounding errors, and count as others where it is given")


def add_train_options(parser):
    parser.add_argument("--train_glob", required=True,
                        help="folder or quoted glob of png, jpg or float32 .npy (H, W, 3) in "
                        "[0, 1]")
    parser.add_argument("--lambda", dest="lmbda", type=number(float, 0), default=0.01,
                        help="weight of the distortion (default: %(default)s)")
    for name, default, text in [
            ("batchsize", 8, "patches per step"),
            ("patchsize", 256, "height and width of a patch, a multiple of 64"),
            ("last_step", 1000000, "step to train up to"),
            ("preprocess_threads", 4, "parallel readers of images"),
            ("save_checkpoint_secs", 300, "seconds between checkpoints, the last 5 of which stay"),
            ("save_summary_secs", 60, "seconds between TensorBoard summaries")]:
        parser.add_argument("--" + name, type=count, default=default, metavar="N",
                            help=text + " (default: %(default)s)")
    parser.add_argument("--eval_glob", default="", metavar="GLOB",
                        help="quoted glob of images to evaluate every checkpoint on, as compress "
                        "does; they are not trained on")
    parser.add_argument("--lr", type=positive, default=1e-4, metavar="N",
                        help="learning rate of Adam (default: %(default)s)")
    parser.add_argument("--lr_warmup", type=natural, default=0, metavar="STEPS",
                        help="first steps, in which the rate rises to --lr (default: %(default)s)")
    parser.add_argument("--lr_decay", type=number(float, 0, high=1), default=0, metavar="FRACTION",
                        help="last part of the steps, in which the rate falls to a hundredth "
                        "along a cosine (default: %(default)s)")
    parser.add_argument("--init_from", metavar="RUN",
                        help="run of checkpoint_dir, or folder of a run of either model, whose "
                        "weights a new run starts from, as far as it has the same")
    parser.add_argument("--force", action="store_true",
                        help="continue a run with other settings than it was begun with, but for "
                        "--init_from")
    parser.add_argument("--logdir", default="/tmp/tf_logs",
                        help="folder for TensorBoard, none if empty (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=0,
                        help="seed of weights, patches and noise (default: %(default)s)")


def add_compress_options(parser, method):
    parser.add_argument("run_name", help="folder of checkpoint_dir that holds the model")
    parser.add_argument("imgs", help="an image, a .npy of uint8 (num_imgs, H, W, 3), a folder, "
                        "or a quoted glob")
    parser.add_argument("output_file", nargs="?",
                        help="compressed file to write (for a folder or glob: a folder of them)")
    parser.add_argument("--write", action="store_true",
                        help="write the compressed file, by default beside <imgs>")
    parser.add_argument("--results_dir", default="./results",
                        help="where to save the .npz; none if empty (default: %(default)s)")
    parser.add_argument("--shard", type=shard, metavar="i/n",
                        help="only every n-th image of a folder or glob, from the i-th on")
    parser.add_argument("--jobs", type=number(int, 1, high=1024), default=1, metavar="N",
                        help="images of a folder or glob to process at a time, each by a process "
                        "with its part of the threads (default: %(default)s)")
    parser.add_argument("--lambda", dest="lmbda", type=number(float, 0),
                        help="weight of the distortion (default: that of the run)")
    for option in method.options:
        default = "" if option.default is None else " (default: %s)" % option.default
        parser.add_argument(*option.flags.split(), dest=option.name, type=option.type,
                            metavar=getattr(option.type, "metavar", "N"),
                            help=option.help + default)
    parser.set_defaults(preset={}, save_opt_record=False)
    group = parser.add_mutually_exclusive_group() if method.presets else None  # else help fails
    for name, values in method.presets.items():
        group.add_argument("--" + name, dest="preset", action="store_const", const=values,
                           help=" ".join("--%s %s" % item for item in values.items()))
    if method.has_descent:
        parser.add_argument("--save_opt_record", action="store_true",
                            help="save the losses now and then, too")


def add_decompress_options(parser):
    parser.add_argument("run_name", help="folder of checkpoint_dir that holds the model")
    parser.add_argument("input_file", help="file written by compress")
    parser.add_argument("output_file", nargs="?",
                        help=".png or .npy to write (default: input_file + that)")
    parser.add_argument("--force", action="store_true",
                        help="replace what is there and not the same picture")


def parse_arguments(parser, method, argv):
    """Parsed arguments; of compress, options that were not given are of the preset or the default.

    args.changed are those that differ from the default.
    """
    args, others = parser.parse_known_args(argv)
    if len(others) == 1 and others[0][:1] != "-" and getattr(args, "output_file", "") is None:
        args.output_file = others[0]  # after an option
    elif others:
        is_glob = all(word[:1] != "-" for word in others) and (
            args.command == "train" or getattr(args, "output_file", None))
        parser.error("unrecognized arguments: %s%s" % (
            " ".join(others), ("; " + basics.QUOTE) * bool(is_glob)))
    for value in vars(args).values():
        if isinstance(value, str) and "\0" in value:
            parser.error("%r: no name of a file has a null character" % value)
    if args.command == "compress":
        for option in method.options:
            if getattr(args, option.name) is None:
                setattr(args, option.name, args.preset.get(option.name, option.default))
        method.resolve(args)
        # Defaults that depend on other options, as they are with those given.
        dependent = [option.name for option in method.options if option.default is None]
        resolved = argparse.Namespace(**{**vars(args), **dict.fromkeys(dependent)})
        method.resolve(resolved)
        defaults = {option.name: getattr(resolved, option.name) if option.name in dependent
                    else option.default for option in method.options}
        args.changed = {name: getattr(args, name) for name, default in defaults.items()
                        if getattr(args, name) != default}
    return args


# Of TensorFlow, where a disk, the network or memory is at fault, and not the code.
ENVIRONMENT_ERRORS = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DataLossError,
                      tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
                      tf.errors.NotFoundError, tf.errors.PermissionDeniedError,
                      tf.errors.ResourceExhaustedError, tf.errors.UnavailableError)


def run_or_exit(parser, function, args):
    """What function(args) returns; errors of the user or the system end in a line and exit code 2.

    Any other exception is a fault of the code, and keeps its traceback. TensorFlow's own messages
    are shown with args.verbose only.
    """
    verbose = getattr(args, "verbose", False)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0" if verbose else "3"
    if np.isfinite(machine.available_memory()):  # TensorFlow's own limit is 64 GB
        os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", "%d" % (machine.available_memory() / 2 ** 20))
    tf.logging.set_verbosity(tf.logging.INFO if verbose else tf.logging.FATAL)
    with contextlib.suppress(AttributeError):  # names of files need not be text
        if sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with deprecation.silence():  # else TensorFlow inspects the arguments of every op
            return function(args)
    except OSError as error:
        parser.error("%s: %s" % (error.filename, error.strerror) if error.filename else str(error))
    except ENVIRONMENT_ERRORS as error:
        parser.error(error.message.strip().split("\n")[0])
    except (basics.UserError, MemoryError) as error:
        parser.error(str(error) or "out of memory")
    except KeyboardInterrupt:  # Ctrl-C; of a folder, the images that are done have their parts
        sys.exit(130)
