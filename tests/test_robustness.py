"""Killed processes, full disks, hostile files, and generated command lines."""

import collections
import functools
import glob
import os
import pickle
import random
import resource
import shutil
import string
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

import tf_boilerplate as nic
from plumbing import basics, runs
from conftest import (BASE_RUN, BB_RUN, CHECKPOINTS, FAST, PNG, ROOT, TINY, command, compress,
                      load, run, run_of, run_process, started, wait_for, write_image)

TRAIN = ("--threads", 1, "--num_filters", 8, "train", "--train_glob", PNG, "--patchsize", 64,
         "--batchsize", 2, "--logdir", "")
TRAINED = "mbt2018-num_filters=8-lmbda=0.01"


# ---------------------------------------------------------------- kill -9

def kill_often(argv, has_begun):
    """Kill a command twice: as soon as it has saved something, then at any moment of as long."""
    start = time.time()
    with started(argv) as process:
        assert wait_for(has_begun) and process.poll() is None
    seconds = time.time() - start
    with started(argv):
        time.sleep(random.uniform(0, seconds))


def whole_and_killed(tmp_path, argv_for, has_begun):
    """Two folders in which argv_for(folder) has run: without a stop, and after it was killed.

    has_begun(folder) is true once the command has saved something there.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_often(argv_for(killed), lambda: has_begun(killed))
    for folder in (whole, killed):
        done = subprocess.run(argv_for(folder), stderr=subprocess.PIPE, universal_newlines=True)
        assert done.returncode == 0, done.stderr
    return whole, killed


def has_npz(folder):
    return bool(list(folder.glob("**/*.npz")))


@pytest.mark.slow
def test_killed_training_ends_as_if_it_had_not_been(tmp_path):
    def argv_for(folder):
        return command("mbt2018", "--checkpoint_dir", folder, *TRAIN, "--last_step", 400,
                       "--save_checkpoint_secs", 1)

    def has_trained(folder):
        newest = runs.newest_checkpoint(str(folder / TRAINED))
        return newest and not newest.endswith("-0")

    whole, killed = [compress("mbt2018", folder, TINY, run_name=TRAINED,
                              checkpoints=folder)["rd_cost"][0]
                     for folder in whole_and_killed(tmp_path, argv_for, has_trained)]
    assert killed == pytest.approx(whole, rel=1e-4)


@pytest.fixture
def six_images(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(6):
        write_image(tmp_path / "images" / ("%d.png" % i), 64, 64 + 16 * (i % 2))
    return tmp_path / "images"


@pytest.mark.slow
def test_killed_compress_ends_as_if_it_had_not_been(tmp_path, six_images):
    whole, killed = whole_and_killed(tmp_path, lambda target: command(
        "sga", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, six_images, target / "files",
        "--results_dir", target, "--its", 100), has_npz)
    for i in range(6):
        name = "%d.png.iinc" % i
        assert (killed / "files" / name).read_bytes() == (whole / "files" / name).read_bytes()
    expected, results = (load(next(target.glob("rd-*.npz"))) for target in (whole, killed))
    assert results.keys() == expected.keys()
    for field, values in expected.items():
        np.testing.assert_array_equal(results[field], values)


@pytest.mark.slow
def test_killed_table1_ends_as_if_it_had_not_been(tmp_path, six_images):
    whole, killed = whole_and_killed(tmp_path, lambda target: [
        sys.executable, os.path.join(ROOT, "results", "table1.py"), "--checkpoint_dir",
        CHECKPOINTS, "--images", str(six_images), "--output", str(target),
        "--methods", "mbt2018", "bb_plain"], has_npz)
    for name in ("mbt2018.csv", "bb_plain.csv", "table1.csv", "table1.md"):
        path = os.path.join("images", name)
        assert (killed / path).read_text() == (whole / path).read_text()


@pytest.mark.slow
def test_what_killed_processes_left_is_removed(tmp_path):
    """Temporary files that nobody has touched for an hour, but not others."""
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", tmp_path, BASE_RUN,
            TINY]
    run("mbt2018", *argv)
    (npz,) = tmp_path.iterdir()
    old, new = (tmp_path / (npz.name + ending) for ending in (".abcd0123.tmp", ".4567efgh.tmp"))
    half_saved = tmp_path / TRAINED / "model.ckpt-1_temp_0123"
    others = [new, tmp_path / (npz.name + ".old.tmp"), half_saved.parent / "my_temp_plots"]
    for folder in (old, half_saved, *others):
        folder.mkdir(parents=True)
        (folder / npz.name).touch()
    os.utime(str(old), (time.time() - 2 * basics.ABANDONED,) * 2)
    run("mbt2018", *argv)
    run("mbt2018", "--checkpoint_dir", tmp_path, *TRAIN, "--last_step", 1)
    assert all(folder.exists() for folder in others)
    assert not old.exists() and not half_saved.exists()


# ---------------------------------------------------------------- full disk

def fails_with_small_files(num_bytes, script, *argv):
    """The error of a script that can't write files larger than that, as on a full disk."""
    done = run_process(script, *argv, preexec_fn=functools.partial(
        resource.setrlimit, resource.RLIMIT_FSIZE, (num_bytes, num_bytes)))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.slow
