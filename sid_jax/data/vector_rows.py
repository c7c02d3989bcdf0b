"""Vectors brought in a file, some rows at a time: it is never held as a whole.

Its rows stand in the order of the items, so that no table of places is needed.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.data.row_groups import read_ranges
from sid_jax.data.vector_files import UNREADABLE, check_vectors, unfold_lists
from sid_jax.errors import InputError
from sid_jax.sids.mapped import map_npz
from sid_jax.typing import Float, NDArray

_BLOCK = 1 << 14  # ids that are read at once


def stream_ids(path: Path) -> Iterator[str]:
    """The ids of a file as `read_vectors` has it, one by one.

    Raises:
      InputError: a bad file.
    """
    ranges = ((start, start + _BLOCK) for start in count(0, _BLOCK))
    beside = path.with_name(f"{path.stem}.ids.txt")
    try:
        if path.suffix == ".parquet":
            for _, table in read_ranges(path, ranges, ["item_id"]):
                yield from map(str, table["item_id"].to_pylist())
        elif path.suffix == ".npy" and beside.is_file():
            with beside.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    yield line.removesuffix("\n")
        else:
            for start, stop in ranges:
                ids = _map(path, "ids")[start:stop]
                if not len(ids):
                    return
                text = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids
                yield from map(str, text.tolist())
    except InputError:
        raise
    except (*UNREADABLE, KeyError) as error:
        raise InputError(f"{path}: its ids cannot be read ({error})") from None


def stream_vectors(
    path: Path, ranges: Iterable[tuple[int, int]]
) -> Iterator[Float[NDArray, "N D"]]:
    """The vectors of each range (first row, row after the last; in order and apart).

    Raises:
      InputError: a bad file, or vectors that are not finite in float32.
    """
    if path.suffix == ".parquet":
        found = (
            (start, unfold_lists(path, table["vector"], start))
            for start, table in read_ranges(path, ranges, ["vector"])
        )
    else:
        # Mapped anew each time, so that what was read leaves memory.
        found = ((start, _map(path, "vectors")[start:stop]) for start, stop in ranges)
    try:
        for start, vectors in found:
            yield check_vectors(path, np.asarray(vectors), start=start)
    except InputError:
        raise
    except (*UNREADABLE, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it again") from None


def _map(path: Path, name: str) -> Any:
    if path.suffix == ".npz":
        return map_npz(path)[name]
    if path.suffix != ".npy":
        raise InputError(f"{path}: vectors come as .npy, .npz, .parquet")
    if name == "ids":
        path = path.with_name(f"{path.stem}_ids.npy")
    return np.load(path, mmap_mode="r", allow_pickle=False)
