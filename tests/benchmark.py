"""Time and memory of the scripts, as ratios to a plain implementation measured in the same run.

    python tests/benchmark.py [--rows sga-192 train-64 ...] [--output results/benchmark.md]

The plain implementation ("baseline") has tfc.SignalConv2D everywhere, keeps latents as numpy arrays
that are fed, with gradients fetched and Adam in numpy, fetches the PSNR on every step, lets
AutoGraph convert what it builds, uses the default allocator, computes MS-SSIM by TensorFlow, and
builds all graphs anew for each image. Each side is a process of its own; they take turns, so that a
slow phase of the machine hits both.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
IMAGE = os.path.join(ROOT, "results", "images", "face-384x384.png")
MODELS = os.path.join(ROOT, "results", "models")
RUN = "mbt2018-num_filters=96-lmbda=%s"  # in MODELS
SIDES = ("baseline", "ours")

sys.path.insert(0, ROOT)


# ---------------------------------------------------------------- the two sides of a measurement

def import_scripts(side, kind):
    """The modules, on the baseline's side without what makes them fast.

    `script` runs mbt2018.py, which does not need sga and its tensorflow_probability.
    """
    global nic, clusters, command_line, image_files, layers, patches, quality, runs, training
    global np, PIL, tf, tfc, mbt2018, sga
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if side == "baseline":
        os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "false"
        warnings.simplefilter("ignore")
        import tensorflow.compat.v1
        tensorflow.compat.v1.autograph.experimental.do_not_convert = lambda function: function
    import tf_boilerplate as nic
    from plumbing import (clusters, command_line, image_files, layers, patches, quality, runs,
                          training)
    import numpy as np
    import PIL.Image
    import tensorflow.compat.v1 as tf
    import tensorflow_compression as tfc
    tf.logging.set_verbosity(tf.logging.FATAL)
    if side == "baseline":
        layers.FastSignalConv2D = tfc.SignalConv2D
        layers.gdn = lambda name, **kwargs: tfc.GDN(name=name, **kwargs)
        quality.ms_ssim = ms_ssim_of_tensorflow
        for kept in ("kept_decoder", "kept_range_coder", "kept_compressor"):
            setattr(nic, kept, getattr(nic, kept).__wrapped__)
    import mbt2018
    if kind != "script":
        import sga


def ms_ssim_of_tensorflow(a, b, pool):
    """In the place of quality.ms_ssim."""
    with tf.Graph().as_default(), tf.Session() as sess:
        return sess.run(tf.image.ssim_multiscale(a[None], b[None], 255))[0]


def random_run(N):
    """A base model of N filters with random weights, as a Run."""
    folder = os.path.join(tempfile.mkdtemp(), "mbt2018-num_filters=%d-lmbda=0.01" % N)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(0)
        nic.do_not_convert(mbt2018.objective)(tf.zeros([1, 64, 64, 3]), 0, N, lmbda=0.01, seed=0)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, os.path.join(folder, "model.ckpt"), write_meta_graph=False)
    return runs.find_run(*os.path.split(folder))


def options(*argv):
    """Arguments as sga.py parses them for `compress`, at lambda = 0.01."""
    return command_line.parse_arguments(nic.make_parser("sga", "", sga.METHOD), sga.METHOD,
                                        ["compress", "", "", "--lambda", "0.01"] + list(argv))


class Baseline:
    """SGA as one would write it first."""

    def __init__(self, args, run, x):
        N, shape = run.num_filters, x.shape
        self.options, self.graph = args.options, tf.Graph()
        with self.graph.as_default():
            image = tf.to_float(x) / 255
            encoded_y = nic.analysis_transform(N)(image)
            encoded_z = nic.hyper_analysis_transform(N, N)(encoded_y)
            self.latents = [tf.placeholder(tf.float32, v.shape) for v in (encoded_y, encoded_z)]
            self.T, self.t = tf.placeholder(tf.float32, []), tf.placeholder(tf.int64, [])
            y, z = (sga.relax(v, self.T, nic.noise_key(args.options.seed, self.t, i), args.options)
                    for i, v in enumerate(self.latents))
            mu, log_sigma = nic.gaussian_parameters(nic.hyper_synthesis_transform(N), z, y.shape)
            prior_z = tfc.EntropyBottleneck(name="entropy_bottleneck")
            prior_z(z, training=False)
            prior_y = tfc.GaussianConditional(tf.exp(log_sigma), nic.SCALES, scale_bound=0,
                                              mean=mu)
            prior_y(y, training=False)
            bpp = sum(nic.bits_per_pixel(nic.likelihood_in_training(prior, v), shape)
                      for prior, v in [(prior_y, y), (prior_z, z)])
            x_tilde = nic.synthesis_transform(N)(y)[:, :shape[1], :shape[2]]
            self.losses = nic.rd_losses(args.lmbda, image, x_tilde, bpp)
            self.psnr = tf.image.psnr(image, x_tilde, 1)
            self.gradients = tf.gradients(tf.reduce_mean(self.losses["rd_loss"]), self.latents)
            self.sess = runs.restored_session(self.graph, run, runs.session_config(args.threads))
            self.start = self.sess.run([encoded_y, encoded_z])
        self.restart()

    def restart(self):
        self.values = [v.copy() for v in self.start]
        self.moments = [[np.zeros_like(v) for v in self.values] for _ in range(2)]

    def step(self, t):
        feed = dict(zip(self.latents, self.values))
        feed.update({self.T: sga.temperature(self.options, t), self.t: t})
        _, _, gradients = self.sess.run([self.losses, self.psnr, self.gradients], feed)
        rate = self.options.lr * np.sqrt(1 - .999 ** (t + 1)) / (1 - .9 ** (t + 1))
        for value, m, v, g in zip(self.values, *self.moments, gradients):
            m += .1 * (g - m)
            v += .001 * (g * g - v)
            value -= rate * m / (np.sqrt(v) + 1e-8)

    def cost(self):
        """R-D cost [B] of the rounded latents."""
        feed = dict(zip(self.latents, [np.round(v) for v in self.values]))
        return self.sess.run(self.losses["rd_loss"], {**feed, self.T: 1e-8, self.t: 0})

    def facts(self):
        """flops: floating-point operations of one iteration."""
        output = tf.profiler.ProfileOptionBuilder(
            tf.profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
        needed = tf.graph_util.extract_sub_graph(self.graph.as_graph_def(), [
            tensor.op.name for tensor in self.gradients])
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(needed, name="")
            return dict(flops=tf.profiler.profile(graph, options=output).total_float_ops)


class Ours:
    """SGA as sga.py runs it."""

    def __init__(self, args, run, x):
        self.options, self.x = args.options, x
        self.graph = nic.inference_graph(sga.METHOD, run, x.shape, args.options, args.lmbda,
                                         args.threads)
        self.restart()

    def feed(self, t):
        lr = nic.latent_learning_rate(t, self.options.sga_its, self.options.lr,
                                      self.options.lr_decay)
        return {self.graph.x: self.x, self.graph.t: t, self.graph.lr: lr,
                self.graph.T: sga.temperature(self.options, t)}

    def restart(self):
        self.graph.sess.run(self.graph.restart, {self.graph.x: self.x})
        self.descent = nic.descend(self.graph.sess, self.graph.step, self.graph.losses,
                                   self.options.sga_its, self.feed, watchers=())

    def step(self, t):
        next(self.descent)

    def cost(self):
        latents = nic.integers(self.graph, self.graph.sess.run(self.graph.free))
        return nic.score(self.graph, self.x, latents)["rd_loss"]

    def facts(self):
        self.descent.close()
        return {}


def noise(*shape):
    return np.random.RandomState(0).randint(0, 256, shape + (3,)).astype(np.uint8)


# ---------------------------------------------------------------- work of a worker process

def sga_step(side, N, *shape):
    """One iteration of SGA on a noise image of `shape`, a batch."""
    it = (Baseline if side == "baseline" else Ours)(
        options("--its", "1000000"), random_run(N), noise(*shape))
    iterations = itertools.count()
    return lambda: it.step(next(iterations)), it.facts


def train_step(side, N, batchsize, patchsize):
    """One training step of mbt2018.py."""
    x = tf.get_local_variable("x", initializer=tf.random.uniform([batchsize, patchsize, patchsize,
                                                                  3]))
    scalars, _, updates = nic.do_not_convert(mbt2018.objective)(
        x.read_value(), tf.zeros([], tf.int64), N, lmbda=0.01, seed=0)
    config = runs.session_config(options().threads)
    train_op, _ = training.minimise(training.Adam(1e-4, updates), scalars["loss"],
                                    clusters.join_cluster(config))
    sess = tf.Session(config=config)
    sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    fetches = [train_op, scalars if side == "baseline" else {}]
    return lambda: sess.run(fetches), dict


def train_input(side, N, batchsize, patchsize):
    """The input pipeline of a training step, from images of 512x512 pixels."""
    folder = tempfile.mkdtemp()
    for i, image in enumerate(noise(16, 512, 512)):
        PIL.Image.fromarray(image).save(os.path.join(folder, "%d.png" % i))
    paths, _ = patches.training_files(os.path.join(folder, "*.png"), patchsize)
    _, batch = tf.data.make_one_shot_iterator(
        patches.training_patches(paths, batchsize, patchsize, seed=0)).get_next()
    sess = tf.Session(config=runs.session_config(options().threads))
    return lambda: sess.run(batch.op), dict


def sga_cost(side, lmbda, *argv):
    """All of SGA on the shipped image: at the paper's setting, or with --fast; options argv."""
    run_name = RUN % lmbda
    presets = [] if side == "baseline" else ["--fast"]
    args = options("--lambda", lmbda, *map(str, argv), *presets)
    x, costs = image_files.read_images(IMAGE), []
    it = (Baseline if side == "baseline" else Ours)(args, runs.find_run(MODELS, run_name), x)
    def whole():
        it.restart()
        for t in range(args.options.sga_its):
            it.step(t)
        costs.append(float(np.mean(it.cost())))
    return whole, lambda: dict(it.facts(), cost=np.mean(costs), its=args.options.sga_its)


