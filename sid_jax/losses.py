"""Losses as pure functions: summed over features, a value an item; tasks average them.

A loss that acts at every level gives a value an item and level; tasks weigh the levels
with weights that sum to 1 (`level_weights`) before they average.

The reduction is part of the contract: with item vectors of total variance 1 the
reconstruction is at most about 1, and the weights of the other terms keep their meaning
at any width. (Averaged over features instead, it shrinks by the width, the other terms
take over and the codebooks collapse: RQ-VAE-Recommender's issue 65.)
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from sid_jax.errors import InputError
from sid_jax.typing import Array, Bool, Float, Int, typed

_MASKED = -1e30  # finite, so that a row without contrasts has no NaN gradient


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
def straight_through_prefixes(
    latent: Float[Array, "B D"], codewords: Float[Array, "B L D"]
) -> Float[Array, "B L D"]:
    """Prefix sums of the codewords, whose gradient goes to the latent alone.

    The vectors that both contrastive losses act on (ours): an item is judged by what
    its first l codes say, and codewords stay the centroids of their residuals.
    """
    prefixes = jax.lax.stop_gradient(jnp.cumsum(codewords, axis=1))
    # The second term is exactly 0 and has the latent's gradient.
    return prefixes + (latent - jax.lax.stop_gradient(latent))[:, None]


@typed
def taxonomy_grades(
    paths: Int[Array, "B depth"], *, sibling: float = 0.5, cousin: float = 0.25
) -> Float[Array, "B B"]:
    """How related each pair of items is, by where their category paths part.

    A pair that shares its first a >= 1 nodes is max(depth_i, depth_j) - a hops apart:
    the same leaf gives 1, one hop `sibling`, h >= 2 hops cousin * sibling^(h - 2). No
    common ancestor gives 0, and so do an item with itself and an unknown path.

    Instacart published the order (same leaf, sibling leaf, no shared ancestor) and no
    numbers; the numbers, cousins and ragged paths are ours.

    Args:
      paths: each item's ancestor node at depth 1, 2, ... of the deepest; -1 below its
        own depth, so all -1 for an unknown path.
      sibling: grade of leaves under one parent.
      cousin: grade of leaves under one grandparent.
    """
    known = paths >= 0
    # Paths agree on a prefix and nowhere after it, so counting is enough.
    shared = ((paths[:, None] == paths) & known[:, None]).sum(axis=-1)
    depth = known.sum(axis=-1)
    hops = jnp.maximum(depth[:, None], depth) - shared
    far = cousin * jnp.float32(sibling) ** jnp.maximum(hops - 2, 0)
    grades = jnp.where(hops == 0, 1.0, jnp.where(hops == 1, sibling, far))
    related = (shared > 0) & ~jnp.eye(len(paths), dtype=bool)
    return jnp.where(related, grades, 0.0).astype(jnp.float32)


@typed
def graded_contrastive_loss(
    vectors: Float[Array, "B L D"],
    grades: Float[Array, "B B"],
    known: Bool[Array, " B"],
    *,
    temperature: float,
) -> tuple[Float[Array, "B L"], Bool[Array, " B"]]:
    """KL(t_i || p_il) of each item i at each level l: soft-target InfoNCE.

    t_ij = g_ij / sum_k g_ik, and p_il is the softmax over the other known items of
    cos(s_il, s_jl) / temperature. At its floor, 0, similarities differ by temperature *
    log of the grades' ratio: with grades 1 and .5, siblings lie temperature * ln 2
    further than leaf-mates. With one grade it is SupCon (Khosla et al. 2020) less
    log(number of positives).

    Instacart published that relatedness is graded by the taxonomy, that the term's
    weight is 0.01 and that coarser levels weigh more. Kernel, temperature and the
    vectors (`straight_through_prefixes`) are ours, as are the grades' numbers
    (`taxonomy_grades`) and the levels' weights (`level_weights`).

    Args:
      vectors: of any length; normalised here. A zero vector has similarity 0 to all.
      grades: g, not negative; an item's grade with itself does not count.
      known: items whose category is known; the others are neither anchors nor
        contrasts.
      temperature: of the softmax, above 0.

    Returns:
      The losses, and which items are anchors: those with a known relative in the batch.
      The others have loss 0; a mean is taken over anchors.
    """
    contrasts = known[:, None] & known & ~jnp.eye(len(known), dtype=bool)
    positive = jnp.where(contrasts, grades.astype(jnp.float32), 0.0)
    total = positive.sum(axis=-1)
    anchors = total > 0
    targets = positive / jnp.where(anchors, total, 1.0)[:, None]
    log_prob = _log_softmax(_cosines(vectors) / temperature, contrasts)
    cross = -jnp.where(targets > 0, targets * log_prob, 0.0).sum(axis=-1)
    negentropy = xlogy(targets, targets).sum(axis=-1)
    return jnp.where(anchors, cross + negentropy, 0.0).T, anchors


@typed
def cooccurrence_loss(
    vectors: Float[Array, "B L D"],
    log_prob: Float[Array, " B"],
    excluded: Bool[Array, "B B"],
    *,
    temperature: float,
) -> Float[Array, "B L"]:
    """-log softmax of each item's partner, among the items that it is not known with.

    Logits are cos(s_il, s_jl) / temperature - log P(j): less the log of how often an
    item is drawn, so that what sells is not pushed from everything (Yi et al. 2019).

    PLUM (YouTube, arXiv 2510.07784) published InfoNCE over the 2n items of n
    co-occurring pairs. The popularity correction, the exclusion of known pairs and a
    loss at every level are ours: complements are no substitutes, so that the task can
    weigh deep levels more than the taxonomy does.

    Args:
      vectors: rows 2i and 2i + 1 are a pair; normalised here, zero vectors included.
      log_prob: log of each item's probability in a draw, up to a constant.
      excluded: entry (i, j) keeps item j out of item i's contrasts: known to co-occur
        with it, or the same item. An item's partner is in and itself out regardless.
      temperature: of the softmax, above 0.

    Raises:
      InputError: an odd number of rows.
    """
    B = len(log_prob)
    if B % 2:
        raise InputError(f"co-occurrence vectors come in pairs, not {B} rows")
    itself, partner = jnp.eye(B, dtype=bool), jnp.arange(B) ^ 1
    paired = itself[partner]
    contrasts = (~excluded | paired) & ~itself
    logits = _cosines(vectors) / temperature - log_prob.astype(jnp.float32)
    chosen = _log_softmax(logits, contrasts)
    return -jnp.where(paired, chosen, 0.0).sum(axis=-1).T


def level_weights(num_levels: int, base: float = 2.0) -> tuple[float, ...]:
    """Weights base^-l, scaled to sum to 1: (8, 4, 2, 1) / 15 of four levels.

    Instacart published that coarser levels weigh more; the base is ours. A base below 1
    makes them rise with depth, for co-occurrence: 0.5 gives (1, 2, 4, 8) / 15.
    """
    if num_levels < 1 or not 0 < base < float("inf"):
        raise InputError(
            "level weights take one level or more and a base above 0, not"
            f" num_levels={num_levels}, base={base}"
        )
    weights = [float(base) ** -level for level in range(num_levels)]
    return tuple(weight / sum(weights) for weight in weights)


def _cosines(vectors: Float[Array, "B L D"]) -> Float[Array, "L B B"]:
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    # No direction at length 0: no similarity, no gradient, and no division by it.
    nonzero = square > 1e-12
    units = vectors * jnp.where(
        nonzero, jax.lax.rsqrt(jnp.where(nonzero, square, 1.0)), 0.0
    )
    # Rounding is divided by the temperature, so no accelerator's fast, short floats.
    return jnp.einsum("bld,cld->lbc", units, units, precision=jax.lax.Precision.HIGHEST)


def _log_softmax(
    logits: Float[Array, "L B B"], mask: Bool[Array, "B B"]
) -> Float[Array, "L B B"]:
    """Over the masked entries of each row; what the others hold is no number to use."""
    return jax.nn.log_softmax(jnp.where(mask, logits, _MASKED), axis=-1)
