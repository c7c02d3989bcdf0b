"""What retrievers read: the positions of a stream, and a vector a token.

Both kinds of batches, `Prompts` and packed `Sequences`, become one `Stream`: a position
for the retailer, for each item (all its tokens), for the mark before a basket.  A
position asks for the item after it, if that is one to learn: any next item of the same
household in sequences, the items of the basket in prompts.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from sid_jax.models.transformer import dense, partition
from sid_jax.sids.vocab import BASKET, PAD, Prompts, Sequences, Vocab
from sid_jax.typing import Array, Bool, Float, Int, NDArray, typed


@struct.dataclass
class Stream:
    """Positions to run a trunk over.

    Attributes:
      tokens: of each position; what is no item has PAD but for the last level.
      segments: which household a position is of; 0 where nothing is.
      first: the first position that may ask.
      items: which positions hold an item.
      history: the positions, from and to, whose items a repeat may point at.
      user: a vector of each row's household; or None.
    """

    tokens: Int[Array, "B T L"]
    segments: Int[Array, "B T"]
    items: Bool[Array, "B T"]
    first: int = struct.field(pytree_node=False)
    history: tuple[int, int] = struct.field(pytree_node=False)
    user: Float[Array, "B E"] | None = None

    @property
    def targets(self) -> Int[Array, "B n L"]:
        """Tokens of the item that each asking position asks for."""
        return self.tokens[:, self.first + 1 :]

    @property
    def asks(self) -> Bool[Array, "B n"]:
        """Which of the asking positions have an item to ask for."""
        now = self.segments[:, self.first : -1]
        after = self.segments[:, self.first + 1 :]
        return (now == after) & (after > 0) & (self.targets[..., 0] != PAD)

    @property
    def visible(self) -> Bool[Array, "B T T"]:
        """`visible[b, t, s]`: position t may attend to position s."""
        ids = self.segments
        causal = jnp.tril(jnp.ones((ids.shape[1],) * 2, bool))
        return causal & (ids[:, :, None] == ids[:, None, :]) & (ids > 0)[:, None]

    @property
    def bought(self) -> Int[Array, "B S L"]:
        """Tokens of the history's items."""
        return self.tokens[:, slice(*self.history)]

    @property
    def held(self) -> Bool[Array, "B S"]:
        """Which of the history's places hold an item."""
        return self.items[:, slice(*self.history)]

    @property
    def pointable(self) -> Bool[Array, "B n S"]:
        """Which of the history's items each asking position may point at."""
        seen = self.visible[:, self.first : -1, slice(*self.history)]
        return seen & self.held[:, None]

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Count of real positions before each, from the row's first one: rotary
        positions only tell distances, so that households need no count of their own.
        """
        return jnp.cumsum(self.segments > 0, axis=1) - 1


@typed
def lay_out(batch: Prompts | Sequences) -> Stream:
    """Positions of a batch: retailer, history and, if there is a basket, mark, basket.

    Absent items of a basket come last: what follows a hole would be asked of the hole.
    """
    if isinstance(batch, Sequences):
        tokens, segments = jnp.asarray(batch.tokens), jnp.asarray(batch.segments)
        items = jnp.asarray(batch.items) >= 0
        return Stream(tokens, segments, items, 0, (0, tokens.shape[1] - 1))
    history, basket = jnp.asarray(batch.history), jnp.asarray(batch.basket)
    num_levels = history.shape[2]
    parts = [_special(jnp.asarray(batch.retailers)[:, None], num_levels), history]
    if basket.shape[1]:
        mark = jnp.full((len(history), 1), BASKET, jnp.int32)
        parts += [_special(mark, num_levels), basket]
    tokens = jnp.concatenate(parts, axis=1)
    segments = (tokens[..., -1] != PAD).astype(jnp.int32)
    first = 1 + history.shape[1]
    items = (tokens[..., 0] != PAD).at[:, 0].set(False)
    if basket.shape[1]:
        items = items.at[:, first].set(False)
    return Stream(tokens, segments, items, first, (1, first), batch.user)


class TokenEmbedding(nn.Module):
    """A vector a token, read at the input, or at the output to score codes, or both.

    Attributes:
      vocab: token layout.
      width: D.
      scores: whether codes are scored by it.
    """

    vocab: Vocab
    width: int
    scores: bool = True

    def setup(self):
        self.embedding = self.param(
            "embedding",
            partition(nn.initializers.normal(self.width**-0.5), ("vocab", "embed")),
            (self.vocab.size, self.width),
        )
        if self.scores:
            self.bias = self.param(
                "bias",
                partition(nn.initializers.zeros_init(), ("vocab",)),
                (self.vocab.size,),
            )

    @typed
    def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        # Parameters may come as NumPy arrays, which a traced index cannot read.
        return jnp.asarray(self.embedding)[tokens]

    @typed
    def sum(self, tokens: Int[Array, "*b L"]) -> Float[Array, "*b D"]:
        """Sum over a position's tokens; PAD adds nothing."""
        return (self(tokens) * (tokens != PAD)[..., None]).sum(axis=-2)

    @typed
    def logits(self, outputs: Float[Array, "*b D"], level: int) -> Float[Array, "*b K"]:
        """Scores of a level's codes, in float32."""
        first = self.vocab.level_offsets[level]
        rows = slice(first, first + self.vocab.codebook_sizes[level])
        wide = {"preferred_element_type": jnp.float32}
        return jnp.matmul(outputs, self.embedding[rows].T, **wide) + self.bias[rows]


class SoftPrompt(nn.Module):
    """A household's vector as part of the prompt (GLIDE, Spotify 2026).

    Attributes:
      width: D.
    """

    width: int

    @nn.compact
    @typed
    def __call__(
        self,
        x: Float[Array, "B T D"],
        user: Float[Array | NDArray, "B E"] | None,
        place: int,
    ) -> Float[Array, "B T D"]:
        """Embeddings with the vector, projected, added at the retailer's `place`."""
        if user is None:
            return x
        told = dense(self.width, (None, "embed"))(jnp.asarray(user))
        return x.at[:, place].add(told.astype(x.dtype))


def _special(tokens: Array, num_levels: int) -> Array:
    """Positions `[B, 1, L]` of tokens that are no item's."""
    return jnp.pad(tokens[..., None], ((0, 0), (0, 0), (num_levels - 1, 0)))
