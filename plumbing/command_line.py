"""The scripts' command lines, and errors of one line."""

import argparse
import contextlib
import glob
import os
import sys

import tensorflow.compat.v1 as tf
from tensorflow.python.util import deprecation

from plumbing import arguments, basics, image_files, runs


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, which can't do anything to a terminal."""

    def error(self, message):
        self.fail(2, message)

    def fail(self, code, message):
        """Exit with a code and a line."""
        self.exit(code, "%s: error: %s\n" % (self.prog.split()[0], basics.printable(message)))


def add_global_options(parser, **default):
    """Options that may stand before or after the subcommand."""
    parser.add_argument("--verbose", action="store_true", **default,
                        help="show TensorFlow's messages of this process")
    parser.add_argument("--num_filters", type=arguments.count, metavar="N", **default,
                        help="filters per layer: to train, by default 192; else those that the "
                        "run must have")
    parser.add_argument("--checkpoint_dir", metavar="DIR", **default,
                        help="folder of all runs (default: ./checkpoints)")
    parser.add_argument("--threads", type=arguments.thread_count, metavar="N", **default,
                        help="threads of an operation (default: one per core); results differ by "
                        "rounding, and those with and without it are stored separately")


def add_option(parser, option, default=None):
    """Add an Option; the help of one whose default is a function explains that."""
    shown = "" if callable(option.default) else " (default: %s)" % option.default
    parser.add_argument(*option.flags.split(), dest=option.name, type=option.type, default=default,
                        metavar=getattr(option.type, "metavar", "N"), help=option.help + shown)


def without_slash(path):
    """A path without slashes at its end, as the shell's completion writes them; "" stays none."""
    return path and os.path.normpath(path)


def add_train_options(parser, options):
    """Those of `train`, and a list of Option of the script's."""
    parser.add_argument("--train_glob", required=True,
                        help="folder or quoted glob of png, jpg or float32 .npy (H, W, 3) in "
                        "[0, 1]")
    parser.add_argument("--lambda", dest="lmbda", type=arguments.number(float, 0), default=0.01,
                        help="weight of the distortion (default: %(default)s)")
    for name, default, text in [
            ("batchsize", 8, "patches per step; on several machines, of each replica"),
            ("patchsize", 256, "height and width of a patch, a multiple of 64"),
            ("last_step", 1000000, "step to train up to"),
            ("preprocess_threads", 4, "parallel readers of images"),
            ("save_checkpoint_secs", 300, "seconds between checkpoints; the last 5 are kept"),
            ("save_summary_secs", 60, "seconds between TensorBoard summaries")]:
        parser.add_argument("--" + name, type=arguments.count, default=default, metavar="N",
                            help=text + " (default: %(default)s)")
    parser.add_argument("--eval_glob", default="", metavar="GLOB",
                        help="quoted glob of images to evaluate every checkpoint on, as compress "
                        "does; they are not trained on")
    parser.add_argument("--lr", type=arguments.positive, default=1e-4, metavar="N",
                        help="learning rate of Adam (default: %(default)s)")
    parser.add_argument("--lr_warmup", type=arguments.natural, default=0, metavar="STEPS",
                        help="first steps, in which the rate rises to --lr (default: %(default)s)")
    parser.add_argument("--lr_decay", type=arguments.number(float, 0, high=1), default=0,
                        metavar="FRACTION",
                        help="last part of the steps, in which the rate falls to a hundredth "
                        "along a cosine (default: %(default)s)")
    parser.add_argument("--init_from", type=without_slash, metavar="RUN",
                        help="run of checkpoint_dir, or folder of a run of either model, whose "
                        "weights a new run starts from, as far as it has the same")
    parser.add_argument("--force", action="store_true",
                        help="continue a run with other settings than it was begun with, but for "
                        "--init_from")
    parser.add_argument("--logdir",
                        help="folder for TensorBoard, none if empty (default: in the run's)")
    parser.add_argument("--run_name", type=arguments.file_name, metavar="NAME",
                        help="of the run (default: <script>-num_filters=<N>-lmbda=<lambda>)")
    parser.add_argument("--seed", type=arguments.natural, default=0,
                        help="seed of weights, patches and noise (default: %(default)s)")
    for option in options:
        add_option(parser, option, option.default)


