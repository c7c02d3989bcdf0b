"""The category tree as arrays: parent, depth, and the depth of a common ancestor.

Node 0 is a virtual root of depth 0; a parent's number is smaller than its children's.
A node is its whole path: two nodes of one name under different parents are two nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Int, NDArray, typed

ROOT = 0


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """A category tree and the place of each item in it.

    Attributes:
      parent: int32 [G], the parent of each node; -1 for the virtual root.
      depth: int32 [G], 0 for the virtual root.
      names: G names; the root's is empty.
      leaf: int32 [N], the deepest known node of each item; -1 where it is unknown.
    """

    parent: Int[NDArray, " G"]
    depth: Int[NDArray, " G"]
    names: tuple[str, ...]
    leaf: Int[NDArray, " N"]

    @classmethod
    def from_paths(cls, paths: Sequence[Sequence[str]]) -> "Taxonomy":
        """The tree of N category paths, root first; an empty path is unknown."""
        nodes: dict[tuple[int, str], int] = {}
        parent, depth, names = [-1], [0], [""]
        leaf = np.full(len(paths), -1, np.int32)
        for row, path in enumerate(paths):
            if isinstance(path, str):
                raise InputError(f"a category path is a list of names, not {path!r}")
            node = ROOT
            for name in path:
                child = nodes.setdefault((node, name), len(parent))
                if child == len(parent):
                    parent.append(node)
                    depth.append(depth[node] + 1)
                    names.append(name)
                node = child
            if node != ROOT:
                leaf[row] = node
        return cls(
            parent=np.asarray(parent, np.int32),
            depth=np.asarray(depth, np.int32),
            names=tuple(names),
            leaf=leaf,
        )

    def __len__(self) -> int:
        """Number of nodes G, the virtual root included."""
        return len(self.parent)

    @property
    def max_depth(self) -> int:
        return int(self.depth.max())

    def path(self, node: int) -> tuple[str, ...]:
        """Names from below the virtual root down to `node`."""
        path = []
        while node > ROOT:
            path.append(self.names[node])
            node = int(self.parent[node])
        return tuple(reversed(path))

    def ancestors(self) -> Int[NDArray, "G _"]:
        """Table [G, max_depth + 1]: the ancestor of each node at each depth.

        A node is its own ancestor at its own depth; -1 stands below it.
        """
        return self._ancestors

    @typed
    def common_depth(
        self, a: Int[NDArray, "*shape"], b: Int[NDArray, "*shape"]
    ) -> Int[NDArray, "*shape"]:
        """Depth of the lowest common ancestor of nodes `a` and `b`; unknown gives 0."""
        first, second = self._ancestors[a], self._ancestors[b]
        # Paths agree on a prefix and nowhere after it, so counting is enough.
        shared = ((first == second) & (first >= 0)).sum(axis=-1) - 1
        return np.where((a < 0) | (b < 0), 0, shared).astype(np.int32)

    def prefix(self, depth: int) -> Int[NDArray, " N"]:
        """Each item's ancestor node at `depth`; -1 where its path is shorter."""
        if not 0 <= depth <= self.max_depth:
            raise InputError(f"depth must be 0 to {self.max_depth}, not {depth}")
        nodes = self._ancestors[self.leaf, depth]
        return np.where(self.leaf < 0, -1, nodes).astype(np.int32)

    @cached_property
    def _ancestors(self) -> NDArray:
        table = np.full((len(self), self.max_depth + 1), -1, np.int32)
        nodes = np.arange(len(self))
        current = nodes.copy()
        for _ in range(self.max_depth + 1):
            alive = current >= 0
            table[nodes[alive], self.depth[current[alive]]] = current[alive]
            current = np.where(alive, self.parent[current], -1)
        return table
