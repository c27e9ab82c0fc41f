"""Images to compress by methods on runs: what is missing of plans is computed, and written.

A task is an image, or .npy, by a method on a run. It is computed anywhere (see `workers`), and this
process alone writes what comes of it.
"""

import functools
import json
import os
import sys
import time
import typing

import numpy as np
import tqdm

from plumbing import (basics, command_line, compressed_files, machine, progress, result_files,
                      runs, store, workers)


class Task(typing.NamedTuple):
    """All that a process must know to compress an image or .npy."""
    folder: str  # of the run
    settings: dict  # that the results depend on, see store.settings_of
    path: str
    shape: tuple  # (num_imgs, H, W)
    image: str  # checksum of the pixels
    num_filters: int
    initial_bits: bytes
    kept: tuple  # of kinds, of what is kept beside results, see store.WRITERS
    needs_file: bool  # it fails if the latents can't be coded

    @property
    def group(self):
        """Those of one group use the same graphs."""
        return self.folder, json.dumps(self.settings, sort_keys=True), self.shape


class Done(typing.NamedTuple):
    """What comes of a Task."""
    results: dict
    content: typing.Optional[bytes]  # of the compressed file
    kept: dict  # by kind


def done(task, results, compressed):
    """Done of a Task, from what the Compressor made of it, and results."""
    kept = dict(opt=compressed.records, recon=compressed.x_hat,
                latents=dict(y_hat=compressed.y_hat, z_hat=compressed.z_hat))
    return Done(results, compressed.content, {kind: kept[kind] for kind in task.kept})


class Failed(typing.NamedTuple):
    """An image that was not compressed."""
    plan: store.Plan
    path: str
    error: Exception


class Pending(typing.NamedTuple):
    """A task, and where what comes of it goes."""
    task: Task
    plan: store.Plan
    file: store.InputFile
    place: tuple  # positions of the plan, and of the file in it


def plan_of(method, args, run, source, look, codec=None):
    """store.Plan of a compress command.

    source: of the images. look: function without arguments that gives what store.look_at finds of
    them; it may take long, and is called when the arguments are right. codec: by default that of
    the output file.
    """
    lmbda = runs.require_lmbda(run.name) if args.lmbda is None else args.lmbda
    initial_bits = store.read_initial_bits(args.initial_bits)
    codec = codec or compressed_files.codec_for(method.codecs, args.output_file or "")
    settings = store.settings_of(vars(args.options), lmbda, args.script, run, args.threads, codec,
                                 initial_bits)
    images, failed = look()
    base = store.result_path(args.results_dir, method.result_name, settings, source.name,
                             args.preset, args.changed)
    return store.planned(run, settings, initial_bits, images, failed, source.many, base,
                         output_of(args, source, codec), codec.suffix,
                         [kind for kind in store.WRITERS if vars(args)[command_line.KEPT[kind]]])


def output_of(args, source, codec):
    """The compressed file to write or, for many images, the folder of them; None if none is."""
    if args.output_file or not args.write:
        return args.output_file
    if source.many:
        folders = [os.path.dirname(os.path.abspath(path)) for path in source.paths]
        return os.path.commonpath(folders) + codec.suffix
    return args.imgs + codec.suffix


def find_pending(plans, results):
    """List of Pending for the files of plans without results, the longest first."""
    pending = []
    for i, plan in enumerate(plans):
        folder = os.path.abspath(os.path.dirname(plan.run.checkpoint))
        for k, file in enumerate(plan.files):
            if results[i][k] is None:
                task = Task(folder, plan.settings, os.path.abspath(file.path), file.shape,
                            file.image, plan.run.num_filters, plan.initial_bits, tuple(file.kept),
                            bool(file.output))
                pending.append(Pending(task, plan, file, (i, k)))
    return sorted(pending, key=lambda one: -predicted_seconds(one.task))


