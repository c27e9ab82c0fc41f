"""Results: their names, settings, parts and averages.

The results on an image or .npy are a dict of arrays over its images and of the settings that they
were computed with. They are saved as .npz. Of a folder, those on each image are a part, until the
parts of all are joined. Results of other settings, images or weights have another name.
"""

import contextlib
import io
import json
import os
import typing

import numpy as np

from plumbing import basics, fileformat, image_files, runs


class InputFile(typing.NamedTuple):
    """An image or .npy of a command, and where what comes of it goes, or None."""
    path: str
    shape: tuple  # (num_imgs, H, W)
    image: str  # checksum of the pixels
    output: typing.Optional[str]  # compressed file
    part: typing.Optional[str]  # results of this image, one of many
    record: typing.Optional[str]  # losses over the iterations


class Plan(typing.NamedTuple):
    """What a command is to compute."""
    files: list  # of InputFile
    target: typing.Optional[str]  # where the results on all of them go
    many: bool  # whether they are a folder or glob


# Of the fields of results: results of another version are not those that are looked for.
RESULTS_VERSION = 2


def settings_of(options, lmbda, script, run, threads, codec, initial_bits=b""):
    """All that results depend on but the images and the code: saved with them, and compared.

    options: dict of the method's. threads: as given, or None, which counts as 0: machines of other
    cores share a folder's work.
    """
    settings = dict(options, lmbda=lmbda, script=script, run_name=run.name,
                    model=run.fingerprint.hex(), threads=threads or 0,
                    codec=codec.suffix.strip("."), results_version=RESULTS_VERSION)
    if run.model == "bits-back":
        settings["initial_bits"] = basics.digest(initial_bits).hex() if initial_bits else ""
    return settings


def read_initial_bits(path):
    """Bytes of the file --initial_bits, none if the path is empty."""
    if not path:
        return b""
    if not os.path.isfile(path):
        raise basics.UserError("--initial_bits %s: no such file" % path)
    if not os.path.getsize(path):
        raise basics.UserError("--initial_bits %s: is empty" % path)
    return basics.read_bytes(path)


# ---------------------------------------------------------------- names

def result_path(results_dir, result_name, settings, source, changed):
    """Where results on `source` go; None with an empty results_dir.

    The original's name, result_name with fields in it, and what that lacks: the options in
    `changed`, those that differ from their defaults.
    """
    if not results_dir:
        return None
    name = result_name % dict(settings, source=source)
    if "%(lmbda)" not in result_name and settings["lmbda"] != lmbda_of(settings["run_name"]):
        changed = dict(changed, lmbda=settings["lmbda"])
    for option, value in sorted(changed.items()):
        name += "-%s=%s" % (option, value if isinstance(value, str) else "%.10g" % value)
    return os.path.join(results_dir, name + ".npz")


def lmbda_of(run_name):
    """The lambda in a run's name, or None."""
    try:
        return runs.run_lmbda(run_name)
    except basics.UserError:
        return None


def record_path(results):
    """Where the optimisation record beside results goes."""
    folder, name = os.path.split(results)
    return os.path.join(folder, "opt" + name[len("rd"):])


def path_for(settings, path):
    """A path of results or, where others are stored there, one with a digest of the settings."""
    stored = stored_results(path)
    if stored is None and os.path.exists(path):
        basics.note("%s: is damaged, and replaced" % path)
    if stored is None or is_of(stored, settings):
        return path
    checksum = basics.digest(json.dumps(settings, sort_keys=True).encode()).hex()[:8]
    return "%s-%s.npz" % (path[:-len(".npz")], checksum)


def planned(source, settings, base, output, suffix, with_records):
    """Plan for an image_files.Source.

    settings: what the results depend on but the images. base: path of the results, or None.
    output: the compressed file or, of many images, the folder for those, whose names end in
    `suffix`; or None. The results of other settings or images stay as they are.
    """
    images = []
    for path in source.paths:
        pixels = image_files.read_images(path)
        images.append((path, pixels.shape[:3], basics.digest(pixels).hex()))
    checksums = [checksum for _, _, checksum in images]
    target = base and path_for(dict(settings, image=checksums), base)
    if target != base:
        basics.note("%s is of other settings or images, and stays" % base)
    if not source.many:
        record = record_path(target) if with_records else None
        return Plan([InputFile(*images[0], output, None, record)], target, False)
    files = []
    for path, shape, checksum in images:
        name, part, record, file_output = os.path.basename(path), None, None, None
        if base:
            part = path_for(dict(settings, image=checksum),
                            os.path.join(base + ".parts", name + ".npz"))
        if with_records:
            record = os.path.join(record_path(base)[:-len(".npz")], os.path.basename(part))
        if output:
            file_output = os.path.join(output, name + suffix)
        files.append(InputFile(path, shape, checksum, file_output, part, record))
    return Plan(files, target, True)


