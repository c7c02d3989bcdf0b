"""An item index as a file: the arrays as an `.npz`."""

from pathlib import Path

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.index import ItemIndex
from sid_jax.sids.mapped import load_npz, map_npz, save_npz

_ARRAYS = ("leaves", "starts", "items", "sales")
_COLUMN = "column."


def save_index(path: str | Path, index: ItemIndex) -> None:
    """Writes the arrays as an `.npz`."""
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    arrays |= {f"{_COLUMN}{name}": each for name, each in index.columns.items()}
    save_npz(path, arrays)


def load_index(
    path: str | Path, *, mapped: bool = False, check: bool = True
) -> ItemIndex:
    """Reads what `save_index` wrote.

    Args:
      path: the file.
      mapped: its arrays stay in the file until they are touched (see `mapped.py`).
      check: read a file that is mapped once as a whole, to compare checksums.

    Raises:
      InputError: an absent, damaged or other file.
    """
    arrays = map_npz(path, check=check) if mapped else load_npz(path)
    names = set(arrays)
    columns = sorted(name for name in names if name.startswith(_COLUMN))
    if names - set(columns) != set(_ARRAYS):
        raise InputError(f"{path} is no item index; it holds {sorted(names)}")
    told = {name.removeprefix(_COLUMN): arrays[name] for name in columns}
    index = ItemIndex(**{name: arrays[name] for name in _ARRAYS}, columns=told)
    if not _fits(index) or (check and not _is_within(index)):
        raise InputError(f"{path}: the arrays of the index do not fit together")
    return index


def _fits(index: ItemIndex) -> bool:
    kinds = {name: getattr(index, name).dtype for name in _ARRAYS}
    entries = [index.items, index.sales, *index.columns.values()]
    return (
        kinds == {"leaves": "i4", "starts": "i8", "items": "i4", "sales": "f4"}
        and index.leaves.ndim == index.starts.ndim == index.items.ndim == 1
        and {each.shape for each in entries} == {index.items.shape}
        and index.starts[:1].tolist() == [0]
        and index.starts[-1] == len(index.items)
    )


def _is_within(index: ItemIndex) -> bool:
    ends = index.items.min(initial=0), index.items.max(initial=0)
    return bool(
        (np.diff(index.starts) >= 0).all()
        and 0 <= ends[0] <= ends[1] <= max(len(index.leaves) - 1, 0)
        and index.leaves.min(initial=0) >= 0
    )
