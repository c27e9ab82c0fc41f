"""Several processes: the same results, whatever is killed; what is told of them, and when."""

import collections
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from conftest import (BASE_RUN, CHECKPOINTS, ROOT, TINY, command, compress, free_addresses, load,
                      run, started, wait_for, write_image)
from plumbing import basics, compressed_files, store, tasks, workers
import tf_boilerplate as nic

Sum = collections.namedtuple("Sum", "a b group")


def add(task):
    """a + b; other ways of ending by a, if it is no number."""
    if task.a == "fault":
        raise KeyError("no such key")
    if task.a == "user":
        raise basics.UserError("b.png: is %d" % task.b)
    if task.a == "kill":
        with open(task.b, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    basics.note("one")
    basics.note("of %d" % task.a)
    return task.a + task.b


@pytest.fixture
def pair(tmp_path):
    """A folder of two images."""
    return trio(tmp_path, 2)


def trio(folder, number=3):
    """A folder of images of different sizes."""
    (folder / "images").mkdir()
    for i in range(number):
        write_image(folder / "images" / ("%d.png" % i), 64, 64 + 8 * i)
    return folder / "images"


# ---------------------------------------------------------------- what becomes of a task

@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_failures_cost_nothing_but_their_own_task(jobs, tmp_path, capfd):
    """Each is told apart, as one of the user or of the code; notes are told once."""
    deaths = tmp_path / "deaths"
    items = [Sum("user", 1, 1), Sum(1, 2, 1), Sum("fault", 0, 1), Sum(3, 4, 1)]
    if jobs > 1:
        items.append(Sum("kill", str(deaths), 2))
    found = dict(workers.outcomes(add, items, jobs))
    assert {k: outcome.value for k, outcome in found.items()
            if not outcome.error} == {1: 3, 3: 7}
    assert str(found[0].error) == "b.png: is 1" and isinstance(found[0].error, basics.UserError)
    assert "in add\n" in workers.traceback_of(found[2].error)
    assert not isinstance(found[2].error, basics.UserError)
    if jobs > 1:
        assert "the processes that were at it ended" in str(found[4].error)
        assert deaths.read_text() == "xxx"
    told = sorted(capfd.readouterr().err.splitlines())
    waiting = "note: no worker is there; waiting for one"  # where all were killed at once
    assert [line for line in told if line != waiting] == [
        "note: of 1", "note: of 3", "note: one"]


@pytest.mark.slow
def test_number_of_local_workers():
    """As many as are asked for, also where they do not divide the cores."""
    with workers.client_of(3, None) as client:
        assert wait_for(lambda: len(client.scheduler_info()["workers"]) >= 3)
        assert len(client.scheduler_info()["workers"]) == 3


def settings_of_base(folder):
    return store.settings_of({}, .01, "mbt2018", nic.load(folder), None, compressed_files.TFCI)


def test_a_method_that_workers_lack():
    settings = (("script", "no_such_method"),)
    with pytest.raises(basics.UserError, match="no_such_method.*; PYTHONPATH of all workers"):
        nic.kept_compressor(os.path.join(CHECKPOINTS, BASE_RUN), settings, False, ())


@pytest.mark.parametrize("name", ["model", "code"])
def test_a_worker_has_another_model_or_script(name):
    folder = os.path.join(CHECKPOINTS, BASE_RUN)
    settings = dict(settings_of_base(folder), **{name: "other"})
    with pytest.raises(basics.UserError, match="is not what it was when the command began"):
        nic.kept_compressor(folder, tuple(settings.items()), False, ())


def test_an_image_changes_before_it_is_compressed():
    folder = os.path.join(CHECKPOINTS, BASE_RUN)
    task = tasks.Task(folder, settings_of_base(folder), TINY, (1, 64, 64), "0" * 16, 16, b"", (),
                      False)
    with pytest.raises(basics.UserError,
                       match="face-64x64.png: has changed since the command began"):
        nic.compress_task(task)


def test_another_process_has_joined_the_parts_meanwhile(pair, tmp_path, monkeypatch):
    """Their folder is gone when a result is to be written."""
    compress_images = nic.Compressor.compress

    def compress_later(*args):
        (parts,) = (tmp_path / "results").glob("*.parts")
        shutil.rmtree(str(parts))
        return compress_images(*args)
    write_image(pair / "1.png", 64, 64)
    with monkeypatch.context() as patch:
        patch.setattr(nic.Compressor, "compress", compress_later)
        results = compress("mbt2018", tmp_path, pair)
    assert list(results["files"]) == ["0.png", "1.png"]


def test_order_of_tasks():
    """A worker stays with the graphs that it has, then takes those that no other has."""
    items = [Sum(0, 0, group) for group in "aaabbc"]
    assert workers.next_task([2, 3, 4, 5], items, "b", {"a"}) == 3
    assert workers.next_task([2, 3, 5], items, None, {"a", "b"}) == 5
    assert workers.next_task([2, 4], items, "c", {"a", "b"}) == 2


def test_images_of_an_array_are_counted(capfd):
    task = tasks.Task("", dict(script="sga", its=10), "", (24, 64, 64), "", 64, b"", (), False)
    tasks.Report([task, task], names_plans=True).expectation()
    assert capfd.readouterr().out.startswith("sga: 48 images, about ")
    file = store.InputFile("x.npy", (24, 64, 64), "", None, None, {})
    plans = [store.Plan(None, {}, b"", [file], {}, None, "x.npz", False)] * 2
    assert tasks.left_by_interrupt(plans, [[{}], [None]]).startswith("24 of 48 images are done")


def test_forecast():
    """By the benchmark's figures first, then by what those of the method took."""
    def task(script, side, its, N=64):
        return tasks.Task("", dict(script=script, its=its), "", (1, side, side), "", N, b"", (),
                          False)
    short, long, other = task("sga", 256, 10), task("sga", 256, 1000), task("map", 512, 1000, 192)
    assert (tasks.predicted_seconds(short) < tasks.predicted_seconds(long)
            < tasks.predicted_seconds(other))
    fit = long._replace(settings=dict(script="bb_no_sga", rate_its=1000))
    assert (tasks.predicted_seconds(short) < tasks.predicted_seconds(fit)
            < tasks.predicted_seconds(long))
    forecast = tasks.Forecast()
    assert forecast.seconds([short, short]) == pytest.approx(2 * tasks.predicted_seconds(short))
    forecast.measured(short, workers.Outcome(seconds=3 * tasks.predicted_seconds(short),
                                             num_workers=2))
    assert forecast.seconds([long]) == pytest.approx(3 * tasks.predicted_seconds(long))
    assert forecast.seconds([long, long]) == pytest.approx(3 * tasks.predicted_seconds(long))
    forecast.measured(other, workers.Outcome(seconds=tasks.predicted_seconds(other),
                                             num_workers=2))
    assert forecast.seconds([other] * 3) == pytest.approx(1.5 * tasks.predicted_seconds(other))
    forecast.measured(long, workers.Outcome(error=basics.UserError("x")))
    assert len(forecast.ratios["sga"]) == 1


@pytest.mark.parametrize("jobs, threads, number, expected", [
    (1, 0, 9, 1), (1, 1, 9, 1 / 8), (2, 1, 9, 1 / 4), (3, 0, 9, 3 / 4), (8, 0, 9, 1),
    (8, 1, 2, 1 / 4), (16, 1, 99, 1), (2, 8, 9, 1)])
def test_part_of_the_cores_that_is_used(jobs, threads, number, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    task = tasks.Task("", dict(its=10, threads=threads), "", (1, 64, 64), "", 64, b"", (), False)
    share = tasks.share_of_cores([task] * number, jobs)
    assert share == expected
    assert tasks.Forecast(share).seconds([task]) == pytest.approx(
        tasks.predicted_seconds(task) / expected)


# ---------------------------------------------------------------- compress

def test_results_do_not_depend_on_the_machines_number_of_cores(pair, tmp_path, monkeypatch):
    """They are those of the same settings, unless --threads is given."""
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", tmp_path, BASE_RUN, pair]
    first = run("mbt2018", *argv)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)))
    np.testing.assert_equal(run("mbt2018", *argv), first)
    assert run("mbt2018", *argv, "--threads", 3)["num_threads"] == 3