def convolution(side, N, height, width):
    """A plain 3x3 convolution."""
    x = tf.get_local_variable("x", [1, height, width, N])
    kernel = tf.get_local_variable("kernel", [3, 3, N, N])
    y = tf.nn.conv2d(x, kernel, 1, "SAME")
    return timed(y), lambda: dict(flops=2 * 9 * N * N * height * width)


def matmul(side, N):
    """A product of two matrices."""
    a, b = (tf.get_local_variable(name, [N, N]) for name in "ab")
    return timed(tf.matmul(a, b)), lambda: dict(flops=2 * N ** 3)


def timed(tensor):
    sess = tf.Session(config=runs.session_config(options().threads))
    sess.run(tf.local_variables_initializer())
    return lambda: sess.run(tensor.op)


WORK = dict(sga=sga_step, train=train_step, input=train_input, cost=sga_cost, conv=convolution,
            matmul=matmul)


def work(side, kind, burst, *arguments):
    """Answer every line on stdin with the seconds per step; at the end, with facts as JSON.

    After a line a step to warm up and `burst` steps are made. kind `script` runs one instead.
    """
    import_scripts(side, kind)
    if kind == "script":
        return mbt2018.main([burst] + list(arguments))
    with contextlib.redirect_stdout(sys.stderr):
        numbers = [int(a) if a.isdigit() else a for a in arguments]
        step, facts = WORK[kind](side, *numbers)
    print("ready", flush=True)
    for _ in sys.stdin:
        with contextlib.redirect_stdout(None):
            if int(burst):
                step()
            start = time.perf_counter()
            for _ in range(max(1, int(burst))):
                step()
        print((time.perf_counter() - start) / max(1, int(burst)), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(json.dumps(dict(facts(), peak=peak)), flush=True)


# ---------------------------------------------------------------- rows

def start(*argv, **kwargs):
    return subprocess.Popen([sys.executable, os.path.abspath(__file__), "--work"] + [
        str(arg) for arg in argv], stdout=subprocess.PIPE, universal_newlines=True, **kwargs)


def in_turns(kind, arguments, turns=9, burst=1, sides=SIDES):
    """Per side, median seconds of a step and facts about it; the sides take turns."""
    workers = [start(side, kind, burst, *arguments, stdin=subprocess.PIPE) for side in sides]
    for process in workers:
        assert process.stdout.readline() == "ready\n"
    times = [[] for _ in workers]
    for _ in range(turns):
        for process, seconds in zip(workers, times):
            print(file=process.stdin, flush=True)
            seconds.append(float(process.stdout.readline()))
    facts = [json.loads(process.communicate()[0].splitlines()[-1]) for process in workers]
    return [(statistics.median(seconds), fact) for seconds, fact in zip(times, facts)]


def seconds(value):
    return "%.3g s" % value if value >= 1 else "%.3g ms" % (1000 * value)


def compared(name, required, plain, fast, show=seconds):
    """A row of the table."""
    return [name, show(plain), show(fast), "%.2f" % (fast / plain), "≤ %.2f" % required]


def sga_row(required, N):
    """An iteration of SGA, its memory, and how near the machine's limit it is."""
    (plain, facts), (fast, ours) = in_turns("sga", [N, 1, 512, 768])
    (once, fact), = in_turns("conv", [N, 128, 192], burst=5, sides=["ours"])
    rate, limit = facts["flops"] / fast / 1e9, fact["flops"] / once / 1e9
    name = "iteration of SGA, 512×768, N = %d" % N
    return [compared(name, required, plain, fast),
            compared("peak memory of it", 1, facts["peak"], ours["peak"], "{:.2f} GB".format)], (
                "An iteration of SGA with N = %d has %.0f GFLOP and runs at %.0f GFLOP/s, which is "
                "%.0f %% of the rate of 3×3 convolutions of N channels here."
                % (N, facts["flops"] / 1e9, rate, 100 * rate / limit))


def train_row(required, N, patchsize, burst):
    """A training step, and its input pipeline alone."""
    (plain, _), (fast, _) = in_turns("train", [N, 8, patchsize], burst=burst)
    (reading, _), = in_turns("input", [N, 8, patchsize], burst=10, sides=["ours"])
    name = "training step, N = %d, 8 × %d²" % (N, patchsize)
    return [compared(name, required, plain, fast)], (
        "The input of a %s takes %s when nothing else runs, %.1f %% of the step, in parallel with "
        "it." % (name, seconds(reading), 100 * reading / fast))


def cost_row(required):
    """Time to the R-D cost of the paper's setting, by --fast."""
    rows, notes = [], []
    for lmbda in ("0.01", "0.0025"):
        (plain, paper), (fast, ours) = in_turns("cost", [lmbda], turns=1, burst=0)
        rows.append(compared("SGA by `--fast` to the paper's cost, λ = " + lmbda, required, plain,
                             fast))
        notes.append("At λ = %s the paper's setting ends at a cost of %.4f, and `--fast` at %.4f "
                     "(%+.2f %%) after %d iterations." % (
                         lmbda, paper["cost"], ours["cost"],
                         100 * (ours["cost"] / paper["cost"] - 1), ours["its"]))
    return rows, " ".join(notes)


def compress_row(required, turns=5):
    """mbt2018.py compress of one image, as processes."""
    image = os.path.join(tempfile.gettempdir(), "noise.png")
    import numpy as np
    import PIL.Image
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, (256, 256, 3)).astype(
        np.uint8)).save(image)
    argv = ["compress", "--checkpoint_dir", MODELS, "--results_dir", "",
            RUN % "0.01", image]
    return processes_row("`mbt2018.py compress`, 256×256, whole process", required, argv, turns)


