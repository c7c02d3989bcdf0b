"""Vectors of prefixes: what an item is beyond the sum of its codes.

A code means something else after each prefix, and an item of three shared codes has no
parameter of its own.  Here each prefix of two codes or more has a vector, added where
an item is read and where the codes that may follow are scored,

    logit(c | h, p) = <h, e(c) + n(p, c)>,

n hashed to a table of `rows` rows a level (prefix n-grams, Zheng et al. 2025, there
where items are read; the vectors of the nodes of a hierarchical softmax, Morin and
Bengio 2005, where they are scored).  It starts at 0: an item that training never saw is
the sum of its codes, as without it.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from sid_jax.models.transformer import partition
from sid_jax.sids.trie import Trie, child_slots, descend
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.typing import Array, Float, Int, typed

_GOLDEN = 0x9E3779B9  # Fibonacci hashing


@struct.dataclass
class Prefix:
    """Where spelling stands.

    Attributes:
      nodes: of the trie, `[*b]`.
      hashes: of the codes so far, `[*b]`.
    """

    nodes: Int[Array, "*b"]
    hashes: Array

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> "Prefix":
        """Before the first code."""
        return cls(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.uint32))

    def follow(self, trie: Trie, level: int, codes: Int[Array, "*b"]) -> "Prefix":
        """After a code of `level`."""
        nodes = descend(trie, level, self.nodes, codes)
        return Prefix(nodes, mix(self.hashes, codes))


def mix(hashes: Array, codes: Array) -> Array:
    """Hashes of prefixes by one more code, uint32; shapes broadcast."""
    return (hashes + codes.astype(jnp.uint32) + 1) * jnp.uint32(_GOLDEN)


class PrefixEmbedding(nn.Module):
    """A vector for each prefix of two codes or more.

    Attributes:
      vocab: token layout.
      width: D.
      rows: of each level's table.
    """

    vocab: Vocab
    width: int
    rows: int

    def setup(self):
        self.embedding = self.param(
            "embedding",
            partition(nn.initializers.zeros_init(), ("vocab", "embed")),
            ((self.vocab.num_levels - 1) * self.rows, self.width),
        )

    @typed
    def sum(self, tokens: Int[Array, "*b L"]) -> Float[Array, "*b D"]:
        """Sum over the prefixes of an item; nothing for what is no item."""
        codes = tokens - jnp.asarray(self.vocab.level_offsets)
        hashes = mix(jnp.zeros(codes.shape[:-1], jnp.uint32), codes[..., 0])
        total = 0.0
        for level in range(1, self.vocab.num_levels):
            hashes = mix(hashes, codes[..., level])
            total += self._vectors(hashes, level)
        return total * (tokens[..., :1] != PAD)

    @typed
    def logits(
        self, outputs: Float[Array, "*b D"], prefix: Prefix, level: int, trie: Trie
    ) -> Float[Array, "*b K"]:
        """What to add to the scores of a level's codes, level > 0; float32."""
        _, codes, exists = child_slots(trie, level, prefix.nodes)
        vectors = self._vectors(mix(prefix.hashes[..., None], codes), level)
        scores = jnp.einsum("...d,...sd->...s", outputs, vectors)
        scores = jnp.where(exists, scores, 0).astype(jnp.float32)
        size, slots = self.vocab.codebook_sizes[level], codes.shape[-1]
        flat, rows = scores.reshape(-1, slots), codes.reshape(-1, slots)
        none = jnp.zeros((len(flat), size), jnp.float32)
        added = none.at[jnp.arange(len(flat))[:, None], rows].add(flat)
        return added.reshape(*scores.shape[:-1], size)

    def _vectors(self, hashes: Array, level: int) -> Array:
        rows = (hashes >> 7) % jnp.uint32(self.rows)
        return jnp.asarray(self.embedding)[rows + (level - 1) * self.rows]
