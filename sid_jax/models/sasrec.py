"""SASRec (Kang and McAuley 2018): the next item is scored, not spelled.

The baseline of retrieval: a causal transformer over a history, whose output at each
position is compared with a vector of every item of the catalog,

    score(item | history) = <output(history), e(item)> + b(item),

under a softmax over the whole catalog (Klenitskiy and Vasilev 2023: it is what makes
SASRec strong).  The blocks are ours (RMSNorm, rotary positions, SwiGLU), so that it
differs from the decoders in what it predicts alone.  An item is read and scored by

- `atomic`: a vector of its own;
- `sid`: the sum of its codes' vectors, sum of K_l rows in all (Singh et al. 2024);
- `prefix`: the sum over l of a vector of its first l codes together, hashed to `rows`
  rows a level (Zheng et al. 2025, prefix n-grams).
"""

from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
from sid_jax.models.transformer import Block, RMSNorm, TransformerConfig, partition
from sid_jax.sids.vocab import Sequences
from sid_jax.typing import Array, Float, Int, NDArray, typed


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """A scoring retriever.

    Attributes:
      transformer: sizes.
      items: what an item is read and scored by.
      rows: of each level's table, for `prefix`.
      biased: whether items have a bias, their popularity; with `sid` and `prefix` it is
        as many rows as the vectors are.
    """

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    items: Literal["atomic", "sid", "prefix"] = "atomic"
    rows: int = 2048
    biased: bool = True

    def __post_init__(self):
        if self.items not in ("atomic", "sid", "prefix"):
            raise InputError(f"model.items={self.items!r}: atomic, sid or prefix")
        if self.rows < 1:
            raise InputError(f"model.rows={self.rows} must be positive")


@typed
def item_rows(
    config: SASRecConfig, codes: Int[NDArray, "N L"], codebook_sizes: tuple[int, ...]
) -> tuple[Int[NDArray, "N n"], int]:
    """Rows of the table whose vectors add up to each item's, and the table's size.

    Args:
      config: of the model.
      codes: SID of each item.
      codebook_sizes: codes a level.
    """
    if config.items == "atomic":
        return np.arange(len(codes), dtype=np.int32)[:, None], len(codes)
    if config.items == "sid":
        offsets = np.cumsum([0, *codebook_sizes[:-1]])
        return (codes + offsets).astype(np.int32), sum(codebook_sizes)
    rows, prefix = [], np.zeros(len(codes), np.uint64)
    for level, code in enumerate(codes.T):
        # Fibonacci hashing of the prefix, kept whole; its top bits choose the row.
        prefix = (prefix + code.astype(np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
        row = (prefix >> np.uint64(32)) % np.uint64(config.rows)
        rows.append(row.astype(np.int32) + level * config.rows)
    return np.stack(rows, axis=1), config.rows * codes.shape[1]


class SASRec(nn.Module):
    """Causal transformer over items.

    Attributes:
      config: sizes.
      num_rows: of the table of vectors, as from `item_rows`.
      num_specials: tokens that are no code's: retailers' among them.
    """

    config: SASRecConfig
    num_rows: int
    num_specials: int

    def setup(self):
        sizes = self.config.transformer
        self.embedding = self.param(
            "embedding",
            partition(nn.initializers.normal(sizes.width**-0.5), ("vocab", "embed")),
            (self.num_rows, sizes.width),
        )
        if self.config.biased:
            self.bias = self.param(
                "bias",
                partition(nn.initializers.zeros_init(), ("vocab",)),
                (self.num_rows,),
            )
        self.specials = self.param(
            "specials",
            partition(nn.initializers.normal(sizes.width**-0.5), ("vocab", "embed")),
            (self.num_specials, sizes.width),
        )
        self.blocks = [Block(sizes) for _ in range(sizes.depth)]
        self.norm = RMSNorm()
        self.dropout = nn.Dropout(sizes.dropout)

    @typed
    def __call__(
        self, batch: Sequences, rows: Int[Array, "N n"], *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Output at each position, which sees those before it of its own segment.

        Args:
          batch: histories; SIDs in it are not read.
          rows: of each item, as from `item_rows`.
          train: with dropout.
        """
        items, segments = jnp.asarray(batch.items), jnp.asarray(batch.segments)
        opening = jnp.where(items < 0, jnp.asarray(batch.tokens)[..., -1], 0)
        x = jnp.where(
            (items < 0)[..., None],
            jnp.asarray(self.specials)[opening],
            self.vectors(rows[jnp.maximum(items, 0)]),
        )
        x = with_logical_constraint(x, ("batch", None, "embed"))
        x = self.dropout(x, deterministic=not train)
        causal = jnp.tril(jnp.ones((items.shape[1],) * 2, bool))
        same = segments[:, :, None] == segments[:, None, :]
        visible = causal & same & (segments > 0)[:, None]
        positions = jnp.cumsum(segments > 0, axis=1) - 1
        for block in self.blocks:
            x, _ = block(x, positions, visible, train=train)
        return self.norm(x)

    @typed
    def vectors(self, rows: Int[Array, "*b n"]) -> Float[Array, "*b D"]:
        """Vectors of items, from their rows."""
        return jnp.asarray(self.embedding)[rows].sum(axis=-2)

    @typed
    def scores(
        self, outputs: Float[Array, "*b D"], rows: Int[Array, "N n"]
    ) -> Float[Array, "*b N"]:
        """Score of every item, in float32."""
        wide = {"preferred_element_type": jnp.float32}
        scores = jnp.matmul(outputs, self.vectors(rows).T, **wide)
        return self._biased(scores, rows)

    @typed
    def score_own(
        self, outputs: Float[Array, "*b D"], rows: Int[Array, "*b n"]
    ) -> Float[Array, "*b"]:
        """Score of one item at each output, in float32."""
        return self._biased((outputs * self.vectors(rows)).sum(axis=-1), rows)

    def _biased(self, scores: Array, rows: Array) -> Array:
        if self.config.biased:
            scores += jnp.asarray(self.bias)[rows].sum(axis=-1)
        return scores.astype(jnp.float32)
