"""Losses as pure functions: summed over features, a value an item; tasks average them.

The reduction is part of the contract: with item vectors of total variance 1 the
reconstruction is at most about 1, and the weights of the other terms keep their meaning
at any width. (Averaged over features instead, it shrinks by the width, the other terms
take over and the codebooks collapse: RQ-VAE-Recommender's issue 65.)
"""

import jax
import jax.numpy as jnp

from sid_jax.typing import Array, Float, Int, typed


@typed
def reconstruction_loss(
    vectors: Float[Array, "B D"], reconstruction: Float[Array, "B D"]
) -> Float[Array, " B"]:
    """||x - x^||^2 of each item."""
    return jnp.sum((vectors - reconstruction) ** 2, axis=-1)


@typed
def commitment_loss(
    latent: Float[Array, "B D"], codewords: Float[Array, "B L D"]
) -> Float[Array, " B"]:
    """sum_l ||r_{l-1} - sg[e_l]||^2 of each item, for the encoder alone.

    Residuals are taken again from the latent, with constant codewords, so that each
    level's term reaches the encoder (van den Oord et al. 2017, equation 3).
    """
    codewords = jax.lax.stop_gradient(codewords)
    left = latent[:, None] - jnp.cumsum(codewords, axis=1)
    return jnp.sum(left**2, axis=(1, 2))


@typed
def code_log_prob(
    logits: Float[Array, "*b K"], codes: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """Log-probability of one level's codes, in float32."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(log_probs, codes[..., None], axis=-1)[..., 0]
