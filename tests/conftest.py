"""Fixtures: the scripts run in process (`run`) or as a user would (`run_process`)."""

import collections
import contextlib
import functools
import importlib
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest.mock

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
sys.path.insert(0, ROOT)
# Before the first session, after which TensorFlow heeds it no more: scripts set it themselves.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import PIL.Image
import pytest

from plumbing import basics, command_line, fileformat

GOLDEN = os.path.join(TESTS, "golden")
SHIPPED = os.path.join(ROOT, "results", "models")
SHIPPED_FILTERS = 96
CHECKPOINTS = os.path.join(GOLDEN, "checkpoints")
BASE_RUN = "mbt2018-num_filters=16-lmbda=0.01"
BB_RUN = "mbt2018_bb-num_filters=16-lmbda=0.01"
PNG = os.path.join(GOLDEN, "images", "face-197x251.png")
TINY = os.path.join(GOLDEN, "images", "face-64x64.png")  # where any image will do
NPY = os.path.join(GOLDEN, "images", "face-2x192x256.npy")

# Both golden images; the larger is slow for iterative methods.
IMAGES = [pytest.param(NPY, id="npy", marks=pytest.mark.slow), pytest.param(PNG, id="png")]


def pytest_configure(config):
    # A core for each of xdist's workers: two threads that share two cores with two others are
    # slower than one that has a core for itself.
    worker, cores = os.environ.get("PYTEST_XDIST_WORKER"), sorted(os.sched_getaffinity(0))
    if worker:
        os.sched_setaffinity(0, {cores[int(worker[len("gw"):]) % len(cores)]})
    config.addinivalue_line("markers", "slow: takes minutes; .ci/run runs these, too")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")  # TF's own


@pytest.hookimpl(tryfirst=True)  # before xdist names the groups
def pytest_collection_modifyitems(items):
    """With --dist loadgroup, tests that share what takes long to make run in one process.

    Results are made by image, and no method is of two modules: those of both can be made at the
    same time.
    """
    for item in items:
        for fixture in {"results", "files", "serial", "trained"}.intersection(item.fixturenames):
            group = fixture
            if fixture == "results":
                group = "%s of %s" % (item.callspec.params["image"], item.module.__name__)
            item.add_marker(pytest.mark.xdist_group(group))


def golden(image, method):
    """What the original computes: entry of expected.json for an image's path."""
    with open(os.path.join(GOLDEN, "expected.json")) as file:
        return json.load(file)[os.path.basename(image)][method]


def tolerance(draws):
    """3 standard deviations of the seeds (rows), or 1 % of their mean."""
    return np.maximum(3 * np.std(draws, axis=0, ddof=1), 0.01 * np.mean(draws, axis=0))


def require_golden(results, image, script, *fields):
    """Results of a stochastic method must be those of the original, within its spread."""
    for field in fields:
        draws = np.array([one[field] for one in golden(image, script)["runs"]])
        distance = abs(results[field] - draws.mean(axis=0))
        assert np.all(distance <= tolerance(draws)), (field, distance, tolerance(draws))


def run(script, *argv):
    """main(argv) of a script, in this process."""
    return importlib.import_module(script).main([str(arg) for arg in argv])


def parsed_arguments(script, *argv):
    """The arguments of a script's compress, with its METHOD."""
    nic, method = importlib.import_module("tf_boilerplate"), importlib.import_module(script).METHOD
    return command_line.parse_arguments(nic.make_parser(script, None, method), method, [
        "compress", "run", "image"] + [str(arg) for arg in argv])


def parsed(script, *argv):
    """The options of a script's method."""
    return parsed_arguments(script, *argv).options


def command(script, *argv):
    return [sys.executable, os.path.join(ROOT, script + ".py")] + [str(arg) for arg in argv]