def test_a_finished_folder_starts_no_process(pair, tmp_path, monkeypatch):
    results = compress("mbt2018", tmp_path, pair)
    assert sorted(os.listdir(tmp_path / "results")) == [
        "rd-%s-file=images.csv" % BASE_RUN, "rd-%s-file=images.npz" % BASE_RUN]
    monkeypatch.setattr(workers, "client_of", None)
    np.testing.assert_equal(compress("mbt2018", tmp_path, pair, "--jobs", 2), results)


def test_one_process_needs_no_dask(tmp_path):
    code = ("import sys, mbt2018; mbt2018.main(sys.argv[1:]); "
            "assert not {'dask', 'distributed'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, "--checkpoint_dir", CHECKPOINTS, "compress",
                           BASE_RUN, TINY, "--results_dir", str(tmp_path), "--jobs", "2"],
                          cwd=ROOT, stdout=subprocess.DEVNULL)
    assert done.returncode == 0


def test_a_folder_grows(pair, tmp_path, capfd):
    """Results that were joined are found again, as are those of a folder with fewer images."""
    def computed():
        capfd.readouterr()
        compress("mbt2018", tmp_path, pair)
        return [line.split(":")[0] for line in capfd.readouterr().out.splitlines()
                if ".png: rd_cost=" in line]
    assert computed() == ["1.png", "0.png"]  # the longer first
    write_image(pair / "2.png", 64, 80)
    assert computed() == ["2.png"]
    assert computed() == []
    assert len(list((tmp_path / "results").glob("*.npz"))) == 2
    (pair / "3.png").write_bytes((pair / "0.png").read_bytes())  # the same picture
    assert computed() == []
    results = compress("mbt2018", tmp_path, pair)
    assert list(results["files"]) == ["0.png", "1.png", "2.png", "3.png"]
    assert results["rd_cost"][3] == results["rd_cost"][0]


