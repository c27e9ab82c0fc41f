"""Notes, errors with a path, checksums, and files that are replaced whole."""

import contextlib
import errno
import functools
import glob
import hashlib
import os
import socket
import sys

import numpy as np
import tqdm


class UserError(ValueError):
    """What the user can mend: a line that says what was given and what is accepted."""


def digest(*chunks):
    """8-byte checksum of bytes or arrays, with their types and shapes."""
    checksum = hashlib.blake2b(digest_size=8)
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            checksum.update(repr((chunk.dtype.str, chunk.shape)).encode())
            chunk = np.ascontiguousarray(chunk)
        checksum.update(chunk)
    return checksum.digest()


def print_line(line):
    """Print a line on stdout at once, above a progress bar if there is one."""
    if sys.stdout:  # None where output is redirected to nowhere
        tqdm.tqdm.write(line)
        sys.stdout.flush()


def bounded(name, value, low, high):
    """value; UserError unless it is from low to high."""
    if not low <= value <= high:
        raise UserError("%s is %g; accepted are %g to %g" % (name, value, low, high))
    return value


@contextlib.contextmanager
def errors_of(path):
    """A context whose UserErrors begin with the path."""
    try:
        yield
    except UserError as error:
        raise UserError("%s: %s" % (path, error))


def temporary_names(path):
    """Beginning of the names to which processes of this machine write what will be `path`.

    Other machines may share the folder. Each process appends its number and .tmp.
    """
    return "%s.%s." % (path, digest(socket.gethostname().encode()).hex()[:8])


def temporary_name(path):
    """The name of this process for it."""
    return "%s%d.tmp" % (temporary_names(path), os.getpid())


@contextlib.contextmanager
def replacing(path):
    """A temporary name to write to; renamed to `path` on success, removed on failure.

    An OSError in between, as of a full disk, names `path`.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, content):
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def require_writable(path, missing=0):
    """Raise OSError if a file can't be written there; `missing` folders, the last, may be created.

    Removes what processes of this machine that were killed left of it.
    """
    folder = existing = os.path.dirname(os.path.abspath(path))
    if os.path.isfile(folder):
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder to write to", folder)
    for _ in range(missing):
        existing = os.path.dirname(existing)
    if not os.path.exists(existing):
        raise FileNotFoundError(errno.ENOENT, "no such folder", existing)
    os.makedirs(folder, exist_ok=True)
    prefix = temporary_names(path)
    for leftover in glob.glob(glob.escape(prefix) + "*.tmp"):
        writer = leftover[len(prefix):-len(".tmp")]
        if writer.isdigit() and not os.path.exists("/proc/" + writer):
            with contextlib.suppress(FileNotFoundError):  # another process was first
                os.remove(leftover)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file to write", path)
    probe = temporary_name(path)
    try:
        with open(probe, "wb"):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, path)
    os.remove(probe)


QUOTE = "a glob must be quoted, as '*.png'"


def require_unchanged(path, is_same):
    """UserError if `path` is there, unless it is_same() as what replaces it."""
    if os.path.exists(path):
        with contextlib.suppress(UserError):
            if is_same():
                return
        raise UserError("%s: is there and something else; --force replaces it" % path)


@functools.lru_cache(maxsize=None)
def note(message):
    """Tell the user, on stderr and once, of something that is not an error."""
    print("note: %s" % message, file=sys.stderr)
