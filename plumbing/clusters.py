"""One task of a TensorFlow cluster, for training on several machines."""

import collections
import contextlib
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics


GRACE = 20  # seconds that parameter servers wait, after the chief's last step, for workers

CLUSTER_HELP = """Several machines: give each process the same command line and, in the environment
variable TF_CONFIG, its task of a cluster, as is usual for TensorFlow 1:

    CLUSTER='{"ps": ["host0:2220"], "chief": ["host0:2221"], "worker": ["host1:2221"]}'
    TF_CONFIG='{"cluster": '$CLUSTER', "task": {"type": "ps", "index": 0}}' python mbt2018.py ...

The chief and the workers are synchronous replicas: every step is one of Adam on the mean of
1 + workers gradients. Parameter servers hold the variables, read and write checkpoints: all tasks
must see the same --checkpoint_dir. A worker may die and come back; if another task ends with an
error, the others wait for it to come back. All end by themselves after the last step. Several GPUs
in one machine are not supported."""

# Training on several machines, see CLUSTER_HELP. A process without a cluster is a chief without
# server.
# spec, server           tf.train.ClusterSpec, tf.train.Server of this process; or None
# job, index             this task, of job chief, worker or ps
# device                 for tf.device
# config                 of sessions, which must not wait for workers that are down
# replica, num_replicas  position among the replicas, the chief 0, and their number
Cluster = collections.namedtuple("Cluster", """spec server job index device config replica
    num_replicas""")


def join_cluster(config):
    """Cluster of TF_CONFIG, its server started; without TF_CONFIG, of this process alone.

    TF_CONFIG is JSON: {"cluster": {"chief": [ADDRESS], "worker": [...], "ps": [...]}, "task":
    {"type": JOB, "index": INDEX}}.
    """
    if not os.environ.get("TF_CONFIG"):
        return Cluster(None, None, "chief", 0, None, config, 0, 1)
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        spec, job, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
        spec.task_address(job, index)
        if (set(spec.jobs) - {"chief", "worker", "ps"} or spec.num_tasks("chief") != 1
                or not spec.num_tasks("ps")):
            raise basics.UserError("jobs are %s" % spec.as_dict())
    except Exception as error:  # TensorFlow raises many types on malformed values
        raise basics.UserError("TF_CONFIG: %s; accepted is JSON with a cluster of one chief, ps, and "
                         "workers if any, and the task of this process" % error)
    task = "/job:%s/task:%d" % (job, index)
    config.device_filters.extend(["/job:ps", task])
    return Cluster(spec, tf.train.Server(spec, job, index, config=config), job, index,
                   tf.train.replica_device_setter(worker_device=task, cluster=spec), config,
                   index + (job == "worker"), 1 + len(spec.as_dict().get("worker", [])))


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
            if cluster.job != "ps":
                return sess.run([queue.enqueue(cluster.replica) for queue in queues])
            finished, deadline, dequeue = set(), np.inf, queues[cluster.index].dequeue()
            while len(finished) < cluster.num_replicas and time.time() < deadline:
                with contextlib.suppress(tf.errors.DeadlineExceededError):
                    finished.add(sess.run(dequeue, options=tf.RunOptions(timeout_in_ms=1000)))
                if 0 in finished:
                    deadline = min(deadline, time.time() + GRACE)
