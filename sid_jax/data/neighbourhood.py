"""Where an item lies among its neighbours: spectral coordinates of item vectors.

The k nearest landmarks of each landmark (cosine) make a graph of weights
w_ij = max(cos_ij, 0), times (1 - cut) across top categories, made symmetric by the
larger of both. The coordinates of a block of m dimensions are the first m eigenvectors
of D^-1/2 W D^-1/2, each landmark's row to unit length: the relaxed normalised cut (Shi
and Malik 2000; Ng, Jordan and Weiss 2002), which splits items where they are few, so
that near items stay together. Any item, a landmark or not, gets the mean coordinates of
its k nearest landmarks, weighted by cosine (after Bengio et al. 2004); so they are a
function of its vector alone, and near vectors have nearly the same. Ours: that rule for
all items, blocks beside the vectors themselves as residual quantizers' input, the cut.

Landmarks are a sample of the distinct vectors of the fit, so that copies count once.
Pieces of the graph of less than a hundredth of them are left out: they would take an
eigenvector each. Time is O(N M D) for N items, M landmarks of width D, and about
O(m (k M + m M)) an iteration for the eigenvectors; memory O(M (k + m + D)), and blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from sid_jax.data.sampler import category_paths
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.typing import Float, NDArray, typed

_BLOCK = 512  # rows whose cosines are held at once; always as many: see `_nearest`
_SPARE = 8  # candidates beyond k, whose cosines are computed again
_PIECE = 0.01  # of the landmarks: a smaller piece of the graph is left out


@dataclass(frozen=True, kw_only=True)
class NeighbourhoodConfig:
    """Coordinates beside the item vectors.

    Attributes:
      k: neighbours of an item; 0 for no coordinates.
      blocks: (m, weight) each: the first m eigenvectors, times `weight` standard
        deviations; the vectors beside them have 1.
      cut: share that an edge between items of two top categories loses.
      landmarks: items that the graph is made of, at most.
      seed: of their sample, where there are more.
    """

    k: int = 0
    blocks: tuple[tuple[int, float], ...] = ((6, 2.0), (24, 1.0))
    cut: float = 0.0
    landmarks: int = 20_000
    seed: int = 0

    def __post_init__(self):
        if self.k < 0:
            raise InputError(f"neighbours.k={self.k} must be at least 0")
        if not self.blocks or min(m for m, _ in self.blocks) < 1:
            raise InputError(
                f"neighbours.blocks={self.blocks}: want (dimensions, weight) pairs of "
                "at least one dimension each"
            )
        if not all(0 < weight < float("inf") for _, weight in self.blocks):
            raise InputError(f"neighbours.blocks={self.blocks}: weights are positive")
        if not 0 <= self.cut <= 1:
            raise InputError(f"neighbours.cut is a share, not {self.cut}")
        if self.landmarks < 2:
            raise InputError(f"neighbours.landmarks={self.landmarks} must be 2 or more")

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> "NeighbourhoodConfig":
        """From JSON, where the pairs are lists; absent ones are at default."""
        fields = dict(fields)
        if "blocks" in fields:
            fields["blocks"] = tuple(map(tuple, fields["blocks"]))
        return cls(**fields)

    @property
    def width(self) -> int:
        """Columns of the coordinates; none without neighbours."""
        return sum(m for m, _ in self.blocks) if self.k else 0


@typed
def fit_coordinates(
    config: NeighbourhoodConfig,
    vectors: Float[NDArray, "N D"],
    paths: Sequence[Sequence[str]] | None = None,
) -> dict[str, NDArray]:
    """Landmarks and their coordinates: what `coordinates` reads.

    Args:
      config: with `k` above 0.
      vectors: of the items of the fit.
      paths: the category path of each, read by `cut` alone; top categories are those
        below what all items share, and an edge at an item of none keeps its weight.

    Returns:
      `neighbour_units` [M, D], unit vectors of the landmarks; `neighbour_points`
      [M, width], their coordinates; `neighbour_mean` and `neighbour_scale` [width],
      which give each block mean 0 and its weight over the items of the fit.

    Raises:
      InputError: too few distinct vectors.
    """
    rows = _landmarks(config, vectors)
    units = _unit(vectors[rows])
    most = max(m for m, _ in config.blocks)
    if len(rows) <= most:
        raise InputError(
            f"neighbours.blocks={config.blocks} want {most} coordinates, but only "
            f"{len(rows)} items have distinct vectors; ask for fewer"
        )
    top = None
    if paths is not None and config.cut:
        top = category_paths(Taxonomy.from_paths(paths))[rows, 0]
    graph = _graph(config, units, top)
    kept = _large_pieces(graph)
    if kept.sum() > most:
        graph, units = graph[kept][:, kept], units[kept]
    axes = _eigenvectors(graph, most)
    arrays = {
        "neighbour_units": units,
        "neighbour_points": np.concatenate(
            [_unit(axes[:, :m]) for m, _ in config.blocks], axis=1
        ),
        "neighbour_mean": np.zeros(config.width),
        "neighbour_scale": np.ones(config.width),
    }
    found = coordinates(config, arrays, vectors).astype(np.float64)
    mean = found.mean(axis=0)
    start, scales = 0, []
    for m, weight in config.blocks:
        part = found[:, start : start + m] - mean[start : start + m]
        spread = np.square(part).sum(axis=1).mean()
        scales += [weight / np.sqrt(spread) if spread > 0 else 0.0] * m
        start += m
    return arrays | {"neighbour_mean": mean, "neighbour_scale": np.asarray(scales)}


@typed
def coordinates(
    config: NeighbourhoodConfig,
    arrays: Mapping[str, NDArray],
    vectors: Float[NDArray, "N D"],
) -> Float[NDArray, "N width"]:
    """Coordinates of items, float32; a row depends on its vector alone, to the bit.

    A vector of length 0, or with no landmark on its side, lies at the mean: 0.

    Args:
      config: that of the fit.
      arrays: what `fit_coordinates` returned.
      vectors: of any items.
    """
    points = arrays["neighbour_points"]
    result = np.zeros((len(vectors), points.shape[1]), np.float32)
    units = _unit(vectors)
    for start in range(0, len(vectors), _BLOCK):
        stop = start + _BLOCK
        cosines, nearest = _nearest(
            units[start:stop], arrays["neighbour_units"], config.k
        )
        weights = np.maximum(cosines, 0)
        total = weights.sum(axis=1, keepdims=True)
        found = (weights[:, :, None] * points[nearest]).sum(axis=1)
        found = found / np.where(total > 0, total, 1) - arrays["neighbour_mean"]
        result[start:stop] = np.where(total > 0, found, 0) * arrays["neighbour_scale"]
    return result


def _landmarks(config: NeighbourhoodConfig, vectors: NDArray) -> NDArray:
    """Rows of distinct vectors that have a direction; a sample of these, in order."""
    _, rows = np.unique(vectors, axis=0, return_index=True)
    rows = np.sort(rows[np.any(vectors[rows] != 0, axis=1)])
    if len(rows) > config.landmarks:
        rng = np.random.default_rng(config.seed)
        rows = np.sort(rng.choice(rows, config.landmarks, replace=False))
    return rows


def _graph(config: NeighbourhoodConfig, units: NDArray, top: NDArray | None) -> Any:
    """Symmetric weights [M, M] between neighbours; none of an item with itself."""
    count = len(units)
    k = min(config.k, count - 1)
    weights, columns = [], []
    for start in range(0, count, _BLOCK):
        own = np.arange(start, min(start + _BLOCK, count))
        cosines, nearest = _nearest(units[own], units, k, own)
        weight = np.maximum(cosines, 0)
        if top is not None:
            first, second = top[own][:, None], top[nearest]
            across = (first != second) & (first >= 0) & (second >= 0)
            weight = weight * np.where(across, 1 - config.cut, 1)
        weights.append(weight.ravel())
        columns.append(nearest.ravel())
    ends = np.arange(count + 1) * k
    data = (np.concatenate(weights).astype(np.float64), np.concatenate(columns), ends)
    graph: Any = sparse.csr_matrix(data, shape=(count, count))
    return graph.maximum(graph.T).tocsr()


def _large_pieces(graph: Any) -> NDArray:
    """Nodes of the pieces that are not small; those of the largest, if all are."""
    graph.eliminate_zeros()
    _, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece)
    return sizes[piece] >= min(max(_PIECE * len(piece), 2), sizes.max())


def _eigenvectors(graph: Any, most: int) -> NDArray:
    """The first eigenvectors [M, most] of the normalised graph, by falling value."""
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags(1 / np.sqrt(np.where(degrees > 0, degrees, 1)))
    normal = scale @ graph @ scale
    if 4 * most >= len(degrees):  # Lanczos vectors would span all
        _, axes = np.linalg.eigh(normal.toarray())
        return axes[:, ::-1][:, :most]
    start = np.random.default_rng(0).normal(size=len(degrees))
    values, axes = eigsh(normal, k=most, which="LA", v0=start)
    return axes[:, np.argsort(-values)]


def _nearest(
    rows: NDArray, units: NDArray, k: int, own: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """Cosines and places [n, k] of the nearest units, nearest first; `own` left out.

    A matrix product may round by a row's place among others: it finds candidates, in
    blocks of one size, and the cosines of these are then summed row by row.
    """
    k = min(k, len(units))
    wanted = min(k + _SPARE, len(units))
    padded = np.pad(rows, ((0, _BLOCK - len(rows)), (0, 0)))
    rough = (padded @ units.T)[: len(rows)]
    if own is not None:
        rough[np.arange(len(rows)), own] = -2
    places = np.argpartition(-rough, wanted - 1, axis=1)[:, :wanted]
    places.sort(axis=1)
    cosines = (rows[:, None] * units[places]).sum(axis=2)
    if own is not None:
        cosines[places == own[:, None]] = -2
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return (
        np.take_along_axis(cosines, order, axis=1),
        np.take_along_axis(places, order, axis=1),
    )


def _unit(rows: NDArray) -> NDArray:
    """Rows to unit length, float32; zero stays zero."""
    rows = rows.astype(np.float64)
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
