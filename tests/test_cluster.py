"""Training on several machines: here, several processes on loopback addresses."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import tensorflow.compat.v1 as tf

from plumbing import clusters, runs, training
from conftest import BASE_RUN, CHECKPOINTS, PNG, command, compress, run_process

RUN = "mbt2018-num_filters=16-lmbda=0.05"
OPTIONS = ("--threads", 1, "--num_filters", 16, "train", "--train_glob", PNG, "--patchsize", 64,
           "--logdir", "", "--lambda", 0.05, "--init_from", BASE_RUN)


def free_addresses(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return ["127.0.0.1:%d" % each.getsockname()[1] for each in sockets]


@pytest.fixture
def start(tmp_path):
    """Function: start a task of a cluster of one ps, a chief and two workers as a process."""
    ps, chief, *workers = free_addresses(4)
    cluster = {"ps": [ps], "chief": [chief], "worker": workers}
    processes = []

    def start_task(job, index, *options):
        config = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
        processes.append(subprocess.Popen(
            command("mbt2018", "--checkpoint_dir", tmp_path / "cluster", *OPTIONS, *options),
            env=dict(os.environ, TF_CONFIG=config), stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, universal_newlines=True))
        return processes[-1]
    yield start_task
    for process in processes:
        process.kill()


def wait_for_step(folder, step, seconds=600):
    deadline = time.time() + seconds
    while time.time() < deadline:
        with contextlib.suppress(Exception):  # none yet, or being written
            if tf.train.load_checkpoint(str(folder)).get_tensor("global_step") >= step:
                return
        time.sleep(.2)
    raise AssertionError("%s did not get to step %d" % (folder, step))


@pytest.mark.slow
def test_a_cluster_trains_as_one_process_with_the_whole_batch(tmp_path, start):
    """One worker is killed on the way and started again; all tasks end by themselves.

    Started from the golden model, of another lambda, which training changes by a sixth of the cost.
    """
    for name in ("cluster", "alone"):
        shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / name / BASE_RUN))
    options = ("--batchsize", 2, "--last_step", 400, "--save_checkpoint_secs", 1)
    folder = tmp_path / "cluster" / RUN
    tasks = [start(job, index, *options)
             for job, index in (("ps", 0), ("chief", 0), ("worker", 0), ("worker", 1))]
    wait_for_step(folder, 100)
    tasks[2].send_signal(signal.SIGKILL)
    tasks[2].wait()
    tasks[2] = start("worker", 0, *options)
    wait_for_step(folder, 400)
    deadline = time.time() + 90
    outputs = [task.communicate(timeout=deadline - time.time()) for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 4, outputs
    assert not any(err for _, err in outputs), outputs

    done = run_process("mbt2018", "--checkpoint_dir", tmp_path / "alone", *OPTIONS,
                       "--batchsize", 6, "--last_step", 400)
    assert done.returncode == 0, done.stderr
    checkpoints = [tf.train.load_checkpoint(str(tmp_path / name / RUN))
                              for name in ("cluster", "alone")]
    assert (checkpoints[0].get_variable_to_shape_map()
            == checkpoints[1].get_variable_to_shape_map())
    for name in ("global_step", "beta2_power", "beta2_power_1"):  # steps of both optimisers
        assert checkpoints[0].get_tensor(name) == pytest.approx(checkpoints[1].get_tensor(name))
    before, cluster, alone = (
        compress("mbt2018", tmp_path / name, PNG, "--lambda", 0.05, run_name=run_name,
                 checkpoints=tmp_path / name)["rd_cost"][0]
        for name, run_name in (("cluster", BASE_RUN), ("cluster", RUN), ("alone", RUN)))
    assert cluster < .9 * before and cluster == pytest.approx(alone, rel=.02)


@pytest.mark.parametrize("config, message", [
    ("{", "TF_CONFIG"),
    ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "chief"),
    ('{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}',
     "ps"),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
     "worker"),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"], "evaluator": ["c:1"]}, '
     '"task": {"type": "chief", "index": 0}}', "evaluator")])
def test_malformed_clusters_are_refused(tmp_path, fails, monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    line = fails("mbt2018", "--checkpoint_dir", tmp_path, *OPTIONS)
    assert "TF_CONFIG" in line and message in line


@pytest.mark.parametrize("config", [
    '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "ps": []}, "task": {"type": "chief", "index": 0}}'])
def test_a_cluster_of_one(monkeypatch, capfd, config):
    """As managed services set it: the process trains alone, with a note."""
    monkeypatch.setenv("TF_CONFIG", config)
    cluster = clusters.join_cluster(runs.session_config(1))
    assert (cluster.job, cluster.server, cluster.num_replicas) == ("chief", None, 1)
    assert "trains alone" in capfd.readouterr().err


def test_the_chief_applies_gradients_without_computing_them_again(monkeypatch):
    """Nothing that its thread or the start and end of a session run depends on the batch."""
    ps, chief = free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", json.dumps({
        "cluster": {"ps": [ps], "chief": [chief]}, "task": {"type": "chief", "index": 0}}))
    cluster = clusters.join_cluster(runs.session_config(1))
    with tf.Graph().as_default() as graph, tf.device(cluster.device):
        x = tf.placeholder(tf.float32, [])
        step, _ = training.minimise(training.Adam(.1), (tf.get_variable("v", []) - x) ** 2, cluster)
        enqueues = [op for op in graph.get_operations() if op.type.startswith("QueueEnqueue")]
    assert len(enqueues) > 1 and x.op in ancestors(tf.group(step))
    assert not any(x.op in ancestors(op) for op in enqueues)


def ancestors(op):
    found, open_ops = set(), [op]
    while open_ops:
        op = open_ops.pop()
        if op not in found:
            found.add(op)
            open_ops += [tensor.op for tensor in op.inputs] + op.control_inputs
    return found
