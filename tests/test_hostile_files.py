"""Damaged files, and files of strangers, whose checksums are right: an error or the picture."""

import functools
import itertools
import os
import random
import resource
import struct

import numpy as np
import pytest
import tf_boilerplate as nic
from plumbing import basics, fileformat, machine, runs
import tensorflow.compat.v1 as tf

from conftest import ORIGINAL, WRITERS, decompress

# What is made from the model alone is kept, as most of the time goes there.
KEPT = [(module, name, functools.lru_cache(maxsize=None)(function)) for module, name, function in (
    (runs, "read_run", runs.read_run), (nic, "kept_decoder", nic.kept_decoder.__wrapped__),
    (nic, "kept_range_coder", nic.kept_range_coder.__wrapped__))]


@pytest.fixture
def survives(tmp_path, capfd, monkeypatch):
    """Function: decode, to None after the one-line error, else to pixels.

    Only success writes anything. Nothing takes a gigabyte.
    """
    for module, name, function in KEPT:
        monkeypatch.setattr(module, name, function)
    require_memory = machine.require_memory

    def require_little(*args):
        with monkeypatch.context() as patch:
            patch.setattr(machine, "available_memory", lambda: 1e9)
            require_memory(*args)
    monkeypatch.setattr(machine, "require_memory", require_little)
    outputs = tmp_path / "out.npy", tmp_path / "bits"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def decode(name, content, initial_bits=False):
        script, _ = WRITERS[name]
        (tmp_path / "file").write_bytes(content)
        for path in filter(os.path.exists, map(str, outputs)):
            os.remove(path)
        capfd.readouterr()
        try:
            return decompress(script, tmp_path / "file", outputs[0], *(
                ("--initial_bits", outputs[1]) if initial_bits else ()))
        except SystemExit as error:
            lines = [line for line in capfd.readouterr().err.splitlines()
                     if not line.startswith("note: ")]
            assert error.code == 2 and len(lines) == 1, lines
            assert lines[0].startswith(script + ".py: error: ") and lines[0].isprintable()
            assert os.listdir(str(tmp_path)) == ["file"]
    yield decode
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 10 ** 6  # kB


# ------------------------------------------------------------------------ damage