def run_plans(compress, plans, jobs=1, scheduler=None, compress_here=None):
    """(list of the results of each Plan, joined, None where an image failed; list of Failed).

    compress: function of a Task to Done, which a worker can import; compress_here: the same for
    this process, if it is another. jobs, scheduler: see workers.outcomes. All that comes of a task
    is written as it ends. A KeyboardInterrupt says in its argument what was done.
    """
    results = [store.stored(plan) for plan in plans]
    failures = [Failed(plan, path, error) for plan in plans for path, error in plan.failed.items()]
    pending = find_pending(plans, results)
    num_stored = sum(map(len, results)) - len(pending)
    if num_stored:
        basics.print_line("results on %d of %d images exist already" % (
            num_stored, num_stored + len(pending) + len(failures)))
    report = Report([one.task for one in pending], compress_here is None, jobs, scheduler)
    if report.names_plans:
        report.expectation()
    for failure in failures:
        report.failure(failure)
    wholes = [join_if_complete(*pair) for pair in zip(plans, results)]
    try:
        with basics.terminable(), report.bar:
            for k, outcome in workers.outcomes(compress, report.tasks, jobs, scheduler,
                                               compress_here):
                one, (i, j) = pending[k], pending[k].place
                if outcome.error:
                    failures.append(Failed(one.plan, one.file.path, outcome.error))
                    report.failure(failures[-1])
                else:
                    store.write_done(one.file, *outcome.value)
                    results[i][j] = outcome.value.results
                    report.success(one, outcome.value.results)
                    wholes[i] = join_if_complete(one.plan, results[i])
                report.ended(k, outcome)
    except KeyboardInterrupt:
        # A part is there, too, if the interrupt came just after it was written.
        left = left_by_interrupt(plans, [store.stored(plan) if plan.many else found
                                         for plan, found in zip(plans, results)])
        if scheduler:
            left += "; workers first end what they are at"
        raise KeyboardInterrupt(": " + left)
    return wholes, failures


def left_by_interrupt(plans, results):
    """Text that says what is saved of plans that were interrupted."""
    if not plans[0].base:
        return "no results are saved"
    if not plans[0].many and len(plans) == 1:
        return "the image is not saved; the same command begins anew"
    num_images = num_done = 0
    for plan, found in zip(plans, results):
        num_images += len(plan.failed)
        for file, result in zip(plan.files, found):
            num_images += file.shape[0]
            if result is not None:
                num_done += file.shape[0]
    return ("%d of %d images are done and saved, nothing of the others; the same command continues"
            % (num_done, num_images))


def join_if_complete(plan, results):
    """The results on all files of a Plan, joined; None while some are missing, or failed."""
    if plan.failed or None in results:
        return None
    return store.join(plan, results)


class Report:
    """What is told of tasks: a bar with the time left, and a line for each that ends."""

    def __init__(self, tasks, names_plans, jobs=1, scheduler=None):
        self.tasks, self.names_plans, self.left = tasks, names_plans, set(range(len(tasks)))
        self.where, share = "", share_of_cores(tasks, jobs)
        if scheduler:
            self.where, share = " of all cores of this machine", 1
        self.forecast = Forecast(share)
        # The bar of a single image is enough.
        self.bar = tqdm.tqdm(total=len(tasks), unit="image", leave=False,
                             disable=True if len(tasks) < 2 else None,
                             bar_format="{l_bar}{bar}| {n_fmt} of {total_fmt}{postfix}")

    def expectation(self):
        """Tell how many images each script has to compute, and how long that may take."""
        by_script = {}  # lists of tasks
        for task in self.tasks:
            by_script.setdefault(task.settings["script"], []).append(task)
        for script, own in by_script.items():
            num_images = sum(task.shape[0] for task in own)
            basics.print_line("%s: %d images, about %s%s" % (
                script, num_images, progress.duration(self.forecast.seconds(own)), self.where))
        if self.tasks:
            basics.print_line("together about %s%s" % (
                progress.duration(self.forecast.seconds(self.tasks)), self.where))

    def name(self, plan, path):
        """Of an image in a plan, for a line."""
        name = os.path.basename(path)
        if self.names_plans:
            name = "%s on %s: %s" % (plan.settings["script"], plan.run.name, name)
        return name

    def success(self, one, results):
        """Tell of a Pending that ended, one of many."""
        if one.plan.many or self.names_plans:
            basics.print_line("%s: %s" % (self.name(one.plan, one.file.path), " ".join(
                "%s=%.4f" % (field, result_files.finite_mean(results[field]))
                for field in ("rd_cost", "est_bpp", "psnr"))))

    def failure(self, failed):
        """Tell of a Failed, one of many, with the traceback of a fault of the code."""
        if not failed.plan.many and not self.names_plans:
            return  # it is raised
        line = command_line.line_of(failed.error)
        basics.print_line("%s: error: %s" % (self.name(failed.plan, failed.path),
                                             line or "a fault of the code"), sys.stderr)
        if line is None:
            tqdm.tqdm.write(workers.traceback_of(failed.error), file=sys.stderr)

    def ended(self, k, outcome):
        """Count task k, and say how long the others may take."""
        self.left.remove(k)
        self.forecast.measured(self.tasks[k], outcome)
        self.bar.set_postfix_str("about %s left" % progress.duration(self.forecast.seconds(
            [self.tasks[k] for k in self.left])), refresh=False)
        self.bar.update()