def add_compress_options(parser, method):
    """Those of `compress` by a Method, and the method's own."""
    parser.add_argument("run_name", help="folder of checkpoint_dir that holds the model")
    parser.add_argument("imgs", help="an image, a .npy of uint8 (num_imgs, H, W, 3), a folder, "
                        "or a quoted glob")
    parser.add_argument("output_file", nargs="?",
                        help="compressed file to write (for a folder or glob: a folder of them)")
    parser.add_argument("--write", action="store_true",
                        help="write the compressed file, by default beside <imgs>")
    parser.add_argument("--results_dir", default="./outputs",
                        help="folder for the results, an .npz, and of several images also a "
                        ".csv; none if empty (default: %(default)s)")
    add_worker_options(parser)
    parser.add_argument("--lambda", dest="lmbda", type=arguments.number(float, 0),
                        help="weight of the distortion (default: that of the run)")
    for option in method.options:
        add_option(parser, option)
    parser.set_defaults(preset=None, save_opt_record=False, initial_bits="")
    group = parser
    if method.presets:  # an empty group makes help fail
        group = parser.add_mutually_exclusive_group()
    flags = {option.name: option.flags.split()[0] for option in method.options}
    for name, values in method.presets.items():
        group.add_argument("--" + name, dest="preset", action="store_const", const=name,
                           help=" ".join("%s %s" % (flags.get(option, option), value)
                                         for option, value in values.items()))
    if method.is_iterative:
        parser.add_argument("--save_opt_record", action="store_true",
                            help="save the losses of every tenth iteration, too: opt-….npz")
    parser.add_argument("--save_latents", action="store_true",
                        help="save the rounded latents, too: latents-….npz with y_hat and z_hat, "
                        "for a folder or glob a folder of them")
    parser.add_argument("--save_reconstruction", action="store_true",
                        help="save the decoded picture, too: recon-….png, of several images in a "
                        ".npy another .npy, for a folder or glob a folder of them")


def add_worker_options(parser):
    """Options that say where images are computed, see `workers`."""
    parser.add_argument("--jobs", type=arguments.number(int, 1, high=1024), default=1, metavar="N",
                        help="images to process at a time, a .npy as one, each by a process with "
                        "its part of the cores (default: %(default)s)")
    parser.add_argument("--scheduler", metavar="ADDRESS",
                        default=os.environ.get("DASK_SCHEDULER_ADDRESS"),
                        help="of a Dask cluster, whose workers then process the images instead "
                        "(default: $DASK_SCHEDULER_ADDRESS)")


DECOMPRESS_WORDS = """\
  run_name     folder of checkpoint_dir (default: the model that wrote the file)
  input_file   file written by compress, a folder, or a quoted glob
  output_file  .png or .npy, or a folder (default: input_file + .png or .npy)"""


def add_decompress_options(parser):
    """Those of `decompress`, whose words `name_words` tells apart."""
    parser.set_defaults(initial_bits="")
    parser.usage = "%s [options] [run_name] input_file [output_file]" % parser.prog
    parser.description = DECOMPRESS_WORDS
    parser.add_argument("words", nargs="+", metavar="input_file", help=argparse.SUPPRESS)
    parser.add_argument("--force", action="store_true",
                        help="replace what is there and not the same picture")


def add_bits_back_options(parser):
    """Those of `compress` and `decompress` with a bits-back model."""
    parser.add_argument("--initial_bits", metavar="FILE", default="",
                        help="compress: file whose bytes replace the random initial bits; "
                        "decompress: where to write them")


# Where a command is that a script does not have.
ELSEWHERE = {"train": "mbt2018.py and mbt2018_bb.py train",
             "compress": "bb_plain.py and others with bb_ compress with its models",
             "decompress": "bb_plain.py decompresses files of its models"}


def commands_of(parser, has_train, has_method):
    """Function that adds a subcommand: (name, help, function of its arguments) -> its parser."""
    names = []
    if has_train:
        names.append("train")
    if has_method:
        names += ["compress", "decompress"]
    subparsers = parser.add_subparsers(dest="command", metavar="{%s}" % ",".join(names))
    subparsers.required = True
    for name in set(ELSEWHERE) - set(names):  # without help, it is not shown
        subparsers.add_parser(name, add_help=False, prefix_chars="\0").add_argument(
            "rest", nargs="*")

    def add(name, text, function, epilog=None):
        subparser = subparsers.add_parser(name, help=text, epilog=epilog,
                                          formatter_class=argparse.RawDescriptionHelpFormatter)
        add_global_options(subparser, default=argparse.SUPPRESS)
        subparser.set_defaults(function=function)
        return subparser
    return add


