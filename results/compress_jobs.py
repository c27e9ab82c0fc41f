"""Jobs, one `compress` of a script on a run each: which there are, running them, their averages."""

import collections
import concurrent.futures
import importlib
import os
import queue
import subprocess
import sys
import time
import typing

import tf_boilerplate as nic
from plumbing import basics, command_line, runs, store, workers
import numpy as np

import rd_curves

ROOT = os.path.dirname(rd_curves.RESULTS)


class Setup(typing.NamedTuple):
    """What all jobs of a table share."""
    checkpoint_dir: str  # folder of all runs
    imgs: str  # the images, as <imgs> of the scripts
    source: str  # their name, as results have it in theirs
    checksums: list  # of each image's pixels
    folder: str  # where results go
    options: list  # words of a command line, for those scripts that have them
    threads: typing.Optional[int]  # of an operation, if it is given


class Job(typing.NamedTuple):
    """A script's `compress` of the images with a run."""
    script: str
    run_name: str
    target: str  # path of its results
    settings: dict  # that these must be of: options, lambda, images, fingerprint of the run
    argv: list  # words of its command line


def method_of(script):
    """Return the METHOD of a script, the name of its module."""
    return importlib.import_module(script).METHOD


# ---------------------------------------------------------------- which jobs there are

def find_jobs(setup, scripts, run_names):
    """Return a Job for each pair of a script and a run that it can use, by lambda, then script.

    Of all runs that are there, if there are no run_names; UserError if there is no pair.
    """
    found = find_runs(setup.checkpoint_dir, run_names)
    methods = {script: method_of(script) for script in scripts}
    check_options(setup.options, methods)
    jobs = []
    for lmbda, model in sorted(found):
        for script, method in methods.items():
            if method.model == model:
                jobs.append(make_job(setup, script, found[lmbda, model]))
    if not jobs:
        raise basics.UserError("%s: no run there that one of %s can use"
                               % (setup.checkpoint_dir, ", ".join(scripts)))
    return jobs


def find_runs(checkpoint_dir, run_names):
    """Return a dict by (lambda, kind of model) of the Runs of these names or, without, of all.

    UserError if a run's name has no lambda, or if it is another's of the same kind.
    """
    if not run_names:
        run_names = [name for name in os.listdir(checkpoint_dir)
                     if runs.newest_checkpoint(os.path.join(checkpoint_dir, name))]
    found = {}
    for name in sorted(set(run_names)):
        run = runs.find_run(checkpoint_dir, name)
        try:
            lmbda = runs.run_lmbda(run.name)
        except basics.UserError:
            raise basics.UserError("the run name %s has no lmbda=<number>; choose others by --runs"
                                   % run.name)
        other = found.setdefault((lmbda, run.model), run)
        if other.name != run.name:
            raise basics.UserError("%s and %s have the same lambda: choose by --runs"
                                   % (other.name, run.name))
    return found


def check_options(options, methods):
    """UserError if no script has one of the options; a note names those of `methods` without.

    options: words of a command line. methods: dict by script.
    """
    known = {**methods, **{script: method_of(script) for script in rd_curves.SCRIPTS}}
    flags = options[:1] + [word for word in options[1:] if word.startswith("--")]
    for flag in flags:
        if not any(options_for(method, [flag]) for method in known.values()):
            raise basics.UserError("-- %s: none of %s has %s"
                                   % (" ".join(options), ", ".join(known), flag))
        without = [script for script, method in methods.items()
                   if not options_for(method, [flag])]
        if without:
            basics.note("-- %s: not for %s" % (flag, ", ".join(without)))


def options_for(method, options):
    """Return those of `options`, words of a command line, that a method's script has."""
    flags = {"--" + name for name in method.presets}
    for option in method.options:
        flags.update(option.flags.split())
    kept, is_kept = [], False
    for word in options:
        if word.startswith("--"):
            is_kept = word.split("=")[0] in flags
        if is_kept:
            kept.append(word)
    return kept


