"""TIGER (Rajput et al. 2023): an encoder reads the history, a decoder spells the SID.

The encoder sees the retailer's token and L tokens an item, all of them at once.  A
history is read anew for each item that is asked for: prompts are sliding windows over
histories (`PromptConfig(basket=1)`).
"""

from dataclasses import dataclass, field

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint

from sid_jax.models.decoder import Context, Outputs, State, spell_next, start_beam
from sid_jax.models.stream import SoftPrompt, TokenEmbedding
from sid_jax.models.t5 import DecoderBlock, EncoderBlock, RelativeBias, T5Config
from sid_jax.models.transformer import RMSNorm
from sid_jax.sids.vocab import BASKET, PAD, Prompts, Vocab
from sid_jax.typing import Array, Bool, Float, Int, typed


@dataclass(frozen=True, kw_only=True)
class TigerConfig:
    """An encoder-decoder retriever; by default the paper's sizes.

    Attributes:
      transformer: sizes of encoder and decoder.
      tied: codes are scored by the vectors that they are read by.
    """

    transformer: T5Config = field(default_factory=T5Config)
    tied: bool = False


class TigerDecoder(nn.Module):
    """Encoder over a history, decoder over the codes of the next item.

    Attributes:
      config: sizes.
      vocab: token layout.
    """

    config: TigerConfig
    vocab: Vocab

    def setup(self):
        config, tied = self.config.transformer, self.config.tied
        self.tokens = TokenEmbedding(self.vocab, config.width, scores=tied)
        self.scores = self.tokens if tied else TokenEmbedding(self.vocab, config.width)
        self.user = SoftPrompt(config.width)
        self.encoder = [EncoderBlock(config) for _ in range(config.depth)]
        self.encoder_bias = RelativeBias(config.num_heads, two_sided=True)
        self.decoder_bias = RelativeBias(config.num_heads, two_sided=False)
        self.decoder = [
            DecoderBlock(config, self.decoder_bias) for _ in range(config.depth)
        ]
        self.encoder_norm = RMSNorm()
        self.decoder_norm = RMSNorm()
        self.dropout = nn.Dropout(config.dropout)

    @typed
    def __call__(self, batch: Prompts, *, train: bool = False) -> Outputs:
        """What each item of the baskets is told by: the history alone."""
        targets = jnp.asarray(batch.basket)
        memory, mask = self._encode(batch, batch.history, train)
        batch_size, count, num_levels = targets.shape
        mark = jnp.full((batch_size, count, 1), BASKET)
        spelled = jnp.concatenate([mark, targets[:, :, :-1]], axis=2)
        x = self.dropout(self.tokens(spelled), deterministic=not train)
        for block in self.decoder:
            x, _ = block(x, memory, mask, train=train)
        x = self.dropout(self.decoder_norm(x), deterministic=not train)
        return Outputs(
            logits=[
                self.scores.logits(x[:, :, level], level) for level in range(num_levels)
            ],
            targets=targets,
            asks=targets[..., 0] != PAD,
            repeat=None,
            history=jnp.asarray(batch.history),
        )

    @typed
    def context(self, prompts: Prompts) -> Context:
        """Encodes histories, the basket as their end, and opens the spelling."""
        told = jnp.concatenate([prompts.history, prompts.basket], axis=1)
        memory, mask = self._encode(prompts, told, train=False)
        x = self.tokens(jnp.full((len(mask), 1, 1), BASKET))
        memories = []
        for block in self.decoder:
            x, kept = block(x, memory, mask)
            memories.append(kept)
        return Context(
            memories=tuple(memories),
            mask=mask,
            length=jnp.ones(len(mask), jnp.int32),
            first=self.decoder_norm(x)[:, 0, 0],
            repeat=None,
            history=jnp.asarray(prompts.history),
        )

    def start(self, context: Context) -> State:
        """State of the one beam that has spelled nothing."""
        return start_beam(context, None)

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
            blocks=self.decoder,
            norm=self.decoder_norm,
            scores=self.scores,
            head=None,
        )

    def _encode(
        self, prompts: Prompts, items: Array, train: bool
    ) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
        """Outputs at the retailer's token and the items', and which are real."""
        retailers, items = jnp.asarray(prompts.retailers), jnp.asarray(items)
        tokens = items.reshape(len(items), -1)
        tokens = jnp.concatenate([retailers[:, None], tokens], axis=1)
        mask = tokens != PAD
        x = self.user(self.tokens(tokens), prompts.user, 0)
        x = with_logical_constraint(x, ("batch", None, "embed"))
        x = self.dropout(x, deterministic=not train)
        places = jnp.cumsum(mask, axis=1) - 1
        bias = self.encoder_bias(places[:, None, :] - places[:, :, None])
        for block in self.encoder:
            x = block(x, bias, mask, train=train)
        return self.dropout(self.encoder_norm(x), deterministic=not train), mask