def test_failures_in_a_folder(pair, tmp_path, monkeypatch, capfd):
    """All else is done; what failed is told at once and at the end, and found again as missing."""
    import tf_boilerplate as nic
    (pair / "2.png").write_bytes((pair / "0.png").read_bytes()[:200])
    whole, argv = nic.Compressor.compress, ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress",
                                            "--results_dir", tmp_path / "results", BASE_RUN, pair]

    def fail(self, images, initial_bits):
        if images.shape[2] == 64:
            raise KeyError("no such key")
        return whole(self, images, initial_bits)
    monkeypatch.setattr(nic.Compressor, "compress", fail)
    with pytest.raises(SystemExit) as exit_info:
        run(*argv)
    printed = capfd.readouterr()
    assert exit_info.value.code == 1 and "1.png: rd_cost=" in printed.out
    lines = printed.err.splitlines()
    assert lines[0].startswith("2.png: error: %s: not a readable image" % (pair / "2.png"))
    assert "0.png: error: a fault of the code" in lines and "KeyError: 'no such key'" in lines
    assert "2 of 3 images failed" in lines[-1] and "the same command continues" in lines[-1]
    monkeypatch.setattr(nic.Compressor, "compress", whole)
    (pair / "2.png").unlink()
    assert list(run(*argv)["files"]) == ["0.png", "1.png"]
    assert "1.png: rd_cost=" not in capfd.readouterr().out


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_no_scheduler_there(address, pair, fails, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT", "1s")
    assert "--scheduler %s: no Dask scheduler there" % address in fails(
        "mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", "", BASE_RUN,
        pair, "--scheduler", address)


# ---------------------------------------------------------------- processes that are killed

def sga_of(images, results, *options, its=300):
    return command("sga", "--checkpoint_dir", CHECKPOINTS, "compress", "--its", its,
                   "--results_dir", results, BASE_RUN, images, *options)


def num_parts(results):
    return len(list(results.glob("*.parts/*.npz")))


@pytest.mark.slow
@pytest.mark.parametrize("options, number, to_all", [
    ([], signal.SIGHUP, False), (["--jobs", "2"], signal.SIGTERM, False),
    (["--jobs", "2"], signal.SIGINT, True)])
def test_signals_end_everything(options, number, to_all, tmp_path):
    """With one line, which says what is done; until then, local workers listen to this machine."""
    images = trio(tmp_path, 6)
    with started(sga_of(images, tmp_path / "results", *options)) as process:
        assert wait_for(lambda: num_parts(tmp_path / "results"))
        parent = psutil.Process(process.pid)
        children = parent.children(recursive=True)
        assert len(children) >= 2 * bool(options)
        addresses = {connection.laddr.ip for one in [parent, *children]
                     for connection in one.connections("inet")
                     if connection.status == psutil.CONN_LISTEN}
        assert addresses == ({workers.HOST} if options else set())
        (os.killpg if to_all else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
        done = num_parts(tmp_path / "results")
        assert not psutil.wait_procs(children, timeout=5)[1]
    assert process.returncode == 130
    # In the middle of building a graph, Python may tell of destructors that failed, too.
    assert [line for line in errors.splitlines() if line.startswith("sga.py: ")] == [
        "sga.py: interrupted: %d of 6 images are done and saved, nothing of the others; the same "
        "command continues" % done]


@contextlib.contextmanager
def dask(name, *argv):
    """A process of Dask's own commands, as the README starts them."""
    path = os.pathsep.join([ROOT, os.path.dirname(__file__)])
    with started([os.path.join(os.path.dirname(sys.executable), name), *argv],
                 env=dict(os.environ, PYTHONPATH=path)) as process:
        yield process


def scheduler_at(address):
    return dask("dask-scheduler", "--host", "127.0.0.1", "--port", address.split(":")[-1],
                "--no-dashboard")


def slowly(task):
    time.sleep(2)
    return add(task)


@pytest.mark.slow
def test_a_scheduler_that_ends(tmp_path):
    """One that begins anew is given the tasks again; if there is none any more, that is told."""
    address = "tcp://" + free_addresses(1)[0]
    items = [Sum(k, 0, 0) for k in range(9)]
    with scheduler_at(address) as first, dask(
            "dask-worker", address, "--no-dashboard", "--local-directory", tmp_path / "dask"):
        found = workers.outcomes(slowly, items, scheduler=address)
        results = dict([next(found)])
        first.kill()
        with scheduler_at(address) as second:
            results.update(next(found) for _ in range(3))
            second.kill()
            with pytest.raises(basics.UserError, match="scheduler ended"):
                results.update(found)
    assert {k: outcome.value for k, outcome in results.items()} == {k: k for k in results}
    assert 4 <= len(results) < 9


def table_of(images, output, *options):
    return [sys.executable, os.path.join(ROOT, "results", "table1.py"), "--checkpoint_dir",
            CHECKPOINTS, "--images", images, "--output", output, "--methods", "mbt2018", "sga",
            "bb_plain", *options, "--", "--its", "200"]


def tables(output):
    """The results on images: the table, its points, and all fields but the number of threads."""
    stored = {path.name: load(path) for path in output.glob("images/npz/*.npz")}
    for results in stored.values():
        del results["num_threads"]
    return [(output / "images" / name).read_text() for name in (
        "table1.csv", "table1.md", "sga.csv")], stored


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A folder of images, and their table by one process of one thread."""
    folder = tmp_path_factory.mktemp("serial")
    images = trio(folder)
    core = {min(os.sched_getaffinity(0))}
    subprocess.run(list(map(str, table_of(images, folder / "out"))), check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   preexec_fn=functools.partial(os.sched_setaffinity, 0, core))
    return images, tables(folder / "out")


@pytest.mark.slow
def test_a_cluster_whose_worker_is_killed(serial, tmp_path):
    """A scheduler and two workers; one dies at work, another comes: the table of one process."""
    images, expected = serial
    address = "tcp://" + free_addresses(1)[0]
    worker = functools.partial(dask, "dask-worker", address, "--nthreads", 1, "--no-dashboard",
                               "--local-directory", tmp_path / "dask", "--no-nanny")
    with scheduler_at(address), worker() as first, worker(), \
            started(table_of(images, tmp_path / "out", "--scheduler", address)) as table:
        assert wait_for(lambda: num_parts(tmp_path / "out" / "images" / "npz"))
        first.kill()
        with worker():
            _, errors = table.communicate(timeout=600)
    assert table.returncode == 0, errors
    np.testing.assert_equal(tables(tmp_path / "out"), expected)


@pytest.mark.slow
def test_a_parent_that_is_killed_goes_on(serial, tmp_path):
    """Nothing is computed twice but what was at work; the table is that of one process."""
    images, expected = serial
    argv = table_of(images, tmp_path / "out", "--jobs", 2)
    with started(argv) as table:
        assert wait_for(lambda: num_parts(tmp_path / "out" / "images" / "npz") >= 2)
        children = psutil.Process(table.pid).children(recursive=True)
        table.kill()
        assert not psutil.wait_procs(children, timeout=30)[1]
    folder = tmp_path / "out" / "images" / "npz"
    done = num_parts(folder) + 3 * len(list(folder.glob("*.npz")))
    again = subprocess.run(list(map(str, argv)), cwd=ROOT, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, universal_newlines=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(".png: rd_cost=") == 9 - done
    np.testing.assert_equal(tables(tmp_path / "out"), expected)


def test_help_says_where_images_are_computed(capfd):
    with pytest.raises(SystemExit):
        run("sga", "compress", "--help")
    shown = capfd.readouterr().out
    assert "--jobs N" in shown and "--scheduler ADDRESS" in shown
