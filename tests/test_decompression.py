"""decompress of one file or several, with a run's name or without."""

import os
import shutil

import numpy as np
import pytest

from plumbing import compressed_files, fileformat
from conftest import BASE_RUN, BB_RUN, CHECKPOINTS, ORIGINAL, pixels, run


def decompress(script, *words, checkpoints=CHECKPOINTS):
    run(script, "--checkpoint_dir", checkpoints, "decompress", *words)


@pytest.fixture
def written(files, tmp_path):
    """A folder with files of base models and another file."""
    folder = tmp_path / "written"
    folder.mkdir()
    for name in ("tfci", "centred", "integer"):
        (folder / (name + (".tfci" if name == "tfci" else ".iinc"))).write_bytes(
            files[name].content)
    (folder / "notes.txt").write_text("of another kind")
    return folder


def test_a_name_with_spaces_and_an_escape_character(files, tmp_path, capfd):
    """What is printed has the spaces, and nothing that a terminal would obey."""
    (tmp_path / "a  b\x1b.iinc").write_bytes(files["integer"].content)
    decompress("sga", tmp_path / "a  b\x1b.iinc")
    assert capfd.readouterr().out == "decoded: %s/a  b?.iinc.npy\n" % tmp_path


def test_the_run_is_that_of_the_file(files, tmp_path, capfd):
    """By its name or, where no run of that name has the weights, by these."""
    (tmp_path / "file").write_bytes(files["integer"].content)
    decompress("sga", tmp_path / "file", tmp_path / "by name.npy")
    np.testing.assert_array_equal(pixels(tmp_path / "by name.npy"), files["integer"].pixels)
    assert capfd.readouterr().err == ""
    checkpoints = tmp_path / "runs"
    shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(checkpoints / "other"))
    shutil.copytree(os.path.join(CHECKPOINTS, BB_RUN), str(checkpoints / BASE_RUN))
    decompress("sga", tmp_path / "file", tmp_path / "by weights.npy", checkpoints=checkpoints)
    np.testing.assert_array_equal(pixels(tmp_path / "by weights.npy"), files["integer"].pixels)


def test_files_whose_run_is_not_there(files, tmp_path, fails):
    def decode(script, *words, checkpoints=CHECKPOINTS):
        return fails(script, "--checkpoint_dir", checkpoints, "decompress", *words)
    (tmp_path / "file").write_bytes(files["integer"].content)
    (tmp_path / "runs").mkdir()
    line = decode("sga", tmp_path / "file", checkpoints=tmp_path / "runs")
    assert "written with the run " + BASE_RUN in line
    assert "give the run's name" in decode("mbt2018", ORIGINAL)
    assert "base model, which this script can't use" in decode("bb_plain", tmp_path / "file")
    assert "no-run" in decode("sga", "no-run", tmp_path / "file")
    assert "unrecognized arguments: d" in decode("sga", BASE_RUN, tmp_path / "file", "c", "d")


