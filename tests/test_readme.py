"""The README's commands and examples, run as they stand, offline, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import CHECKPOINTS, ROOT, run_of, write_image

# What a block has that needs more than the repository, or a network.
ELSEWHERE = ("<", "…", "checkpoints/", "--checkpoint_dir checkpoints", "pip install")


def blocks(language):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return re.findall(r"^```%s\n(.*?)^```" % language, file.read(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """Of the repository, without tests and results, and a function that runs a command there."""
    for name in os.listdir(ROOT):
        if name.endswith((".py", ".python-version")):
            shutil.copy(os.path.join(ROOT, name), str(tmp_path / name))
    (tmp_path / "results").mkdir()
    for name in ("models", "images", "published"):
        (tmp_path / "results" / name).symlink_to(os.path.join(ROOT, "results", name))
    shutil.copy(os.path.join(ROOT, "results", "table1.py"), str(tmp_path / "results"))

    def execute(*command):
        done = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True,
                              env=dict(os.environ, PATH=os.path.dirname(sys.executable) + ":"
                                       + os.environ["PATH"]))
        assert done.returncode == 0, done.stderr
        return done.stdout
    execute.folder = tmp_path
    return execute


@pytest.mark.slow
def test_commands(copy):
    """Line by line, in the order they stand, in one shell."""
    runnable = [block for block in blocks("bash") if not any(word in block for word in ELSEWHERE)]
    assert len(runnable) >= 1
    printed = copy("bash", "-ec", "".join(runnable))
    assert "decoded: face.png" in printed and "Avg rd_cost" in printed
    assert (copy.folder / "face.png").exists()


def test_example_in_python(copy):
    (example,) = [block for block in blocks("python") if "sga.main(" in block]
    printed = copy(sys.executable, "-c", example)
    assert re.search(r"^\[[\d.]+\]$", printed, re.MULTILINE)


def test_a_method_is_one_file(copy):
    """The README's example compresses, decompresses and is compared, with nothing else edited."""
    (example,) = [block for block in blocks("python") if "METHOD" in block]
    (copy.folder / "soft_round.py").write_text(example)
    write_image(copy.folder / "image.png", 64, 80)
    base = ["--checkpoint_dir", CHECKPOINTS]
    copy(sys.executable, "soft_round.py", *base, "compress", run_of("danneal"), "image.png",
         "x.iinc", "--its", "30")
    copy(sys.executable, "sga.py", *base, "decompress", run_of("danneal"), "x.iinc", "x.png")
    table = copy(sys.executable, "results/table1.py", *base, "--images", "image.png", "--methods",
                 "mbt2018", "danneal", "soft_round", "--label", "short", "--", "--its", "30")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows if len(row) > 9 and row[2] in ("danneal.py", "soft_round")] == [
        "deterministic annealing", "soft_round"]
    folder = copy.folder / "results" / "image-short"
    costs = [float((folder / (name + ".csv")).read_text().split()[1].split(",")[-1])
             for name in ("mbt2018", "danneal", "soft_round")]
    assert costs[0] > costs[1] != costs[2] < costs[0]


def test_lengths():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        assert len(file.read().split()) < 1800
