"""Results: their names and settings, and those that are there.

The results on an image or .npy are a dict of arrays over its images and of the settings that they
were computed with. They are saved as .npz. Of a folder, those on each image are a part, until the
parts of all are joined. Results of other settings, images or weights have another name.
"""

import ast
import contextlib
import functools
import glob
import importlib.util
import json
import os
import sys
import typing

import numpy as np

from plumbing import basics, command_line, fileformat, image_files, result_files, runs


class InputFile(typing.NamedTuple):
    """An image or .npy of a command, and where what comes of it goes, or None."""
    path: str
    shape: tuple  # (num_imgs, H, W)
    image: str  # checksum of the pixels
    output: typing.Optional[str]  # compressed file
    part: typing.Optional[str]  # results of this image, one of many
    kept: dict  # paths by kind, one of WRITERS, of what else is asked for


class Plan(typing.NamedTuple):
    """A method on a run and images: what is to be computed, and where it goes."""
    run: runs.Run
    settings: dict  # see settings_of
    initial_bits: bytes
    files: list  # of InputFile
    failed: dict  # from paths that can't be compressed to the UserError
    output: typing.Optional[str]  # the compressed file, or the folder of them
    base: typing.Optional[str]  # where the results on all of them go, see target_of
    many: bool  # whether they are a folder or glob


# Of the fields of results: results of another version are not those that are looked for.
RESULTS_VERSION = 2


def settings_of(options, lmbda, script, run, threads, codec, initial_bits=b""):
    """All that results depend on but the images: saved with them, and compared.

    options: dict of the method's. threads: as given, or None, which counts as 0: machines of other
    cores share a folder's work. Of the code, the method's own counts.
    """
    settings = dict(**options, lmbda=lmbda, script=script, code=code_of(script), run_name=run.name,
                    model=run.fingerprint.hex(), threads=threads or 0,
                    codec=codec.suffix.strip("."), results_version=RESULTS_VERSION)
    if run.model == "bits-back":
        settings["initial_bits"] = basics.digest(initial_bits).hex() if initial_bits else ""
    return settings


def code_of(script):
    """Checksum of a method's script and what it imports, without comments and docstrings.

    That is other methods and what is beside it, but not the shared code.
    """
    names = [script]
    for name in names:  # which grows
        _, imported = source_of(name)
        names += [other for other in imported if other not in names
                  and (is_method(other) or is_beside(other, name))]
    return basics.digest(*[source_of(name)[0] for name in names]).hex()


def is_method(name):
    """Whether a module is imported that has a method."""
    return hasattr(sys.modules.get(name), "METHOD")


def is_beside(name, script):
    """Whether a module is in the folder of a script, but no shared code, which uses plumbing."""
    module, spec = sys.modules.get(name), importlib.util.find_spec(script)
    folder = os.path.dirname(getattr(module, "__file__", None) or "")
    return folder == os.path.dirname(spec.origin) and "plumbing" not in source_of(name)[1]


@functools.lru_cache(maxsize=None)
def source_of(name):
    """Bytes of a module's code, without comments and docstrings, and the names that it imports.

    They are those of the first call in a process, which goes on with the code that it has imported.
    """
    tree, imported = ast.parse(basics.read_bytes(importlib.util.find_spec(name).origin)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module)
    return ast.dump(without_docstrings(tree)).encode(), imported


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
    if "%(lmbda)" not in result_name and settings["lmbda"] != runs.lmbda_of(settings["run_name"]):
        changed = dict(changed, lmbda=settings["lmbda"])
    for option, value in sorted(changed.items()):
        name += "-%s=%s" % (option, value if isinstance(value, str) else "%.10g" % value)
    if len(os.fsencode(name)) > MOST_BYTES:
        name = "%s-%s" % (os.fsdecode(os.fsencode(name)[:MOST_BYTES - 9]),
                          basics.digest(os.fsencode(name)).hex()[:8])
    return os.path.join(results_dir, name + ".npz")


def kept_path(kind, results, base, part, num_imgs):
    """Where what is kept of a kind goes: beside the results or, with a part, into a folder there.

    results: the path of those. base: as Plan.base, which has the folder's name.
    """
    folder, name = os.path.split(base if part else results)
    stem = os.path.join(folder, kind + name[len("rd"):-len(".npz")])
    if part:
        stem = os.path.join(stem, os.path.basename(part)[:-len(".npz")])
    if kind != "recon":
        return stem + ".npz"
    return stem + (".png" if num_imgs == 1 else ".npy")


def path_for(settings, path):
    """A path of results or, where others are stored there, one with a digest of the settings."""
    found = result_files.stored(path)
    if found is None and os.path.exists(path):
        basics.note("%s: is damaged, and replaced" % path)
    if found is None or result_files.is_of(found, settings):
        return path
    if found.get("script") == settings["script"] and found.get("code", "") != settings["code"]:
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


