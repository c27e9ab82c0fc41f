"""results/reference_codecs.py: reference curves of other codecs."""

import csv
import io
import os
import sys

import numpy as np
import PIL.Image
import pytest

from conftest import PNG, ROOT, pixels, run_results, write_image

sys.path.insert(0, os.path.join(ROOT, "results"))
import rd_curves
import reference_codecs as codecs


@pytest.mark.parametrize("name", codecs.CODECS)
def test_a_point_is_of_actual_bytes_and_decoded_pixels(name):
    codec, (image,) = codecs.CODECS[name], pixels(PNG)[..., :3]
    low, high = (codecs.point(image, codec, codec.values[i]) for i in (1, -2))
    assert low[0] < high[0] and low[1] < high[1]
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, codec.format, **{codec.option: codec.values[1]},
                                    **codec.options)
    decoded = np.asarray(PIL.Image.open(file).convert("RGB"), np.float64)
    assert low[0] == 8 * file.getbuffer().nbytes / (197 * 251)
    assert low[1] == pytest.approx(10 * np.log10(255 ** 2 / np.mean((decoded - image) ** 2)))


def test_curves_are_written_and_drawn_behind_the_methods(tmp_path):
    run_results("reference_codecs.py", "--images", PNG, "--output", tmp_path,
                "--codecs", "JPEG", "WebP")
    folder = tmp_path / "face-197x251"
    with open(folder / "codecs" / "JPEG.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["quality"]) for row in rows] == codecs.QUALITIES
    assert all(float(a["bpp"]) < float(b["bpp"]) for a, b in zip(rows, rows[1:]))
    (folder / "mbt2018.csv").write_text("lmbda,run_name,est_bpp,psnr,msssim,actual_bpp,rd_cost\n"
                                        "0.01,a,0.2,20,0.8,0.2,5\n0.02,b,0.3,21,0.85,0.3,6\n")
    run_results("table1.py", "--from-csv", "--output", tmp_path)
    alone = (folder / "rd-psnr.png").read_bytes()
    with open(folder / "table1.csv") as file:
        assert [row["script"] for row in csv.DictReader(file)] == ["mbt2018.py", "JPEG", "WebP"]
    (folder / "codecs" / "JPEG.csv").rename(folder / "JPEG.csv.txt")
    run_results("table1.py", "--from-csv", "--output", tmp_path)
    assert (folder / "rd-psnr.png").read_bytes() != alone


def test_curves_of_other_images_of_the_same_name(tmp_path, capfd):
    """They are neither replaced in part nor drawn in a table of other images."""
    argv = ["--output", str(tmp_path), "--codecs", "JPEG", "--images", str(tmp_path / "x.png")]
    write_image(tmp_path / "x.png", 32, 32)
    codecs.main(argv)
    folder = tmp_path / "x"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_image(tmp_path / "x.png", 32, 48)
    with pytest.raises(SystemExit) as exit_info:
        codecs.main(argv)
    lines = capfd.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and len(lines) == 1 and "codecs: is of other" in lines[0]
    assert {path: path.read_bytes() for path in before} == before
    settings = (folder / "codecs" / "settings.json").read_text()
    curve = "lmbda,run_name,est_bpp,psnr,msssim,actual_bpp,rd_cost\n0.01,a,0.2,20,0.8,0.2,5\n"
    for written, is_drawn in ((settings, True), (settings.replace("x.png", "y.png"), False)):
        (folder / "mbt2018.csv").write_text(curve)
        (folder / "settings.json").write_text(written)
        run_results("table1.py", "--from-csv", "--output", tmp_path)
        assert ("JPEG" in (folder / "table1.md").read_text()) == is_drawn
    (folder / "codecs" / "JPEG.csv").unlink()  # after which nothing is there to keep
    codecs.main(argv)


def test_errors(tmp_path, capfd):
    with pytest.raises(SystemExit) as exit_info:
        codecs.main(["--images", str(tmp_path / "none"), "--output", str(tmp_path)])
    lines = capfd.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and len(lines) == 1 and "none: no such image" in lines[0]


def test_a_codec_that_does_not_take_an_image(tmp_path, capfd):
    """It and the image are named, and the others have their curves."""
    PIL.Image.new("RGB", (16384, 4)).save(str(tmp_path / "wide.png"))  # WebP takes 16383
    with pytest.raises(SystemExit) as exit_info:
        codecs.main(["--images", str(tmp_path / "wide.png"), "--output", str(tmp_path),
                            "--codecs", "WebP", "JPEG"])
    assert exit_info.value.code == 1
    assert "WebP does not take %s, of 4 x 16384 pixels" % (
        tmp_path / "wide.png") in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path / "wide" / "codecs")) == ["JPEG.csv", "settings.json"]


def test_pictures_that_are_reproduced_exactly(tmp_path, capfd):
    """Have no row, as their PSNR is infinite; a note says so, also of rows of a user's CSV."""
    PIL.Image.new("RGB", (64, 64)).save(str(tmp_path / "black.png"))
    codecs.main(["--images", str(tmp_path / "black.png"), "--output", str(tmp_path),
                        "--codecs", "WebP"])
    assert "WebP at quality = 95 is left out" in capfd.readouterr().err
    path = tmp_path / "mine.csv"
    path.write_text("bpp,psnr\n0,20\n0.2,21\n0.3,inf\n0.4,22\nnan,23\n")
    assert list(rd_curves.read_csv(str(path))["bpp"]) == [.2, .4]
    assert "%s: left out are rows without a positive rate and a finite PSNR: 1, 3, 5" % path in (
        capfd.readouterr().err)
