"""Tasks on this process, on several of this machine, or on a cluster, by Dask.

A task is an argument of a function that gives its result. Each worker, a process, has one task at a
time, so that a task which kills it takes no other along. It goes on with tasks of the same group
while there are any, and so with the graphs that it has built.
"""

import atexit
import contextlib
import logging
import multiprocessing
import queue
import tempfile
import threading
import time
import traceback
import typing

import psutil

from plumbing import basics, command_line, machine

TRIES = 3  # how many workers a task may kill
HOST = "127.0.0.1"  # of the scheduler for --jobs, which no other machine is to reach
# A worker that is killed leaves semaphores, of which its Python would tell.
QUIET = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.semaphore_tracker"}
CONNECT = "10s"  # that a scheduler may take to answer
POLL = 1  # seconds between two looks for new workers
# Dask keeps the source of the code that submits, and imports all of TensorFlow in search of it.
KEEP_NO_SOURCE = {"distributed.diagnostics.computations.ignore-modules": ["."]}
# Of local processes; by default Dask watches itself so often that two take a sixth of a core.
LOCAL = {"distributed.scheduler.allowed-failures": TRIES - 1,
         "distributed.scheduler.work-stealing": False,
         "distributed.worker.profile.interval": "1s",
         "distributed.admin.tick.interval": "1s",
         "distributed.admin.system-monitor.interval": "10s"}
one_at_a_time = threading.Lock()  # Dask gives a worker more tasks if it has several threads


class WorkerFault(Exception):
    """A fault of the code in another process: the text of its traceback."""


class Outcome(typing.NamedTuple):
    """What became of a task."""
    value: typing.Any = None  # the function's result
    error: typing.Optional[Exception] = None  # in the place of a result
    seconds: float = 0
    num_workers: int = 1  # that there were when it ended


class Message(typing.NamedTuple):
    """What a worker sends of a task: an Outcome whose error is text, as not all can be sent."""
    value: typing.Any
    line: typing.Optional[str]  # what the user can mend
    traceback: typing.Optional[str]  # a fault of the code
    seconds: float
    notes: list


def outcomes(function, tasks, jobs=1, scheduler=None, function_here=None):
    """Yield (k, Outcome) of each task k as it ends.

    tasks: with an attribute `group`, in the order in which they are to begin. jobs: processes of
    this machine. scheduler: address of a Dask scheduler in their place; UserError if there is none.
    function_here: in the place of `function` where this process alone does all.
    """
    jobs = min(jobs, len(tasks))
    if not tasks:
        return
    if jobs > 1 or scheduler:
        with client_of(jobs, scheduler) as client:
            yield from outcomes_of_cluster(function, tasks, client)
    else:
        for k, task in enumerate(tasks):
            yield k, outcome_here(function_here or function, task)


def outcome_here(function, task):
    """Outcome of a task on this process."""
    start = time.time()
    try:
        return Outcome(function(task), seconds=time.time() - start)
    except Exception as error:
        return Outcome(error=error)


# ---------------------------------------------------------------- a cluster

