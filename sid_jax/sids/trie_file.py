"""A trie as a file, whose arrays are mapped when it is read."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.sids.mapped import map_npz
from sid_jax.sids.trie import Trie

_TOLD = ("codebook_sizes", "max_slots", "tail")


def save_trie(path: str | Path, trie: Trie) -> None:
    """Writes the arrays as an `.npz`."""
    arrays: dict[str, Any] = {name: getattr(trie, name) for name in _TOLD}
    for name in ("tokens", "bounds"):
        for level, each in enumerate(getattr(trie, name)):
            arrays[f"{name}.{level}"] = each
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_trie(path: str | Path) -> Trie:
    """Maps what `save_trie` wrote: NumPy arrays, to be given to a jitted search.

    Raises:
      InputError: an absent, damaged or other file.
    """
    arrays: dict[str, Any] = dict(map_npz(path))
    sizes, slots, tail = (
        arrays.pop(n, np.empty(0)).reshape(-1).tolist() for n in _TOLD
    )
    levels = range(len(sizes))
    tokens, bounds = (
        [f"{name}.{n}" for n in number]
        for name, number in (("tokens", levels), ("bounds", range(sum(tail) + 1)))
    )
    if not sizes or len(slots) != len(sizes) or arrays.keys() != {*tokens, *bounds}:
        found = sorted({re.sub(r"\d+", "N", name) for name in arrays})
        raise InputError(f"{path} is no trie: it holds {found}")
    short = [n for n in tokens if len(arrays[n]) <= slots[tokens.index(n)]]
    short += [n for n in bounds if len(arrays[n]) < 2]
    if short:
        raise InputError(f"{path}: {short[0]} of the trie is damaged")
    return Trie(
        tokens=tuple(arrays[name] for name in tokens),
        bounds=tuple(arrays[name] for name in bounds),
        codebook_sizes=tuple(sizes),
        max_slots=tuple(slots),
    )
