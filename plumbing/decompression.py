"""Compressed files to pictures: which files, with which run, and where the pictures go."""

import contextlib
import functools
import glob
import os
import sys
import typing

import numpy as np

from plumbing import basics, command_line, compressed_files, fileformat, image_files, runs


PICTURES = (".png", ".npy")  # of one image, of any number


class Job(typing.NamedTuple):
    """A compressed file to decode."""
    file: str
    output: typing.Optional[str]  # the picture
    stem: str  # of its name, if that is not given


def decompress(args, model, decoder_for):
    """Decode args.input_file or, of a folder or glob, each file there.

    model: "base" or "bits-back", of the runs that the script can use. decoder_for: function of a
    run, height and width to the decoder. UserError if a single file is not what it should be,
    Incomplete if one of several is not.
    """
    run = None
    if args.run_name is not None:
        run = runs.find_run(args.checkpoint_dir, args.run_name)
        runs.require_usable(run, model, args.num_filters)
    jobs, many = find_jobs(args)
    failed = []
    for job in jobs:
        try:
            with basics.errors_of(job.file):
                decompress_file(args, job, run, model, decoder_for)
        except Exception as error:
            line = command_line.line_of(error)
            if not many or line is None:
                raise
            basics.print_line("error: %s" % line, sys.stderr)
            failed.append(job.file)
    if failed:
        raise basics.Incomplete("%d of %d files were not decoded: %s"
                                % (len(failed), len(jobs), ", ".join(failed)))


def find_jobs(args):
    """(list of Job, whether they are of a folder or glob) that the arguments name."""
    path, output = args.input_file, args.output_file
    if os.path.isdir(path):
        found = glob.glob(os.path.join(glob.escape(path), "*"))
    elif not os.path.exists(path) and glob.has_magic(path):
        found = glob.glob(path, recursive=True)
    elif output and os.path.isdir(output):
        return [Job(path, None, os.path.join(output, os.path.basename(path)))], False
    else:
        return [Job(path, output, path)], False
    image_files.note_dangling(path, found)
    found = [file for file in sorted(found) if os.path.isfile(file)]
    files = [file for file in found if file.lower().endswith(image_files.COMPRESSED)]
    skipped = [os.path.basename(file) for file in found
               if not file.lower().endswith(image_files.COMPRESSED + PICTURES)]
    if not files:
        raise basics.UserError("%s: no file there that ends in %s"
                               % (path, " or ".join(image_files.COMPRESSED)))
    if args.initial_bits:
        raise basics.UserError("--initial_bits %s: only of a single file" % args.initial_bits)
    if skipped:
        basics.note("%d of %d files in %s are skipped, neither compressed files nor pictures: %s"
                    % (len(skipped), len(found), path, ", ".join(skipped)))
    if not output:
        return [Job(file, None, file) for file in files], True
    if output.endswith(PICTURES):
        raise basics.UserError("%s: the pictures of a folder or glob go into a folder" % output)
    basics.require_folder(output, missing=1)
    jobs = [Job(file, None, os.path.join(output, os.path.basename(file))) for file in files]
    basics.require_distinct(*(job.stem for job in jobs))
    return jobs, True


def decompress_file(args, job, run, model, decoder_for):
    """Decode the file of a Job to its picture; UserError if it is not what it should be.

    run: None if it is to be found by what the file says.
    """
    content = basics.read_bytes(job.file)
    if run is None:
        run = run_of(content, args.checkpoint_dir)
        runs.require_usable(run, model, args.num_filters)
    parsed = compressed_files.parse_file(content, run)
    if not parsed.header:
        basics.note("%s has no checksum (the original's format): a wrong run or damage goes "
                    "unnoticed" % job.file)
    if args.initial_bits and not parsed.file.initial.num_bytes:
        raise basics.UserError("written without --initial_bits")
    output = output_of(job, parsed.file.shape[0])
    basics.require_distinct(job.file, output, args.initial_bits)
    for path in filter(None, (output, args.initial_bits)):
        basics.require_writable(path, missing=1)
    if not args.force:  # before the work
        basics.require_unchanged(output, lambda: image_files.read_images(output).shape
                                 == (*parsed.file.shape, 3))
    decoder = decoder_for(run, *parsed.file.shape[1:])
    x_hat, bits = compressed_files.decode(decoder, parsed, bool(args.initial_bits))
    if not args.force:
        basics.require_unchanged(output, lambda: np.array_equal(
            image_files.read_images(output), x_hat))
        basics.require_unchanged(args.initial_bits, lambda: basics.read_bytes(
            args.initial_bits) == bits)
    if args.initial_bits:
        basics.write_bytes(args.initial_bits, bits)
    image_files.write_images(output, x_hat)
    basics.print_line("decoded: %s" % output)


def run_of(content, checkpoint_dir):
    """The Run in a folder whose weights a file was written with; UserError if there is none."""
    header, _ = fileformat.unpack(content)
    if not header:
        raise basics.UserError("does not say with which run it was written (the original's "
                               "format); give the run's name before the file's")
    return run_with_weights(checkpoint_dir, header.fingerprint, header.run_name)


@functools.lru_cache(maxsize=None)
def run_with_weights(checkpoint_dir, fingerprint, run_name):
    """The Run in a folder with weights of this checksum, that of the name if it has them."""
    names = sorted(runs.run_names(checkpoint_dir), key=lambda name: name != run_name)
    for name in names:
        with contextlib.suppress(basics.UserError):  # as of another's checkpoint
            run = runs.find_run(checkpoint_dir, name)
            if run.fingerprint == fingerprint:
                return run
    raise basics.UserError("was written with the run %s, whose weights no run in %s has; "
                           "give another folder by --checkpoint_dir" % (run_name, checkpoint_dir))


def output_of(job, num_imgs):
    """Where the picture of a Job goes: a .png of one image, a .npy of several."""
    endings = PICTURES
    if num_imgs > 1:
        endings = (".npy",)
    output = job.output or job.stem + endings[0]
    if not output.endswith(endings):
        raise basics.UserError("%d image(s) can't be decoded to %s, only to a name in %s; %s"
                               % (num_imgs, output, " or ".join(endings), basics.QUOTE))
    return output
