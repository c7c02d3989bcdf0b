"""A predicate over first codes -> the leaves that constrained search may reach."""

import jax.numpy as jnp

from sid_jax.errors import InputError
from sid_jax.sids.trie import Trie, first_leaves
from sid_jax.typing import Array, Bool, typed


@typed
def allowed_leaves(trie: Trie, codes: Bool[Array, "B K"]) -> Bool[Array, "B U"]:
    """The leaves whose first code each request allows, as `beam_search` takes them.

    A mask of K_1 codes a request, where the index's own is of U leaves: inside `jit` it
    is all that is moved to the device. Combine it with what the retailer carries by
    `&`. Where the first level holds attribute cells and the predicate is exact, that
    equals `ItemIndex.allowed` with the mask of the items that satisfy it.

    Raises:
      InputError: a mask over another number of codes than the trie's first level.
    """
    if codes.shape[1] != trie.codebook_sizes[0]:
        raise InputError(
            f"a mask over {codes.shape[1]} first codes, but the trie has"
            f" {trie.codebook_sizes[0]}"
        )
    return codes[:, _first_codes(trie)]


def _first_codes(trie: Trie) -> Array:
    """The first code of each leaf, `[U]`."""
    codes = trie.tokens[0][: trie.num_places(0)].astype(jnp.int32)
    if trie.tail == 0:
        return codes
    lengths = jnp.diff(first_leaves(trie)[0])
    return jnp.repeat(codes, lengths, total_repeat_length=trie.num_leaves)