def parse_arguments(parser, method, argv):
    """Parsed arguments; of compress with `options`, a namespace of the method's, and `changed`.

    An option that was not given is of the preset or the default; `changed` is a dict of those that
    are not either.
    """
    args, others = parser.parse_known_args(argv)
    if "function" not in args:
        parser.error("no command %s here: %s" % (args.command, ELSEWHERE[args.command]))
    are_options = any(word.startswith("-") for word in others)
    if args.command == "decompress" and not are_options:
        args.words, others = args.words + others, []
    if (args.command == "compress" and args.output_file is None and len(others) == 1
            and not are_options):
        args.output_file = others[0]  # after an option
    elif others:
        advice = "" if are_options else "; " + basics.QUOTE
        parser.error("unrecognized arguments: %s%s" % (" ".join(others), advice))
    for value in list(vars(args).values()) + vars(args).get("words", []):
        if isinstance(value, str) and "\0" in value:
            parser.error("%r: no name of a file has a null character" % value)
    if args.command == "decompress":
        name_words(parser, args)
    if args.command == "compress":
        require_flags_that_go_together(parser, args)
        given = {option.name: vars(args).pop(option.name) for option in method.options}
        args.options, args.changed = arguments.resolve(
            method.options, given, method.presets.get(args.preset, {}))
    return args


def name_words(parser, args):
    """Set run_name, input_file and output_file of decompress from its words.

    The first of several is a run if there is one of that name, or it is no file.
    """
    words = args.words
    is_file = (os.path.exists(words[0]) or glob.has_magic(words[0])
               or words[0].lower().endswith(image_files.COMPRESSED))
    is_known = bool(runs.newest_checkpoint(os.path.join(args.checkpoint_dir, words[0])))
    is_run = len(words) > 1 and (is_known or not is_file)
    if len(words) > 2 + is_run:
        parser.error("unrecognized arguments: %s; %s"
                     % (" ".join(words[2 + is_run:]), basics.QUOTE))
    args.run_name = words[0] if is_run else None
    args.input_file, args.output_file = (words[is_run:] + [None])[:2]


# What is kept beside results, by how its name begins: by which flag it is asked for.
KEPT = dict(opt="save_opt_record", latents="save_latents", recon="save_reconstruction")


def require_flags_that_go_together(parser, args):
    """An error if flags of compress exclude each other."""
    for flag in KEPT.values():
        if vars(args)[flag] and not args.results_dir:
            parser.error("--%s: only with --results_dir" % flag)


# Of TensorFlow, where a disk, the network or memory is at fault, and not the code.
ENVIRONMENT_ERRORS = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DataLossError,
                      tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
                      tf.errors.NotFoundError, tf.errors.OutOfRangeError,  # as a file's size
                      tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError,
                      tf.errors.UnavailableError)


def line_of(error):
    """The line of an error that the user or the system can mend; None of a fault of the code."""
    if isinstance(error, OSError):
        return "%s: %s" % (error.filename, error.strerror) if error.filename else str(error)
    if isinstance(error, ENVIRONMENT_ERRORS):
        return error.message.strip().split("\n")[0]
    if isinstance(error, (basics.UserError, MemoryError)):
        return str(error) or "out of memory"
    return None


@contextlib.contextmanager
def quiet_tensorflow(verbose=False):
    """A context in which TensorFlow tells errors alone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0" if verbose else "3"
    tf.logging.set_verbosity(tf.logging.INFO if verbose else tf.logging.FATAL)
    with deprecation.silence():  # else TensorFlow inspects the arguments of every op
        yield


def run_or_exit(parser, function, args):
    """What function(args) returns; errors of the user or the system end in a line and exit code 2.

    Any other exception is a fault of the code, and keeps its traceback. TensorFlow's own messages
    are shown with args.verbose only.
    """
    with contextlib.suppress(AttributeError):  # names of files need not be text
        if sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with quiet_tensorflow(getattr(args, "verbose", False)):
            return function(args)
    except basics.Incomplete as error:
        parser.fail(1, str(error))
    except KeyboardInterrupt as interrupt:  # Ctrl-C, or SIGTERM; its argument says what was done
        parser.exit(130, "".join("%s: interrupted%s\n" % (parser.prog, done)
                                 for done in interrupt.args))
    except Exception as error:
        line = line_of(error)
        if line is None:
            raise
        parser.error(line)
