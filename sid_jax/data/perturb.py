"""A catalog as it may have been before: some categories are new, some texts edited.

For judging how Semantic IDs hold when a catalog moves on, with what changed known.
"""

from dataclasses import dataclass

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.errors import InputError
from sid_jax.typing import Int, NDArray


@dataclass(frozen=True, eq=False)
class ChangedCatalog:
    """Two versions of a catalog. Rows are of the new one, ascending.

    Attributes:
      old: the items that are not new, with their texts before the edits.
      new: all items, in the order of the catalog that it was made of.
      unchanged, edited, added: rows that share out the new version's items.
    """

    old: Catalog
    new: Catalog
    unchanged: Int[NDArray, " n"]
    edited: Int[NDArray, " e"]
    added: Int[NDArray, " a"]


def change_catalog(
    catalog: Catalog, seed: int, *, added: float = 0.1, edited: float = 0.02
) -> ChangedCatalog:
    """Takes `catalog` for the old version's texts, makes some of its categories new.

    Category paths are drawn in random order, and each is new with all of its items if
    the new items stay within `added` of all. Of the other items with a title, a share
    `edited` has one random word of it dropped or (half of them, and all titles of one
    word) exchanged for a random word of all titles.

    Args:
      catalog: N items.
      seed: of every draw.
      added: share of the N items to be new, at most.
      edited: share of the N items to edit, as far as they have titles.

    Raises:
      InputError: a share outside [0, 1), or no category path is small enough.
    """
    for name, share in (("added", added), ("edited", edited)):
        if not 0 <= share < 1:
            raise InputError(f"{name} must be from 0 to below 1, not {share}")
    rng = np.random.default_rng(seed)
    is_new = _draw_paths(catalog, rng, int(added * len(catalog)))
    if added and not is_new.any():
        raise InputError(
            f"no category path has at most {added:.0%} of the {len(catalog)} items; "
            "raise `added`, or use a catalog with finer categories"
        )
    titles = catalog.titles
    candidates = [row for row in np.flatnonzero(~is_new) if titles[row].split()]
    words = sorted({word for title in titles for word in title.split()})
    count = min(round(edited * len(catalog)), len(candidates))
    chosen = np.sort(rng.permutation(np.asarray(candidates, np.int64))[:count])
    changed: list[str | None] = list(catalog.column("title"))
    done = [row for row in chosen if _edit(changed, int(row), words, rng)]
    column = catalog.table.column_names.index("title")
    kind = catalog.table.schema.field("title")
    table = catalog.table.set_column(column, kind, [changed])
    is_edited = np.zeros(len(catalog), bool)
    is_edited[done] = True
    return ChangedCatalog(
        old=catalog.take(np.flatnonzero(~is_new)),
        new=Catalog(table),
        unchanged=np.flatnonzero(~is_new & ~is_edited),
        edited=np.flatnonzero(is_edited),
        added=np.flatnonzero(is_new),
    )


def _draw_paths(catalog: Catalog, rng: np.random.Generator, most: int) -> NDArray:
    """Mask of the items of whole category paths, `most` of them at the most."""
    numbers: dict[tuple[str, ...], int] = {}
    path = np.asarray([numbers.setdefault(p, len(numbers)) for p in catalog.categories])
    sizes = np.bincount(path, minlength=len(numbers))
    taken = np.zeros(len(numbers), bool)
    for number in rng.permutation(len(numbers)):
        known = number != numbers.get((), -1)  # an unknown path is no category
        if known and sizes[taken].sum() + sizes[number] <= most:
            taken[number] = True
    return taken[path]


def _edit(
    titles: list[str | None], row: int, words: list[str], rng: np.random.Generator
) -> bool:
    """Edits one title in place; whether it could be made another one."""
    old = (titles[row] or "").split()
    place, drop = int(rng.integers(len(old))), rng.random() < 0.5
    others = len(words) - 1
    if drop and len(old) > 1:
        new = old[:place] + old[place + 1 :]
    elif others:
        # A random other word: shift by 1 .. W - 1 from where the old one stands.
        shift = 1 + int(rng.integers(others))
        other = words[(words.index(old[place]) + shift) % len(words)]
        new = [*old[:place], other, *old[place + 1 :]]
    else:
        return False
    titles[row] = " ".join(new)
    return True