def processes_row(name, required, argv, turns):
    """mbt2018.py with arguments, as processes of both sides that take turns."""
    commands = [[os.path.abspath(__file__), "--work", "baseline", "script"] + argv,
                ["mbt2018.py"] + argv]
    times = [[], []]
    for _ in range(turns):
        for command, elapsed in zip(commands, times):
            elapsed.append(script_seconds(*command))
    return [compared(name, required, *map(statistics.median, times))], ""


def script_seconds(*argv):
    """Of a script as a process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *map(str, argv)], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def folder_row(required_of_one, required_of_two, its=100, turns=1):
    """sga.py on a folder of 24 crops: by one process of one thread, of two, and by two of one."""
    folder = tempfile.mkdtemp()
    run = make_run_and_images(folder, 64, 24, 256, 256)
    times = {"one process, one thread": ["--threads", 1], "one process": [],
             "two processes": ["--jobs", 2]}
    taken = {name: [] for name in times}
    for _ in range(turns):
        for name, options in times.items():
            taken[name].append(script_seconds(
                "sga.py", "--checkpoint_dir", folder, "compress", run, folder + "/images", "--its",
                its, *options, "--results_dir", tempfile.mkdtemp()))
    one, two, both = (statistics.median(values) for values in taken.values())
    name = "24 crops of 256×256, %d iterations, `--jobs 2` against one process of " % its
    return [compared(name + "one thread", required_of_one, one, both),
            compared(name + "two threads", required_of_two, two, both)], ""


def evaluation_row(required, turns=2):
    """mbt2018.py compress of a folder of 24 images, as processes."""
    folder = tempfile.mkdtemp()
    run = make_run_and_images(folder, 64, 24)
    argv = ["compress", "--checkpoint_dir", folder, "--results_dir", "", run, folder + "/images"]
    return processes_row("`mbt2018.py compress` of 24 images, 512×768, N = 64", required, argv,
                         turns)


def tests_row():
    """CPU seconds of the quick tests."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "tests",
                    "-m", "not slow"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [], "The quick tests take %d seconds of a core." % taken


