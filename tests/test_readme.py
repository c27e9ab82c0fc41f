"""The README's commands and examples, run as they stand, offline, in a copy of the repository."""

import glob
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import CHECKPOINTS, ROOT, load_module, read_tables, run_of, write_image

rd_curves = load_module(os.path.join(ROOT, "results", "rd_curves.py"), "rd_curves")

# What a block has that needs more than the repository, or a network.
ELSEWHERE = ("<", "…", "checkpoints/", "--checkpoint_dir checkpoints", "pip install")


def readme():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return file.read()


def blocks(language):
    return re.findall(r"^```%s\n(.*?)^```" % language, readme(), re.MULTILINE | re.DOTALL)


def table_rows():
    """Rows of all tables, lists of cells."""
    return [row for table in read_tables(readme()) for row in table]


@pytest.fixture
def copy(tmp_path):
    """Of the repository, without tests and tables, and a function that runs a command there."""
    for name in os.listdir(ROOT):
        if name.endswith((".py", ".python-version")):
            shutil.copy(os.path.join(ROOT, name), str(tmp_path / name))
    shutil.copytree(os.path.join(ROOT, "plumbing"), str(tmp_path / "plumbing"))
    (tmp_path / "results").mkdir()
    for name in ("models", "images", "published"):
        (tmp_path / "results" / name).symlink_to(os.path.join(ROOT, "results", name))
    for path in glob.glob(os.path.join(ROOT, "results", "*.py")):
        shutil.copy(path, str(tmp_path / "results"))

    def execute(*command):
        done = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True,
                              env=dict(os.environ, PATH=os.path.dirname(sys.executable) + ":"
                                       + os.environ["PATH"]))
        assert done.returncode == 0, done.stderr
        execute.stderr.append(done.stderr)
        return done.stdout
    execute.folder, execute.stderr = tmp_path, []
    return execute


@pytest.mark.slow
def test_commands(copy):
    """Line by line, in the order they stand, in one shell."""
    runnable = [block for block in blocks("bash") if not any(word in block for word in ELSEWHERE)]
    assert len(runnable) >= 1
    printed = copy("bash", "-ec", "".join(runnable))
    assert "decoded: outputs/face.png" in printed and (copy.folder / "outputs/face.png").exists()
    (command,) = [line for line in runnable[0].splitlines() if line.startswith("python sga.py")
                  and " compress " in line]
    base = copy("bash", "-ec", command.replace("sga.py", "mbt2018.py").replace(
        " --fast", "").replace(" outputs/face.iinc", ""))
    rows = [row for row in table_rows() if len(row) == 4 and row[0] in (
        "`mbt2018.py`", "`sga.py --fast`")]
    # SGA's figures differ between processors as between seeds: their standard deviations.
    for row, text, spreads in zip(rows, (base, printed), ((0, 0, 0), (4e-4, 5e-3, 4e-4))):
        values = dict(re.findall(r"^Avg (\w+): ([\d.]+)", text, re.MULTILINE))
        for shown, name, spread in zip(row[1:], ("est_bpp", "psnr", "rd_cost"), spreads):
            number = shown.split()[0]
            unit = 10. ** -len(number.split(".")[1])
            assert float(number) == pytest.approx(float(values[name]), abs=.6 * unit + 3 * spread)
    costs = [float(row[3].split()[0]) for row in rows]
    assert "(−%.1f %%)" % (100 - 100 * costs[1] / costs[0]) in rows[1][3]


def test_the_example_in_python(copy):
    """What it prints is what the command line gives; its watcher is told of the iterations."""
    (example,) = [block for block in blocks("python") if "make_compressor(" in block]
    printed = copy(sys.executable, "-c", example)
    assert copy.stderr == [""]  # nothing by TensorFlow
    assert re.search(r"^10 0\.37\d+ \[[\d.]+\]$", printed, re.MULTILINE)
    (cost,) = re.findall(r"^\[([\d.]+)\]$", printed, re.MULTILINE)
    (run_name, image) = re.findall(r'"results/\w+/(.*)"', example)
    expected = copy(sys.executable, "sga.py", "--checkpoint_dir", "results/models", "compress",
                    "--its", "20", run_name, "results/images/" + image)
    assert "Avg rd_cost: %.5f\n" % float(cost) in expected


