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
from sid_jax.models.quantizer import assign
from sid_jax.typing import Array, Float, Int, Key, NDArray

_BLOCK = 8192  # rows a k-means pass holds distances for at once


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
            residual = _subtract_nearest(residual, codebook)
        levels.append(codebook)
    return make_codebooks(levels, blocks)


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
        codes[rows] = start + np.asarray(_nearest(own, codebook)[0])[: len(rows)]
        codebooks.append(codebook)
        start += size
    return jnp.concatenate(codebooks), jnp.asarray(codes)


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