def make_job(setup, script, run):
    """Return the Job of a script and a Run; its settings are what the command line resolves to."""
    method = method_of(script)
    argv = ["--checkpoint_dir", setup.checkpoint_dir, "compress", "--results_dir", setup.folder,
            run.name, setup.imgs] + options_for(method, setup.options)
    if setup.threads:
        argv += ["--threads", str(setup.threads)]
    parser = nic.make_parser(script, None, method)
    resolved = command_line.parse_arguments(parser, method, argv)
    if resolved.output_file:
        raise basics.UserError("-- %s: %s is not an option"
                               % (" ".join(setup.options), resolved.output_file))
    settings = store.settings_of(vars(resolved.options), runs.run_lmbda(run.name), script, run,
                                 resolved.threads, method.codecs[0])
    settings["image"] = setup.checksums
    target = store.path_for(settings, store.result_path(
        setup.folder, method.result_name, settings, setup.source, resolved.changed))
    return Job(script, run.name, target, settings, argv)


def is_done(job):
    """Tell whether the job's results exist, of its settings."""
    result = store.stored_results(job.target)
    return result is not None and store.is_of(result, job.settings)


def find_earlier_jobs(setup, jobs, folder):
    """Return the jobs of other rows in the CSVs that `jobs` replace, whose results exist.

    A note names those whose rows will be gone.
    """
    earlier = []
    for script in {job.script for job in jobs}:
        lmbdas = {job.settings["lmbda"] for job in jobs if job.script == script}
        curve = rd_curves.read_csv(os.path.join(folder, script + ".csv")) or {}
        for run_name, lmbda in zip(curve.get("run_name", []), curve.get("lmbda", [])):
            if lmbda in lmbdas:
                continue
            job = find_earlier_job(setup, script, run_name)
            if job:
                earlier.append(job)
            else:
                basics.note("%s of %s has no results of these settings, leaves the table"
                            % (script, run_name))
    return earlier


def find_earlier_job(setup, script, run_name):
    """Return the Job of a row, or None if its run is gone or has no results of these settings."""
    try:
        job = make_job(setup, script, runs.find_run(setup.checkpoint_dir, run_name))
    except basics.UserError:
        return None
    if not is_done(job):
        return None
    return job


# ---------------------------------------------------------------- running them

def run_all(jobs, num_at_a_time):
    """Run the jobs whose results are missing, so many at a time; print what is left."""
    pending = [job for job in jobs if not is_done(job)]
    print("%d of %d results exist" % (len(jobs) - len(pending), len(jobs)), flush=True)
    places = queue.Queue()
    for i in range(num_at_a_time):
        places.put(workers.for_child(i, num_at_a_time))
    with concurrent.futures.ThreadPoolExecutor(num_at_a_time) as pool:
        futures = {pool.submit(run_job, job, places): job for job in pending}
        try:
            wait_for_all(futures, num_at_a_time)
        finally:
            for future in futures:
                future.cancel()


def run_job(job, places):
    """Run a job in a place of the queue `places`; return its seconds, or raise its UserError.

    A place is what sets a process up, see workers.for_child.
    """
    place = places.get()
    start = time.time()
    try:
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, job.script + ".py")] + job.argv, preexec_fn=place,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    finally:
        places.put(place)
    if done.returncode:
        raise basics.UserError("%s on %s: %s" % (
            job.script, job.run_name, workers.error_of(done.returncode, done.stderr)))
    return time.time() - start


def wait_for_all(futures, num_at_a_time):
    """Print, as each of a dict from futures to jobs ends, how long the others may take."""
    left, took = dict(futures), collections.defaultdict(list)  # took: seconds by script
    for future in concurrent.futures.as_completed(futures):
        job = left.pop(future)
        took[job.script].append(future.result())
        average = np.mean(np.concatenate(list(took.values())))
        seconds = sum(np.mean(took.get(other.script, average)) for other in left.values())
        print("%s on %s: %s; %d left, about %s" % (
            job.script, job.run_name, duration(took[job.script][-1]), len(left),
            duration(seconds / num_at_a_time)), flush=True)


def duration(seconds):
    """Return a text of a time with its unit."""
    if seconds < 90:
        return "%.0f s" % seconds
    if seconds < 5400:
        return "%.0f min" % (seconds / 60)
    return "%.1f h" % (seconds / 3600)


def collect(jobs, folder):
    """Write a CSV per script: averages over images, a row per run."""
    for script in {job.script for job in jobs}:
        rows = []
        for job in sorted(jobs, key=lambda each: each.settings["lmbda"]):
            if job.script == script:
                result = store.read_results(job.target)
                means = ["%.6f" % store.finite_mean(result[name]) for name in rd_curves.COLUMNS]
                rows.append([job.settings["lmbda"], job.run_name] + means)
        rd_curves.write_csv(os.path.join(folder, script + ".csv"),
                            ["lmbda", "run_name"] + rd_curves.COLUMNS, rows)