@contextlib.contextmanager
def client_of(jobs, scheduler):
    """A Dask client of the scheduler at an address or, without, of so many local processes."""
    import dask
    import distributed
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler:
        try:
            with dask.config.set({"distributed.comm.timeouts.connect": CONNECT}):
                client = distributed.Client(scheduler)
        except Exception as error:  # of addresses that are none it raises many types
            raise basics.UserError("--scheduler %s: no Dask scheduler there (%s)"
                                   % (scheduler, error))
        with client:
            yield client
        return
    with tempfile.TemporaryDirectory() as folder, dask.config.set(LOCAL):
        others = multiprocessing.active_children()
        try:
            with distributed.LocalCluster(
                    n_workers=jobs, threads_per_worker=max(1, machine.num_threads(None) // jobs),
                    host=HOST, dashboard_address=HOST + ":0",
                    worker_dashboard_address=HOST + ":0", memory_limit=0, local_directory=folder,
                    silence_logs=logging.CRITICAL,
                    env=QUIET) as cluster, distributed.Client(cluster) as client:
                with killing_on_error(cluster):
                    yield client
        except BaseException:  # also while they start
            atexit.unregister(distributed.deploy.spec.close_clusters)
            kill([one.pid for one in multiprocessing.active_children() if one not in others])
            raise


@contextlib.contextmanager
def killing_on_error(cluster):
    """A context; on an error the workers end at once, where the cluster would wait seconds."""
    try:
        yield
    except BaseException:
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
        kill([nanny.pid for nanny in cluster.workers.values()])
        raise


def kill(pids):
    """End processes, and wait until they have; None stands for one that has not begun."""
    processes = []
    for pid in filter(None, pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
            processes[-1].kill()
    psutil.wait_procs(processes, timeout=2)


def outcomes_of_cluster(function, tasks, client):
    """Yield (k, Outcome) as `outcomes` does, from the workers of a Dask client."""
    import dask
    waiting, running = list(range(len(tasks))), {}  # running: positions, by their futures
    ended, freed = queue.Queue(), None  # freed: the group of the task that ended last
    try:
        while waiting or running:
            if client.status == "closed":
                raise basics.UserError("the Dask scheduler ended; the same command continues")
            num_workers = len(client.scheduler_info().get("workers", []))
            if not num_workers:
                basics.note("no worker is there; waiting for one")
            # No more than there are workers: Dask gives each to one that has none. Only of twenty
            # or more with several threads, the first may wait for each other.
            while waiting and len(running) < num_workers:
                others = {tasks[k].group for k in running.values()}
                k = next_task(waiting, tasks, freed, others)
                waiting.remove(k)
                with dask.config.set(KEEP_NO_SOURCE):
                    future = client.submit(message_of_task, function, tasks[k], pure=False)
                future.add_done_callback(ended.put)
                running[future], freed = k, None
            with contextlib.suppress(queue.Empty):
                future = ended.get(timeout=POLL)
                k = running.pop(future)
                if future.cancelled():  # by the client: a scheduler that began anew has no tasks
                    waiting.insert(0, k)
                else:
                    freed = tasks[k].group
                    yield k, outcome_of(future, num_workers)
    finally:
        if client.status == "running":
            client.cancel(list(running))


def next_task(waiting, tasks, last, others):
    """Of the waiting positions in tasks the next for a worker whose last task was of a group.

    It is the first of the same group, else of none that others are at, else of all.
    """
    own = [k for k in waiting if tasks[k].group == last]
    unshared = [k for k in waiting if tasks[k].group not in others]
    return (own or unshared or waiting)[0]


def outcome_of(future, num_workers):
    """Outcome of a future that is done, with its notes told."""
    from distributed.scheduler import KilledWorker
    try:
        message = future.result()
    except KilledWorker:
        error = basics.UserError("the processes that were at it ended, killed or out of memory")
        return Outcome(error=error, num_workers=num_workers)
    except ImportError as error:
        error = basics.UserError("a worker lacks the code (%s); PYTHONPATH of all workers must "
                                 "have this checkout" % error)
        return Outcome(error=error, num_workers=num_workers)
    except Exception as error:  # as of a worker with another version of the code
        return Outcome(error=error, num_workers=num_workers)
    for note in message.notes:
        basics.note(note)
    error = None
    if message.traceback:
        error = WorkerFault(message.traceback)
    elif message.line:
        error = basics.UserError(message.line)
    return Outcome(message.value, error, message.seconds, num_workers)


def message_of_task(function, task):
    """Message of a task; runs on a worker, with as many threads as Dask says that it has."""
    from distributed import get_worker
    machine.limit_threads(get_worker().nthreads)
    with one_at_a_time, basics.collected_notes() as notes, command_line.quiet_tensorflow():
        outcome = outcome_here(function, task)
    line, text = None, None
    if outcome.error:
        line = command_line.line_of(outcome.error)
        if line is None:
            text = traceback_of(outcome.error)
    return Message(outcome.value, line, text, outcome.seconds, notes)


def traceback_of(error):
    """The text of an error's traceback, as Python prints it, where it was raised."""
    if isinstance(error, WorkerFault):
        return str(error)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
