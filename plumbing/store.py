"""Results: their names, settings, parts and averages."""

import collections
import contextlib
import io
import json
import os

import numpy as np

from plumbing import basics, image_files, runs


# Of an image or .npy of a command: the checksum of its pixels; where the compressed file, the part
# of the results and the optimisation record go, or None.
InputFile = collections.namedtuple("InputFile", "path image output part record")


def result_path(results_dir, script, run, source, lmbda, changed):
    """Where results on `source` go; None with an empty results_dir.

    The original's name and, what that lacks, the options that differ from their defaults.
    """
    if not results_dir:
        return None
    if script in ("mbt2018", "bb_no_sga", "bb_plain"):
        name = "rd-%s-file=%s" if script == "mbt2018" else "rd-" + script + "+%s-input=%s"
        changed = dict(changed, lmbda=lmbda)
        with contextlib.suppress(basics.UserError):
            if runs.run_lmbda(run.name) == lmbda:
                del changed["lmbda"]
    else:
        name = "rd-%s-lmbda=%g" % (script, lmbda) + "+%s-input=%s"
    changes = "".join("-%s=%s" % (name, value if isinstance(value, str) else "%.10g" % value)
                      for name, value in sorted(changed.items()))
    return os.path.join(results_dir, name % (run.name, source) + changes + ".npz")


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


def write_results(path, results):
    content = io.BytesIO()  # in a file, zipfile would print a traceback when the disk is full
    np.savez(content, **results)
    basics.write_bytes(path, content.getvalue())


def read_results(path):
    """What write_results wrote; raises many types if it is missing or damaged."""
    with np.load(path, allow_pickle=False) as stored:
        return {field: stored[field] for field in stored.files}


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
    result = file.part and stored_results(file.part)
    if not result or not is_of(result, dict(settings, image=file.image)):
        return None
    if file.record and not os.path.exists(file.record):
        return None
    if file.output and not (os.path.exists(file.output) and basics.digest(
            basics.read_bytes(file.output)).hex() == result.get("file_checksum", "")):
        return None
    return result


def report(results, target):
    """Join the results of all files, print averages, save and return it; not if target is None."""
    joined = {}
    for name, value in results[0].items():
        if name == "image":
            joined[name] = [str(result[name]) for result in results]
        elif name != "file_checksum":
            joined[name] = np.concatenate([r[name] for r in results]) if np.ndim(value) else value
    if "batch_sizes" in joined:
        joined["avg_batch_actual_bpp"] = (np.sum(joined["batch_actual_bpp"])
                                          / np.sum(joined["batch_sizes"]))
    for name, values in joined.items():
        if np.ndim(values) and np.asarray(values).dtype.kind == "f":
            defined = np.isfinite(values)
            some = " (of %d of %d images)" % (defined.sum(), len(values))
            print("Avg %s: %.5f%s" % (name, joined.get("avg_" + name, mean(values)),
                                      some * (0 < defined.sum() < len(values))))
    if target:
        write_results(target, joined)
        print("results: %s" % target)
    return joined


def mean(values):
    """Mean of those that are finite, as MS-SSIM of small images is not; nan if none is."""
    values = np.asarray(values)[np.isfinite(values)]
    return values.mean() if values.size else np.nan


def planned_files(source, settings, base, output, suffix, with_records):
    """List of InputFile of what find_images found; where their results go, or None.

    settings: what the results depend on but the images. base: path of the results, or None.
    output: the compressed file or, of many images, the folder for those, whose names end in
    `suffix`; or None. The results of other settings or images stay as they are.
    """
    _, paths, many = source
    images = [basics.digest(image_files.read_images(path)).hex() for path in paths]
    target = base and path_for(dict(settings, image=images), base)
    if target != base:
        basics.note("%s is of other settings or images, and stays" % base)
    if not many:
        record = record_path(target) if with_records else None
        return [InputFile(paths[0], images[0], output, None, record)], target
    files = []
    for path, image in zip(paths, images):
        name, part, record = os.sep + os.path.basename(path), None, None
        if base:
            part = path_for(dict(settings, image=image), base + ".parts" + name + ".npz")
        if with_records:
            record = os.path.join(record_path(base)[:-len(".npz")], os.path.basename(part))
        files.append(InputFile(path, image, output and output + name + suffix, part, record))
    return files, target


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


def read_initial_bits(args):
    """Bytes of the file --initial_bits."""
    path = getattr(args, "initial_bits", "")
    if path and not os.path.isfile(path):
        raise basics.UserError("--initial_bits %s: no such file" % path)
    if path and not os.path.getsize(path):
        raise basics.UserError("--initial_bits %s: is empty" % path)
    return basics.read_bytes(path) if path else b""
