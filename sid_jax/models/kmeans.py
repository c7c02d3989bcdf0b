"""Residual k-means: the codebook start of the RQ-VAE, and a tokenizer of its own.

Lloyd's algorithm level by level, each on what the levels before it left (Zeghidour et
al. 2021).  Run to its end over the whole catalog it is the tokenizer that NEO (Spotify
2026) chose over an RQ-VAE.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.models.codebooks import Codebooks, make_codebooks
from sid_jax.models.quantizer import assign, sum_by_code
from sid_jax.typing import Array, Float, Int, Key, NDArray

_BLOCK = 4096  # rows a k-means pass holds distances for at once
_FEW = 64  # codes up to which k-means runs several times
_STARTS = 6
_SHRINK = 0.5  # of a start's way from the mean to a row
_SAMPLE = 16  # rows a code that its start is drawn from


def fit_codebooks(
    key: Key[Array, ""],
    vectors: Float[Array, "N D"],
    sizes: tuple[int, ...],
    *,
    iterations: int = 20,
    blocks: tuple[int, ...] = (),
    cells: Int[NDArray, " N"] | None = None,
) -> Codebooks:
    """Residual k-means codebooks; one level, `(K,)`, is flat vector quantization.

    Args:
      key: random key of the starting points.
      vectors: at least as many rows as the largest level has codes; ten rows a code
        or more make a sensible start.
      sizes: codes a level.
      iterations: Lloyd steps a level.
      blocks: first codes of each cell (`Codebooks.blocks`): k-means cell by cell.
      cells: the cell of each row, where there are blocks.

    Raises:
      ValueError: fewer rows than codes, or blocks without cells.
    """
    if len(vectors) < max(sizes):
        raise ValueError(f"{len(vectors)} rows cannot start {max(sizes)} codewords")
    if bool(blocks) != (cells is not None):
        raise ValueError("blocks and cells come together")
    residual = jnp.asarray(vectors, jnp.float32)
    levels = []
    for level, size in enumerate(sizes):
        at = jax.random.fold_in(key, level)
        if level == 0 and cells is not None:
            codebook, codes = _fit_blocks(at, residual, blocks, cells, iterations)
            residual = residual - codebook[codes]
        else:
            codebook = kmeans(at, residual, size, iterations)
            if level + 1 < len(sizes):
                residual = _subtract_nearest(residual, codebook)
        levels.append(codebook)
    return make_codebooks(levels, blocks)


@partial(jax.jit, static_argnames="size")
def kmeans(
    key: Key[Array, ""], vectors: Float[Array, "N D"], size: int, iterations: int
) -> Float[Array, "K D"]:
    """Lloyd's algorithm from random points, and for few codes from six starts.

    A random point is halfway between the mean and a random row, distinct ones [ours].
    What earlier levels left is like noise in many dimensions: a row is far from every
    other, and all are nearest to the shortest. From the rows themselves, most codes
    keep one row each and a few take all others; on Amazon Beauty four levels of 256
    codes then leave .35 of the variance, and from halfway .32.

    Up to 64 codes it runs three times from random points and three times from `spread`,
    and keeps the least error: few codes have local optima that differ much, and cost
    little. More codes start from random points alone: k-means++ starts on outliers.

    A cluster that runs empty restarts halfway between a row and its centroid, the row
    drawn in proportion to its squared distance from there, as in k-means++ (Arthur and
    Vassilvitskii 2007).

    Returns:
      The centroids, [size, D].
    """
    blocks, weights = _block(vectors)
    start, key = jax.random.split(key)

    mean = jnp.mean(vectors.astype(jnp.float32), axis=0)

    def draw(key):
        rows = jax.random.choice(key, len(vectors), (size,), replace=False)
        return _SHRINK * vectors[rows].astype(jnp.float32) + (1 - _SHRINK) * mean

    if size > _FEW:
        return _iterate(key, blocks, weights, draw(start), iterations)

    def run(at):
        centroids = _iterate(key, blocks, weights, at, iterations)
        return centroids, _error(blocks, weights, centroids)

    keys = jax.random.split(start, _STARTS)
    spreads = jax.lax.map(lambda key: spread(key, vectors, size), keys[::2])
    starts = jnp.concatenate([spreads, jax.vmap(draw)(keys[1::2])])
    centroids, errors = jax.lax.map(run, starts)
    return centroids[jnp.argmin(errors)]


@partial(jax.jit, static_argnames="size")
def spread(
    key: Key[Array, ""], vectors: Float[Array, "N D"], size: int
) -> Float[Array, "K D"]:
    """Rows to start from: greedy k-means++ (Arthur and Vassilvitskii 2007).

    One after the other, each the best of 2 + ln K rows drawn in proportion to their
    squared distance from the rows so far. Best is what leaves the least error. They are
    drawn from a sample of 16 rows a code, so that the start stays cheap beside Lloyd's
    steps over all rows.

    Returns:
      The rows, [size, D].
    """
    first, key = jax.random.split(key)
    num_rows = min(len(vectors), _SAMPLE * size)
    sample = jax.random.choice(first, len(vectors), (num_rows,), replace=False)
    rows = vectors[sample].astype(jnp.float32)
    squares = jnp.sum(rows**2, axis=-1)
    tries = 2 + int(np.log(size))

    def distances(chosen):
        dots = jnp.matmul(chosen, rows.T, precision=jax.lax.Precision.HIGHEST)
        return squares - 2 * dots + jnp.sum(chosen**2, axis=-1, keepdims=True)

    def add(i, state):
        chosen, left = state
        at = jax.random.fold_in(key, i)
        drawn = rows[jax.random.categorical(at, jnp.log(left), shape=(tries,))]
        lefts = jnp.clip(distances(drawn), 0, left)
        best = jnp.argmin(lefts.sum(axis=-1))
        return chosen.at[i].set(drawn[best]), lefts[best]

    chosen = jnp.zeros((size, rows.shape[-1])).at[0].set(rows[0])
    left = jnp.maximum(distances(rows[:1])[0], 0)
    return jax.lax.fori_loop(1, size, add, (chosen, left))[0]


def _iterate(
    key: Array, blocks: Array, weights: Array, centroids: Array, iterations: int | Array
) -> Array:
    """Lloyd's steps, all blocks one after the other."""
    size, width = centroids.shape

    def step(i, centroids):
        def add(sums, block):
            rows, weights = block
            codes = assign(rows, centroids, size)
            return jax.tree.map(
                jnp.add, sums, sum_by_code(codes, rows, size, weights)
            ), codes

        zero = (jnp.zeros(size), jnp.zeros_like(centroids))
        (counts, sums), codes = jax.lax.scan(add, zero, (blocks, weights))
        means = sums / jnp.maximum(counts, 1)[:, None]

        def refill(means):
            rows, own = blocks.reshape(-1, width), centroids[codes.reshape(-1)]
            far = jnp.sum((rows - own) ** 2, axis=-1)
            noise = jax.random.gumbel(jax.random.fold_in(key, i), far.shape)
            chance = jnp.log(far * weights.reshape(-1)) + noise
            _, drawn = jax.lax.top_k(chance, size)
            order = jnp.cumsum(counts == 0) - 1
            at = drawn[order]
            halfway = _SHRINK * rows[at] + (1 - _SHRINK) * own[at]
            return jnp.where((counts == 0)[:, None], halfway, means)

        return jax.lax.cond((counts == 0).any(), refill, lambda means: means, means)

    return jax.lax.fori_loop(0, iterations, step, centroids)


