"""Cores and memory of this machine."""

import contextlib
import os
import re

import numpy as np

from plumbing import basics


def num_threads(threads):
    """So many threads or, if None, one for each core that this process may use."""
    return threads or len(os.sched_getaffinity(0))


def memory_per_pixel(N, with_gradients):
    """(bytes per pixel of a batch, bytes beside) that a process takes at most, as measured."""
    return 200 + 9.2 * N if with_gradients else 100 + 5.7 * N, 3.8e8 + 3000 * N ** 2


def available_memory():
    """Bytes that are free on the machine, or allowed to this process's cgroup if that is less."""
    def find(pattern, path):
        with contextlib.suppress(OSError), open(path) as file:
            return re.findall(pattern, file.read(), re.MULTILINE)
        return []
    free = [1024 * int(kb) for kb in find(r"^MemAvailable:\s*(\d+)", "/proc/meminfo")]
    for controllers, group in find(r"^\d+:(memory|):(.*)$", "/proc/self/cgroup"):
        name = "memory%s/memory.limit_in_bytes" if controllers else "%s/memory.max"
        for folder in ("", group):
            free += map(int, find(r"^\d+$", "/sys/fs/cgroup/" + name % folder))
    return min(free, default=np.inf)


def require_memory(N, shape, batch, with_gradients=False, jobs=1):
    """UserError if so many processes need more memory than there is.

    Each for (num_imgs, H, W), `batch` images at a time; of the others latents and pixels are kept.
    """
    num_imgs, height, width = shape
    per_pixel, beside = memory_per_pixel(N, with_gradients)
    beside += (num_imgs - batch) * height * width * (8 + N / 16)
    needed = beside + per_pixel * batch * (16 * -(-height // 16)) * (16 * -(-width // 16))
    free = available_memory() / jobs
    if needed > free:
        most = max(0, free - beside) / per_pixel
        images, enough = "%d images, %d at a time, of " % (num_imgs, batch), ""
        if num_imgs == 1:
            images, enough = "", ", enough for %.2f megapixels, as %d x %d" % (
                most / 1e6, most ** .5, most ** .5)
        raise basics.UserError(
            "%s%d x %d pixels take about %.1f GB of memory with %d filters, but %.1f GB are "
            "available%s" % (images, height, width, needed / 1e9, N, free / 1e9, enough))
