"""Memory: what there is, what is needed, and what is refused."""

import os
import resource
import subprocess
import sys

import numpy as np
import psutil
import pytest

from plumbing import basics, machine
from conftest import (BASE_RUN, CHECKPOINTS, FAST, PNG, ROOT, SHIPPED, SHIPPED_FILTERS, TINY,
                      command, run, run_of, write_image)


GB = 10 ** 9


@pytest.fixture
def cgroups(tmp_path):
    """Function: write a tree of cgroups, {path: {file: content}}; its folder."""
    def write(tree):
        for path, files in tree.items():
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (tmp_path / path / name).write_text("%s\n" % content)
        return tmp_path
    return write


def free(root, groups):
    """Bytes that the cgroups of a file /proc/self/cgroup leave."""
    (root / "groups").write_text(groups)
    return min(map(machine.free_in_cgroup, machine.cgroup_folders(str(root / "groups"), str(root))))


def test_the_least_of_all_cgroups_above_counts(cgroups):
    def usage(limit, used=0):
        return {"memory.max": limit, "memory.current": used}
    root = cgroups({"a": usage(5 * GB, 3 * GB), "a/b": usage("max", GB),
                    "a/b/c": usage(4 * GB, GB), "a/d": usage(0)})
    assert free(root, "0::/a/b/c\n") == 2 * GB
    assert free(root, "0::/a/b\n") == 2 * GB
    assert free(root, "0::/a/d\n") == 0
    assert free(root, "0::/\n") == np.inf
    assert free(cgroups({"a/b/c": usage(4 * GB, 3 * GB)}), "0::/a/b/c\n") == GB
    assert free(cgroups({"a/b/c": usage(4 * GB, 5 * GB)}), "0::/a/b/c\n") == 0


def test_the_group_of_a_container_is_the_root_of_its_tree(cgroups):
    """Where /proc/self/cgroup has the path that the host sees."""
    root = cgroups({".": {"memory.max": 3 * GB, "memory.current": GB}})
    assert free(root, "0::/docker/0123\n") == 2 * GB


def test_cgroups_of_version_1(cgroups):
    """Of the controller memory alone, whose files have other names."""
    def usage(limit, used):
        return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
    root = cgroups({"memory": usage(2 ** 63 - 4096, 9 * GB), "memory/job": usage(3 * GB, GB),
                    "memory/other": usage(GB, GB), "cpu/other": usage(0, 0)})
    assert free(root, "5:memory:/job\n3:cpu,cpuacct:/other\n0::/\n") == 2 * GB
    assert free(root, "5:cpu,memory:/job\n") == 2 * GB
    assert free(root, "5:memory:/gone/too\n") == 2 ** 63 - 4096 - 9 * GB


@pytest.mark.parametrize("stat", [
    "anon 1\ninactive_file %d\nactive_file 7" % GB,
    "cache 3\ninactive_file 5\ntotal_inactive_file %d" % GB])
def test_the_cache_of_files_is_free(cgroups, stat):
    """Of a cgroup and those in it, which version 1 says by another name."""
    root = cgroups({"a": {"memory.max": 3 * GB, "memory.current": 2 * GB, "memory.stat": stat}})
    assert free(root, "0::/a\n") == 2 * GB


def test_no_cgroups(tmp_path):
    assert machine.cgroup_folders(str(tmp_path / "none"), str(tmp_path)) == []
    assert machine.free_in_cgroup(str(tmp_path)) == np.inf


