"""Copy a run's newest checkpoint without the optimiser's slots, a third of the size.

    python results/export_model.py <checkpoint_dir>/<run_name> <target_dir>

With --significant_bits 10, kernels are rounded so that they pack to less than 60 % in git. Evaluate
the copy as the original: this should move the R-D cost by less than 0.01 %.
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from plumbing import arguments, basics, command_line, runs, training
import numpy as np
import tensorflow.compat.v1 as tf


def rounded(value, bits):
    """Return an array of floats rounded to so many significant bits."""
    mantissa, exponent = np.frexp(value)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


def export(run, target, significant_bits=None):
    """Write a run's model variables to <target>/<run name>; return that folder.

    significant_bits: of each number in a kernel, all by default.
    """
    checkpoint = runs.newest_checkpoint(run)
    folder = os.path.join(target, os.path.basename(os.path.abspath(run)))
    settings = os.path.join(run, "args.json")
    if not checkpoint or not os.path.exists(settings):
        raise basics.UserError("%s: no checkpoint, or no args.json, there" % run)
    if os.path.exists(folder):
        raise basics.UserError("%s: is there already" % folder)
    training.require_run_folder(folder)
    reader = tf.train.NewCheckpointReader(checkpoint)
    os.makedirs(target, exist_ok=True)
    with basics.replacing(folder) as copy:
        os.mkdir(copy)
        write_weights(reader, significant_bits, os.path.join(copy, os.path.basename(checkpoint)))
        for path in (settings, os.path.join(run, "validation.csv")):
            if os.path.exists(path):
                shutil.copy(path, copy)
    return folder


def write_weights(reader, significant_bits, path):
    """Save what a checkpoint's reader has, but for the optimiser's slots, as a checkpoint."""
    with tf.Graph().as_default(), tf.Session() as sess:
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            if significant_bits and "/kernel" in name:
                value = rounded(value, significant_bits)
            if not runs.OPTIMISER_VARIABLES.fullmatch(name):
                tf.Variable(value, name=name)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(save_relative_paths=True).save(sess, path, write_meta_graph=False)


def main(argv=None):
    parser = command_line.Parser(prog="export_model.py", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder with the run's checkpoints")
    parser.add_argument("target", help="folder to create the copy in")
    parser.add_argument("--significant_bits", type=arguments.number(int, 1, high=24),
                        metavar="N",
                        help="of each number in a kernel (default: all)")
    command_line.run_or_exit(
        parser, lambda args: print(export(args.run, args.target, args.significant_bits)),
        parser.parse_args(argv))


if __name__ == "__main__":
    main()