def damaged(rng, content, other):
    """Truncated, with flipped bits, with a piece cut out, overwritten, or spliced with another."""
    content, i, j = bytearray(content), rng.randrange(len(content)), rng.randrange(len(content))
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(content[:i])
    if kind == 1:
        for _ in range(rng.choice([1, 2, 50])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del content[min(i, j):max(i, j) + 1]
    elif kind == 3:
        content[i:i + 20] = bytes(rng.randrange(256) for _ in range(20))
    else:
        return bytes(content[:i]) + other[j % len(other):]
    return bytes(content)


@pytest.mark.parametrize("name", WRITERS)
def test_damage_is_noticed(name, files, survives):
    """Of 1 000 damaged files in all, each ends in the error or in the right picture."""
    rng = random.Random(name)
    others = [other.content for other in files.values()]
    noticed = 0
    for _ in range(250):
        content = damaged(rng, files[name].content, rng.choice(others))
        decoded = survives(name, content)
        noticed += decoded is None
        if name != "tfci":
            assert (decoded is None) == (content != files[name].content)
        assert decoded is None or np.array_equal(decoded, files[name].pixels)
    assert noticed > 220  # what a protobuf of a .tfci says may come in other bytes, too


def test_damaged_files_of_the_original_neither_crash_nor_hang(survives):
    """They can't be checked: an error or some picture."""
    rng = random.Random(0)
    with open(ORIGINAL, "rb") as file:
        content = file.read()
    for _ in range(40):
        survives("tfci", damaged(rng, content, content))


# ------------------------------------------------------------------------ .iinc of strangers

def fields_of(content):
    """Bytes of each field of an .iinc, in order, without the checksum of them all."""
    sizes = dict(magic=4, version=1, kind=1, model=8, latents=8, length=1, names=content[30],
                 num_imgs=4, height=2, width=2, y_low=2, y_high=2, z_low=2, z_high=2, offsets=2)
    if content[13] == fileformat.KINDS.index("bits-back"):
        sizes.update(its=4, lr=4, seed=4, payload=4)
    ends = list(itertools.accumulate([8] + list(sizes.values())))
    fields = {name: content[start:end] for name, start, end in zip(sizes, ends, ends[1:])}
    return dict(fields, words=content[ends[-1]:])


def with_checksum(fields):
    content = b"".join(fields.values())
    return basics.digest(content) + content


def packed(kind, *values):
    return [struct.pack("<" + kind, value) for value in values]


def hostile_fields(fields):
    """Dicts of other fields, mostly a single one."""
    names, words = fields["names"], fields["words"]
    shorts = packed("h", -2 ** 15, -2 ** 15 + 1, -1, 0, 1, 2 ** 15 - 1)
    values = dict(
        magic=[b"iinC", bytes(4)], version=packed("B", 0, 1, 3, 255),
        kind=packed("B", 0, 1, 2, 3, 255), model=[bytes(8)], latents=[bytes(8)],
        length=packed("B", 0, 1, len(names) + 1, 255),
        num_imgs=packed("I", 0, 1, 3, 1000, 2 ** 28, 2 ** 31, 2 ** 32 - 1),
        height=packed("H", 0, 65535), width=packed("H", 0, 65535),
        y_low=shorts, y_high=shorts, z_low=shorts, z_high=shorts,
        offsets=[b"", b"\0", bytes(3), b"\xff\xff"],
        its=packed("I", 0, 1, 3, fileformat.MAX_ITS + 1, 2 ** 31, 2 ** 32 - 1),
        lr=packed("f", *map(float, ("nan", "inf", "-inf", "-1", "-1e-45", "0", "1e6", "3e38"))),
        seed=packed("I", 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1),
        payload=packed("I", 1, 400, 2 ** 32 - 1),
        words=[b"", b"\1", b"\0\0\0\1", bytes(400), b"\xff" * 400, words + b"\1", words + bytes(4),
               words[:-1], words[:-4], words[4:], words[::-1], words + words])
    for name in fields:
        yield from ({name: value} for value in values.get(name, []))
    for name in (b"", b" ", b"\n\n", b"\xff" * 20, b"\x1b[2J \x1b[2J", "sga ä\u2028b".encode(),
                 names + b"x", names[:-1], b"x" * 255):
        yield dict(length=packed("B", len(name))[0], names=name)
    for sides in ((65535, 65535), (65535, 4096), (16384, 16384), (8192, 8192), (65535, 1)):
        yield dict(zip(("height", "width"), packed("H", *sides)))
    for low, high in ((-2 ** 15 + 1, 2 ** 15 - 1), (5, 4), (5, 5), (-1, 0),
                      (2 ** 15 - 2, 2 ** 15 - 1), (0, fileformat.MAX_Z_VALUES - 1),
                      (0, fileformat.MAX_Z_VALUES)):
        for axis in "yz":
            yield dict(zip((axis + "_low", axis + "_high"), packed("h", low, high)))
    if "payload" in fields:
        for size, payload in ((4, b""), (4, bytes(4)), (2 ** 32 - 1, b"")):
            yield dict(payload=packed("I", size)[0] + basics.digest(payload))
            yield dict(payload=packed("I", size)[0] + basics.digest(payload), words=words[::-1])


@pytest.mark.parametrize("name", ["centred", "integer", "bits-back"])
def test_hostile_iinc(name, files, survives):
    fields = fields_of(files[name].content)
    assert with_checksum(fields) == files[name].content
    for changed in hostile_fields(fields):
        decoded = survives(name, with_checksum(dict(fields, **changed)))
        assert decoded is None or np.array_equal(decoded, files[name].pixels), changed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["centred", "integer", "bits-back"])
def test_hostile_iinc_with_the_checksum_of_its_latents(name, files, survives, monkeypatch):
    """Its author can have decoded it before: the error or any picture."""
    fields = fields_of(files[name].content)
    monkeypatch.setattr(fileformat, "digest_symbols", lambda images: fields["latents"])
    pictures = [survives(name, with_checksum(dict(fields, **changed)), initial_bits)
                for changed in hostile_fields(fields)
                for initial_bits in (False, True)[:1 + (name == "bits-back")]]
    assert sum(picture is not None for picture in pictures) > 10


@pytest.mark.parametrize("name", ["centred", "integer", "bits-back"])
def test_short_iinc(name, files, survives):
    """Every length up to the coder's words, and some more."""
    fields = fields_of(files[name].content)
    content = b"".join(fields.values())
    start = len(content) - len(fields["words"])
    for size in list(range(start + 9)) + list(range(start + 9, len(content), 41)):
        assert survives(name, basics.digest(content[:size]) + content[:size]) is None


# ------------------------------------------------------------------------ .tfci of strangers

