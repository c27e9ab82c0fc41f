"""Files that are replaced whole, folders that are written to, checksums, and errors."""

import os
import signal
import stat
import tempfile
import time

import numpy as np
import pytest

from plumbing import basics


@pytest.fixture
def umask():
    """Function: set the umask of this process until the test is over."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with basics.terminable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_usual_mode(mask, mode, tmp_path, umask):
    umask(mask)
    for _ in range(2):
        basics.write_bytes(str(tmp_path / "file"), b"x")
        assert stat.S_IMODE(os.stat(str(tmp_path / "file")).st_mode) == mode


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """Nothing else is left, whatever goes wrong; a path may be relative."""
    monkeypatch.chdir(tmp_path)
    basics.write_bytes("file", b"first")
    for error in (KeyboardInterrupt, OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, OSError)) as raised:
            with basics.replacing("file") as temporary:
                with open(temporary, "wb") as file:
                    file.write(b"half")
                raise error
        assert basics.read_bytes("file") == b"first" and os.listdir(".") == ["file"]
    assert raised.value.filename == "file" and raised.value.errno == 28
    basics.write_bytes("file", b"second")
    assert basics.read_bytes("file") == b"second" and os.listdir(".") == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 242, "x" + "\u6f22" * 84, "\udcff" * 255, "x"],
                         ids=["255", "242", "253 of UTF-8", "255 of no text", "1"])
def test_long_names(name, tmp_path):
    """Of up to 255 bytes, which need not be text."""
    path = os.path.join(str(tmp_path), name)
    basics.require_writable(path)
    basics.write_bytes(path, b"x")
    assert os.listdir(str(tmp_path)) == [name]
    old = abandon(path, 2 * basics.ABANDONED)
    basics.require_writable(path)
    assert not os.path.exists(old)


def test_names_that_are_too_long(tmp_path):
    path = str(tmp_path / ("x" * 256))
    with pytest.raises(OSError) as error:
        basics.require_writable(path)
    assert error.value.filename == path and "too long" in str(error.value)
    assert os.listdir(str(tmp_path)) == []


def abandon(path, seconds):
    """A temporary folder for path, with a file, as a process left it so many seconds ago."""
    parent, prefix = os.path.split(basics.temporary_prefix(path))
    kept = tempfile.mkdtemp(".tmp", prefix, parent)
    open(os.path.join(kept, os.path.basename(path)), "w").close()
    os.utime(kept, (time.time() - seconds,) * 2)
    return kept


def test_what_nobody_has_touched_for_an_hour_is_removed(tmp_path):
    """Of the same target alone, and nothing but what it was to become."""
    path = str(tmp_path / "file")
    old, empty, touched, other, more = (abandon(target, seconds) for target, seconds in (
        (path, 3700), (path, 3700), (path, 3500), (path + ".png", 3700), (path, 3700)))
    os.remove(os.path.join(empty, "file"))
    open(os.path.join(more, "another"), "w").close()
    for folder in (empty, more):
        os.utime(folder, (time.time() - 3700,) * 2)
    os.mkdir(path + ".old.tmp")
    os.utime(path + ".old.tmp", (0, 0))
    basics.require_writable(path)
    assert sorted(os.listdir(str(tmp_path))) == sorted(map(os.path.basename, (
        touched, other, more, path + ".old.tmp")))


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, missing, named in (("file/x", 0, "file"), ("folder", 0, "folder"),
                                 ("a/x", 0, "a"), ("a/b/x", 1, "a"), ("file/a/x", 1, "file")):
        with pytest.raises(OSError) as error:
            basics.require_writable(str(tmp_path / path), missing)
        assert error.value.filename.startswith(str(tmp_path / named))
    basics.require_writable(str(tmp_path / "a" / "b" / "x"), missing=2)
    assert os.listdir(str(tmp_path / "a" / "b")) == []


def test_checksums_depend_on_types_and_shapes():
    array = np.arange(6, dtype=np.uint8)
    others = [array.reshape(2, 3), array.astype(np.int8), array.astype(">u2"), array.tobytes()]
    assert len({basics.digest(chunk) for chunk in [array, *others]}) == 5
    assert basics.digest(b"ab", b"c") == basics.digest(b"abc") and len(basics.digest()) == 8
    columns = np.arange(6).reshape(2, 3).T
    assert basics.digest(columns) == basics.digest(columns.copy())


def test_errors_and_notes(capfd):
    assert basics.bounded("it", 3, 3, 4) == 3
    for value in (2.9, 4.1, np.nan):
        with pytest.raises(basics.UserError, match="it is"):
            basics.bounded("it", value, 3, 4)
    with pytest.raises(basics.UserError, match="^path: it is 5; accepted are 3 to 4$"):
        with basics.errors_of("path"):
            basics.bounded("it", 5, 3, 4)
    for message in ("a", "b", "a"):
        basics.note(message)
    assert capfd.readouterr().err == "note: a\nnote: b\n"


def test_what_is_there_stays_unless_it_is_the_same(tmp_path):
    path = str(tmp_path / "file")
    basics.require_unchanged(path, lambda: False)
    basics.write_bytes(path, b"x")
    basics.require_unchanged(path, lambda: True)

    def damaged():
        raise basics.UserError("damaged")
    for is_same in (lambda: False, damaged):
        with pytest.raises(basics.UserError, match="--force replaces it"):
            basics.require_unchanged(path, is_same)


def test_lines_do_nothing_to_a_terminal(capfd):
    for tell in (basics.note, basics.print_line):
        tell("a \x1b[31mred\x1b[0m\nname")
    assert capfd.readouterr() == ("a ?[31mred?[0m name\n", "note: a ?[31mred?[0m name\n")


def test_inputs_and_outputs_are_different_files(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    basics.require_distinct(str(tmp_path / "a"), "", "", str(tmp_path / "b"))
    for other in (tmp_path / "a", tmp_path / "link", tmp_path / "." / "a"):
        with pytest.raises(basics.UserError, match="different files"):
            basics.require_distinct(str(tmp_path / "a"), str(other))
