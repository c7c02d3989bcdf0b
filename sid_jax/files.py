"""Files that are whole or absent: write under a temporary name, then rename; and
gzipped ones, which hold no bomb.
"""

import glob
import gzip
import hashlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from sid_jax.errors import InputError, UnwrittenError

CHECKSUM = "checksum"
"""The field of a JSON file that holds the SHA-256 of the others."""

_PARTIAL, _BEFORE = ".partial", "before"
_RATIO = 200  # of what a gzip holds to its size, at most; text packs far less
_ROOM = 1 << 26  # bytes that it may hold in any case


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` on success.

    Works for a file and for a folder. If the block raises, `path` is untouched and
    what was written is removed. So is what processes of this machine left of it that
    were killed while they wrote.

    Raises:
      UnwrittenError: the disk is full, or nothing may be written there.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = path.with_name(_hide(path, os.getpid()))
        aside = path.with_name(_hide(path, os.getpid(), _BEFORE))
        try:
            yield temporary
            if path.is_dir():  # nothing can be renamed over one
                path.rename(aside)
            try:
                os.replace(temporary, path)
            except OSError:
                if aside.exists():
                    aside.rename(path)
                raise
        finally:
            _remove(temporary)
            _remove(aside)


@contextmanager
def assembling(folder: str | Path) -> Iterator[Path]:
    """Yields a new folder within `folder`; on success its files move out, beside it.

    If the block raises, none of them does, and what was written is removed, as in
    `replacing`.

    Raises:
      UnwrittenError: the disk is full, or nothing may be written there.
    """
    folder = Path(folder)
    place = folder / "files"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        temporary = folder / _hide(place, os.getpid())
        try:
            temporary.mkdir()
            yield temporary
            for path in sorted(temporary.iterdir()):
                if path.is_file():
                    os.replace(path, folder / path.name)
        finally:
            _remove(temporary)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Has an OSError in the block say that `path` could not be written.

    One that names another file, such as one that is read, stays as it is.

    Raises:
      UnwrittenError: instead.
    """
    try:
        yield
    except UnwrittenError:
        raise
    except OSError as error:
        # Of two names, as a copy gives, the second one is written.
        named = Path(os.fsdecode(error.filename2 or error.filename or path))
        hidden = any(_PARTIAL in part for part in named.parts)
        if not hidden and named not in (path, *path.parents):
            raise
        raise UnwrittenError(
            f"{path}: cannot be written ({error.strerror or error}); make room there "
            "or choose a place that may be written to, and run again"
        ) from error


@contextmanager
def unpacking(path: str | Path) -> Iterator[BinaryIO]:
    """Yields the bytes of a file as they were before it was gzipped, if it was.

    Raises:
      InputError: it cannot be read, is a truncated or damaged gzip, or one that unpacks
        to so much more than its size that it is meant to fill the memory.
    """
    path = Path(path)
    try:
        file = path.open("rb")
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        try:
            yield BufferedReader(_Bounded(path, file), 1 << 20) if gzipped else file
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{path}: truncated or damaged gzip ({error}); copy or pack it again"
            ) from None


class _Bounded(RawIOBase):
    """What a gzip holds, so far as it is no bomb."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, gzip.GzipFile(fileobj=file)
        self._left = _ROOM + _RATIO * path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = self._file.readinto(buffer)
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{self._path}: unpacks to more than {_RATIO} times its size; if that "
                "is meant, unpack it first"
            )
        return size


def hash_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Writes a JSON object with a checksum of what it says; whole, or not at all."""
    sealed = {**fields, CHECKSUM: _digest(fields)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sealed, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """What a JSON file says; of an object with a checksum, the fields beside it.

    Raises:
      InputError: no such file, no JSON, or other fields than were written.
    """
    try:
        plain = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if isinstance(plain, dict) and CHECKSUM in plain:
        told = plain.pop(CHECKSUM)
        if told != _digest(plain):
            raise InputError(
                f"{path}: not what was written (its {CHECKSUM} differs); if it was "
                f"changed on purpose, take the {CHECKSUM} out"
            )
    return plain


def _hide(path: Path, process: int | str, kind: str = "") -> str:
    """A hidden name that no other process uses, also where machines share a folder."""
    # The suffix stays last: writers choose a format by it.
    place = f"{platform.node()}.{process}" + (f".{kind}" if kind else "")
    return f".{path.stem}.{place}{_PARTIAL}{path.suffix}"


def _sweep(path: Path) -> None:
    """Removes what processes of this machine left that live no longer, and this one.

    A folder that one had put aside, and put no other in its place, stands there again.
    """
    start, end = _hide(path, "\0").split("\0")
    for left in path.parent.glob(glob.escape(start) + "*"):
        process, _, kind = left.name.removeprefix(start).partition(".")
        if not (left.name.endswith(end) and process.isdecimal()):
            continue
        if not _is_over(int(process)):
            continue
        if kind.startswith(_BEFORE) and not path.exists():
            left.rename(path)
        else:
            _remove(left)


def _is_over(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it lives, and is another user's
    return False


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
