"""Images and .npy: what is read, what is found in folders and globs, and what is refused."""

import os
import shutil
import struct
import zlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from plumbing import basics, image_files
from conftest import (BASE_RUN, CHECKPOINTS, GOLDEN, KINDS, NPY, ROOT, TINY, compress, run, run_of,
                      write_image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_modes_are_converted(mode, tmp_path, capfd):
    suffix = ".tif" if mode == "CMYK" else ".png"
    image = write_image(tmp_path / ("image" + suffix), 40, 50, mode)
    with PIL.Image.open(image) as opened:
        reference = tmp_path / "reference.png"
        opened.convert("RGB").save(reference)
    expected = compress("mbt2018", tmp_path, reference)
    capfd.readouterr()
    results = compress("mbt2018", tmp_path, image)
    assert results["mse"] == expected["mse"]
    assert ("alpha channel dropped" in capfd.readouterr().err) == (mode in ("RGBA", "LA"))


def found_in(imgs):
    """Names of the files that compress finds, and reads."""
    _, paths, _ = image_files.find_images(str(imgs))
    assert all(image_files.read_images(path).dtype == np.uint8 for path in paths)
    return [os.path.basename(path) for path in paths]


def test_exif_rotation_is_not_applied(tmp_path):
    image = PIL.Image.new("RGB", (64, 48))
    exif = image.getexif()
    exif[0x112] = 6  # orientation: a quarter turn
    image.save(tmp_path / "x.jpg", exif=exif)
    assert image_files.read_image(str(tmp_path / "x.jpg")).shape == (48, 64, 3)


def test_files_that_pillow_does_not_read_are_named(folder, fails, capfd):
    (folder / "c.heic").write_bytes(b"\0\0\0\x1cftypheic")
    write_image(folder / "d.avif", 40, 40)
    for name in ("weights.h5", "figure.eps"):  # which Pillow lists among its formats
        (folder / name).write_text("no image")
    assert found_in(folder) == ["a.jpg", "b.png", "d.avif"]
    error = capfd.readouterr().err
    assert "files in %s are skipped" % folder in error
    assert "c.heic" in error and "pillow-heif" in error
    assert "pillow-heif" in fails("mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN,
                                  folder / "c.heic")


def test_decoded_pictures_and_later_frames_are_left_out(folder, capfd):
    shutil.copy(folder / "b.png", folder / "b.png.iinc.png")
    frames = [PIL.Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "c.gif", save_all=True, append_images=frames[1:])
    PIL.Image.new("LAB", (40, 40)).save(folder / "d.tif")
    assert found_in(folder) == ["a.jpg", "b.png", "c.gif", "d.tif"]
    error = capfd.readouterr().err
    assert "1 of 5 images of %s are skipped" % folder in error and "first of 2 frames" in error
    assert "alpha" not in error
    assert found_in(folder / "*.iinc.png") == ["b.png.iinc.png"]


def test_names_that_would_collide(folder, tmp_path, fails):
    (tmp_path / "other").mkdir()
    write_image(tmp_path / "other" / "b.png", 32, 32)
    compress_glob = ["mbt2018", "--checkpoint_dir", CHECKPOINTS, "compress", BASE_RUN]
    assert "collide" in fails(*compress_glob, tmp_path / "*" / "b.png", "--results_dir", tmp_path)
    os.rename(tmp_path / "other" / "b.png", tmp_path / "other" / "c.png")
    run(*compress_glob, tmp_path / "*" / "*.png", "--results_dir", tmp_path / "results")
    assert any(name.endswith("file=%s.npz" % tmp_path.name)
               for name in os.listdir(tmp_path / "results"))


def bad_images(tmp_path):
    """(path, what the message must say) of every kind of unusable input."""
    def npy(name, array):
        np.save(str(tmp_path / name), array)
        return tmp_path / name
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    PIL.Image.fromarray(deep).save(str(tmp_path / "deep.png"))
    PIL.Image.fromarray(deep.astype(np.float32)).save(str(tmp_path / "float.tif"))
    PIL.Image.fromarray(deep.astype(np.int32)).save(str(tmp_path / "int.tif"))
    write_16_bit_rgb(tmp_path / "deep_rgb.png")
    shutil.copy(os.path.join(GOLDEN, "images", "face-16x16-10bit.avif"), str(tmp_path))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(open(TINY, "rb").read()[:3000])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes(open(NPY, "rb").read()[:5000])
    (tmp_path / "empty folder").mkdir()
    np.savez(str(tmp_path / "zip.npz"), x=np.zeros(3))
    os.rename(tmp_path / "zip.npz", tmp_path / "zip.npy")
    header = open(NPY, "rb").read(128).replace(b"}", b" ")
    (tmp_path / "header.npy").write_bytes(header)
    np.save(str(tmp_path / "object.npy"), np.array([{}], dtype=object), allow_pickle=True)
    yield tmp_path / "missing.png", "missing.png"
    for name in ("deep.png", "float.tif", "int.tif", "deep_rgb.png", "face-16x16-10bit.avif"):
        yield tmp_path / name, "more than 8 bits per channel"
    for name in ("text.png", "cut.png", "empty.png", "cut.npy", "object.npy", "zip.npy",
                 "header.npy"):
        yield tmp_path / name, "not a readable"
    yield npy("float.npy", np.zeros((1, 64, 64, 3), np.float32)), "uint8 (num_imgs, H, W, 3)"
    yield npy("grey.npy", np.zeros((1, 64, 64), np.uint8)), "uint8 (num_imgs, H, W, 3)"
    yield npy("rgba.npy", np.zeros((1, 64, 64, 4), np.uint8)), "uint8 (num_imgs, H, W, 3)"
    yield npy("none.npy", np.zeros((0, 64, 64, 3), np.uint8)), "(0, 64, 64, 3)"
    yield npy("wide.npy", np.zeros((1, 1, 65536, 3), np.uint8)), "sides under 65536"
    yield tmp_path / "empty folder", "no image"
    yield tmp_path / "*.bmp", "no image"


def write_16_bit_rgb(path):
    """A 2 x 2 PNG of 16 bits per channel, which PIL can read but not write."""

    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    path.write_bytes(b"\x89PNG\r\n\x1a\n"
                     + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("suffix", [".ppm", ".sgi", ".jp2", ".png", ".avif"])
def test_depths(suffix, tmp_path):
    """Files of 8 bits per channel are read, of more refused, also where PIL would reduce them."""
    image = write_image(tmp_path / ("8" + suffix), 16, 16)
    assert image_files.read_image(str(image)).shape == (16, 16, 3)
    deep, content = tmp_path / ("16" + suffix), image.read_bytes()
    if suffix == ".ppm":
        deep.write_bytes(b"P6 2 1 1023\n" + bytes(12))
    elif suffix == ".sgi":
        with PIL.Image.open(image) as opened:
            opened.save(deep, bpc=2)
    elif suffix == ".jp2":
        place = content.index(b"\xff\x4f\xff\x51") + 42
        deep.write_bytes(content[:place] + b"\x09" + content[place + 1:])
    elif suffix == ".png":
        write_16_bit_rgb(deep)
    else:
        shutil.copy(os.path.join(GOLDEN, "images", "face-16x16-10bit.avif"), str(deep))
    with pytest.raises(basics.UserError, match="more than 8 bits per channel"):
        image_files.read_image(str(deep))


@pytest.mark.parametrize("num_bytes", [60000, 70000, 3000000])
@pytest.mark.parametrize("suffix", [".jp2", ".avif"])
def test_depths_behind_metadata(suffix, num_bytes, tmp_path):
    """Boxes are read wherever they stand, also with a length of 8 bytes; as raw code streams."""
    test_depths(suffix, tmp_path)
    deep = tmp_path / ("16" + suffix)
    content = deep.read_bytes()
    first = struct.unpack(">I", content[:4])[0]
    if suffix == ".jp2":  # after the signature and ftyp
        first += struct.unpack(">I", content[first:first + 4])[0]
    for box in (struct.pack(">I4s", num_bytes, b"free") + bytes(num_bytes - 8),
                struct.pack(">I4sQ", 1, b"free", num_bytes) + bytes(num_bytes - 16)):
        deep.write_bytes(content[:first] + box + content[first:])
        with pytest.raises(basics.UserError, match="more than 8 bits per channel"):
            with open(deep, "rb") as file:
                is_deep = (image_files._is_deep_avif if suffix == ".avif"
                           else image_files._is_deep_jpeg_2000)
                assert is_deep(file)
            image_files.read_image(str(deep))
    if suffix == ".jp2":
        deep.write_bytes(content[content.index(b"\xff\x4f\xff\x51"):])
        with pytest.raises(basics.UserError, match="more than 8 bits per channel"):
            image_files.read_image(str(deep))


@pytest.mark.parametrize("script", KINDS)
def test_bad_images(script, tmp_path, fails):
    for path, message in bad_images(tmp_path):
        line = fails(script, "--checkpoint_dir", CHECKPOINTS, "compress", run_of(script), path,
                     "--results_dir", tmp_path / "results")
        assert message in line and path.name in line, (path, line)
    assert not list((tmp_path / "results").glob("*")) if (tmp_path / "results").exists() else True


def test_links_to_nothing_are_named(folder, capfd):
    """As git-annex leaves them; in a folder as in a glob."""
    (folder / "gone.png").symlink_to(folder / "elsewhere.png")
    for imgs in (folder, folder / "*g"):
        assert found_in(imgs) == ["a.jpg", "b.png"]
        error = capfd.readouterr().err
        assert "1 files of %s are skipped" % imgs in error and "gone.png" in error
        basics.print_note.cache_clear()


def test_two_stars_recurse(folder):
    (folder / "deep" / "deeper").mkdir(parents=True)
    write_image(folder / "deep" / "deeper" / "c.png", 32, 32)
    assert found_in(folder / "**" / "*.png") == ["b.png", "c.png"]


def test_large_images_need_no_warning(tmp_path):
    """With a line of Pillow's source; whether they fit is asked of the memory."""
    PIL.Image.new("L", (12000, 10000)).save(str(tmp_path / "large.png"))
    code = "import sys; sys.path.insert(0, %r); from plumbing import image_files; " % ROOT
    code += "print(image_files.read_images(%r).shape)" % str(tmp_path / "large.png")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=True)
    assert done.stdout == b"(1, 10000, 12000, 3)\n" and not done.stderr
