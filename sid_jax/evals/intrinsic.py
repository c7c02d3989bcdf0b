"""The codes judged by themselves: use of the codebooks, collisions, neighbourhoods.

    perplexity        exp(H), H = - sum_k p_k ln p_k, p_k = share of items of code k
    collision rate    1 - unique SIDs / items
    similarity-depth  Spearman's rho of cosine(x_i, x_j) and the number of leading
                      levels that the SIDs of i and j share
    FVU               sum ||x - x_hat||^2 / sum ||x - mean x||^2

Rho depends on how pairs are drawn, so three strata are fixed and always given apart:
`near` (2,000 random anchors, each with its 50 nearest neighbours by cosine),
`uniform` (as many random pairs, nearly all of depth 0) and `half` (both pooled).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray, typed

_BLOCK = 256  # anchors whose cosines to every item are held at once


@dataclass(frozen=True, eq=False)
class LevelUse:
    """How one level's codes are used.

    Attributes:
      counts: items of each code.
    """

    counts: Int[NDArray, " K"]

    @property
    def usage(self) -> float:
        """Share of the codes that any item has."""
        return float(np.mean(self.counts > 0))

    @property
    def perplexity(self) -> float:
        """exp(H): the number of evenly used codes that would be as hard to guess."""
        share = self.counts[self.counts > 0] / max(self.counts.sum(), 1)
        return float(np.exp(-np.sum(share * np.log(share))))

    @property
    def entropy(self) -> float:
        """H / ln K, from 0 (one code) to 1 (even); 1 for a codebook of one code."""
        size = len(self.counts)
        return float(np.log(self.perplexity) / np.log(size)) if size > 1 else 1.0


@typed
def intrinsic_metrics(
    codes: Int[NDArray, "N L"],
    codebook_sizes: tuple[int, ...],
    vectors: Float[NDArray, "N D"] | None = None,
    reconstructions: Float[NDArray, "N D"] | None = None,
    residual_energy: Float[NDArray, " L+1"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Every figure of this room by name; levels count from 1.

    Args:
      codes: SID of each item.
      codebook_sizes: codes a level.
      vectors: what was tokenized; adds `rho_*` and `share@*`.
      reconstructions: what the codes decode to; with `vectors`, adds `fvu`.
      residual_energy: mean squared norm of the quantizer's residual before the first
        level and after each; adds `residual@l`, the share left after level l.
      seed: of the sampled pairs.

    Returns:
      `usage@l`, `perplexity@l`, `entropy@l`, `unique`, `collision_rate`,
      `largest_group`, `in_groups`, and what the options add. NaN: undefined.
    """
    metrics = {}
    for level, use in enumerate(level_use(codes, codebook_sizes), start=1):
        metrics[f"usage@{level}"] = use.usage
        metrics[f"perplexity@{level}"] = use.perplexity
        metrics[f"entropy@{level}"] = use.entropy
    metrics |= collisions(codes)
    if vectors is not None:
        metrics |= similarity_depth(codes, vectors, seed=seed)
        if reconstructions is not None:
            metrics["fvu"] = unexplained(vectors, reconstructions)
    if residual_energy is not None:
        whole = float(residual_energy[0]) or float("nan")
        for level, energy in enumerate(residual_energy[1:], start=1):
            metrics[f"residual@{level}"] = float(energy) / whole
    return metrics


@typed
def level_use(
    codes: Int[NDArray, "N L"], codebook_sizes: tuple[int, ...]
) -> tuple[LevelUse, ...]:
    """Items of each code, a level.

    Raises:
      InputError: a code lies outside its codebook.
    """
    if codes.shape[1] != len(codebook_sizes):
        raise InputError(
            f"codes have {codes.shape[1]} levels but codebook_sizes "
            f"{codebook_sizes} has {len(codebook_sizes)}; give one size a level"
        )
    bad = (codes < 0) | (codes >= np.asarray(codebook_sizes))
    if bad.any():
        row, level = np.argwhere(bad)[0]
        raise InputError(
            f"item row {row}: code {codes[row, level]} of level {level + 1} is outside "
            f"its codebook of {codebook_sizes[level]}; do the codes and the codebook "
            "sizes come from the same tokenizer?"
        )
    return tuple(
        LevelUse(np.bincount(column, minlength=size))
        for column, size in zip(codes.T, codebook_sizes, strict=True)
    )


