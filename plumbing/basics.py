"""Notes, errors, interruption, checksums, and files that are replaced whole.

What all other modules use. A file is only ever replaced by renaming another that is complete, and
what a user can mend is a UserError, which the command line turns into one line.
"""

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import tqdm


class UserError(ValueError):
    """What the user can mend: a line that says what was given and what is accepted."""


class Incomplete(Exception):
    """A line that says what of many things failed, each of which was reported when it did."""


@contextlib.contextmanager
def terminable():
    """A context that SIGTERM interrupts, as Ctrl-C does, and the end of the terminal's session."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def digest(*chunks):
    """8-byte checksum of bytes or arrays, with their types and shapes."""
    checksum = hashlib.blake2b(digest_size=8)
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            checksum.update(repr((chunk.dtype.str, chunk.shape)).encode())
            chunk = np.ascontiguousarray(chunk)
        checksum.update(chunk)
    return checksum.digest()


def print_line(line, file=None):
    """Print a line on stdout, or a file, at once, above a progress bar if there is one."""
    tqdm.tqdm.write(printable(line), file=file)
    (file or sys.stdout).flush()


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


# An abandoned temporary folder is one that nobody has touched for so many seconds.
ABANDONED = 3600
# Longest name of a file, in bytes, and what tempfile puts between prefix and suffix.
NAME_BYTES, RANDOM_CHARACTERS = 255, 8


def temporary_prefix(path):
    """Beginning of the names of temporary folders of what will be `path`, beside it.

    It is the name of `path`, cut to what leaves room for the rest of the folder's name.
    """
    folder, name = os.path.split(os.path.abspath(path))
    most = NAME_BYTES - len(".") - RANDOM_CHARACTERS - len(".tmp")
    return os.path.join(folder, os.fsdecode(os.fsencode(name)[:most]) + ".")


@contextlib.contextmanager
def replacing(path):
    """A temporary name to write to; renamed to `path` on success, removed on failure.

    It is in a folder of its own, as tempfile gives files themselves a mode that nobody else may
    read. An OSError in between, as of a full disk, names `path`.
    """
    folder, prefix = os.path.split(temporary_prefix(path))
    try:
        with tempfile.TemporaryDirectory(".tmp", prefix, folder) as temporary:
            written = os.path.join(temporary, os.path.basename(path))
            yield written
            os.replace(written, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path)


def remove_abandoned(path):
    """Remove temporary folders for `path` that nobody has touched for an hour.

    Processes that were killed left them, on this machine or on another that shares the folder.
    """
    pattern = glob.escape(temporary_prefix(path)) + "?" * RANDOM_CHARACTERS + ".tmp"
    for folder in glob.glob(pattern):
        with contextlib.suppress(OSError):  # another process was first, or it is another user's
            if os.path.getmtime(folder) < time.time() - ABANDONED:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, os.path.basename(path)))
                os.rmdir(folder)


@contextlib.contextmanager
def locked(path):
    """A context in which no other process has this file locked; UserError that names the other.

    The system unlocks it however the process ends, so the file itself may stay.
    """
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError("%s: is in use by %s" % (path, owner))
        file.truncate(0)
        file.write("process %d on %s\n" % (os.getpid(), socket.gethostname()))
        file.flush()
        yield


def read_bytes(path):
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, content):
    """Make a file of these bytes, or replace one, whole."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def require_folder(folder, missing):
    """Make a folder, of which the last `missing` levels may not be there; else raise OSError."""
    if os.path.isfile(folder):
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder to write to", folder)
    existing = os.path.abspath(folder)
    for _ in range(missing):
        existing = os.path.dirname(existing)
    if not os.path.exists(existing):
        raise FileNotFoundError(errno.ENOENT, "no such folder", existing)
    os.makedirs(folder, exist_ok=True)


def require_writable(path, missing=0):
    """Raise OSError if a file can't be written there; `missing` folders, the last, may be created.

    Removes what processes that were killed left of it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    require_folder(folder, missing)
    remove_abandoned(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file to write", path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # an error if its name is too long
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, path)


# What errors say where the shell may have expanded a glob.
QUOTE = "a glob must be quoted, as '*.png'"


def require_unchanged(path, is_same):
    """UserError if `path` is there, unless it is_same() as what replaces it."""
    if os.path.exists(path):
        with contextlib.suppress(UserError):
            if is_same():
                return
        raise UserError("%s: exists and is different; --force replaces it" % path)


def require_distinct(*paths):
    """UserError if two paths are of the same file, also through links; empty ones don't count."""
    seen = set()
    for path in filter(None, paths):
        if os.path.realpath(path) in seen:
            raise UserError("%s: is input and output, or two outputs; these are to be different "
                            "files" % path)
        seen.add(os.path.realpath(path))


def printable(text):
    """Text in one line, without what can do anything to a terminal."""
    line = " ".join(part.strip() for part in text.expandtabs(1).splitlines())
    return "".join(c if c.isprintable() else "?" for c in line)


@functools.lru_cache(maxsize=None)
def print_note(message):
    """Print a note on stderr, once."""
    print_line("note: %s" % message, sys.stderr)


_tell = print_note  # what becomes of a note


def note(message):
    """Tell the user, once, of something that is not an error."""
    _tell(message)


@contextlib.contextmanager
def collected_notes():
    """A list that gets the notes of this context, which are not printed."""
    global _tell
    notes, before = [], _tell
    _tell = notes.append
    try:
        yield notes
    finally:
        _tell = before
