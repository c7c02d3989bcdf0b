"""A hierarchical retriever: a trunk reads items, a small transformer spells codes.

The shape of the RQ-Transformer (Lee et al. 2022): the trunk has one position an item,
the sum of its codes' embeddings, and the depth transformer reads the trunk's output and
the codes so far of the one item that comes next:

    p(SID | history) = prod_l p(c_l | trunk(history), c_<l).

A history of n items costs n positions rather than n L, and every one of them is trained
in one pass.  A search reads it once; a beam then carries at most L - 1 tokens.
"""

from dataclasses import dataclass, field

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
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
from sid_jax.models.transformer import (
    Block,
    RMSNorm,
    ScannedBlocks,
    TransformerConfig,
    dense,
)
from sid_jax.sids.vocab import Prompts, Sequences, Vocab
from sid_jax.typing import Array, Float, Int, typed


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """A hierarchical retriever.

    Attributes:
      trunk: over items.
      spell: over the codes of one item; of the trunk's width.
      tied: codes are scored by the vectors that they are read by.
      repeat: mix in a head that points at the history (see `models/repeat.py`), for
        shops where households buy products again.
      scan: run the trunk's blocks as a loop over one, which is what is compiled; its
        checkpoints hold them in one array and are others'.
    """

    trunk: TransformerConfig = field(default_factory=TransformerConfig)
    spell: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=1))
    tied: bool = True
    repeat: bool = False
    scan: bool = False

    def __post_init__(self):
        if self.trunk.width != self.spell.width:
            raise InputError(
                f"model.trunk.width {self.trunk.width} and model.spell.width "
                f"{self.spell.width} must be the same"
            )


class HierarchicalDecoder(nn.Module):
    """Causal trunk over items, depth transformer over the codes of the next one.

    Attributes:
      config: sizes.
      vocab: token layout.
    """

    config: HierarchicalConfig
    vocab: Vocab

    def setup(self):
        trunk, spell = self.config.trunk, self.config.spell
        tied = self.config.tied
        self.tokens = TokenEmbedding(self.vocab, trunk.width, scores=tied)
        self.scores = self.tokens if tied else TokenEmbedding(self.vocab, trunk.width)
        self.user = SoftPrompt(trunk.width)
        self.trunk = (
            [ScannedBlocks(trunk)]
            if self.config.scan
            else [Block(trunk) for _ in range(trunk.depth)]
        )
        self.trunk_norm = RMSNorm()
        self.hand = dense(spell.width, ("embed", None))
        self.spell = [Block(spell) for _ in range(spell.depth)]
        self.spell_norm = RMSNorm()
        self.trunk_dropout = nn.Dropout(trunk.dropout)
        self.spell_dropout = nn.Dropout(spell.dropout)
        self.repeat = RepeatHead() if self.config.repeat else None

    @typed
    def __call__(self, batch: Prompts | Sequences, *, train: bool = False) -> Outputs:
        """What the asking positions of a batch say of the item after them."""
        stream = lay_out(batch)
        outputs = self._read(stream, train)
        asking = outputs[:, stream.first : -1]
        spelled = self._spell(asking, stream.targets, train)
        return Outputs(
            logits=[
                self.scores.logits(spelled[:, :, level], level)
                for level in range(self.vocab.num_levels)
            ],
            targets=stream.targets,
            asks=stream.asks,
            repeat=point(self.repeat, stream, outputs, asking, stream.pointable),
            history=stream.bought,
        )

    @typed
    def context(self, prompts: Prompts) -> Context:
        """Runs prompts; the next SID is to follow each row's last real position."""
        stream = lay_out(prompts)
        outputs = self._read(stream, train=False)
        last = last_real(outputs, stream.segments > 0)
        x, memories = self.hand(last), []
        place = jnp.zeros(x.shape[:2], jnp.int32)
        mask = jnp.ones(x.shape[:2], bool)
        for block in self.spell:
            x, memory = block(x, place, mask[:, None])
            memories.append(memory)
        return Context(
            memories=tuple(memories),
            mask=mask,
            length=mask.sum(axis=1),
            first=self.spell_norm(x)[:, 0],
            repeat=point(self.repeat, stream, outputs, last, stream.held[:, None]),
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
            blocks=self.spell,
            norm=self.spell_norm,
            scores=self.scores,
            head=self.repeat,
        )

    def _read(self, stream: Stream, train: bool) -> Float[Array, "B T D"]:
        """Output of the trunk at every position."""
        x = self.tokens.sum(stream.tokens)
        x = self.user(x, stream.user, 0)
        x = with_logical_constraint(x, ("batch", None, "embed"))
        x = self.trunk_dropout(x, deterministic=not train)
        visible, positions = stream.visible, stream.positions
        for block in self.trunk:
            x, _ = block(x, positions, visible, train=train)
        return self.trunk_norm(x)

    def _spell(
        self,
        asking: Float[Array, "B n D"],
        targets: Int[Array, "B n L"],
        train: bool,
    ) -> Float[Array, "B n L D"]:
        """Output before each code of each target, teacher-forced."""
        batch, count, num_levels = targets.shape
        codes = self.tokens(targets[:, :, :-1])
        codes = self.spell_dropout(codes, deterministic=not train)
        x = jnp.concatenate([self.hand(asking)[:, :, None], codes], axis=2)
        x = x.reshape(batch * count, num_levels, -1)
        positions = jnp.broadcast_to(jnp.arange(num_levels), x.shape[:2])
        causal = jnp.tril(jnp.ones((1, num_levels, num_levels), bool))
        causal = jnp.broadcast_to(causal, (len(x), num_levels, num_levels))
        for block in self.spell:
            x, _ = block(x, positions, causal, train=train)
        return self.spell_norm(x).reshape(batch, count, num_levels, -1)
