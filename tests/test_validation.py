"""Validation of checkpoints while a model is trained, which never ends the training."""

import numpy as np
import pytest

from plumbing import basics, validation

RESULTS = [dict(rd_cost=np.array([1., 3.]), est_bpp=np.array([.5, .5]), mse=np.array([10., 20.]),
                psnr=np.array([30., 32.])),
           dict(rd_cost=np.array([5.]), est_bpp=np.array([2.]), mse=np.array([0.]),
                psnr=np.array([40.]))]


def validate(folder, evaluate, step):
    validation.Validation(str(folder), "", evaluate).after_save(None, np.int64(step))


def rows(folder):
    return (folder / "validation.csv").read_text().splitlines()


def test_means_are_over_all_images(tmp_path, capfd):
    validate(tmp_path, lambda: RESULTS, 7)
    assert capfd.readouterr().out == (
        "step=7 validation rd_cost=3.0000 bpp=1.0000 mse=10.000 psnr=34.000\n")
    assert rows(tmp_path) == ["step,rd_cost,est_bpp,mse,psnr",
                              "7,3.000000,1.000000,10.000000,34.000000"]


def test_rows_that_an_interrupted_run_is_ahead_by_go(tmp_path):
    for step in (0, 10, 20, 10):
        validate(tmp_path, lambda: RESULTS, step)
    assert [row.split(",")[0] for row in rows(tmp_path)] == ["step", "0", "10"]


@pytest.mark.parametrize("error", [basics.UserError("the highest z is 4295"), MemoryError("full"),
                                   ValueError("of a library")])
def test_what_fails_is_a_note_and_nan(error, tmp_path, capfd):
    def fail():
        raise error
    validate(tmp_path, fail, 19)
    printed = capfd.readouterr()
    assert "note: no validation at step 19: %s" % error in printed.err
    assert "rd_cost=nan" in printed.out and rows(tmp_path)[1] == "19,nan,nan,nan,nan"


def test_what_failed_is_evaluated_when_the_training_is_started_again(tmp_path, capfd):
    def fail():
        raise MemoryError("full")
    validate(tmp_path, fail, 19)
    for _ in range(2):
        validation.Validation(str(tmp_path), "", lambda: RESULTS).complete(19)
    assert capfd.readouterr().out.count("rd_cost=3.0000") == 1
    assert rows(tmp_path)[1:] == ["19,3.000000,1.000000,10.000000,34.000000"]


@pytest.mark.parametrize("content", ["step;rd_cost\n0;1,5\n", "step\nx,1\n", "\xff"])
def test_a_table_of_a_stranger_stays_and_is_a_note(content, tmp_path, capfd):
    (tmp_path / "validation.csv").write_bytes(content.encode("latin-1"))
    validate(tmp_path, lambda: RESULTS, 5)
    assert "has no row of step 5" in capfd.readouterr().err
    assert (tmp_path / "validation.csv").read_bytes() == content.encode("latin-1")