def decompress_row(required, turns=5):
    """decompress of a file by sga.py, as a process."""
    folder = tempfile.mkdtemp()
    run = make_run_and_images(folder, 64, 1)
    argv = ["sga.py", "--checkpoint_dir", folder]
    file, image = folder + "/x.iinc", folder + "/images/0.png"
    script_seconds(*argv, "compress", run, image, file, "--its", 1, "--results_dir", "")
    taken = statistics.median([script_seconds(*argv, "decompress", run, file)
                               for _ in range(turns)])
    return [["`sga.py decompress`, 512×768, N = 64, whole process", "", seconds(taken), "",
             "≤ %d s" % required]], ""


def make_run_and_images(folder, N, num_imgs, height=512, width=768):
    """Name of a run in `folder` with random weights; images of noise are in its folder images."""
    import_scripts("ours", "script")
    os.mkdir(os.path.join(folder, "images"))
    for i, image in enumerate(noise(num_imgs, height, width)):
        PIL.Image.fromarray(image).save(os.path.join(folder, "images", "%d.png" % i))
    run = random_run(N)
    os.rename(os.path.dirname(run.checkpoint), os.path.join(folder, run.name))
    return run.name


def pixels_row():
    """Iterations on images of several sizes, N = 192."""
    texts = []
    for height, width in [(256, 256), (512, 768), (768, 768), (1200, 1200)]:
        (step, fact), = in_turns("sga", [192, 1, height, width], turns=5, sides=["ours"])
        texts.append("%.2f µs per pixel and %.2f GB at %d×%d" % (
            1e6 * step / height / width, fact["peak"], height, width))
    return [], "An iteration of SGA with N = 192 takes %s." % ", ".join(texts)


