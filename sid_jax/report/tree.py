"""The SID tree of a catalog as compact data for a page: what sits under which codes."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sid_jax.errors import InputError
from sid_jax.report.plots import PALETTE, ranked_labels

_TRUNK = 0.95


@dataclass(frozen=True, kw_only=True)
class ItemTree:
    """What a page's tree is made of; codes, titles and categories in the same order.

    Attributes:
      codes: SIDs [N, L].
      titles: one an item.
      categories: one path an item, root first; an empty one is unknown.
      max_leaves: SIDs that go into the page, the most populated first.
      max_titles: different products that go into the page for each SID.
    """

    codes: ArrayLike
    titles: Sequence[str]
    categories: Sequence[Sequence[str]]
    max_leaves: int = 3000
    max_titles: int = 6

    def __post_init__(self):
        shape = np.shape(self.codes)
        if len(shape) != 2 or not (
            shape[0] == len(self.titles) == len(self.categories) and shape[1]
        ):
            raise InputError(
                f"tree: codes of shape {shape}, {len(self.titles)} titles and "
                f"{len(self.categories)} categories; give codes [N, L], L >= 1, and "
                "N of each of the others"
            )

    @cached_property
    def trunk(self) -> int:
        """How many first names of the paths say nothing, as nearly all items have them.

        Amazon's Beauty catalog, for one, begins every path with "Beauty".
        """
        paths = [path for path in self.categories if path]
        depth = 0
        while True:
            names = Counter(path[depth] for path in paths if len(path) > depth + 1)
            if not names or names.most_common(1)[0][1] < _TRUNK * len(paths):
                return depth
            depth += 1

    @cached_property
    def tops(self) -> list[str]:
        """Top category of each item, above the trunk; empty where it is unknown."""
        return [
            path[min(self.trunk, len(path) - 1)] if path else ""
            for path in self.categories
        ]


@dataclass(frozen=True, kw_only=True)
class PackedTree:
    """A tree cut to what a page can hold.

    Attributes:
      data: for JSON: `levels`, `texts` (category names), `colours` (place in the
        palette of each text) and `nodes`, each [code, items, text, percent, children]
        with the node's most common category and that category's share; the children
        of a leaf are products [title, text, how many].
      shown: (SIDs, items) in it.
      total: (SIDs, items) of the catalog.
    """

    data: dict[str, Any]
    shown: tuple[int, int]
    total: tuple[int, int]


def pack(tree: ItemTree, keep: Collection[str] = ()) -> PackedTree:
    """Cuts a tree to its most populated SIDs; counts stay those of the whole catalog.

    A node of level l tells the most common category l steps above the trunk.

    Args:
      tree: the catalog with its codes.
      keep: SIDs, written `35_7_120_184`, that go in before any other.
    """
    codes = np.asarray(tree.codes)
    leaves, leaf_of, sizes = np.unique(
        codes, axis=0, return_inverse=True, return_counts=True
    )
    leaf_of = leaf_of.ravel()
    chosen = np.sort(_choose(leaves, sizes, tree.max_leaves, set(keep)))
    texts = _Texts(tree)
    num_levels = codes.shape[1]
    facts = [
        _facts(leaves, leaf_of, level + 1, tree, texts) for level in range(num_levels)
    ]
    ends = np.cumsum(sizes)
    members = np.argsort(leaf_of, kind="stable")

    roots: list = []
    open_nodes: list[list] = []
    last = None
    shown = 0
    for leaf in chosen:
        row = leaves[leaf]
        depth = 0 if last is None else int(np.argmax(np.append(row != last, True)))
        del open_nodes[depth:]
        for level in range(depth, num_levels):
            node = [int(row[level]), *facts[level][leaf], []]
            (open_nodes[-1][4] if open_nodes else roots).append(node)
            open_nodes.append(node)
        items: list[int] = members[ends[leaf] - sizes[leaf] : ends[leaf]].tolist()
        products = Counter(
            (tree.titles[item], texts.whole(tree.categories[item])) for item in items
        )
        open_nodes[-1][4] = [
            [title, text, times]
            for (title, text), times in products.most_common(tree.max_titles)
        ]
        shown += sum(times for _, _, times in open_nodes[-1][4])
        last = row
    _sort(roots, num_levels)
    return PackedTree(
        data={
            "levels": num_levels,
            "texts": texts.names,
            "colours": texts.colours,
            "nodes": roots,
        },
        shown=(len(chosen), shown),
        total=(len(leaves), len(codes)),
    )


class _Texts:
    """Category names, each kept once, with the colour of its top category."""

    def __init__(self, tree: ItemTree):
        self._trunk = tree.trunk
        self.names: list[str] = []
        self.colours: list[int] = []
        self._rank = {
            top: min(place, len(PALETTE))
            for place, top in enumerate(ranked_labels(tree.tops))
        }
        self._place: dict[tuple[str, int], int] = {}

    def whole(self, path: Sequence[str]) -> int:
        return self._keep(" > ".join(path), path)

    def last(self, path: Sequence[str]) -> int:
        return self._keep(path[-1] if path else "", path)

    def _keep(self, name: str, path: Sequence[str]) -> int:
        top = path[min(self._trunk, len(path) - 1)] if path else ""
        colour = self._rank[top]
        place = self._place.setdefault((name, colour), len(self.names))
        if place == len(self.names):
            self.names.append(name)
            self.colours.append(colour)
        return place


def _choose(
    leaves: np.ndarray, sizes: np.ndarray, limit: int, keep: set[str]
) -> np.ndarray:
    """Leaves to show: asked for, then by size; equal sizes spread over first codes."""
    if len(leaves) <= limit:
        return np.arange(len(leaves))
    asked = np.array(["_".join(map(str, row)) in keep for row in leaves.tolist()])
    first = leaves[:, 0]
    order = np.lexsort((-sizes, first))
    starts = np.searchsorted(first[order], first[order])
    turn = np.empty(len(leaves), np.int64)
    turn[order] = np.arange(len(leaves)) - starts
    return np.lexsort((turn, -sizes, ~asked))[:limit]


def _facts(
    leaves: np.ndarray,
    leaf_of: np.ndarray,
    depth: int,
    tree: ItemTree,
    texts: _Texts,
) -> list[tuple[int, int, int]]:
    """(items, text, percent) of each leaf's node of a depth."""
    fresh = (leaves[1:, :depth] != leaves[:-1, :depth]).any(axis=1)
    node = np.concatenate([[0], np.cumsum(fresh)]).astype(np.int64)
    end = tree.trunk + depth
    paths: dict[tuple[str, ...], int] = {}
    label = np.array(
        [paths.setdefault(tuple(path[:end]), len(paths)) for path in tree.categories],
        np.int64,
    )
    pairs, counts = np.unique(node[leaf_of] * len(paths) + label, return_counts=True)
    owner, label = np.divmod(pairs, len(paths))
    order = np.lexsort((label, -counts, owner))
    starts = np.searchsorted(owner[order], np.arange(node[-1] + 1))
    best = order[starts]  # the most common label of each node
    total = np.bincount(node[leaf_of])
    names = list(paths)
    by_node = [
        (int(size), texts.last(names[label[place]]), round(100 * counts[place] / size))
        for size, place in zip(total, best, strict=True)
    ]
    return [by_node[place] for place in node]


def _sort(nodes: list, levels: int) -> None:
    """The most populated first, at every level."""
    nodes.sort(key=lambda node: (-node[1], node[0]))
    if levels > 1:
        for node in nodes:
            _sort(node[4], levels - 1)
