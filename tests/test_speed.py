"""The benchmark, schedules and presets."""

import importlib

import numpy as np
import pytest
import tf_boilerplate as nic

import bb_sga
import danneal
import sga
from conftest import (BB_RUN, CHECKPOINTS, SHIPPED, SHIPPED_FILTERS, TINY, compress, parsed, run_of,
                      run_process)


@pytest.mark.slow
@pytest.mark.parametrize("kind, numbers", [("sga", (8, 1, 64, 80)), ("train", (8, 2, 64)),
                                           ("input", (8, 2, 64))])
def test_benchmark_measures_both_sides(kind, numbers):
    import benchmark
    both = benchmark.in_turns(kind, numbers, turns=2)
    for seconds, facts in both:
        assert seconds > 0 and facts["peak"] > 0.05
    assert ["flops" in facts for _, facts in both] == [kind == "sga", False]


@pytest.mark.slow
def test_benchmark_reaches_the_cost_of_the_scripts():
    import benchmark
    (_, facts), = benchmark.in_turns("cost", ["0.01", "--its", "4"], turns=1, burst=0,
                                     sides=["ours"])
    result = sga.main(["--checkpoint_dir", SHIPPED, "compress", "--fast", "--its", "4",
                       "--results_dir", "", run_of("mbt2018", SHIPPED_FILTERS), benchmark.IMAGE])
    assert facts["cost"] == pytest.approx(result["rd_cost"][0], rel=1e-3)


@pytest.mark.parametrize("argv, named", [(["--rows", "foo"], "'foo'"),
                                         (["--output", "none/table.md"], "none")])
def test_benchmark_refuses(argv, named, tmp_path, monkeypatch, capfd):
    import benchmark
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(argv)
    (line,) = capfd.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and named in line


@pytest.mark.parametrize("its", [20, 500])
def test_any_number_of_iterations_anneals_fully(its):
    args = parsed("sga", "--sga_its", str(its))
    paper = parsed("sga")
    for share in (0, .2, .5, .9, 1):
        assert sga.temperature(args, share * its) == pytest.approx(
            sga.temperature(paper, share * 2000))
    args = parsed("danneal", "--its", str(its))
    assert danneal.temperature(args, its) == pytest.approx(
        danneal.temperature(parsed("danneal"), 2000))


SSL = dict(lr_decay=1, T_max=1, t0=0, logits="ssl")
PRESETS = dict(fast=dict(SSL, sga_its=360, lr=.03), thorough=dict(SSL, sga_its=2000, lr=.02))
RATE_PRESETS = dict(fast=dict(rate_its=200, rate_lr=.06), thorough=dict(rate_its=2000, rate_lr=.01))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_documented_ones(preset):
    both = dict(PRESETS[preset], **RATE_PRESETS[preset])
    assert vars(parsed("sga", "--" + preset)).items() >= PRESETS[preset].items()
    assert vars(parsed("bb_sga", "--" + preset)).items() >= both.items()


@pytest.mark.parametrize("script", ["sga", "bb_sga"])
def test_both_anneal_by_their_options(script, monkeypatch):
    def optimise(graph, x, its, lr, rounding, temperature, lr_decay):
        calls.append((its, lr, lr_decay, temperature(360)))
        return nic.BitsBackLatents(*[np.zeros(1)] * 3) if script == "bb_sga" else nic.Latents(
            *[np.zeros(1)] * 2)
    calls = []
    monkeypatch.setattr(nic, "optimise", optimise)
    importlib.import_module(script).infer(None, None, parsed(script, "--fast"))
    assert calls == [(360, .03, 1, pytest.approx(np.exp(-2)))]


def test_presets_and_options():
    fast = sga.PRESETS["fast"]
    args = parsed("sga", "--fast")
    assert {**vars(args), **fast, "annealing_rate": 2 / fast["sga_its"]} == vars(args)
    assert parsed("sga", "--fast", "--lr", "0.1").lr == .1
    assert parsed("sga", "--lr", "0.1", "--fast").lr == .1
    assert parsed("sga", "--lr", "0.1", "--fast").sga_its == fast["sga_its"]
    paper = ["--lr", "0.005", "--sga_its", "2000", "--t0", "700"]  # given, although the defaults
    for argv in (["--fast"] + paper, paper + ["--fast"]):
        assert (parsed("sga", *argv).lr, parsed("sga", *argv).t0) == (0.005, 700)


def test_presets_exclude_each_other(fails):
    assert "not allowed with" in fails("bb_sga", "compress", "run", TINY, "--fast", "--thorough")


def test_fast_bits_back_decodes(tmp_path):
    """A file written with --fast has the settings that its decoder needs."""
    output = tmp_path / "a.iinc"
    results = compress("bb_sga", tmp_path, TINY, "--fast", "--its", 2, "--rate_its", 3,
                       output=output)
    assert results["rate_lr"] == bb_sga.PRESETS["fast"]["rate_lr"] and results["rate_its"] == 3
    done = run_process("bb_sga", "--checkpoint_dir", CHECKPOINTS, "decompress", BB_RUN, output)
    assert done.returncode == 0, done.stderr
