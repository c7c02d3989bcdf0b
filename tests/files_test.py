"""Files are whole or absent, also where the disk is full or a process was killed."""

import os
import platform
import resource
import shutil
from contextlib import contextmanager

import pytest

from sid_jax.errors import UnwrittenError
from sid_jax.files import assembling, replacing, writing

DEAD = 2**22 + 1  # no process has such a number


@contextmanager
def full_disk(size=0):
    """No file may grow past so many bytes (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path, text="new", fail=None):
    with replacing(path) as temporary:
        if path.suffix:
            temporary.write_text(text)
        else:
            temporary.mkdir()
            (temporary / "part").write_text(text)
        if fail:
            raise fail


def read(path):
    return (path if path.suffix else path / "part").read_text()


@pytest.fixture(params=["file.txt", "folder"])
def path(request, tmp_path):
    return tmp_path / "in" / request.param


def test_what_is_written_is_there_whole_and_alone(path):
    write(path, "old")
    write(path)
    assert read(path) == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(path):
    write(path, "old")
    with pytest.raises(KeyError):
        write(path, fail=KeyError())
    with full_disk(), pytest.raises(UnwrittenError, match="make room") as told:
        write(path)
    assert str(told.value).startswith(f"{path}: cannot be written (File too large)")
    assert read(path) == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_swap_that_fails_leaves_what_was_there(path, monkeypatch):
    write(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(UnwrittenError, match=r"cannot be written \(no\)"):
        write(path)
    assert read(path) == "old"
    assert list(path.parent.iterdir()) == [path]


def test_what_killed_processes_left_is_removed_and_no_more(path):
    path.parent.mkdir()

    def leave(place, process, kind=""):
        left = f".{path.stem}.{place}.{process}{kind}.partial{path.suffix}"
        path.with_name(left).write_text("half")
        return left

    leave(platform.node(), DEAD)
    leave(platform.node(), os.getpid())
    stay = {leave(platform.node(), 1), leave("another", DEAD), path.name}
    write(path)
    assert {each.name for each in path.parent.iterdir()} == stay


def test_a_folder_that_was_put_aside_stands_again(tmp_path):
    path = tmp_path / "folder"
    write(path, "old")
    path.rename(tmp_path / f".folder.{platform.node()}.{DEAD}.before.partial")
    with pytest.raises(KeyError):
        write(path, fail=KeyError())
    assert read(path) == "old"


@pytest.mark.parametrize("place", ["items.txt", "items.txt/more"])
def test_a_file_in_place_of_a_folder_is_told(tmp_path, place):
    (tmp_path / "items.txt").write_text("mine")
    path = tmp_path / place / "out.txt"
    with pytest.raises(UnwrittenError, match=r"out\.txt: cannot be written"):
        write(path)
    assert (tmp_path / "items.txt").read_text() == "mine"


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_is_read_only_is_told(path):
    write(path, "old")
    path.parent.chmod(0o500)
    with pytest.raises(UnwrittenError, match=r"Permission denied\); make room"):
        write(path)
    path.parent.chmod(0o700)
    assert read(path) == "old"


def test_an_error_that_names_another_file_stays(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "out.txt"):
        (tmp_path / "items.txt").read_text()
    (tmp_path / "items.txt").write_text("mine")
    with (
        pytest.raises(UnwrittenError, match="File too large"),
        full_disk(2),
        replacing(tmp_path / "out.txt") as temporary,
    ):
        shutil.copyfile(tmp_path / "items.txt", temporary)
    with pytest.raises(UnwrittenError, match="No such file"):
        write(tmp_path / "out.txt", fail=FileNotFoundError(2, "No such file"))


def test_files_are_assembled_together_or_not_at_all(tmp_path):
    out = tmp_path / "in" / "out"
    left = out / f".files.{platform.node()}.{DEAD}.partial"
    left.mkdir(parents=True)  # of a process that was killed
    (out / "mine").write_text("mine")
    (out / "a").write_text("old")

    def write(fail=None):
        with assembling(out) as folder:
            (folder / "a").write_text("new")
            (folder / "scratch").mkdir()
            (folder / "b").write_text("new")
            if fail:
                raise fail

    with pytest.raises(KeyError):
        write(KeyError())
    with full_disk(), pytest.raises(UnwrittenError, match=f"{out}: cannot be written"):
        write()
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "mine": "mine",
        "a": "old",
    }
    write()
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "mine": "mine",
        "a": "new",
        "b": "new",
    }
    there = pytest.raises(UnwrittenError, match="mine/out: cannot be written")
    with there, assembling(out / "mine" / "out"):
        raise AssertionError("not reached")