def test_full_disk_in_compress(tmp_path, six_images):
    """The error names the file; older results and files stay whole."""
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir", tmp_path / "results",
            BASE_RUN, six_images / "0.png"]
    run("mbt2018", *argv, tmp_path / "0.tfci")
    (npz,) = (tmp_path / "results").iterdir()
    before = npz.read_bytes(), (tmp_path / "0.tfci").read_bytes()
    for target, options in ((npz, []), (tmp_path / "0.tfci", [tmp_path / "0.tfci"])):
        line = fails_with_small_files(100, "mbt2018", *argv, *options)
        assert str(target) + ": File too large" in line
    assert (npz.read_bytes(), (tmp_path / "0.tfci").read_bytes()) == before
    assert len(list((tmp_path / "results").iterdir())) == 1  # no temporary files


@pytest.mark.slow
def test_full_disk_in_training(tmp_path):
    """The error names the checkpoint; the last one stays and training goes on from it."""
    argv = ["--checkpoint_dir", tmp_path, *TRAIN, "--last_step"]
    run("mbt2018", *argv, 2)
    assert str(tmp_path / TRAINED) in fails_with_small_files(50000, "mbt2018", *argv, 4)
    assert runs.newest_checkpoint(str(tmp_path / TRAINED)).endswith("model.ckpt-2")
    run("mbt2018", *argv, 4)
    assert runs.newest_checkpoint(str(tmp_path / TRAINED)).endswith("model.ckpt-4")


@pytest.mark.slow
def test_a_name_that_is_not_text(tmp_path):
    """Is printed somehow, where the terminal takes nothing but UTF-8."""
    image = os.fsencode(str(tmp_path)) + b"/\xff.png"
    shutil.copy(os.fsencode(TINY), image)
    done = run_process("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", "--results_dir",
                       tmp_path, BASE_RUN, os.fsdecode(image), "--write",
                       env=dict(os.environ, PYTHONIOENCODING="utf-8"))
    assert done.returncode == 0 and "compressed: " in done.stdout, done.stderr
    assert os.path.exists(image + b".tfci")


# ---------------------------------------------------------------- hostile files

class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.slow
def test_nothing_is_unpickled(tmp_path, fails, folder):
    """Arrays of objects, wherever a file is read: images, training images, results of parts."""
    exploded = tmp_path / "exploded"
    bomb = np.array([Bomb(exploded)], object)
    np.save(tmp_path / "bomb.npy", bomb, allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb(exploded)))
    for name in ("bomb.npy", "pickle.npy"):
        fails("sga", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, tmp_path / name)
        fails("mbt2018", "--checkpoint_dir", tmp_path, *TRAIN, "--train_glob", tmp_path / name)
    argv = ["--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN, folder, "--results_dir",
            tmp_path]
    run("mbt2018", *argv)
    (results,) = tmp_path.glob("rd-*.npz")
    np.savez(results, **dict(load(results), mse=bomb))
    run("mbt2018", *argv)
    assert not exploded.exists()


def test_a_checkpoint_of_strangers_is_only_data(tmp_path, monkeypatch):
    """A meta graph and args.json that are there are not looked at."""
    (tmp_path / BASE_RUN).mkdir()
    for name in os.listdir(os.path.join(CHECKPOINTS, BASE_RUN)):
        os.symlink(os.path.join(CHECKPOINTS, BASE_RUN, name), str(tmp_path / BASE_RUN / name))
    (tmp_path / BASE_RUN / "args.json").unlink()
    for name in ("args.json", "model.ckpt-3000.meta", "graph.pbtxt"):
        (tmp_path / BASE_RUN / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    opened = []
    monkeypatch.setattr(nic.tf.train, "import_meta_graph", opened.append)
    compress("mbt2018", tmp_path, TINY, checkpoints=tmp_path)
    assert not opened and not (tmp_path / "exploded").exists()
    sources = "".join(open(path).read() for folder in ("", "plumbing", "results")
                      for path in glob.glob(os.path.join(ROOT, folder, "*.py")))
    assert sources.count("np.load(") == sources.count("allow_pickle=False") > 0
    assert not any(word in sources for word in ("pickle.load", "import_meta_graph", "eval("))


# ---------------------------------------------------------------- generated command lines

# Each draws with a random.Random.

def drawn_name(source):
    return "".join(source.choices(string.ascii_letters + " äß漢🙂'%{}=[]?*~\\",
                                  k=source.randint(1, 12)))


def drawn_image(source, path, smallest=1):
    """Write an image, .npy, or something else to a path with a drawn name; that path."""
    kind = source.choice(["image"] * 8 + ["long", "npy", "dtype", "broken", "cut", "gone"])
    path = "%s %s" % (path, drawn_name(source))
    height, width = (3, 2000) if kind == "long" else (
        source.choice([source.randint(smallest, 70)] * 2 + [161]) for _ in range(2))
    if kind in ("npy", "dtype"):
        dtype = np.uint8 if kind == "npy" else source.choice(
            ["float32", "int64", "bool", "complex64", "<U2", "datetime64[s]", "i1"])
        shape = source.choice([(1, height, width, 3), (2, height, width, 3), (height, width, 3),
                               (1, height, width, 1), (0, 4, 4, 3), (), (1, 0, width, 3)])
        np.save(path + ".npy", np.zeros(shape, dtype))
        return path + ".npy"
    if kind == "broken":
        with open(path + ".png", "wb") as file:
            file.write(source.choice([b"", b"\x89PNG\r\n\x1a\n"])
                       + bytes(source.choices(range(256), k=source.randint(0, 20))))
    elif kind != "gone":
        mode = source.choice(["RGB"] * 5 + ["RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", "LAB",
                                            "I", "F", "I;16"]) if kind == "image" else "RGB"
        noise = np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)
        image = PIL.Image.fromarray(noise)
        image = (PIL.Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else
                 image if mode == "LAB" else image.convert("RGBA" if mode == "LA" else mode))
        image.save(path + ".png", format="TIFF" if mode in ("CMYK", "YCbCr", "LAB", "F") else "PNG")
        if kind == "cut":
            with open(path + ".png", "r+b") as file:
                file.truncate(source.randint(0, os.path.getsize(path + ".png")))
    return path + ".png"


