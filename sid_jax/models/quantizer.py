"""Residual quantization: nearest codewords level by level, and pure codebook updates.

r_0 = z;  c_l = argmin_k ||r_{l-1} - e_{l,k}||^2;  r_l = r_{l-1} - e_{l,c_l};  q = sum_l
e_{l,c_l}.  Codebooks move by an exponential moving average of the residuals assigned to
each codeword (van den Oord et al. 2017, appendix A.1) and start from k-means, level by
level (Zeghidour et al. 2021).  Nothing here keeps state: statistics are returned, and
`update` and `restart` fold them into new codebooks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sid_jax.typing import Array, Bool, Float, Int, Key, NDArray, typed

_BLOCK = 8192  # rows a k-means pass holds distances for at once
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
    """

    vectors: Float[Array, "L K D"]
    counts: Float[Array, "L K"]
    sums: Float[Array, "L K D"]
    updates: Int[Array, ""]
    sizes: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Quantized:
    """Codes of a batch and what each level left.

    Attributes:
      codes: the SIDs.
      residuals: what level l had to quantize, r_{l-1}.
      codewords: what level l answered, e_{l,c_l}; their sum over L is the quantization.
    """

    codes: Int[Array, "B L"]
    residuals: Float[Array, "B L D"]
    codewords: Float[Array, "B L D"]

    @property
    def total(self) -> Float[Array, "B D"]:
        """The quantization, all levels summed."""
        return self.codewords.sum(axis=1)

    @property
    def distances(self) -> Float[Array, " B"]:
        """Squared distance that is left after the last level."""
        return jnp.sum((self.residuals[:, -1] - self.codewords[:, -1]) ** 2, axis=-1)


@struct.dataclass
class Usage:
    """What a batch says about the codebooks, summed over the batch."""

    counts: Float[Array, "L K"]
    sums: Float[Array, "L K D"]


def make_codebooks(vectors: list[Array]) -> Codebooks:
    """Pads each level's codewords [K_l, D] to one array; counts of one."""
    sizes = tuple(len(level) for level in vectors)
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
    )


@typed
def assign(
    residual: Float[Array, "B D"], codebook: Float[Array, "K D"], size: int
) -> Int[Array, " B"]:
    """Nearest of the first `size` codewords to each residual; ties to the lower code.

    Distances are float32 at the highest matmul precision, whatever the inputs are.
    """
    residual = residual.astype(jnp.float32)
    codebook = codebook.astype(jnp.float32)
    dots = jnp.matmul(residual, codebook.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.sum(codebook**2, axis=-1) - 2 * dots
    distances = jnp.where(jnp.arange(len(codebook)) < size, distances, jnp.inf)
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


@typed
def quantize(vectors: Float[Array, "B D"], codebooks: Codebooks) -> Quantized:
    """Greedy residual quantization of each row."""
    residual = vectors.astype(jnp.float32)
    codes, residuals, codewords = [], [], []
    for level, size in enumerate(codebooks.sizes):
        code = assign(residual, codebooks.vectors[level], size)
        codeword = codebooks.vectors[level][code]
        codes.append(code)
        residuals.append(residual)
        codewords.append(codeword)
        residual = residual - codeword
    return Quantized(
        codes=jnp.stack(codes, axis=1),
        residuals=jnp.stack(residuals, axis=1),
        codewords=jnp.stack(codewords, axis=1),
    )


@typed
def lookup(codes: Int[Array, "B L"], codebooks: Codebooks) -> Float[Array, "B D"]:
    """Sum of the codewords of each SID."""
    levels = jnp.arange(len(codebooks.sizes))
    return codebooks.vectors[levels, codes].sum(axis=1)


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


@typed
def count_usage(quantized: Quantized, codebooks: Codebooks) -> Usage:
    """Counts and sums of the residuals that each codeword got.

    A product with one-hot codes rather than a scatter: over a sharded batch it becomes
    one reduction, and it adds in the same order on every run.
    """
    one_hot = jax.nn.one_hot(quantized.codes, codebooks.vectors.shape[1])
    sums = jnp.einsum(
        "blk,bld->lkd",
        one_hot,
        quantized.residuals,
        precision=jax.lax.Precision.HIGHEST,
    )
    return Usage(counts=one_hot.sum(axis=0), sums=sums)


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
    *,
    below: float,
) -> Codebooks:
    """Moves codewords whose moving count is under `below` onto random residuals.

    A restarted codeword counts as twice `below` rows, so that it has a half-life of the
    moving average to be used before it is dead again.
    """
    num_levels, largest = codebooks.counts.shape
    rows = jax.random.randint(key, (num_levels, largest), 0, len(residuals))
    fresh = residuals[rows, jnp.arange(num_levels)[:, None]]
    dead = (codebooks.counts < below) & _real(codebooks.sizes, largest)
    moved = dead[..., None]
    return replace(
        codebooks,
        vectors=jnp.where(moved, fresh, codebooks.vectors),
        counts=jnp.where(dead, 2 * below, codebooks.counts),
        sums=jnp.where(moved, fresh * 2 * below, codebooks.sums),
    )


