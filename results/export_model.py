"""Copy a run's newest checkpoint without the optimiser's slots, a third of the size.

    python results/export_model.py <checkpoint_dir>/<run_name> <target_dir>
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from plumbing import basics, command_line, runs
import tensorflow.compat.v1 as tf


def export(run, target):
    """Write a run's model variables to <target>/<run name>; return that folder."""
    checkpoint = runs.newest_checkpoint(run)
    folder = os.path.join(target, os.path.basename(os.path.abspath(run)))
    arguments = os.path.join(run, "args.json")
    if not checkpoint or not os.path.exists(arguments):
        raise basics.UserError("%s: no checkpoint, or no args.json, there" % run)
    if os.path.exists(folder):
        raise basics.UserError("%s: is there already" % folder)
    reader = tf.train.NewCheckpointReader(checkpoint)
    os.makedirs(folder)
    with tf.Graph().as_default(), tf.Session() as sess:
        for name in reader.get_variable_to_shape_map():
            if not runs.OPTIMISER_VARIABLES.fullmatch(name):
                tf.Variable(reader.get_tensor(name), name=name)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(save_relative_paths=True).save(
            sess, os.path.join(folder, os.path.basename(checkpoint)), write_meta_graph=False)
    for path in (arguments, os.path.join(run, "validation.csv")):
        if os.path.exists(path):
            shutil.copy(path, folder)
    return folder


def main(argv=None):
    parser = command_line.Parser(prog="export_model.py", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder with the run's checkpoints")
    parser.add_argument("target", help="folder to create the copy in")
    command_line.run_or_exit(parser, lambda args: print(export(args.run, args.target)),
                             parser.parse_args(argv))


if __name__ == "__main__":
    main()