def run_process(script, *argv, **kwargs):
    """A script as a process of its own: CompletedProcess with its output as text."""
    return subprocess.run(command(script, *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, **kwargs)


def heed_signals():
    """End this process by those that a shell ignores for what runs in the background, or nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def started(argv, **kwargs):
    """A process as the leader of a group, which is killed at the end."""
    process = subprocess.Popen(
        list(map(str, argv)), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, cwd=ROOT,
        preexec_fn=heed_signals, **kwargs)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, seconds=120):
    """The condition's value as soon as it is true."""
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(.1)
    return condition()


def load_module(path, name):
    """A module from a path, under a name that hides no other."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_addresses(n):
    """Addresses of this machine at which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return ["127.0.0.1:%d" % each.getsockname()[1] for each in sockets]


def run_results(script, *argv, code=0):
    """A script of results/ as a process of its own; its output or, of another code, its error."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "results", script)]
                          + [str(arg) for arg in argv], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


# The nine methods, and options that make them fast.
FAST = {"mbt2018": (), "sga": ("--sga_its", 2), "map": ("--its", 2), "ste": ("--its", 2),
        "unoise": ("--its", 2), "danneal": ("--its", 2),
        "bb_sga": ("--its", 2, "--rate_its", 2, "--rate_samples", 2),
        "bb_no_sga": ("--its", 2, "--rate_samples", 2), "bb_plain": ("--rate_samples", 2)}

# One of each kind of latents.
KINDS = ("mbt2018", "sga", "bb_sga")


def run_of(script, num_filters=16):
    """The golden run (or with SHIPPED_FILTERS the shipped one) that a script can use."""
    return (BB_RUN if "bb" in script else BASE_RUN).replace("=16", "=%d" % num_filters)


def compress(script, tmp_path, imgs, *options, output=None, run_name=None,
             checkpoints=CHECKPOINTS):
    """Compress in process; the saved results as a dict."""
    results = tmp_path / "results"
    results.mkdir(parents=True, exist_ok=True)
    run(script, "--checkpoint_dir", checkpoints, "compress", "--results_dir", results, *options,
        run_name or run_of(script), imgs, *([output] if output else []))
    return load(max(results.glob("rd-*.npz"), key=lambda path: path.stat().st_mtime_ns))


def decompress(script, file, output, *options, run_name=None, checkpoints=CHECKPOINTS):
    """Decompress in process; the pixels [num_imgs, H, W, 3]."""
    run(script, "--checkpoint_dir", checkpoints, "decompress", *options,
        run_name or run_of(script), file, output)
    return pixels(output)


def pixels(path):
    path = str(path)
    return np.load(path) if path.endswith(".npy") else np.asarray(PIL.Image.open(path))[None]


@contextlib.contextmanager
def reported_pixels():
    """A list that gets, of every file that is packed, the pixels whose metrics are reported."""
    reported = []
    pack = fileformat.pack_header

    def spy(kind, script, run, body, images):
        reported.append(np.concatenate([image.x_hat for image in images]))
        return pack(kind, script, run, body, images)
    with unittest.mock.patch.object(fileformat, "pack_header", spy):
        yield reported


def read_tables(text):
    """Tables of a text in Markdown, lists of rows, lists of cells."""
    tables = []
    for is_table, lines in itertools.groupby(text.splitlines(), lambda line: line[:1] == "|"):
        if is_table:
            tables.append([[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]
                           for line in lines if set(line) - set("|-")])
    return tables


def load(path):
    with np.load(str(path), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def write_image(path, height, width, mode="RGB"):
    """A crop of the golden image, or of it repeated, in a PIL mode."""
    image = np.asarray(PIL.Image.open(PNG).convert("RGB"))
    tiled = np.tile(image, (-(-height // 197), -(-width // 251), 1))
    PIL.Image.fromarray(tiled[:height, :width]).convert(mode).save(str(path))
    return path


@pytest.fixture(autouse=True)
def untold():
    """Each test stands for a process of its own: notes that another was told count anew.

    It may also have changed what a kept compressor is built of.
    """
    basics.print_note.cache_clear()
    if "tf_boilerplate" in sys.modules:
        sys.modules["tf_boilerplate"].kept_compressor.cache_clear()


@pytest.fixture
def new_decoders():
    """For tests that change what decoders are built of: none is kept from before, or for later."""
    nic = importlib.import_module("tf_boilerplate")
    for kept in (nic.kept_decoder, nic.kept_range_coder):
        kept.cache_clear()
    yield
    for kept in (nic.kept_decoder, nic.kept_range_coder):
        kept.cache_clear()


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Function: results of a script on an image at the paper's settings, computed once."""
    @functools.lru_cache(maxsize=None)
    def computed(script, image):
        return compress(script, tmp_path_factory.mktemp(script), image)
    return computed


# A file of each format and kind of latents, of two images, and the pixels that it stands for.
ORIGINAL = os.path.join(GOLDEN, "tfci", "face-197x251.tfci")  # written by the original
Written = collections.namedtuple("Written", "script content pixels")
WRITERS = {"tfci": ("mbt2018", ".tfci"), "centred": ("map", ".iinc"), "integer": ("sga", ".iinc"),
           "bits-back": ("bb_no_sga", ".iinc")}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Dict of Written."""
    folder, files = tmp_path_factory.mktemp("files"), {}
    np.save(folder / "two.npy", np.load(NPY)[:, :80, :64])
    for name, (script, suffix) in WRITERS.items():
        with reported_pixels() as reported:
            compress(script, folder, folder / "two.npy", *FAST[script],
                     output=folder / (name + suffix))
        files[name] = Written(script, (folder / (name + suffix)).read_bytes(), reported[0])
    return files


@pytest.fixture
def fails(capfd):
    """Function: main(argv) must exit with 2 and one line on stderr, which it returns."""
    def check(script, *argv):
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            run(script, *argv)
        lines = [line for line in capfd.readouterr().err.splitlines()
                 if not line.startswith("note: ")]
        assert exit_info.value.code == 2
        assert len(lines) == 1 and lines[0].startswith(script + ".py"), lines
        return lines[0]
    return check


@pytest.fixture
def folder(tmp_path):
    """A portrait, a landscape, and a file that is no image."""
    path = tmp_path / "some images"
    path.mkdir()
    write_image(path / "b.png", 80, 48)
    write_image(path / "a.jpg", 48, 80)
    (path / "notes.txt").write_text("not an image")
    return path