def batch_row():
    """Iterations on a batch and on a single image, N = 64."""
    texts = []
    for batch in (1, 24):
        (step, _), = in_turns("sga", [64, batch, 256, 256], burst=3, sides=["ours"])
        texts.append("%s per image in a batch of %d" % (seconds(step / batch), batch))
    return [], "An iteration of SGA on 256×256, N = 64, takes %s." % ", ".join(texts)


ROWS = {
    "sga-192": lambda: sga_row(.60, 192),
    "sga-64": lambda: sga_row(.60, 64),
    "train-192": lambda: train_row(.80, 192, 256, burst=1),
    "train-64": lambda: train_row(.60, 64, 128, burst=5),
    "cost": lambda: cost_row(.12),
    "folder": lambda: folder_row(.62, .90),
    "evaluation": lambda: evaluation_row(.30),
    "tests": tests_row,
    "compress": lambda: compress_row(.70),
    "decompress": lambda: decompress_row(4),
    "pixels": pixels_row,
    "batch": batch_row}


def machine():
    with open("/proc/cpuinfo") as file:
        model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    (once, fact), = in_turns("matmul", [2048], burst=5, sides=["ours"])
    return "%s, %d threads, products of 2048×2048 matrices at %.0f GFLOP/s, %s." % (
        model, len(os.sched_getaffinity(0)), fact["flops"] / once / 1e9, datetime.date.today())


def line_of(cells):
    """A line of a table in Markdown."""
    return "| %s |" % " | ".join(cells)


def run(args):
    """Measure the rows, and print and write the table."""
    from plumbing import basics  # not at the top: one of the sides has none of it
    if args.output:
        basics.require_writable(args.output)
    text, notes = ["# Speed", "", "Written by `tests/benchmark.py`. Ratios below 1 are faster; "
                   "seconds are medians.", "", machine(), ""], []
    text += map(line_of, (["", "baseline", "ours", "ratio", "required"], ["---"] * 5))
    print("\n".join(text), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        for name in args.rows:
            rows, note = ROWS[name]()
            for cells in rows:
                text.append(line_of(cells))
                print(text[-1], flush=True)
            if note:
                notes += ["", note]
    print("\n".join(notes))
    if args.output:
        basics.write_bytes(args.output, ("\n".join(text + notes) + "\n").encode())


def main(argv=None):
    from plumbing import command_line
    parser = command_line.Parser(prog="benchmark.py", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--output", help="file to write the table to, too")
    command_line.run_or_exit(parser, run, parser.parse_args(argv))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main()
