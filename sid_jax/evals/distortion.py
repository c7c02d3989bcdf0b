"""What the codes cost and what they lose: variance unexplained, compression.

FVU          sum ||x - x_hat||^2 / sum ||x - mean x||^2, in the space of the input
compression  N d / (sum_l K_l d): rows of an atomic table for each codeword's
"""

from collections.abc import Sequence

import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Float, NDArray, typed


@typed
def unexplained(
    vectors: Float[NDArray, "N D"], reconstructions: Float[NDArray, "N D"]
) -> float:
    """FVU, the fraction of variance unexplained; NaN if all vectors are equal."""
    error = np.sum(np.square(vectors - reconstructions, dtype=np.float64))
    total = _spread(vectors)
    return float(error / total) if total > 0 else float("nan")


@typed
def squared_errors(
    vectors: Float[NDArray, "N D"], reconstructions: Float[NDArray, "N L D"]
) -> Float[NDArray, "N L"]:
    """Squared error of each item's reconstruction from its first 1, 2, .. L codes."""
    away = reconstructions - vectors[:, None]
    return np.sum(np.square(away, dtype=np.float64), axis=-1)


@typed
def depth_fvu(
    vectors: Float[NDArray, "N D"], errors: Float[NDArray, "N L"]
) -> dict[str, float]:
    """FVU by depth.

    Args:
      vectors: what was tokenized.
      errors: as of `squared_errors`.

    Returns:
      `fvu@l` from the first l codes, and `fvu`, from all. NaN: all vectors are equal.
    """
    total = _spread(vectors) or np.nan
    shares = errors.sum(axis=0, dtype=np.float64) / total
    metrics = {f"fvu@{level}": float(each) for level, each in enumerate(shares, 1)}
    return metrics | {"fvu": metrics[f"fvu@{errors.shape[1]}"]}


@typed
def category_fvu(
    vectors: Float[NDArray, "N D"],
    errors: Float[NDArray, " N"],
    labels: Sequence[str],
    most: int = 24,
) -> dict[str, float]:
    """Where reconstruction is worst: squared error by category, from all codes.

    A category's mean squared error over the mean squared distance of *all* items from
    the mean of all, so that, weighted by items, the categories average to the FVU.

    Args:
      vectors: what was tokenized.
      errors: squared error of each item.
      labels: category of each; an empty one is unknown and left out.
      most: categories that are told, those with the most items.

    Returns:
      `fvu[NAME]` of each, the largest category first.
    """
    if len(labels) != len(errors):
        raise InputError(f"{len(errors)} items have errors but {len(labels)} a label")
    mean = _spread(vectors) / max(len(vectors), 1) or np.nan
    names, place = np.unique(np.asarray(labels, object), return_inverse=True)
    counts = np.bincount(place.ravel(), minlength=len(names))
    means = np.bincount(place.ravel(), errors, len(names)) / np.maximum(counts, 1)
    order = [each for each in np.argsort(-counts, kind="stable") if names[each]]
    return {f"fvu[{names[each]}]": float(means[each] / mean) for each in order[:most]}


@typed
def compression(
    num_items: int, codebook_sizes: tuple[int, ...], num_special: int = 3
) -> dict[str, float]:
    """How much smaller SIDs make a retriever's tables, beside one row an item.

    Args:
      num_items: N.
      codebook_sizes: codes a level, each a row of one width d, as an item would be.
      num_special: rows that both sides need: padding, basket mark, one retailer.

    Returns:
      `compression`: N d / (sum K_l d), embedding tables alone; `compression_with_head`:
      embedding table and output head (one row each an item or code), with the special
      tokens' embeddings on both sides: (2 N + s) d / ((2 sum K_l + s) d). (Ours.)
    """
    codewords = sum(codebook_sizes)
    both = (2 * num_items + num_special) / (2 * codewords + num_special)
    return {
        "compression": num_items / codewords,
        "compression_with_head": both,
    }


def _spread(vectors: NDArray) -> float:
    """Sum of the squared distances from the mean."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    blocks = (vectors[at : at + 2**16] for at in range(0, len(vectors), 2**16))
    return float(sum(np.sum(np.square(block - mean)) for block in blocks))
