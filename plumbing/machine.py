"""Cores and memory of this machine.

Work that does not fit into memory is refused before it begins, as a process that the kernel kills
can't say why. The memory that a process takes was measured, see memory_per_pixel; what there is
may be limited by the machine, by cgroups (containers, jobs of a scheduler), or by `ulimit -v`.
"""

import contextlib
import os
import resource

import numpy as np
import psutil

from plumbing import basics


_most_threads = np.inf  # of this process, where it shares its machine with others


def limit_threads(number):
    """Let this process have so many threads of an operation, unless it is told another number."""
    global _most_threads
    _most_threads = number


def num_threads(threads):
    """So many threads or, if None, one for each core that this process may use."""
    return threads or min(_most_threads, len(os.sched_getaffinity(0)))


def memory_per_pixel(N, with_gradients):
    """(bytes per pixel of a batch, bytes beside) that a process takes at most, as measured."""
    per_pixel = 200 + 9.2 * N if with_gradients else 100 + 5.7 * N
    return per_pixel, 3.8e8 + 3000 * N ** 2


def free_memory():
    """Bytes that this process can still get: of the machine, its cgroups, and its own limit."""
    return min([psutil.virtual_memory().available, free_virtual_memory(),
                *map(free_in_cgroup, cgroup_folders())])


def available_memory():
    """Bytes that this process can use: what it can still get, and what it has."""
    return free_memory() + psutil.Process().memory_info().rss


def free_virtual_memory():
    """Bytes of virtual memory that `ulimit -v` leaves to this process; inf without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return np.inf
    return max(0, limit - psutil.Process().memory_info().vms)


def cgroup_folders(groups="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """Folders of this process's cgroups for memory, each with all above it; some may not be there.

    A line of the file `groups` is ID:CONTROLLERS:PATH, of version 2 without controllers. Of version
    1, each controller has a tree of its own below `root`. In a container, paths may be those of the
    host, and the container's own group is the root of the tree.
    """
    lines = []
    with contextlib.suppress(OSError):
        lines = os.fsdecode(basics.read_bytes(groups)).splitlines()
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = os.path.join(root, "memory") if controllers else root
        names = [name for name in path.split("/") if name]
        folders += [os.path.join(tree, *names[:depth]) for depth in range(len(names), -1, -1)]
    return folders


def free_in_cgroup(folder):
    """Bytes that the limit of a cgroup leaves; inf if it has none, or there is no such cgroup."""
    limit = cgroup_number(folder, "memory.max", "memory.limit_in_bytes", missing=np.inf)
    used = cgroup_number(folder, "memory.current", "memory.usage_in_bytes", missing=0)
    return max(0, limit - used + cgroup_file_cache(folder))


def cgroup_number(folder, name, name_in_version_1, missing):
    """The number in a file of a cgroup; `missing` if there is neither, or it says "max"."""
    for file in (name, name_in_version_1):
        with contextlib.suppress(OSError, ValueError):
            return int(basics.read_bytes(os.path.join(folder, file)))
    return missing


def cgroup_file_cache(folder):
    """Bytes of a cgroup and those in it that are used, but only as a cache of files."""
    sizes = {}
    with contextlib.suppress(OSError):
        lines = basics.read_bytes(os.path.join(folder, "memory.stat")).decode().splitlines()
        sizes = dict(line.split() for line in lines)
    # Of version 1, inactive_file leaves out the groups in it.
    return int(sizes.get("total_inactive_file", sizes.get("inactive_file", 0)))


def require_memory(N, shape, batch, with_gradients=False, jobs=1):
    """UserError if so many processes need more memory than there is.

    Each for (num_imgs, H, W), `batch` images at a time; of the others latents and pixels are kept.
    """
    num_imgs, height, width = shape
    per_pixel, beside = memory_per_pixel(N, with_gradients)
    beside += (num_imgs - batch) * height * width * (8 + N / 16)
    padded_pixels = (16 * -(-height // 16)) * (16 * -(-width // 16))
    needed = beside + per_pixel * batch * padded_pixels
    free = available_memory() / jobs
    if needed <= free:
        return
    images, each, enough = "", "", ""
    if num_imgs > 1:
        images = "%d images, %d at a time, of " % (num_imgs, batch)
    elif free > beside:
        most = (free - beside) / per_pixel
        enough = ", enough for %.2f megapixels, as %d x %d" % (most / 1e6, most ** .5, most ** .5)
    if jobs > 1:
        each = " to each of %d processes" % jobs
    raise basics.UserError(
        "%s%d x %d pixels take about %.1f GB of memory with %d filters, but %.1f GB are available"
        "%s%s" % (images, height, width, needed / 1e9, N, free / 1e9, each, enough))