@pytest.mark.parametrize("words, folder", [((BASE_RUN,), "out"), ((), "new/")])
def test_a_folder_and_a_glob(words, folder, written, files, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    decompress("sga", *words, "written")
    decompress("sga", *words, "--force", "written/*.[it]*", folder)
    decompress("sga", *words, "written/integer.iinc", folder)  # which exists
    assert sorted(os.listdir(folder)) == ["centred.iinc.npy", "integer.iinc.npy", "tfci.tfci.npy"]
    for path in [*written.glob("*.npy"), *(tmp_path / folder).glob("*.npy")]:
        np.testing.assert_array_equal(pixels(path), files[path.name.split(".")[0]].pixels)
    assert len(list(written.glob("*.npy"))) == 3
    argv = ["sga", "--checkpoint_dir", CHECKPOINTS, "decompress", *words]
    assert "go into a folder" in fails(*argv, "written/i*.iinc", "x.png")


@pytest.mark.parametrize("name", ["tfci", "centred"])
def test_other_latents_are_an_error(name, files, tmp_path, fails, monkeypatch):
    """That of a .tfci says that it is for machines of the same single precision alone."""
    (tmp_path / "file").write_bytes(files[name].content)
    monkeypatch.setattr(fileformat, "digest_symbols", lambda images: b"")
    line = fails("mbt2018", "--checkpoint_dir", CHECKPOINTS, "decompress", tmp_path / "file")
    assert "decodes to other latents than were encoded" in line
    assert ("a .tfci is decoded only where" in line) == (name == "tfci")


def test_another_picture_is_noticed_before_the_work(files, tmp_path, fails, monkeypatch):
    """If it is of another size, or none; one of the same size has to be compared."""
    (tmp_path / "file").write_bytes(files["integer"].content)
    argv = ["sga", "--checkpoint_dir", CHECKPOINTS, "decompress", BASE_RUN, tmp_path / "file",
            tmp_path / "out.npy"]
    with monkeypatch.context() as patch:
        patch.setattr(compressed_files, "decode", None)
        for array in (np.zeros((3, 3)), files["integer"].pixels[:, 1:]):
            np.save(tmp_path / "out.npy", array)
            assert "out.npy: exists and is different; --force" in fails(*argv)
    np.save(tmp_path / "out.npy", 255 - files["integer"].pixels)
    assert "out.npy: exists and is different; --force" in fails(*argv)
    run(*argv, "--force")
    run(*argv)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), files["integer"].pixels)


def test_other_words(written, fails, tmp_path, monkeypatch):
    """A folder of files called like a run; names that are none; globs that were expanded."""
    monkeypatch.chdir(tmp_path)
    argv = ["sga", "--checkpoint_dir", CHECKPOINTS, "decompress"]
    os.rename("written", BASE_RUN)
    decompress("sga", BASE_RUN, BASE_RUN, "out")
    assert len(os.listdir("out")) == 3
    assert "typo.iinc" in fails(*argv, "typo.iinc", "x.png")
    assert "quoted" in fails(*argv, BASE_RUN + "/tfci.tfci", "out/x.iinc", "out/y.iinc")
    assert "no checkpoint in" in fails(*argv, "", BASE_RUN + "/tfci.tfci")


def test_a_damaged_run_beside_the_other(files, tmp_path):
    checkpoints = tmp_path / "runs"
    for name in ("a damaged one", "the other"):
        shutil.copytree(os.path.join(CHECKPOINTS, BASE_RUN), str(checkpoints / name))
    (index,) = (checkpoints / "a damaged one").glob("*.index")
    index.write_bytes(b"nothing")
    (tmp_path / "file").write_bytes(files["integer"].content)
    decompress("sga", tmp_path / "file", tmp_path / "x.npy", checkpoints=checkpoints)
    np.testing.assert_array_equal(pixels(tmp_path / "x.npy"), files["integer"].pixels)


def test_one_of_several_that_fails(written, capfd, fails, tmp_path):
    """It is named, and the others are decoded."""
    (written / "damaged.IINC").write_bytes(b"nothing")
    (written / "gone.iinc").symlink_to("nowhere")
    with pytest.raises(SystemExit) as exit:
        decompress("sga", written)
    assert exit.value.code == 1 and len(list(written.glob("*.npy"))) == 3
    dangling, others, *lines = capfd.readouterr().err.splitlines()
    assert "1 files of %s are skipped" % written in dangling and "gone.iinc" in dangling
    assert others == ("note: 1 of 5 files in %s are skipped, neither compressed files nor "
                      "pictures: notes.txt" % written)
    assert len(lines) == 2 and all("damaged.IINC" in line for line in lines)
    assert "1 of 4 files were not decoded" in lines[1]
    assert "only of a single file" in fails("bb_plain", "--checkpoint_dir", CHECKPOINTS,
                                            "decompress", "--initial_bits", "x", written)
    (tmp_path / "empty").mkdir()
    assert "no file there" in fails("sga", "--checkpoint_dir", CHECKPOINTS, "decompress",
                                    tmp_path / "empty")
