"""The decoder-only retriever of Instacart and PLUM: one token after another.

Retailer, history and basket are one stream of tokens, L an item, and the next item is
its next L tokens.  Every item of the stream is trained in one pass.
"""

from dataclasses import dataclass, field, replace

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint

from sid_jax.models.decoder import (
    Context,
    Outputs,
    State,
    last_real,
    point,
    spell_next,
    start_beam,
)
from sid_jax.models.repeat import RepeatHead
from sid_jax.models.stream import SoftPrompt, Stream, TokenEmbedding, lay_out
from sid_jax.models.transformer import Block, Memory, RMSNorm, TransformerConfig
from sid_jax.sids.vocab import PAD, Prompts, Sequences, Vocab
from sid_jax.typing import Array, Bool, Float, Int, typed


@dataclass(frozen=True, kw_only=True)
class FlatConfig:
    """A decoder-only retriever.

    Attributes:
      transformer: sizes.
      tied: codes are scored by the vectors that they are read by.
      repeat: mix in a head that points at the history (see `models/repeat.py`), for
        shops where households buy products again.
    """

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    tied: bool = True
    repeat: bool = False


class FlatDecoder(nn.Module):
    """Causal transformer over tokens.

    Attributes:
      config: sizes.
      vocab: token layout.
    """

    config: FlatConfig
    vocab: Vocab

    def setup(self):
        sizes = self.config.transformer
        tied = self.config.tied
        self.tokens = TokenEmbedding(self.vocab, sizes.width, scores=tied)
        self.scores = self.tokens if tied else TokenEmbedding(self.vocab, sizes.width)
        self.user = SoftPrompt(sizes.width)
        self.blocks = [Block(sizes) for _ in range(sizes.depth)]
        self.norm = RMSNorm()
        self.dropout = nn.Dropout(sizes.dropout)
        self.repeat = RepeatHead() if self.config.repeat else None

    @typed
    def __call__(self, batch: Prompts | Sequences, *, train: bool = False) -> Outputs:
        """What the asking positions of a batch say of the item after them."""
        stream, num_levels = lay_out(batch), self.vocab.num_levels
        everywhere = self._run(stream, train)[0]
        # A code is told by the token before it, the first one by the last of the item
        # or the retailer before.
        before = everywhere[:, (stream.first + 1) * num_levels - 1 : -1]
        before = before.reshape(*stream.targets.shape, -1)
        items = everywhere[:, num_levels - 1 :: num_levels]
        return Outputs(
            logits=[
                self.scores.logits(before[:, :, level], level)
                for level in range(num_levels)
            ],
            targets=stream.targets,
            asks=stream.asks,
            repeat=point(self.repeat, stream, items, before[:, :, 0], stream.pointable),
            history=stream.bought,
        )

    @typed
    def context(self, prompts: Prompts) -> Context:
        """Runs prompts; the next SID is to follow each row's last real token."""
        stream, num_levels = lay_out(prompts), self.vocab.num_levels
        outputs, memories, mask = self._run(stream, train=False)
        last = last_real(outputs, mask)
        items = outputs[:, num_levels - 1 :: num_levels]
        return Context(
            memories=memories,
            mask=mask,
            length=mask.sum(axis=1),
            first=last[:, 0],
            repeat=point(self.repeat, stream, items, last, stream.held[:, None]),
            history=stream.bought,
        )

    def start(self, context: Context) -> State:
        """State of the one beam that has spelled nothing."""
        return start_beam(context, self.repeat)

    @typed
    def step(
        self,
        context: Context,
        state: State,
        codes: Int[Array, "B M"] | None,
        level: int,
    ) -> tuple[State, Float[Array, "B M_out K"]]:
        """Logits of `level` given the codes chosen one level before (none at first)."""
        return spell_next(
            context,
            state,
            codes,
            level,
            tokens=self.tokens,
            blocks=self.blocks,
            norm=self.norm,
            scores=self.scores,
            head=self.repeat,
        )

    def _run(
        self, stream: Stream, train: bool
    ) -> tuple[Float[Array, "B T D"], tuple[Memory, ...], Bool[Array, "B T"]]:
        """Outputs, keys and values at every token, and which tokens are real."""
        batch, length, num_levels = stream.tokens.shape
        tokens = stream.tokens.reshape(batch, length * num_levels)
        segments = jnp.where(tokens == PAD, 0, stream.segments.repeat(num_levels, 1))
        flat = replace(stream, tokens=tokens[..., None], segments=segments)
        x = self.tokens(tokens)
        x = self.user(x, stream.user, num_levels - 1)
        x = with_logical_constraint(x, ("batch", None, "embed"))
        x = self.dropout(x, deterministic=not train)
        memories = []
        visible, positions = flat.visible, flat.positions
        for block in self.blocks:
            x, memory = block(x, positions, visible, train=train)
            memories.append(memory)
        return self.norm(x), tuple(memories), segments > 0
