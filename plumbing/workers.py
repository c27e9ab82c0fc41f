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


def run_shards(command_line, threads, num_shards):
    """Run a script's compress as so many processes, a shard each; UserError if one of them fails.

    command_line: the script's path and arguments. threads: of each process, or None.
    """
    end = len(command_line)
    if "--" in command_line:
        end = command_line.index("--")
    options = ["--jobs", "1"]
    if threads:
        options += ["--threads", str(threads)]
    processes = [subprocess.Popen(
        [sys.executable, *command_line[:end], *options, "--shard", "%d/%d" % (i + 1, num_shards),
         *command_line[end:]], stderr=subprocess.PIPE, universal_newlines=True,
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