def drawn_options(source, flags):
    """None or one of the flags, with a drawn number."""
    flag = source.choice([None] * len(flags) + flags)
    return [flag, source.choice(["0", "-1", "1", "2", "0.5", "1e-5", "nan", "inf", "1e400", "x", "",
                                 "³", "2147483648", "0x10"])] if flag else []


def compress_line(source, folder, files):
    """(script, argv, what stdout has on success): sound but for what is drawn to be odd."""
    script = source.choice(sorted(FAST))
    run_name = source.choice([run_of(script)] * 8 + [drawn_name(source), source.choice(
        ["", ".", "..", "/", BASE_RUN, BB_RUN])])
    results = source.choice(["results", "rä sults/deep", ""] * 3 + ["/proc/none", "\0"])
    output = source.choice([[]] * 5 + [["file"], ["no/such/folder/file"], ["."]])
    argv = (["--checkpoint_dir", CHECKPOINTS, "--threads", "1", "compress", run_name,
             drawn_image(source, os.path.join(folder, "image"))]
            + [os.path.join(folder, name) for name in output]
            + ["--results_dir", results and os.path.join(folder, results)])
    return script, argv + list(map(str, FAST[script])) + drawn_options(source, [
        "--lambda", "--lr", "--seed", "--T_max", "--t0", "--annealing_rate", "--rate_its",
        "--jobs", "--num_filters", "--check_every", "--threads"]), "Avg est_bpp: "


def train_line(source, folder, files):
    """As compress_line, to train for a step."""
    script = source.choice(["mbt2018", "mbt2018_bb"])
    runs = os.path.join(folder, drawn_name(source))
    return script, ["--checkpoint_dir", runs, "--num_filters", "2", "train", "--logdir", "",
                    "--train_glob", drawn_image(source, os.path.join(folder, "train"), 64),
                    "--patchsize", "64", "--last_step", "1", "--batchsize", "1"] + drawn_options(
                        source, ["--lambda", "--seed", "--patchsize", "--batchsize", "--last_step",
                                 "--num_filters", "--save_checkpoint_secs",
                                 "--preprocess_threads"]), "step"


def decompress_line(source, folder, files):
    """As compress_line, of files (a dict of Written) that are intact or not."""
    written = files[source.choice(sorted(files))]
    script = source.choice([written.script] * 2 * len(FAST) + sorted(FAST))
    file = os.path.join(folder, "file " + drawn_name(source))
    with open(file, "wb") as copy:
        size = source.choice([None, None, 90, 0])
        copy.write(written.content[:size] + source.choice([b"", b"", b"\0"]))
    return script, [
        "--checkpoint_dir", CHECKPOINTS, "decompress", run_of(written.script), file, os.path.join(
            folder, source.choice(["x.npy", "ä ö.npy", "x.jpg", "none/x.npy", "."]))], ""


@pytest.mark.slow
def test_generated_command_lines_end_in_a_result_or_in_one_line(tmp_path, files, capfd):
    source, counts = random.Random(0), collections.Counter()
    for drawn_line in [compress_line] * 40 + [train_line] * 15 + [decompress_line] * 15:
        script, argv, success = drawn = drawn_line(source, str(tmp_path), files)
        capfd.readouterr()
        code = 0
        try:
            run(script, *argv)
        except SystemExit as error:
            code = error.code
        out, err = capfd.readouterr()
        printed = [line for line in err.splitlines()
                   if line.strip() and not line.startswith("note: ")]
        counts[success, code] += 1
        if code:
            assert code == 2 and len(printed) == 1, drawn
            assert printed[0].startswith(script + ".py: error: "), drawn
        else:
            assert not printed, (drawn, err)
            assert success in out or " images are done" in out, drawn
            assert "Avg est_bpp: nan" not in out, drawn
    assert len(counts) == 6, counts
