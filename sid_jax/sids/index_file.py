"""An item index as a file: the arrays as an `.npz`."""

import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.sids.index import ItemIndex
from sid_jax.sids.mapped import map_npz

_ARRAYS = ("leaves", "starts", "items", "sales")
_COLUMN = "column."


def save_index(path: str | Path, index: ItemIndex) -> None:
    """Writes the arrays as an `.npz`."""
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    arrays |= {f"{_COLUMN}{name}": each for name, each in index.columns.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_index(path: str | Path, *, mapped: bool = False) -> ItemIndex:
    """Reads what `save_index` wrote.

    Args:
      path: the file.
      mapped: its arrays stay in the file until they are touched (see `mapped.py`).

    Raises:
      InputError: an absent, damaged or other file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
        named = {name.removesuffix(".npy") for name in names}
        columns = sorted(name for name in named if name.startswith(_COLUMN))
        if named - set(columns) != set(_ARRAYS):
            raise InputError(f"{path} is no item index; it holds {sorted(names)}")
        with _open(path, mapped) as arrays:
            told = {name.removeprefix(_COLUMN): arrays[name] for name in columns}
            return ItemIndex(**{name: arrays[name] for name in _ARRAYS}, columns=told)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an item index: {error}") from error


def _open(path: str | Path, mapped: bool) -> AbstractContextManager[Any]:
    if mapped:
        return nullcontext(map_npz(path))
    return np.load(path, allow_pickle=False)