def fit_codebooks(
    key: Key[Array, ""],
    vectors: Float[Array, "N D"],
    sizes: tuple[int, ...],
    *,
    iterations: int = 20,
) -> Codebooks:
    """Residual k-means: Lloyd's algorithm level by level, each on what is left.

    The codebook start of the RQ-VAE, and with enough iterations over the whole catalog
    the tokenizer that NEO (Spotify 2026) chose over it.

    Args:
      key: random key of the starting points.
      vectors: at least as many rows as the largest level has codes; ten rows a code
        or more make a sensible start.
      sizes: codes a level.
      iterations: Lloyd steps a level.

    Raises:
      ValueError: fewer rows than codes.
    """
    if len(vectors) < max(sizes):
        raise ValueError(f"{len(vectors)} rows cannot start {max(sizes)} codewords")
    residual = jnp.asarray(vectors, jnp.float32)
    levels = []
    for level, size in enumerate(sizes):
        codebook = kmeans(jax.random.fold_in(key, level), residual, size, iterations)
        levels.append(codebook)
        residual = _subtract_nearest(residual, codebook)
    return make_codebooks(levels)


@partial(jax.jit, static_argnames="size")
def kmeans(
    key: Key[Array, ""], vectors: Float[Array, "N D"], size: int, iterations: int
) -> Float[Array, "K D"]:
    """Lloyd's algorithm from random distinct rows.

    A cluster that runs empty restarts at a row drawn in proportion to its squared
    distance from its centroid, as in k-means++ (Arthur and Vassilvitskii 2007).

    Returns:
      The centroids, [size, D].
    """
    start, key = jax.random.split(key)
    rows = jax.random.choice(start, len(vectors), (size,), replace=False)
    blocks, weights = _block(vectors)

    def step(i, centroids):
        codes, distances = jax.lax.map(lambda b: _nearest(b, centroids), blocks)

        def add(sums, block):
            rows, codes, weights = block
            one_hot = jax.nn.one_hot(codes, size) * weights[:, None]
            moment = jnp.matmul(one_hot.T, rows, precision=jax.lax.Precision.HIGHEST)
            return (sums[0] + one_hot.sum(axis=0), sums[1] + moment), None

        zero = (jnp.zeros(size), jnp.zeros_like(centroids))
        (counts, sums), _ = jax.lax.scan(add, zero, (blocks, codes, weights))
        means = sums / jnp.maximum(counts, 1)[:, None]
        noise = jax.random.gumbel(jax.random.fold_in(key, i), (weights.size,))
        weight = jnp.log(jnp.maximum(distances * weights, 0).reshape(-1))
        _, far = jax.lax.top_k(weight + noise, size)
        order = jnp.cumsum(counts == 0) - 1
        spare = blocks.reshape(-1, blocks.shape[-1])[far[order]]
        return jnp.where((counts == 0)[:, None], spare, means)

    return jax.lax.fori_loop(0, iterations, step, vectors[rows].astype(jnp.float32))


def _nearest(rows: Array, centroids: Array) -> tuple[Array, Array]:
    codes = assign(rows, centroids, len(centroids))
    return codes, jnp.sum((rows - centroids[codes]) ** 2, axis=-1)


@jax.jit
def _subtract_nearest(rows: Array, codebook: Array) -> Array:
    blocks, _ = _block(rows)
    left = jax.lax.map(lambda b: b - codebook[_nearest(b, codebook)[0]], blocks)
    return left.reshape(-1, rows.shape[-1])[: len(rows)]


def _block(rows: Array) -> tuple[Array, Array]:
    """Rows in equal blocks, zero-padded, and their weights (0 where padded)."""
    num_blocks = -(-len(rows) // _BLOCK)
    length = -(-len(rows) // num_blocks)
    short = num_blocks * length - len(rows)
    blocks = jnp.pad(rows.astype(jnp.float32), ((0, short), (0, 0)))
    weights = jnp.pad(jnp.ones(len(rows)), (0, short))
    return blocks.reshape(num_blocks, length, -1), weights.reshape(num_blocks, length)


def _real(sizes: tuple[int, ...], largest: int) -> Bool[Array, "L K"]:
    return jnp.arange(largest) < jnp.asarray(sizes)[:, None]