@pytest.mark.slow
def test_a_method_is_one_file(copy):
    """The README's example compresses, decompresses and is compared, with nothing else edited."""
    (example,) = [block for block in blocks("python") if "METHOD = " in block]
    (copy.folder / "soft_round.py").write_text(example)
    write_image(copy.folder / "image.png", 64, 80)
    base = ["--checkpoint_dir", CHECKPOINTS]
    copy(sys.executable, "soft_round.py", *base, "compress", run_of("danneal"), "image.png",
         "x.iinc", "--its", "30")
    copy(sys.executable, "sga.py", *base, "decompress", run_of("danneal"), "x.iinc", "x.png")
    table = copy(sys.executable, "results/table1.py", *base, "--images", "image.png", "--methods",
                 "mbt2018", "danneal", "soft_round", "--label", "short", "--", "--its", "30")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows if len(row) > 2 and row[2] in ("danneal.py", "soft_round")] == [
        "deterministic annealing", "soft_round"]
    folder = copy.folder / "outputs" / "image-short"
    costs = [float((folder / (name + ".csv")).read_text().split()[1].split(",")[-1])
             for name in ("mbt2018", "danneal", "soft_round")]
    assert costs[0] > costs[1] != costs[2] < costs[0]


def test_table_1_is_that_of_the_results():
    folder = os.path.join(ROOT, "results", "reduced", "kodak-crops")
    read = lambda name: rd_curves.csv_rows(os.path.join(folder, name + ".csv"))
    saved = {row["script"]: row for row in read("table1") if row["table1"]}
    base = {row["lmbda"]: float(row["rd_cost"]) for row in read("mbt2018")}
    rows = [row for row in table_rows() if row[0] in {method.row for method in rd_curves.METHODS}]
    assert len(rows) == 9
    assert {row[1].strip("`") for row in rows} == {
        script for script, row in saved.items() if row["points"] == "4"}
    number = lambda text: float(text.replace("−", "-").replace(" %", ""))
    for name, script, _, rate, cost in rows:
        script = script.strip("`")
        assert saved[script]["table1"] == name
        assert number(rate) == round(float(saved[script]["bd-rate%,psnr"].split()[0]), 1)
        costs = [float(row["rd_cost"]) / base[row["lmbda"]] - 1 for row in read(script[:-3])]
        assert number(cost) == round(100 * sum(costs) / len(costs), 1)
        assert number(cost) == round(float(saved[script]["r-dcost%"]), 1)


def test_bd_rates_on_kodak_are_those_of_the_results():
    folder = os.path.join(ROOT, "results", "reduced", "kodak")
    saved = {row["method"]: float(row["bd-rate%,psnr"])
             for row in rd_curves.csv_rows(os.path.join(folder, "table1.csv"))}
    shown = re.search(r"−(\S*) % for SGA and −(\S*) % for SGA \+ BB, where the paper has −(\S*) % "
                      r"and −(\S*) %\.", " ".join(readme().split()))
    assert [-float(number) for number in shown.groups()] == [
        round(saved[method + source], 1) for source in ("", ", published, 24 images")
        for method in ("SGA", "SGA + BB")]


def test_speed_is_that_of_the_benchmark():
    text = re.search("## Speed(.*?)## ", readme(), re.DOTALL).group(1)
    with open(os.path.join(ROOT, "results", "benchmark.md"), encoding="utf-8") as file:
        measured = set(re.findall(r"\b0\.\d\d\b", file.read()))
    shown = set(re.findall(r"\b0\.\d\d\b", text))
    assert shown and shown <= measured


def test_lengths():
    assert len(readme().split()) < 2000
