"""An item index as a file: the arrays as an `.npz`."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.index import ItemIndex
from sid_jax.sids.mapped import map_npz, save_npz
from sid_jax.typing import NDArray

_ARRAYS = ("leaves", "starts", "items", "sales")
_COLUMN = "column."


def save_index(path: str | Path, index: ItemIndex) -> None:
    """Writes the arrays as an `.npz`."""
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    arrays |= {f"{_COLUMN}{name}": each for name, each in index.columns.items()}
    save_npz(path, arrays)


def load_index(path: str | Path, *, mapped: bool = False) -> ItemIndex:
    """Reads what `save_index` wrote.

    Args:
      path: the file.
      mapped: its arrays stay in the file until they are touched (see `mapped.py`).

    Raises:
      InputError: an absent, damaged or other file.
    """
    try:
        with _open(path, mapped) as arrays:
            names = set(arrays)
            columns = sorted(name for name in names if name.startswith(_COLUMN))
            if names - set(columns) != set(_ARRAYS):
                raise InputError(f"{path} is no item index; it holds {sorted(names)}")
            told = {name.removeprefix(_COLUMN): arrays[name] for name in columns}
            return ItemIndex(**{name: arrays[name] for name in _ARRAYS}, columns=told)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an item index: {error}") from error


@contextmanager
def _open(path: str | Path, mapped: bool) -> Iterator[Mapping[str, NDArray]]:
    if mapped:
        yield map_npz(path)
        return
    with Path(path).open("rb") as raw:
        arrays = np.load(raw, allow_pickle=False)
        if not isinstance(arrays, Mapping):
            raise ValueError("it is one array, and no .npz")
        yield arrays
