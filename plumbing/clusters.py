"""One task of a TensorFlow cluster, for training on several machines.

TF_CONFIG says, as is usual for TensorFlow 1, which tasks there are and which of them this process
is: CLUSTER_HELP has it all. Without it, or where it has one worker, as managed services set it, a
Cluster stands for a process that trains alone, so that the code that trains is the same.
"""

import contextlib
import os
import time
import typing

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics


GRACE = 20  # seconds that parameter servers wait, after the chief's last step, for workers

CLUSTER_HELP = """Several machines: give each process the same command line and, in the environment
variable TF_CONFIG, its task of a cluster, as is usual for TensorFlow 1:

    CLUSTER='{"ps": ["host0:2220"], "chief": ["host0:2221"], "worker": ["host1:2221"]}'
    TF_CONFIG='{"cluster": '$CLUSTER', "task": {"type": "ps", "index": 0}}' python mbt2018.py ...

The chief and the workers are synchronous replicas: every step is one of Adam on the mean of
1 + workers gradients. Parameter servers hold the variables, and read and write checkpoints, so all
tasks must see the same --checkpoint_dir. The chief and the workers must see the same images. A
worker may die and come back; if another task ends with an error, the others wait for it to come
back. All end by themselves after the last step. To stop before, end all tasks. The same commands
continue from the newest checkpoint, at most --save_checkpoint_secs old; with another number of
replicas, --force is needed. Several GPUs in one machine are not supported."""


class Cluster(typing.NamedTuple):
    """A task of a cluster; a process without one is a chief without server."""
    job: str  # of this task: chief, worker or ps
    index: int  # of this task among those of its job
    config: tf.ConfigProto  # of sessions, which must not wait for workers that are down
    spec: typing.Optional[tf.train.ClusterSpec] = None  # the tasks of all jobs
    server: typing.Optional[tf.train.Server] = None  # of this process
    device: typing.Any = None  # for tf.device
    replica: int = 0  # position among the replicas: the chief's is 0; of no meaning for a ps
    num_replicas: int = 1  # the chief and all workers


def join_cluster(config):
    """Cluster of TF_CONFIG, its server started; without another task in it, of this process alone.

    TF_CONFIG is JSON: {"cluster": {"chief": [ADDRESS], "worker": [...], "ps": [...]}, "task":
    {"type": JOB, "index": INDEX}}. UserError if it is not that.
    """
    if not os.environ.get("TF_CONFIG"):
        return Cluster("chief", 0, config)
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        spec, job, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
        num_tasks = {name: spec.num_tasks(name) for name in spec.jobs}
        if sum(num_tasks.values()) <= 1 and not num_tasks.get("ps"):
            basics.note("TF_CONFIG has no other task: this process trains alone")
            return Cluster("chief", 0, config)
        spec.task_address(job, index)
        if (set(spec.jobs) - {"chief", "worker", "ps"} or spec.num_tasks("chief") != 1
                or not spec.num_tasks("ps")):
            raise basics.UserError("jobs are %s" % spec.as_dict())
    except Exception as error:  # TensorFlow raises many types on malformed values
        raise basics.UserError("TF_CONFIG: %s; accepted is JSON with a cluster of one chief, ps, "
                               "and workers if any, and the task of this process" % error)
    task = "/job:%s/task:%d" % (job, index)
    config.device_filters.extend(["/job:ps", task])
    try:
        server = tf.train.Server(spec, job, index, config=config)
    except tf.errors.OpError as error:  # its port is taken
        raise basics.UserError("TF_CONFIG: no server of %s can start at %s: %s"
                               % (task, spec.task_address(job, index), error.message))
    return Cluster(
        job, index, config, spec=spec, server=server,
        device=tf.train.replica_device_setter(worker_device=task, cluster=spec),
        replica=1 + index if job == "worker" else 0,
        num_replicas=1 + len(spec.as_dict().get("worker", [])))


def finish(cluster):
    """Tell the parameter servers that this replica is done; as one of those, wait for all.

    Then no task waits for another: join() of a parameter server never returns. Workers that are
    down are not waited for.
    """
    with tf.Graph().as_default():
        queues = []
        for i in range(cluster.spec.num_tasks("ps")):
            with tf.device("/job:ps/task:%d" % i):
                queues.append(tf.FIFOQueue(2 ** 10, tf.int32, [()], shared_name="finished"))
        with tf.Session(cluster.server.target, config=cluster.config) as sess:
            if cluster.job == "ps":
                wait_for_replicas(sess, queues[cluster.index], cluster.num_replicas)
            else:
                sess.run([queue.enqueue(cluster.replica) for queue in queues])


def wait_for_replicas(sess, queue, num_replicas):
    """Take from the queue the replicas that are done: until all are, or GRACE after the chief."""
    finished, deadline, dequeue = set(), np.inf, queue.dequeue()
    while len(finished) < num_replicas and time.time() < deadline:
        with contextlib.suppress(tf.errors.DeadlineExceededError):
            finished.add(sess.run(dequeue, options=tf.RunOptions(timeout_in_ms=1000)))
        if 0 in finished:
            deadline = min(deadline, time.time() + GRACE)
