"""Images on several processes of this machine."""

import ctypes
import os
import signal
import subprocess
import sys

from plumbing import basics


def for_child(i, num_children):
    """preexec_fn of subprocess for child i of so many at a time, which ends with its parent.

    Each has its part of the cores or, if there are fewer than children, shares one.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // num_children)

    def prepare():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.sched_setaffinity(0, [cores[(i * share + k) % len(cores)] for k in range(share)])
    return prepare


def run_shards(args, num_shards):
    """Run this compress as so many processes, a shard each; UserError if one of them fails."""
    words = args.command_line
    end = words.index("--") if "--" in words else len(words)
    processes = [subprocess.Popen(
        [sys.executable, *words[:end], "--jobs", "1", "--shard", "%d/%d" % (i + 1, num_shards),
         *(["--threads", str(args.threads)] if args.threads else []), *words[end:]],
        stderr=subprocess.PIPE, universal_newlines=True,
        preexec_fn=for_child(i, num_shards)) for i in range(num_shards)]
    errors = [process.communicate()[1] for process in processes]
    for process, error in zip(processes, errors):
        for line in error.splitlines():
            if line.startswith("note: "):
                basics.note(line[len("note: "):])
        if process.returncode:
            raise basics.UserError(error_of(process.returncode, error).split("error: ")[-1])


def error_of(returncode, stderr):
    """What a script that failed says, the last line that is no note; if nothing, how it ended."""
    lines = [line for line in stderr.splitlines() if line.strip() and line[:6] != "note: "]
    return lines[-1] if lines else "killed by signal %d" % -returncode if returncode < 0 else (
        "exit code %d" % returncode)
