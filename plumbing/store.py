"""Results: their names, settings, parts and averages.

The results on an image or .npy are a dict of arrays over its images and of the settings that they
were computed with. They are saved as .npz. Of a folder, those on each image are a part, until the
parts of all are joined. Results of other settings, images or weights have another name.
"""

import ast
import contextlib
import functools
import glob
import importlib.util
import io
import json
import os
import sys
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
    """A method on a run and images: what is to be computed, and where it goes."""
    run: runs.Run
    settings: dict  # see settings_of
    initial_bits: bytes
    files: list  # of InputFile
    failed: dict  # from paths that can't be compressed to the UserError
    output: typing.Optional[str]  # the compressed file, or the folder of them
    target: typing.Optional[str]  # where the results on all of them go
    base: typing.Optional[str]  # where those of other images of the same name may be
    many: bool  # whether they are a folder or glob


# Of the fields of results: results of another version are not those that are looked for.
RESULTS_VERSION = 2


def settings_of(options, lmbda, script, run, threads, codec, initial_bits=b""):
    """All that results depend on but the images: saved with them, and compared.

    options: dict of the method's. threads: as given, or None, which counts as 0: machines of other
    cores share a folder's work. Of the code, the method's own counts.
    """
    settings = dict(options, lmbda=lmbda, script=script, code=code_of(script), run_name=run.name,
                    model=run.fingerprint.hex(), threads=threads or 0,
                    codec=codec.suffix.strip("."), results_version=RESULTS_VERSION)
    if run.model == "bits-back":
        settings["initial_bits"] = basics.digest(initial_bits).hex() if initial_bits else ""
    return settings


@functools.lru_cache(maxsize=None)
def code_of(script):
    """Checksum of a method's script and those that it imports, without comments and docstrings.

    Not of the shared code, which has no METHOD. It is that of the first call in a process, which
    goes on with the code that it has imported.
    """
    names, sources = [script], []
    for name in names:  # which grows
        tree = ast.parse(basics.read_bytes(importlib.util.find_spec(name).origin))
        imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for alias in node.names]
        names += [name for name in imported if name not in names
                  and hasattr(sys.modules.get(name), "METHOD")]
        sources.append(ast.dump(without_docstrings(tree)).encode())
    return basics.digest(*sources).hex()


