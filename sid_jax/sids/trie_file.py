"""A trie as a file, whose arrays are mapped when it is read."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.mapped import map_npz, save_npz
from sid_jax.sids.trie import Trie, code_dtype

_TOLD = ("codebook_sizes", "max_slots", "tail", "dense")


def save_trie(path: str | Path, trie: Trie) -> None:
    """Writes the arrays as an `.npz`."""
    arrays: dict[str, Any] = {name: getattr(trie, name) for name in _TOLD}
    for name in ("tokens", "bounds"):
        for level, each in enumerate(getattr(trie, name)):
            arrays[f"{name}.{level}"] = each
    save_npz(path, arrays)


def load_trie(path: str | Path, *, check: bool = True) -> Trie:
    """Maps what `save_trie` wrote: NumPy arrays, which `jax.device_put` brings over.

    Names, types and lengths are checked.

    Args:
      path: the file.
      check: read it once as a whole, to compare checksums (see `mapped.py`).

    Raises:
      InputError: an absent file, another one, or one whose parts do not fit together.
    """
    arrays: dict[str, Any] = dict(map_npz(path, check=check))
    told = [arrays.pop(name, np.empty(0)) for name in _TOLD]
    sizes, slots, tail, dense = (each.reshape(-1).tolist() for each in told)
    whole = all(each.dtype.kind == "i" for each in told)
    whole = whole and 0 < len(sizes) == len(slots) and len(tail) == len(dense) == 1
    whole = whole and 0 <= dense[0] <= tail[0] < len(sizes)
    tokens = [f"tokens.{level}" for level in range(len(sizes))]
    bounds = [f"bounds.{level}" for level in range(tail[0] + 1 if whole else 0)]
    if not whole or arrays.keys() != {*tokens, *bounds}:
        found = sorted({re.sub(r"\d+", "N", name) for name in arrays})
        raise InputError(f"{path} is no trie: it holds {found}")
    # What stands at a level: the nodes that the bounds below are of, or the leaves.
    leaves = len(arrays[tokens[-1]]) - slots[-1]
    places = [len(arrays[name]) - 1 for name in bounds[1:]]
    places += [leaves] * (len(sizes) - len(places))
    full = [math.prod(sizes[: level + 1]) for level in range(dense[0])]
    if places[: len(full)] != full or slots[: len(full)] != sizes[: len(full)]:
        raise InputError(f"{path}: dense of the trie is damaged")
    wanted = {
        name: (code_dtype(size), count + most)
        for name, size, count, most in zip(tokens, sizes, places, slots, strict=True)
    }
    wanted |= {
        name: (np.int32, count + 1)
        for name, count in zip(bounds, [1, *places], strict=False)
    }
    for name, (dtype, length) in wanted.items():
        if arrays[name].dtype != dtype or arrays[name].shape != (length,):
            raise InputError(f"{path}: {name} of the trie is damaged")
    if arrays[bounds[-1]][-1] > leaves:
        raise InputError(f"{path}: {tokens[-1]} of the trie is damaged")
    return Trie(
        tokens=tuple(arrays[name] for name in tokens),
        bounds=tuple(arrays[name] for name in bounds),
        codebook_sizes=tuple(sizes),
        max_slots=tuple(slots),
        dense=dense[0],
    )
