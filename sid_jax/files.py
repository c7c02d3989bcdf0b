"""Files that are whole or absent: write under a temporary name, then rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sid_jax.errors import InputError

CHECKSUM = "checksum"
"""The field of a JSON file that holds the SHA-256 of the others."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` on success.

    Works for a file and for a folder. If the block raises, `path` is untouched and
    what was written is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers choose a format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


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


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
