"""The plans of a table, one per method and run: which there are, and their averages."""

import importlib
import os
import typing

import numpy as np
import tf_boilerplate as nic
from plumbing import basics, command_line, image_files, result_files, runs, store, tasks
import rd_curves

ROOT = os.path.dirname(rd_curves.RESULTS)


class Setup(typing.NamedTuple):
    """What all plans of a table share."""
    checkpoint_dir: str  # folder of all runs
    source: image_files.Source  # the images
    images: list  # of store.Pixels
    folder: str  # where results go
    options: list  # words of a command line, for those scripts that have them
    threads: typing.Optional[int]  # of an operation, if it is given


def method_of(script):
    """Return the METHOD of a script, the name of its module."""
    return importlib.import_module(script).METHOD


# ---------------------------------------------------------------- which plans there are

def find_plans(setup, scripts, run_names):
    """Return a Plan for each pair of a script and a run that it can use, by lambda, then script.

    Of all runs that are there, if there are no run_names; UserError if there is no pair.
    """
    found = find_runs(setup.checkpoint_dir, run_names)
    methods = {script: method_of(script) for script in scripts}
    check_options(setup.options, methods)
    plans = []
    for lmbda, model in sorted(found):
        for script, method in methods.items():
            if method.model == model:
                plans.append(make_plan(setup, script, found[lmbda, model]))
    if not plans:
        raise basics.UserError("%s: no run there that one of %s can use; "
                               "give another folder by --checkpoint_dir"
                               % (setup.checkpoint_dir, ", ".join(scripts)))
    return plans


def find_runs(checkpoint_dir, run_names):
    """Return a dict by (lambda, kind of model) of the Runs of these names or, without, of all.

    UserError if a run's name has no lambda, or if it is another's of the same kind.
    """
    if not run_names:
        run_names = runs.run_names(checkpoint_dir)
    found = {}
    for name in sorted(set(run_names)):
        run = runs.find_run(checkpoint_dir, name)
        lmbda = runs.lmbda_of(run.name)
        if lmbda is None:
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


def make_plan(setup, script, run):
    """Return the Plan of a script and a Run; its settings are what the command line resolves to.

    Files are .iinc of all methods, so that their sizes can be compared.
    """
    method = method_of(script)
    argv = ["--checkpoint_dir", setup.checkpoint_dir, "compress", "--results_dir", setup.folder,
            "run", "imgs"] + options_for(method, setup.options)
    if setup.threads:
        argv += ["--threads", str(setup.threads)]
    parser = nic.make_parser(script, None, method)
    resolved = command_line.parse_arguments(parser, method, argv)
    if resolved.output_file:
        raise basics.UserError("-- %s: %s is not an option"
                               % (" ".join(setup.options), resolved.output_file))
    return tasks.plan_of(method, resolved, run, setup.source, lambda: (setup.images, {}),
                         method.codecs[-1])


def find_earlier_plans(setup, plans, folder):
    """Return the plans of other rows in the CSVs that `plans` replace, whose results exist.

    A note names those whose rows will be gone.
    """
    earlier = []
    for script in {plan.settings["script"] for plan in plans}:
        lmbdas = {plan.settings["lmbda"] for plan in plans if plan.settings["script"] == script}
        curve = rd_curves.read_csv(os.path.join(folder, script + ".csv")) or {}
        for run_name, lmbda in zip(curve.get("run_name", []), curve.get("lmbda", [])):
            if lmbda in lmbdas:
                continue
            plan = find_earlier_plan(setup, script, run_name)
            if plan:
                earlier.append(plan)
            else:
                basics.note("%s of %s has no results of these settings, leaves the table"
                            % (script, run_name))
    return earlier


def find_earlier_plan(setup, script, run_name):
    """Return the Plan of a row, or None if its run is gone or has no results of these settings."""
    try:
        plan = make_plan(setup, script, runs.find_run(setup.checkpoint_dir, run_name))
    except basics.UserError:
        return None
    if not store.is_joined(plan):
        return None
    return plan


# ---------------------------------------------------------------- their averages

def collect(plans, folder):
    """Write a CSV per script: averages over images, a row per run whose results exist."""
    for script in {plan.settings["script"] for plan in plans}:
        rows = []
        for plan in sorted(plans, key=lambda each: each.settings["lmbda"]):
            if plan.settings["script"] == script and store.is_joined(plan):
                result = result_files.read(store.target_of(plan))
                # Of MS-SSIM, which small images lack, a mean would be over other images.
                averages = {name: np.mean(result[name]) for name in rd_curves.COLUMNS}
                averages["psnr"] = result_files.finite_mean(result["psnr"])
                means = ["%.6f" % averages[name] for name in rd_curves.COLUMNS]
                num_exact = np.isinf(result["psnr"]).sum()
                if num_exact:
                    basics.note("%s on %s: the mean PSNR is without %d images that are reproduced "
                                "exactly" % (script, plan.run.name, num_exact))
                rows.append([plan.settings["lmbda"], plan.run.name] + means)
        path = os.path.join(folder, script + ".csv")
        if rows:
            rd_curves.write_csv(path, ["lmbda", "run_name"] + rd_curves.COLUMNS, rows)
        elif os.path.exists(path):  # of results that are no longer those of these settings
            os.remove(path)