def require_targets(file, plan, initial_bits):
    """Raise an error if the results or the compressed file of an InputFile can't be written."""
    for path in (plan.target, file.part, file.record):
        if path:
            basics.require_writable(path, missing=1)
    if file.output:
        basics.require_writable(file.output, missing=int(plan.many))
        fileformat.require_replaceable(file.output, initial_bits)


# ---------------------------------------------------------------- files

def write_results(path, results):
    """Save a dict of arrays as .npz."""
    content = io.BytesIO()  # in a file, zipfile would print a traceback when the disk is full
    np.savez(content, **results)
    basics.write_bytes(path, content.getvalue())


def read_results(path):
    """What write_results wrote; raises many types if it is missing or damaged."""
    with np.load(path, allow_pickle=False) as stored:
        return {field: stored[field] for field in stored.files}


def write_records(file, records):
    """Save the optimisation records of an InputFile's batches, which may have stopped apart."""
    for k, record in enumerate(records):
        path = file.record
        if len(records) > 1:
            path = "%s-batch=%d.npz" % (path[:-len(".npz")], k)
        write_results(path, record)


def write_compressed(path, content):
    """Write a compressed file; a note if it was another."""
    if os.path.exists(path) and basics.read_bytes(path) not in (b"", content):
        basics.note("%s: was another compressed file, and is replaced" % path)
    basics.write_bytes(path, content)


def stored_results(path):
    """The results in a file, or None if it is missing or damaged."""
    with contextlib.suppress(Exception):  # damaged files raise many types
        return read_results(path)
    return None


def is_of(result, settings):
    """Whether results are of these settings."""
    return all(np.array_equal(result.get(name), value) for name, value in settings.items())


def reusable_part(file, settings):
    """The results stored of an InputFile, if they are of the same settings, pixels and model.

    None unless they are there, with the compressed file and the record if these are asked for.
    """
    if not file.part:
        return None
    result = stored_results(file.part)
    if not result or not is_of(result, dict(settings, image=file.image)):
        return None
    if file.record and not os.path.exists(file.record):
        return None
    if file.output and checksum_of(file.output) != result.get("file_checksum", ""):
        return None
    return result


def checksum_of(path):
    """Checksum of a file's bytes; None if it is missing."""
    if not os.path.exists(path):
        return None
    return basics.digest(basics.read_bytes(path)).hex()


# ---------------------------------------------------------------- averages

def join(plan, results):
    """Join the results on all files of a Plan, print averages, save and return them.

    If some are None, say which are missing, and return None.
    """
    missing = [os.path.basename(file.path) for file, one in zip(plan.files, results) if not one]
    if missing:
        names = ", ".join(missing[:5])
        if len(missing) > 5:
            names += ", …"
        print("%d of %d images are done so far; not yet: %s"
              % (len(results) - len(missing), len(results), names))
        return None
    joined = {}
    for name, value in results[0].items():
        if name == "image":
            joined[name] = [str(result[name]) for result in results]
        elif name != "file_checksum":
            joined[name] = value
            if np.ndim(value):
                joined[name] = np.concatenate([result[name] for result in results])
    if "batch_sizes" in joined:
        joined["avg_batch_actual_bpp"] = (np.sum(joined["batch_actual_bpp"])
                                          / np.sum(joined["batch_sizes"]))
    print_averages(joined)
    if plan.target:
        write_results(plan.target, joined)
        print("results: %s" % plan.target)
    return joined


def print_averages(results):
    """A line per array of numbers over images."""
    for name, values in results.items():
        if np.ndim(values) and np.asarray(values).dtype.kind == "f":
            num_defined = np.isfinite(values).sum()
            some = ""
            if 0 < num_defined < len(values):
                some = " (of %d of %d images)" % (num_defined, len(values))
            average = results.get("avg_" + name, finite_mean(values))
            print("Avg %s: %.5f%s" % (name, average, some))


def finite_mean(values):
    """Mean of those that are finite, as MS-SSIM of small images is not; nan if none is."""
    values = np.asarray(values)[np.isfinite(values)]
    return values.mean() if values.size else np.nan
