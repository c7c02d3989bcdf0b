"""The records of a data set, held to what was written.

array_record compares checksums of what it reads. The JSON that tells how many records
there are and how they are decoded has none, so its SHA-256 stand in `checksums.json`
beside it; a data set that was written without one is read as it is.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from sid_jax.data.builders import BUILTIN
from sid_jax.errors import InputError
from sid_jax.files import hash_file

SEAL = "checksums.json"
_SEALED = ("dataset_info.json", "features.json", "metadata.json")
_SHOWN = 300  # characters of a library's words, which may hold a stack


def open_records(folder: Path) -> Any:
    """A TFDS builder that reads `NAME/items/VERSION` or `NAME/histories/VERSION`.

    Raises:
      InputError: what is told of the records is damaged.
    """
    with reading_records(folder):
        seal = folder / SEAL
        if seal.exists() and json.loads(seal.read_bytes()) != _digests(folder):
            raise ValueError(f"its JSON is not what {SEAL} was written for")
        return tfds.builder_from_directory(folder)


def read_records(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The metadata of a configuration, and all of its records by their row.

    Raises:
      InputError: it is damaged.
    """
    builder = open_records(folder)
    with reading_records(folder):
        source = builder.as_data_source(split="train")
        # All at once: one by one takes twice as long.
        records = source.__getitems__(list(range(len(source))))
        return builder.info.metadata, sorted(records, key=lambda record: record["row"])


def seal_records(folder: Path) -> None:
    """Writes the checksums of what TFDS has told of the records.

    Raises:
      OSError: it cannot be written.
    """
    (folder / SEAL).write_text(json.dumps(_digests(folder), indent=1) + "\n")


@contextmanager
def reading_records(folder: Path) -> Iterator[None]:
    """Turns what reading a damaged data set raises into an InputError.

    TFDS and its readers raise anything there, by where the damage lies. What says
    nothing of the data set passes: no memory, no right to read, a library that is not
    there.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        absent = isinstance(error, FileNotFoundError)
        if isinstance(error, OSError) and not absent:
            raise
        if isinstance(error, ImportError) and "array_record" in f"{error.name}":
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]
        whole = folder.parents[1]
        fix = (
            f"delete {whole}, and it is built again"
            if whole.name in BUILTIN
            else f"import it again with sid import --name {whole.name}"
        )
        raise InputError(f"data set {folder} is damaged ({told}); {fix}") from error


def _digests(folder: Path) -> dict[str, str]:
    there = (folder / name for name in _SEALED)
    return {path.name: hash_file(path) for path in there if path.is_file()}