@typed
def collisions(codes: Int[NDArray, "N L"]) -> dict[str, float]:
    """How far SIDs are from unique.

    Returns:
      `unique` (U / N), `collision_rate` (1 - U / N), `largest_group` (items of the
      most crowded SID), `in_groups` (share of the items that share their SID).
    """
    if not len(codes):
        raise InputError("no items to judge: the codes are empty")
    _, sizes = np.unique(codes, axis=0, return_counts=True)
    unique = len(sizes) / len(codes)
    return {
        "unique": unique,
        "collision_rate": 1.0 - unique,
        "largest_group": float(sizes.max()),
        "in_groups": float(sizes[sizes > 1].sum() / len(codes)),
    }


@typed
def similarity_depth(
    codes: Int[NDArray, "N L"],
    vectors: Float[NDArray, "N D"],
    num_anchors: int = 2000,
    num_neighbours: int = 50,
    close: float = 0.9,
    seed: int = 0,
) -> dict[str, float]:
    """Whether alike items share leading codes, over sampled pairs.

    Items whose vector equals the anchor's are neighbours like any other (cosine 1,
    and, from any deterministic tokenizer, full depth). In a catalog with many such
    copies they crowd the near stratum; judge distinct vectors to leave them out.

    Args:
      codes: SID of each item.
      vectors: what was tokenized; cosines are of these as they are.
      num_anchors: anchors of the near stratum, at most N.
      num_neighbours: nearest neighbours an anchor, at most N - 1.
      close: cosine from which a near pair counts for `share@l`.
      seed: of anchors and uniform pairs.

    Returns:
      `rho_near`, `rho_uniform`, `rho_half`: Spearman's rho, ties by average rank, NaN
      where all cosines or all depths are equal; `share@l`: share of the near pairs of
      cosine >= `close` with the first l levels in common, NaN without such pairs.
    """
    rng = np.random.default_rng(seed)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    count = len(units)
    anchors = rng.choice(count, min(num_anchors, count), replace=False)
    left, right = _nearest(units, anchors, min(num_neighbours, count - 1))
    near_cosine, near_depth = _pairs(codes, units, left, right)
    # A random other item: shift by 1 .. N - 1, so that no pair is (i, i).
    other = rng.integers(count, size=len(left))
    shift = rng.integers(1, max(count, 2), size=len(left))
    cosine, depth = _pairs(codes, units, other, (other + shift) % max(count, 1))
    metrics = {
        "rho_near": _rho(near_cosine, near_depth),
        "rho_uniform": _rho(cosine, depth),
        "rho_half": _rho(np.append(near_cosine, cosine), np.append(near_depth, depth)),
    }
    depth = near_depth[near_cosine >= close]
    for level in range(1, codes.shape[1] + 1):
        share = float(np.mean(depth >= level)) if len(depth) else float("nan")
        metrics[f"share@{level}"] = share
    return metrics


@typed
def unexplained(
    vectors: Float[NDArray, "N D"], reconstructions: Float[NDArray, "N D"]
) -> float:
    """FVU, the fraction of variance unexplained; NaN if all vectors are equal."""
    error = np.sum(np.square(vectors - reconstructions, dtype=np.float64))
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    total = np.sum(np.square(centred))
    return float(error / total) if total > 0 else float("nan")


def _nearest(units: NDArray, anchors: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Pairs (anchor, neighbour): each anchor with its `count` nearest other items."""
    if count < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    right = []
    for start in range(0, len(anchors), _BLOCK):
        block = anchors[start : start + _BLOCK]
        away = -(units[block] @ units.T)
        away[np.arange(len(block)), block] = np.inf
        right.append(np.argpartition(away, count - 1, axis=1)[:, :count])
    return np.repeat(anchors, count), np.concatenate(right).ravel()


def _pairs(
    codes: NDArray, units: NDArray, left: NDArray, right: NDArray
) -> tuple[NDArray, NDArray]:
    """Cosine and number of shared leading levels of each pair."""
    cosine = np.einsum("pd,pd->p", units[left], units[right])
    shared = np.cumprod(codes[left] == codes[right], axis=1).sum(axis=1)
    return cosine, shared


def _rho(cosine: NDArray, depth: NDArray) -> float:
    """Spearman's rho; NaN, without SciPy's warning, where one side is constant."""
    if len(depth) < 2 or np.ptp(cosine) == 0 or np.ptp(depth) == 0:
        return float("nan")
    result: Any = spearmanr(cosine, depth)
    return float(result.statistic)
