"""Sticky assignment: an item keeps the old code where that costs little.

After a retraining most items that move lie near a border, where the old code is about
as good.  A SID that changes costs a retriever what it has learned of the item, so a
small excess of distance is the better bargain.  The rule is ours.
"""

import jax
import jax.numpy as jnp

from sid_jax.models.codebooks import Codebooks, allow_blocks, lookup
from sid_jax.models.quantizer import Quantized, assign, quantize_as
from sid_jax.typing import Array, Float, Int, typed


@typed
def keep_codes(
    old: Int[Array, "B L"],
    vectors: Float[Array, "B D"],
    codebooks: Codebooks,
    slack: float | Float[Array, ""],
    cells: Int[Array, " B"] | None = None,
) -> Int[Array, "B L"]:
    """Sticky assignment: as much of each old SID as costs no more than a little.

    Of the SIDs that begin with the first L, L-1, .. 0 old codes and go on greedily, the
    first whose squared distance is at most (1 + slack) times that of the greedy SID
    [ours].  So a SID that is near enough stays whole, and another loses its tail first;
    whatever the rule "whole or not at all" keeps, this one keeps too.

    Args:
      old: SIDs of an earlier version, within the codebooks.
      vectors: what is quantized now.
      codebooks: of now, numbered as the old ones (see `permute`).
      slack: 0 keeps what is no worse than greedy, infinity everything.
      cells: of the rows, where the codebooks have blocks: a row whose cell changed
        keeps nothing.
    """
    old = old.astype(jnp.int32)
    allowed = allow_blocks(codebooks, cells)
    candidates = []  # by the number of old codes that are kept
    kept = vectors.astype(jnp.float32)  # what these leave to quantize
    for start in range(len(codebooks.sizes) + 1):
        residual, codes = kept, [old[:, :start]]
        for level in range(start, len(codebooks.sizes)):
            code = assign(
                residual,
                codebooks.vectors[level],
                codebooks.sizes[level],
                allowed if level == 0 else None,
            )
            residual = residual - codebooks.vectors[level][code]
            codes.append(code[:, None])
        candidates.append(jnp.concatenate(codes, axis=1))
        if start < len(codebooks.sizes):
            kept = kept - codebooks.vectors[start][old[:, start]]
    options = jnp.stack(candidates)
    # One formula for all, so that equal SIDs have equal distances.
    reached = jax.vmap(lambda codes: lookup(codes, codebooks))(options)
    distances = jnp.sum((vectors.astype(jnp.float32) - reached) ** 2, axis=-1)
    # Not 0, whose product with an infinite slack would be no number.
    unit = jnp.maximum(distances[0], jnp.finfo(jnp.float32).tiny)
    fits = distances - distances[0] <= slack * unit
    if allowed is not None:
        own = jnp.take_along_axis(allowed, old[:, :1], axis=1)[:, 0]
        fits = fits.at[1:].set(fits[1:] & own)
    longest = jnp.max(jnp.arange(len(options))[:, None] * fits, axis=0)
    return options[longest, jnp.arange(len(vectors))]


@typed
def stick(
    quantized: Quantized,
    old: Int[Array, "B L"],
    vectors: Float[Array, "B D"],
    codebooks: Codebooks,
    slack: float | Float[Array, ""],
    cells: Int[Array, " B"] | None = None,
) -> Quantized:
    """A quantization in which rows that have an old SID keep what they may of it.

    Used in training too, so that codebooks and encoder learn to make room for new items
    around the SIDs that stay.

    Args:
      quantized: of the rows.
      old: SIDs of an earlier version; -1 for rows that have none.
      vectors: what was quantized.
      codebooks: by which.
      slack: of `keep_codes`.
      cells: of the rows, where the codebooks have blocks.
    """
    latent = jax.lax.stop_gradient(vectors)
    kept = keep_codes(jnp.maximum(old, 0), latent, codebooks, slack, cells)
    codes = jnp.where(old[:, :1] >= 0, kept, quantized.codes)
    return quantize_as(vectors, codes, codebooks)