def _error(blocks: Array, weights: Array, centroids: Array) -> Array:
    """Squared distances to the nearest centroid, summed."""

    def add(total, block):
        rows, weights = block
        codes = assign(rows, centroids, len(centroids))
        return total + weights @ jnp.sum((rows - centroids[codes]) ** 2, axis=-1), None

    return jax.lax.scan(add, jnp.zeros(()), (blocks, weights))[0]


def _fit_blocks(
    key: Array, vectors: Array, blocks: tuple[int, ...], cells: NDArray, iterations: int
) -> tuple[Array, Array]:
    """K-means within each cell; its codewords, and each row's code."""
    codebooks, codes, start = [], np.zeros(len(vectors), np.int32), 0
    for cell, size in enumerate(blocks):
        rows = np.flatnonzero(cells == cell)
        # A cell that the sample misses starts anywhere: rows of its own restart it.
        own = vectors[rows if len(rows) else np.arange(size)]
        copies = -(-size // len(own))  # codewords on one row lie idle, then restart
        codebook = kmeans(
            jax.random.fold_in(key, cell), jnp.tile(own, (copies, 1)), size, iterations
        )
        codes[rows] = start + np.asarray(assign(own, codebook, size))[: len(rows)]
        codebooks.append(codebook)
        start += size
    return jnp.concatenate(codebooks), jnp.asarray(codes)


@jax.jit
def _subtract_nearest(rows: Array, codebook: Array) -> Array:
    blocks, _ = _block(rows)
    left = jax.lax.map(
        lambda block: block - codebook[assign(block, codebook, len(codebook))], blocks
    )
    return left.reshape(-1, rows.shape[-1])[: len(rows)]


def _block(rows: Array) -> tuple[Array, Array]:
    """Rows in equal blocks, zero-padded, and their weights (0 where padded)."""
    num_blocks = -(-len(rows) // _BLOCK)
    length = -(-len(rows) // num_blocks)
    short = num_blocks * length - len(rows)
    blocks = jnp.pad(rows.astype(jnp.float32), ((0, short), (0, 0)))
    weights = jnp.pad(jnp.ones(len(rows)), (0, short))
    return blocks.reshape(num_blocks, length, -1), weights.reshape(num_blocks, length)
