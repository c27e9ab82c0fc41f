"""Results, dicts of arrays over images and of settings: written, read, joined and averaged."""

import contextlib
import csv
import io
import os

import numpy as np

from plumbing import basics


def write(path, results):
    """Save a dict of arrays as .npz."""
    content = io.BytesIO()  # in a file, zipfile would print a traceback when the disk is full
    np.savez(content, **results)
    basics.write_bytes(path, content.getvalue())


def read(path):
    """What `write` wrote; raises many types if it is missing or damaged."""
    with np.load(path, allow_pickle=False) as archive:
        return {field: archive[field] for field in archive.files}


def write_records(path, records):
    """Save the optimisation records of batches, which may have stopped apart: a file of each."""
    for k, record in enumerate(records):
        write(record_of_batch(path, k) if len(records) > 1 else path, record)


def record_of_batch(path, k):
    """Path of the record of batch k, where there are several."""
    return "%s-batch=%s.npz" % (path[:-len(".npz")], k)


def write_csv(path, results):
    """Save the numbers among the results as a table with a row per image."""
    names, content = list(map(str, results["files"])), io.StringIO()
    if len(set(names)) < len(names):  # of one .npy
        names = ["%s[%d]" % (name, k) for k, name in enumerate(names)]
    columns = [name for name, values in results.items() if not name.startswith("batch_")
               and np.shape(values) == (len(names),) and np.asarray(values).dtype.kind in "fiu"]
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["image"] + columns)
    for k, name in enumerate(names):
        writer.writerow([name] + ["%.8g" % results[column][k] for column in columns])
    basics.write_bytes(path, os.fsencode(content.getvalue()))


def stored(path):
    """The results in a file, or None if it is missing or damaged."""
    with contextlib.suppress(Exception):  # damaged files raise many types
        return read(path)
    return None


def is_of(result, settings):
    """Whether results are of these settings."""
    return all(np.array_equal(result.get(name), value) for name, value in settings.items())


# Fields of an image that are no arrays over images, but an array in joined results.
CHECKSUMS = ("image", "file_checksum")


def one_of(value, name, k):
    """Of a field in joined results the value for image k."""
    if name in CHECKSUMS:
        return str(value[k])
    return value[k:k + 1] if np.ndim(value) else value


def split(whole, settings):
    """Dict by checksum of the results on single images in joined ones, if of these settings."""
    if not whole or not is_of(whole, settings):
        return {}
    fields = [name for name in whole if not name.startswith("avg_")]
    return {str(image): {name: one_of(whole[name], name, k) for name in fields}
            for k, image in enumerate(whole["image"])}


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


def print_averages(results):
    """A line per array of floats; the rate of batches only where it is not that of images."""
    for name, values in results.items():
        if name == "batch_actual_bpp" and np.array_equal(values, results["actual_bpp"]):
            continue
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