def look_at(paths, require, some_may_fail):
    """(list of Pixels, dict from those that can't be compressed to the UserError) of paths.

    require: function of a shape (num_imgs, H, W) that raises a UserError if it is not accepted.
    The first UserError is raised if some_may_fail is not true, or all fail.
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
    if failed and not (some_may_fail and found):
        raise next(iter(failed.values()))
    return found, failed


def planned(run, settings, initial_bits, images, failed, many, base, output, suffix, kinds):
    """Plan for a list of Pixels, of which many are those of a folder or glob.

    settings: what the results depend on but the images. base: path of the results, or None.
    output: the compressed file or, of many images, the folder for those, whose names end in
    `suffix`; or None. kinds: of WRITERS, what is to be kept. The results of other settings or
    images stay as they are.
    """
    checksums = [pixels.image for pixels in images]
    target = base and path_for(dict(settings, image=checksums), base)
    if target != base:
        basics.note("%s is of other settings, images or code, and is kept" % base)
    files = []
    for path, shape, image in images:
        name, part, file_output = os.path.basename(path), None, output
        if many and base:
            part = os.path.join(base + ".parts", part_name(name, dict(settings, image=image)))
        kept = {kind: kept_path(kind, target, base, part, shape[0]) for kind in kinds}
        if output and many:
            file_output = os.path.join(output, name + suffix)
        files.append(InputFile(path, shape, image, file_output, part, kept))
    return Plan(run, settings, initial_bits, files, failed, output, base, many)


def settings_on_all(plan):
    """What the results on all images of a Plan depend on, their checksums among it."""
    return dict(plan.settings, image=[file.image for file in plan.files])


def target_of(plan):
    """Where the results on all images of a Plan go, or are: not to base if it has others by now."""
    return plan.base and path_for(settings_on_all(plan), plan.base)


def require_targets(plan):
    """Raise an error if the results or a compressed file of a Plan can't be written."""
    target = target_of(plan)
    for file in plan.files:
        for path in filter(None, (target, file.part, file.output, *file.kept.values())):
            basics.require_writable(path, missing=1)
        if file.output:
            fileformat.require_replaceable(file.output, plan.initial_bits)


def print_targets(plan):
    """A line for the compressed file of a Plan, its results, and what is kept beside them."""
    targets = {"compressed": plan.output, "results": target_of(plan)}
    for kind, path in plan.files[0].kept.items():
        label = command_line.KEPT[kind][len("save_"):]
        if plan.many:
            path = os.path.dirname(path)
        elif not os.path.exists(path):
            path = result_files.record_of_batch(path, "*")
        targets[label] = path
    for label, path in targets.items():
        if path:
            basics.print_line("%s: %s" % (label, path))


# ---------------------------------------------------------------- files

# How what is kept beside results is written, by how its name begins.
WRITERS = dict(opt=result_files.write_records, latents=result_files.write,
               recon=image_files.write_images)


def write_done(file, results, content, kept):
    """Write what was computed of an InputFile: its compressed file, part, and what is kept.

    kept: dict by kind.
    """
    # They were there at first, but another process may have joined its own parts.
    for path in filter(None, (file.part, *file.kept.values())):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    for kind, path in file.kept.items():
        WRITERS[kind](path, kept[kind])
    if file.output:
        write_compressed(file.output, content)
    if file.part:
        result_files.write(file.part, results)


def write_compressed(path, content):
    """Write a compressed file; a note if it was another."""
    if os.path.exists(path) and basics.read_bytes(path) not in (b"", content):
        basics.note("%s: was another compressed file, and is replaced" % path)
    basics.write_bytes(path, content)


def is_joined(plan):
    """Whether the results on all images of a Plan are there."""
    result = result_files.stored(target_of(plan)) if plan.base else None
    return bool(result) and result_files.is_of(result, settings_on_all(plan))


def stored(plan):
    """List of the results on the files of a Plan that are there, None where they are not.

    They are of the same settings, pixels and model, with the compressed file and what is to be
    kept if these are asked for. Of a folder or glob, they are looked for in parts, and joined.
    """
    if not plan.many or not plan.base:
        return [None] * len(plan.files)
    parts = {}
    for path in glob.glob(glob.escape(plan.base[:-len(".npz")]) + "*.npz"):  # and path_for's names
        parts.update(result_files.split(result_files.stored(path), plan.settings))
    found = []
    for file in plan.files:
        result = result_files.stored(file.part) or dict(parts.get(file.image, {}))
        if is_complete(result, plan, file):
            # Of the same pixels, perhaps under another name.
            found.append(dict(result, files=np.array([os.path.basename(file.path)])))
        else:
            found.append(None)
    return found


def is_complete(result, plan, file):
    """Whether results, {} if there are none, are of a file of a Plan, and all beside them is there.
    """
    if not result_files.is_of(result, dict(plan.settings, image=file.image)):
        return False
    if not all(map(os.path.exists, file.kept.values())):
        return False
    return not file.output or checksum_of(file.output) == str(result.get("file_checksum", ""))


def checksum_of(path):
    """Checksum of a file's bytes; None if it is missing."""
    if not os.path.exists(path):
        return None
    return basics.digest(basics.read_bytes(path)).hex()


def join(plan, results):
    """Save the results on all files of a Plan as one, and remove their parts; returns them.

    Those of several images are saved as a .csv, too.
    """
    whole = result_files.joined(results)
    if plan.base:  # where another process may have written since
        target = target_of(plan)
        if len(whole["files"]) > 1:
            result_files.write_csv(target[:-len(".npz")] + ".csv", whole)
        result_files.write(target, whole)
    parts = [file.part for file in plan.files if file.part]
    for part in parts:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
    if parts:
        with contextlib.suppress(OSError):  # there are others', or it is gone
            os.rmdir(os.path.dirname(parts[0]))
    return whole