def example_of(content, changed, header=None):
    """A .tfci with other features, and with a right checksum.

    changed: dict of lists, or None to leave a feature out. header: function of the header's fields
    to others, or None for a file without a header, as the original's.
    """
    example = tf.train.Example.FromString(content)
    feature = example.features.feature
    packed_header = b"".join(feature.pop("header").bytes_list.value)
    for name, values in changed.items():
        feature.pop(name, None)
        if values is not None:
            kind = ("bytes_list" if not values or isinstance(values[0], bytes) else
                    "int64_list" if isinstance(values[0], int) else "float_list")
            getattr(feature[name], kind).value[:] = values
    if header:
        rest = header(packed_header[8:])
        checksum = basics.digest(rest, example.SerializeToString(deterministic=True))
        feature["header"].bytes_list.value[:] = [checksum, rest]
    else:
        feature.pop("MD", None)
    return example.SerializeToString(deterministic=True)


def hostile_features():
    """Dicts of other features of a file of two images of 80 x 64."""
    rng = random.Random(0)
    noise = [bytes(rng.randrange(256) for _ in range(size)) for size in (1, 10, 500, 500, 500)]
    strings = [[], [b""], [b""] * 2, [b""] * 3, [b"\0" * 1000] * 2, [b"\xff" * 1000] * 2, [1, 2],
               None] + [[string] * 2 for string in noise]
    shapes = [[], [2], [2, 2, 2], [0, 0], [-1, 64], [80, -64], [2 ** 62, 2 ** 62], [65535, 65535],
              [65536, 1], [5, 4], [2, 1], [79, 64], [80, 65], [b"80", b"64"], [80., 64.], None]
    for name in fileformat.TFCI_FEATURES:
        yield from ({name: values} for values in (strings if name < "\3" else shapes))
    for strings in ([b""] * 2, [b"\xff" * 1000] * 2) + tuple([string] * 2 for string in noise):
        yield dict(zip(fileformat.TFCI_FEATURES, (strings, strings)))
    for size in ((65535, 4096), (16384, 16384), (8192, 8192), (1, 1), (2 ** 40, 16), (-80, -64)):
        yield dict(zip(fileformat.TFCI_FEATURES[2:], map(list, fileformat.latent_shapes(*size))))
    for offsets in ([b""], [b"\0"], [bytes(3)], [bytes(1000)], [1, 2]):
        yield dict(offsets=offsets)


def test_hostile_tfci(files, survives):
    content, expected = files["tfci"].content, files["tfci"].pixels
    for changed in hostile_features():
        decoded = survives("tfci", example_of(content, changed, lambda header: header))
        assert decoded is None or np.array_equal(decoded, expected[:, :decoded.shape[1]]), changed


@pytest.mark.slow
def test_hostile_tfci_with_the_checksum_of_its_latents(files, survives, monkeypatch):
    """Or without a header, as the original's: the error or any picture."""
    content = files["tfci"].content
    latents = fileformat.unpack(content)[0].symbols
    monkeypatch.setattr(fileformat, "digest_symbols", lambda images: latents)
    for changed in hostile_features():
        survives("tfci", example_of(content, changed, lambda header: header))
        survives("tfci", example_of(content, changed))


def test_hostile_headers_of_tfci(files, survives):
    """What is not the model's is refused; what only informs may be anything or missing."""
    content, expected = files["tfci"].content, files["tfci"].pixels
    for start, values in ((0, [b"iinC"]), (4, [b"\0", b"\1", b"\3"]),
                          (5, [b"\1", b"\2", b"\3", b"\xff"]), (6, [bytes(8)]),
                          (14, [bytes(8)])):
        for value in values:
            replaced = lambda header: header[:start] + value + header[start + len(value):]
            assert survives("tfci", example_of(content, {}, replaced)) is None
    for header in (lambda h: b"", lambda h: h[:10], lambda h: h[:22]):
        assert survives("tfci", example_of(content, {}, header)) is None
    for header in (lambda h: h[:23], lambda h: h[:-1], lambda h: h + b"x"):  # names alone
        np.testing.assert_array_equal(survives("tfci", example_of(content, {}, header)), expected)
    for changed in ({"MD": None}, {"MD": [b"\xff\n\n"]}, {"MD": [1]}, {"\6": [b"x"]},
                    {"offsets": [b"\0", b"\0"]}):
        np.testing.assert_array_equal(
            survives("tfci", example_of(content, changed, lambda header: header)), expected)
    moved = survives("tfci", example_of(content, {"offsets": [b"\xff\1"]}, lambda header: header))
    assert abs(np.int32(moved) - expected).max() <= 1
