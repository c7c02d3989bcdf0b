"""SID decoders behind one step contract: `step(context, state, codes, level)`.

`SidDecoder` is the decoder-only transformer over SID tokens of Instacart and PLUM:
p(SID | prompt) = prod_l p(c_l | prompt, c_<l), with an output head for each level, so
that a level's logits are over its own codes only.
"""

from dataclasses import dataclass, field

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from flax.linen.spmd import with_logical_constraint

from sid_jax.models.repeat import Repeat, RepeatHead, RepeatState
from sid_jax.models.transformer import (
    Block,
    Memory,
    RMSNorm,
    TransformerConfig,
    partition,
)
from sid_jax.sids.vocab import BASKET, PAD, Prompts, Vocab
from sid_jax.typing import Array, Bool, Float, Int, typed


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only retriever.

    Attributes:
      transformer: sizes of the trunk.
      repeat: mix in a head that points at the history (see `models/repeat.py`), for
        shops where households buy products again.
    """

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    repeat: bool = True


@struct.dataclass
class Outputs:
    """What a prompt's basket items are predicted by.

    Attributes:
      logits: a level, the scores of its codes `[B, S_b, K_l]`.
      repeat: which of the history's items is bought again `[B, S_b, ...]`; or None.
    """

    logits: list[Array]
    repeat: Repeat | None


@struct.dataclass
class Context:
    """A request's prompt, computed once and shared by its beams.

    Attributes:
      memories: keys and values, a block.
      mask: which of them are real.
      length: number of real tokens.
      last: output at the last real token, which spells level 1.
      repeat: which of the history's items is bought again `[B, 1, ...]`; or None.
      history: tokens of the history's items.
    """

    memories: tuple[Memory, ...]
    mask: Bool[Array, "B T"]
    length: Int[Array, " B"]
    last: Float[Array, "B D"]
    repeat: Repeat | None
    history: Int[Array, "B S L"]


@struct.dataclass
class State:
    """What a beam alone has.

    Attributes:
      own: keys and values of its own tokens, a block: `[B, M, tokens so far, H, Dh]`.
      repeat: the repeat head's part; or None.
    """

    own: tuple[tuple[Array, Array], ...]
    repeat: RepeatState | None


class SidDecoder(nn.Module):
    """Causal transformer over prompt tokens that spells a SID level by level.

    Attributes:
      config: sizes.
      vocab: token layout.
    """

    config: DecoderConfig
    vocab: Vocab

    def setup(self):
        sizes = self.config.transformer
        self.embedding = self.param(
            "embedding",
            partition(nn.initializers.normal(sizes.width**-0.5), ("vocab", "embed")),
            (self.vocab.size, sizes.width),
        )
        self.bias = self.param(
            "bias",
            partition(nn.initializers.zeros_init(), ("vocab",)),
            (self.vocab.size,),
        )
        self.blocks = [Block(sizes) for _ in range(sizes.depth)]
        self.norm = RMSNorm()
        self.dropout = nn.Dropout(sizes.dropout)
        if self.config.repeat:
            self.repeat = RepeatHead()

    @typed
    def __call__(self, prompts: Prompts, *, train: bool = False) -> Outputs:
        """What predicts every basket item, each given all that precedes it.

        Absent items of a basket come last: what follows a hole would be predicted from
        the hole.
        """
        batch, basket, num_levels = prompts.basket.shape
        everywhere = self._run(prompts, train)[0]
        outputs = everywhere[:, -basket * num_levels - 1 : -1]
        outputs = outputs.reshape(batch, basket, num_levels, -1)
        return Outputs(
            logits=[self.logits(outputs[:, :, i], i) for i in range(num_levels)],
            repeat=self._point(prompts, everywhere, outputs[:, :, 0]),
        )

    @typed
    def logits(self, outputs: Float[Array, "*b D"], level: int) -> Float[Array, "*b K"]:
        """Scores of a level's codes, in float32; codes embed as they are scored."""
        first = self.vocab.level_offsets[level]
        rows = slice(first, first + self.vocab.codebook_sizes[level])
        scores = outputs @ self.embedding[rows].T + self.bias[rows]
        return scores.astype(jnp.float32)

    @typed
    def context(self, prompts: Prompts) -> Context:
        """Runs prompts; the next SID is to follow each row's last real token."""
        outputs, memories, mask = self._run(prompts, train=False)
        length = mask.sum(axis=1)
        places = jnp.where(mask, jnp.arange(mask.shape[1]), -1)
        last = jnp.take_along_axis(outputs, places.max(axis=1)[:, None, None], axis=1)
        return Context(
            memories=memories,
            mask=mask,
            length=length,
            last=last[:, 0],
            repeat=self._point(prompts, outputs, last),
            history=jnp.asarray(prompts.history),
        )

    def start(self, context: Context) -> State:
        """State of the one beam that has spelled nothing."""
        own = tuple(
            (memory.keys[:, None, :0], memory.values[:, None, :0])
            for memory in context.memories
        )
        repeat = None
        if context.repeat is not None:
            repeat = self.repeat.start(context.repeat)
        return State(own, repeat)

    @typed
    def step(
        self,
        context: Context,
        state: State,
        codes: Int[Array, "B M"] | None,
        level: int,
    ) -> tuple[State, Float[Array, "B M_out K"]]:
        """Logits of `level` given the codes chosen one level before (none at first)."""
        if codes is None:
            logits, own = self.logits(context.last[:, None], level), state.own
        else:
            x = self._look_up(codes + self.vocab.level_offsets[level - 1])
            positions = context.length[:, None] + level - 1
            positions = jnp.broadcast_to(positions, codes.shape)
            own = []
            for block, memory, mine in zip(
                self.blocks, context.memories, state.own, strict=True
            ):
                x, mine = block.step(x, positions, memory, context.mask, mine)
                own.append(mine)
            logits = self.logits(self.norm(x), level)
        repeat = state.repeat
        if repeat is not None and context.repeat is not None:
            offsets = jnp.asarray(self.vocab.level_offsets)
            repeat, logits = self.repeat.step(
                context.repeat, repeat, context.history - offsets, codes, logits, level
            )
        return State(tuple(own), repeat), logits

    def _point(self, prompts: Prompts, outputs: Array, asking: Array) -> Repeat | None:
        if not self.config.repeat:
            return None
        history = outputs[:, 1 : 1 + prompts.history.shape[1]]
        present = jnp.asarray(prompts.history[:, :, 0]) != PAD
        return self.repeat(asking, history, present)

    def _run(
        self, prompts: Prompts, train: bool
    ) -> tuple[Array, tuple[Memory, ...], Array]:
        x, mask = self._embed(prompts)
        positions = jnp.cumsum(mask, axis=1) - 1
        causal = jnp.tril(jnp.ones((mask.shape[1],) * 2, bool))
        visible = causal & mask[:, None, :]
        x = with_logical_constraint(x, ("batch", None, "embed"))
        x = self.dropout(x, deterministic=not train)
        memories = []
        for block in self.blocks:
            x, memory = block(x, positions, visible, train=train)
            memories.append(memory)
        return self.norm(x), tuple(memories), mask

    def _embed(self, prompts: Prompts) -> tuple[Array, Array]:
        """One position for the retailer, each history item, the mark, each token."""
        tokens = prompts.basket.reshape(len(prompts.basket), -1)
        mark = jnp.full((len(tokens), 1), BASKET)
        x = jnp.concatenate(
            [
                self._look_up(prompts.retailers[:, None]),
                self._look_up(prompts.history).sum(axis=2),
                self._look_up(mark),
                self._look_up(tokens),
            ],
            axis=1,
        )
        mask = jnp.concatenate(
            [
                prompts.retailers[:, None] != PAD,
                prompts.history[:, :, 0] != PAD,
                mark != PAD,
                tokens != PAD,
            ],
            axis=1,
        )
        return x, mask

    def _look_up(self, tokens: Array) -> Array:
        # Parameters may come as NumPy arrays, which a traced index cannot read.
        return jnp.asarray(self.embedding)[tokens]
