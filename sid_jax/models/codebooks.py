"""Codebooks of a residual quantizer, and the pure updates that move them.

They move by an exponential moving average of the residuals assigned to each codeword
(van den Oord et al. 2017, appendix A.1) and start from k-means, level by level
(`models/kmeans.py`).

Blocks (ours): the first level's codes may be parted into consecutive blocks, one a cell
of the catalog (brand tier, diet); an item is then quantized within its cell's block, so
that the first code implies the cell exactly.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sid_jax.typing import Array, Bool, Float, Int, Key, NDArray, typed

_EPSILON = 1e-5


@struct.dataclass
class Codebooks:
    """Codebooks of L levels, padded to the largest size K.

    Attributes:
      vectors: codewords; rows past a level's size are zero and never assigned.
      counts: moving average of how many rows of a batch a codeword got.
      sums: moving average of the sum of those rows.
      updates: moving-average updates so far.
      sizes: codes a level.
      blocks: codes of each cell on the first level, in order; empty for no cells.
    """

    vectors: Float[Array, "L K D"]
    counts: Float[Array, "L K"]
    sums: Float[Array, "L K D"]
    updates: Int[Array, ""]
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    blocks: tuple[int, ...] = struct.field(pytree_node=False, default=())


@struct.dataclass
class Usage:
    """What a batch says about the codebooks, summed over the batch."""

    counts: Float[Array, "L K"]
    sums: Float[Array, "L K D"]


def make_codebooks(vectors: list[Array], blocks: tuple[int, ...] = ()) -> Codebooks:
    """Pads each level's codewords [K_l, D] to one array; counts of one.

    Raises:
      ValueError: the blocks do not add up to the codes of the first level.
    """
    sizes = tuple(len(level) for level in vectors)
    if blocks and sum(blocks) != sizes[0]:
        raise ValueError(f"blocks {blocks} must add up to {sizes[0]} first codes")
    largest = max(sizes)
    padded = jnp.stack(
        [jnp.pad(level, ((0, largest - len(level)), (0, 0))) for level in vectors]
    ).astype(jnp.float32)
    counts = _real(sizes, largest).astype(jnp.float32)
    return Codebooks(
        vectors=padded,
        counts=counts,
        sums=padded * counts[..., None],
        updates=jnp.zeros((), jnp.int32),
        sizes=sizes,
        blocks=blocks,
    )


@typed
def lookup_levels(
    codes: Int[Array, "B L"], codebooks: Codebooks
) -> Float[Array, "B L D"]:
    """The codeword of each code of each SID."""
    return codebooks.vectors[jnp.arange(len(codebooks.sizes)), codes]


@typed
def lookup(codes: Int[Array, "B L"], codebooks: Codebooks) -> Float[Array, "B D"]:
    """Sum of the codewords of each SID."""
    return lookup_levels(codes, codebooks).sum(axis=1)


def permute(codebooks: Codebooks, permutations: Sequence[NDArray]) -> Codebooks:
    """The codebooks with their rows under other numbers: what a code means stays.

    Code k of level l becomes code p_l[k], with its codeword and moving averages. So a
    SID is renamed level by level, and its reconstruction does not change (where two
    codewords are equally near, the tie may go to the other one).

    Args:
      codebooks: to renumber.
      permutations: p_l of each level, of the numbers below its size, such as
        `sid_jax.evals.align.align_codes` returns.

    Raises:
      ValueError: not one permutation a level, each of its size.
    """
    if len(permutations) != len(codebooks.sizes):
        raise ValueError(
            f"{len(permutations)} permutations for {len(codebooks.sizes)} levels"
        )
    largest = codebooks.counts.shape[1]
    sources = np.tile(np.arange(largest), (len(permutations), 1))
    for level, size in enumerate(codebooks.sizes):
        permutation = np.asarray(permutations[level])
        if not np.array_equal(np.sort(permutation), np.arange(size)):
            raise ValueError(f"level {level + 1}: no permutation of its {size} codes")
        sources[level, permutation] = np.arange(size)
    levels = np.arange(len(permutations))[:, None]
    return replace(
        codebooks,
        vectors=codebooks.vectors[levels, sources],
        counts=codebooks.counts[levels, sources],
        sums=codebooks.sums[levels, sources],
    )


def update(codebooks: Codebooks, usage: Usage, *, decay: float) -> Codebooks:
    """One moving-average step, with Laplace smoothing of the counts."""
    counts = decay * codebooks.counts + (1 - decay) * usage.counts
    sums = decay * codebooks.sums + (1 - decay) * usage.sums
    sizes = jnp.asarray(codebooks.sizes)[:, None]
    total = counts.sum(axis=1, keepdims=True)
    smoothed = (counts + _EPSILON) / (total + sizes * _EPSILON) * total
    real = _real(codebooks.sizes, counts.shape[1])[..., None]
    vectors = jnp.where(real, sums / smoothed[..., None], 0.0)
    return replace(
        codebooks,
        vectors=vectors,
        counts=counts,
        sums=sums,
        updates=codebooks.updates + 1,
    )


@typed
def restart(
    codebooks: Codebooks,
    residuals: Float[Array, "B L D"],
    key: Key[Array, ""],
    cells: Int[Array, " B"] | None = None,
    *,
    below: float,
) -> Codebooks:
    """Moves codewords whose moving count is under `below` onto random residuals.

    A restarted codeword counts as twice `below` rows, so that it has a half-life of the
    moving average to be used before it is dead again. With blocks, a first codeword
    moves onto rows of its cell; it stays where the batch has none.
    """
    num_levels, largest = codebooks.counts.shape
    rows = jax.random.randint(key, (num_levels, largest), 0, len(residuals))
    dead = (codebooks.counts < below) & _real(codebooks.sizes, largest)
    allowed = allow_blocks(codebooks, cells)
    if allowed is not None:
        noise = jax.random.uniform(jax.random.fold_in(key, 1), allowed.shape)
        rows = rows.at[0].set(jnp.argmax(jnp.where(allowed, noise, -1.0), axis=0))
        dead = dead.at[0].set(dead[0] & allowed.any(axis=0))
    fresh = residuals[rows, jnp.arange(num_levels)[:, None]]
    moved = dead[..., None]
    return replace(
        codebooks,
        vectors=jnp.where(moved, fresh, codebooks.vectors),
        counts=jnp.where(dead, 2 * below, codebooks.counts),
        sums=jnp.where(moved, fresh * 2 * below, codebooks.sums),
    )


@typed
def allow_blocks(
    codebooks: Codebooks, cells: Int[Array, " B"] | None
) -> Bool[Array, "B K"] | None:
    """First codes that each row may get: its cell's block; None without blocks.

    Raises:
      ValueError: there are blocks, but no cells.
    """
    if not codebooks.blocks:
        return None
    if cells is None:
        raise ValueError("codebooks with blocks need the cell of each row")
    return block_of(codebooks) == cells[:, None]


def block_of(codebooks: Codebooks) -> Int[Array, " K"]:
    """The block of each first code, padded with -1."""
    blocks = jnp.repeat(
        jnp.arange(len(codebooks.blocks)),
        jnp.asarray(codebooks.blocks),
        total_repeat_length=codebooks.sizes[0],
    )
    short = codebooks.vectors.shape[1] - codebooks.sizes[0]
    return jnp.pad(blocks, (0, short), constant_values=-1)


def _real(sizes: tuple[int, ...], largest: int) -> Bool[Array, "L K"]:
    return jnp.arange(largest) < jnp.asarray(sizes)[:, None]