def without_docstrings(tree):
    """A syntax tree without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            if ast.get_docstring(node) is not None:
                del node.body[0]
    return tree


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

MOST_BYTES = 200  # of a name, of the 255 that a file's may have with what is added

def result_path(results_dir, result_name, settings, source, preset, changed):
    """Where results on `source` go; None with an empty results_dir.

    The original's name, result_name with fields in it, and what that lacks: the name of a preset,
    and the options in `changed`. A digest is in the place of the end of a name that is too long.
    """
    if not results_dir:
        return None
    name = result_name % dict(settings, source=source)
    if preset:
        name += "-" + preset
    if "%(lmbda)" not in result_name and settings["lmbda"] != lmbda_of(settings["run_name"]):
        changed = dict(changed, lmbda=settings["lmbda"])
    for option, value in sorted(changed.items()):
        name += "-%s=%s" % (option, value if isinstance(value, str) else "%.10g" % value)
    if len(os.fsencode(name)) > MOST_BYTES:
        name = "%s-%s" % (os.fsdecode(os.fsencode(name)[:MOST_BYTES - 9]),
                          basics.digest(os.fsencode(name)).hex()[:8])
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
    if stored.get("code", "") != settings["code"]:
        basics.note("%s: was computed by another version of %s.py" % (path, settings["script"]))
    return "%s-%s.npz" % (path[:-len(".npz")], digits_of(settings))


def digits_of(settings):
    """Eight digits that stand for settings."""
    return basics.digest(json.dumps(settings, sort_keys=True).encode()).hex()[:8]


def part_name(image_name, settings):
    """Name of a part: others are of other settings, also for another process at the same time."""
    image_name = os.fsdecode(os.fsencode(image_name)[:MOST_BYTES])
    return "%s-%s.npz" % (image_name, digits_of(settings))


class Pixels(typing.NamedTuple):
    """What is known of an image, or .npy, before anything is computed."""
    path: str
    shape: tuple  # (num_imgs, H, W)
    image: str  # checksum


def look_at(paths, require):
    """(list of Pixels, dict from those that can't be compressed to the UserError) of paths.

    require: function of a shape (num_imgs, H, W) that raises a UserError if it is not accepted.
    """
    found, failed = [], {}
    for path in paths:
        try:
            pixels = image_files.read_images(path)
            with basics.errors_of(path):
                require(pixels.shape[:3])
            found.append(Pixels(path, pixels.shape[:3], basics.digest(pixels).hex()))
        except basics.UserError as error:
            failed[path] = error
    return found, failed


def planned(run, settings, initial_bits, images, failed, many, base, output=None, suffix="",
            with_records=False):
    """Plan for a list of Pixels, of which many are those of a folder or glob.

    settings: what the results depend on but the images. base: path of the results, or None.
    output: the compressed file or, of many images, the folder for those, whose names end in
    `suffix`; or None. The results of other settings or images stay as they are.
    """
    checksums = [pixels.image for pixels in images]
    target = base and path_for(dict(settings, image=checksums), base)
    if target != base:
        basics.note("%s is of other settings, images or code, and stays" % base)
    files = []
    for path, shape, image in images:
        name, part, record, file_output = os.path.basename(path), None, None, output
        if many and base:
            part = os.path.join(base + ".parts", part_name(name, dict(settings, image=image)))
        if with_records:
            record = record_path(target)
        if with_records and many:
            record = os.path.join(record_path(base)[:-len(".npz")], os.path.basename(part))
        if output and many:
            file_output = os.path.join(output, name + suffix)
        files.append(InputFile(path, shape, image, file_output, part, record))
    return Plan(run, settings, initial_bits, files, failed, output, target, base, many)


def require_targets(plan):
    """Raise an error if the results or a compressed file of a Plan can't be written."""
    for file in plan.files:
        for path in filter(None, (plan.target, file.part, file.record)):
            basics.require_writable(path, missing=1)
        if file.output:
            basics.require_writable(file.output, missing=int(plan.many))
            fileformat.require_replaceable(file.output, plan.initial_bits)


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


def write_done(file, results, content, records):
    """Write what was computed of an InputFile: its compressed file, records, and part."""
    for path in filter(None, (file.record, file.part)):  # another process may have joined its own
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_records(file, records)
    if file.output:
        write_compressed(file.output, content)
    if file.part:
        write_results(file.part, results)


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


def is_joined(plan):
    """Whether the results on all images of a Plan are there."""
    result = stored_results(plan.target) if plan.target else None
    checksums = [file.image for file in plan.files]
    return bool(result) and is_of(result, dict(plan.settings, image=checksums))


def stored(plan):
    """List of the results on the files of a Plan that are there, None where they are not.

    They are of the same settings, pixels and model, with the compressed file and the record if
    these are asked for. Of a folder or glob, they are looked for in parts, and joined.
    """
    if not plan.many or not plan.base:
        return [None] * len(plan.files)
    parts = {}
    for path in glob.glob(glob.escape(plan.base[:-len(".npz")]) + "*.npz"):  # and path_for's names
        parts.update(split(stored_results(path), plan.settings))
    found = []
    for file in plan.files:
        result = stored_results(file.part) or dict(parts.get(file.image, {}))
        is_there = result and is_of(result, dict(plan.settings, image=file.image))
        if is_there:  # of the same pixels, perhaps under another name
            result["files"] = np.array([os.path.basename(file.path)])
        if file.record and not os.path.exists(file.record):
            is_there = False
        if is_there and file.output:
            is_there = checksum_of(file.output) == str(result.get("file_checksum", ""))
        found.append(result if is_there else None)
    return found


def split(joined, settings):
    """Dict by checksum of the results on single images in joined ones, if of these settings."""
    if not joined or not is_of(joined, settings):
        return {}
    fields = [name for name in joined if not name.startswith("avg_")]
    return {str(image): {name: one_of(joined[name], name, k) for name in fields}
            for k, image in enumerate(joined["image"])}


# Fields of an image that are no arrays over images, but an array in joined results.
CHECKSUMS = ("image", "file_checksum")


def one_of(value, name, k):
    """Of a field in joined results the value for image k."""
    if name in CHECKSUMS:
        return str(value[k])
    return value[k:k + 1] if np.ndim(value) else value


def checksum_of(path):
    """Checksum of a file's bytes; None if it is missing."""
    if not os.path.exists(path):
        return None
    return basics.digest(basics.read_bytes(path)).hex()


# ---------------------------------------------------------------- averages

def joined(results):
    """One dict of the results on several files."""
    whole = {}
    for name, value in results[0].items():
        whole[name] = value
        if name in CHECKSUMS:
            whole[name] = [str(result.get(name, "")) for result in results]
        elif np.ndim(value):
            whole[name] = np.concatenate([result[name] for result in results])
    if "batch_sizes" in whole:
        whole["avg_batch_actual_bpp"] = (np.sum(whole["batch_actual_bpp"])
                                         / np.sum(whole["batch_sizes"]))
    return whole


def join(plan, results):
    """Save the results on all files of a Plan as one, and remove their parts; returns them."""
    whole = joined(results)
    if plan.base:  # where another process may have written since
        checksums = [file.image for file in plan.files]
        write_results(path_for(dict(plan.settings, image=checksums), plan.base), whole)
    parts = [file.part for file in plan.files if file.part]
    for part in parts:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
    if parts:
        with contextlib.suppress(OSError):  # there are others', or it is gone
            os.rmdir(os.path.dirname(parts[0]))
    return whole


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