# ---------------------------------------------------------------- how long it takes

# Floating-point operations of an iteration of SGA per pixel and filter squared, and the share of
# the rate of a product of matrices that they reach, see results/benchmark.md.
OPERATIONS, EFFICIENCY = 11, .75
# What an image takes beside its iterations: seconds, and seconds per pixel.
SECONDS, SECONDS_PER_PIXEL = 2, 6e-6
FULL_ITERATIONS = ("its", "sga_its")  # options that count iterations through the whole model
# An iteration of fitting q(z|y_hat), by the hyper synthesis transform alone: seconds per image, and
# its part of the operations of an iteration of SGA. Measured with 96 filters.
FIT_SECONDS, FIT_PART = 6e-3, .2


@functools.lru_cache(maxsize=None)
def matrix_rate():
    """Floating-point operations in a second of products of 512 x 512 matrices, on all cores."""
    matrix, best = np.ones((512, 512), np.float32), np.inf
    for _ in range(5):
        start = time.time()
        matrix @ matrix
        best = min(best, time.time() - start)
    return 2 * 512 ** 3 / best


def predicted_seconds(task):
    """Seconds of all cores of this machine that a task takes, by the benchmark's figures."""
    pixels = np.prod(task.shape, dtype=float)
    its = sum(task.settings.get(name, 0) for name in FULL_ITERATIONS)
    fit_its = task.settings.get("rate_its", 0)
    operations = (its + FIT_PART * fit_its) * pixels * OPERATIONS * task.num_filters ** 2
    return (SECONDS + pixels * SECONDS_PER_PIXEL + task.shape[0] * fit_its * FIT_SECONDS
            + operations / EFFICIENCY / matrix_rate())


def share_of_cores(tasks, jobs):
    """Part of this machine's cores that so many processes use at a time."""
    jobs, cores = max(1, min(jobs, len(tasks))), machine.num_threads(None)
    threads = max([task.settings.get("threads", 0) for task in tasks], default=0)
    return min(1, jobs * (threads or max(1, cores // jobs)) / cores)


class Forecast:
    """How long tasks will take, by those that ended, of the same method if there are any."""

    def __init__(self, share=1):
        self.share = share  # of this machine's cores, until a task has ended
        self.ratios, self.num_workers = {}, 1  # lists of measured / predicted, by script

    def measured(self, task, outcome):
        """Learn from the Outcome of a task."""
        self.num_workers = outcome.num_workers
        if not outcome.error:
            self.ratios.setdefault(task.settings["script"], []).append(
                outcome.seconds / predicted_seconds(task))

    def seconds(self, tasks):
        """Of a list of tasks together, on so many workers at a time as there were."""
        every = [ratio for ratios in self.ratios.values() for ratio in ratios]
        if not every:
            return sum(map(predicted_seconds, tasks)) / self.share
        mean = {script: np.mean(ratios) for script, ratios in self.ratios.items()}
        return sum(predicted_seconds(task) * mean.get(task.settings["script"], np.mean(every))
                   for task in tasks) / max(1, min(self.num_workers, len(tasks)))
