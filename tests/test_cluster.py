"""Training on several machines: here, several processes on loopback addresses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from plumbing import clusters, runs, training
from conftest import BASE_RUN, CHECKPOINTS, ROOT, TINY, free_addresses, run_process

RUN = "mbt2018-num_filters=16-lmbda=0.05"
# The image is as large as a patch, so every patch is the same, and all that is random is the noise.
OPTIONS = ("--threads", 1, "--num_filters", 16, "train", "--train_glob", TINY, "--patchsize", 64,
           "--logdir", "", "--lambda", 0.05, "--init_from", BASE_RUN, "--lr", 3e-5,
           "--last_step", 300)

# The script; its workers ask twice a second, not twice a minute, whether the chief has begun.
IMPATIENT = """
import functools, sys
sys.path.insert(0, {root!r})
import mbt2018
from tensorflow.python.training.session_manager import SessionManager
SessionManager.__init__ = functools.partialmethod(SessionManager.__init__, recovery_wait_secs=.5)
mbt2018.main(sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path):
    """Function: start a task of a cluster of one ps, a chief and two workers as a process."""
    ps, chief, *workers = free_addresses(4)
    cluster = {"ps": [ps], "chief": [chief], "worker": workers}
    processes = []

    def start_task(job, index):
        config = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
        words = ("--checkpoint_dir", tmp_path / "cluster", *OPTIONS, "--batchsize", 2,
                 "--save_checkpoint_secs", 5)
        processes.append(subprocess.Popen(
            [sys.executable, "-c", IMPATIENT.format(root=ROOT), *map(str, words)],
            env=dict(os.environ, TF_CONFIG=config), stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, universal_newlines=True))
        return processes[-1]
    yield start_task
    for process in processes:
        process.kill()


def wait_for_line(process, text):
    """Read what it prints up to a line that has the text."""
    line = process.stdout.readline()
    while text not in line:
        assert line, process.communicate()
        line = process.stdout.readline()


def change(folder):
    """Vector: what training changed in the weights of the golden model's transforms."""
    before, after = (tf.train.load_checkpoint(str(path))
                     for path in (os.path.join(CHECKPOINTS, BASE_RUN), folder))
    return np.concatenate([
        np.ravel(after.get_tensor(name) - before.get_tensor(name))
        for name in sorted(before.get_variable_to_shape_map())
        if "transform/" in name and "Adam" not in name])


@pytest.mark.slow
def test_a_cluster_trains_as_one_process_with_the_whole_batch(tmp_path, start):
    """One worker is killed on the way and started again; all tasks end by themselves.

    Trainings by one process with two seeds differ by 0.1 % in how far they go, and their directions
    have a cosine of 0.999. A third of the steps go half as far. A third of the batch, or noise that
    replicas share, goes 7 % less far, with a cosine of 0.992.
    """
    for name in ("cluster", "alone"):
        shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(tmp_path / name / BASE_RUN))
    folder = tmp_path / "cluster" / RUN
    # The chief last: until workers are there, it computes all gradients.
    tasks = [start("ps", 0), start("worker", 0), start("worker", 1)]
    wait_for_line(tasks[2], "train on 1 images")
    tasks.append(start("chief", 0))
    wait_for_line(tasks[1], "step=")
    tasks[1].send_signal(signal.SIGKILL)
    tasks[1].wait()
    tasks[1] = start("worker", 0)
    deadline = time.time() + 600
    outputs = [task.communicate(timeout=deadline - time.time()) for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 4, outputs
    assert not any(err for _, err in outputs), outputs
    for out, _ in outputs[1:]:
        first_step = int(re.search(r"^step=(\d+)", out, re.MULTILINE).group(1))
        assert first_step < 300, out

    done = run_process("mbt2018", "--checkpoint_dir", tmp_path / "alone", *OPTIONS,
                       "--batchsize", 6)
    assert done.returncode == 0, done.stderr
    checkpoints = [tf.train.load_checkpoint(str(tmp_path / name / RUN))
                   for name in ("cluster", "alone")]
    assert (checkpoints[0].get_variable_to_shape_map()
            == checkpoints[1].get_variable_to_shape_map())
    for name in ("global_step", "beta2_power", "beta2_power_1"):  # steps of both optimisers
        assert checkpoints[0].get_tensor(name) == pytest.approx(checkpoints[1].get_tensor(name))
    cluster, alone = change(folder), change(tmp_path / "alone" / RUN)
    lengths = np.linalg.norm(cluster), np.linalg.norm(alone)
    assert lengths[0] == pytest.approx(lengths[1], rel=.02)
    assert cluster @ alone > .996 * np.prod(lengths)


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