def test_virtual_memory_is_limited(monkeypatch):
    """By `ulimit -v`, of which some is taken already."""
    mapped = psutil.Process().memory_info().vms
    limits = {}
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    limits[resource.RLIMIT_AS] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert machine.free_virtual_memory() == np.inf
    limits[resource.RLIMIT_AS] = (mapped + 2 * GB, resource.RLIM_INFINITY)
    assert machine.free_virtual_memory() == pytest.approx(2 * GB, rel=.1)
    assert machine.free_memory() <= machine.free_virtual_memory()
    limits[resource.RLIMIT_AS] = (mapped // 2, mapped)
    assert machine.free_virtual_memory() == machine.free_memory() == 0
    assert machine.available_memory() == pytest.approx(psutil.Process().memory_info().rss, rel=.1)


def test_the_limit_of_a_process():
    """Is read at its start, before TensorFlow is there."""
    done = subprocess.run(
        [sys.executable, "-c", "from plumbing import machine; print(machine.free_memory())"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * GB, 3 * GB)), cwd=ROOT,
        stdout=subprocess.PIPE, env=dict(os.environ, OPENBLAS_NUM_THREADS="1"), check=True)
    assert 0 < int(done.stdout) < 3 * GB


# Prints the peak memory of a command in kB; a child of this large process would inherit its own.
PEAK = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")


@pytest.mark.slow
@pytest.mark.parametrize("script,num_filters,height,width", [
    ("mbt2018", SHIPPED_FILTERS, 1200, 1200), ("sga", 16, 64, 64), ("sga", 192, 512, 768),
    ("bb_sga", SHIPPED_FILTERS, 1200, 1200)])
def test_the_estimate_of_memory(script, num_filters, height, width, tmp_path):
    """At most 30 % above the measured peak, and not below."""
    write_image(tmp_path / "image.png", height, width)
    checkpoints = {16: CHECKPOINTS, SHIPPED_FILTERS: SHIPPED}.get(num_filters, str(tmp_path))
    if num_filters == 192:
        run("mbt2018", "--checkpoint_dir", tmp_path, "--threads", 1, "train", "--train_glob", PNG,
            "--patchsize", 64, "--batchsize", 2, "--logdir", "", "--last_step", 1)
    per_pixel, beside = machine.memory_per_pixel(num_filters, script != "mbt2018")
    done = subprocess.run(
        [sys.executable, "-c", PEAK] + command(
            script, "--checkpoint_dir", checkpoints, "compress", "--results_dir", "",
            *FAST[script], run_of(script, num_filters), tmp_path / "image.png"),
        stdout=subprocess.PIPE, check=True)
    peak = 1024 * int(done.stdout)
    assert 1 <= (beside + per_pixel * height * width) / peak <= 1.3


@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_plain"])
def test_images_that_do_not_fit_are_refused(script, tmp_path, fails, monkeypatch, folder):
    file = tmp_path / "file"
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", "", *FAST[script],
            run_of(script)]
    run(script, *argv, folder / "b.png", file)
    monkeypatch.setattr(machine, "available_memory", lambda: 3.8e8)
    for refused in (argv + [folder], argv + [folder / "b.png"],
                    ["--checkpoint_dir", CHECKPOINTS, "decompress", run_of(script), file]):
        line = fails(script, *refused)
        assert "pixels take about 0.4 GB of memory with 16 filters, but 0.4 GB are" in line
    monkeypatch.setattr(machine, "available_memory", lambda: 3.9e8)
    run(script, *argv, folder / "b.png")
    monkeypatch.setattr(machine, "available_memory", lambda: 1e9)
    machine.require_memory(16, (100, 512, 512), 1)
    with pytest.raises(basics.UserError, match="0.1 GB are available to each of 10 processes$"):
        machine.require_memory(16, (1, 64, 64), 1, jobs=10)
    with pytest.raises(basics.UserError, match="1024 images, 1 at a time, of 512 x 512"):
        machine.require_memory(16, (1024, 512, 512), 1)


def test_memory_is_limited(monkeypatch):
    """By what there is, which TensorFlow learns, too."""
    assert 10 ** 8 < machine.free_memory() < machine.available_memory() < 10 ** 14
    monkeypatch.delenv("TF_CPU_BFC_MEM_LIMIT_IN_MB", raising=False)
    monkeypatch.setattr(machine, "free_memory", lambda: 300 * 2 ** 30)
    run("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", "", BASE_RUN,
        TINY)
    assert os.environ["TF_CPU_BFC_MEM_LIMIT_IN_MB"] == str(300 * 2 ** 10)
