"""Training a retriever: what is computed and scored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sid_jax.losses import code_log_prob
from sid_jax.models.decoder import DecoderConfig, SidDecoder
from sid_jax.models.repeat import repeat_log_prob
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.train.step import Aux
from sid_jax.typing import Array, Key, PyTree


@dataclass(frozen=True)
class RetrieverTask:
    """Spell every product of a basket from retailer, history and the basket so far.

    A batch is `Prompts`. The loss is the mean over basket items of their SIDs' negative
    log-likelihood.
    """

    model: DecoderConfig
    vocab: Vocab

    @property
    def module(self) -> SidDecoder:
        return SidDecoder(self.model, self.vocab)

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        prompts = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), batch)
        return self.module.init(key, prompts)["params"], {}

    def prepare(
        self,
        params: PyTree,
        state: PyTree,
        batches: Iterator[PyTree],
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        return params, state

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        rngs = {"dropout": key}
        outputs: Any = self.module.apply(
            {"params": params}, batch, train=True, rngs=rngs
        )
        valid = batch.basket[:, :, 0] != PAD
        count = valid.sum().astype(jnp.float32)
        metrics = {}
        log_prob = jnp.zeros(valid.shape)
        for level, offset in enumerate(self.vocab.level_offsets):
            codes = jnp.where(valid, batch.basket[:, :, level] - offset, 0)
            gain = code_log_prob(outputs.logits[level], codes)
            metrics[f"loss_{level + 1}"] = (-(gain * valid).sum(), count)
            log_prob += gain
        if outputs.repeat is not None:
            log_prob = repeat_log_prob(
                outputs.repeat, batch.history, batch.basket, log_prob
            )
            gate = jnp.exp(outputs.repeat.repeat)
            metrics["repeat"] = ((gate * valid).sum(), count)
        loss = -(log_prob * valid).sum() / jnp.maximum(count, 1)
        return loss, (metrics, {})

    def fold(
        self,
        params: PyTree,
        state: PyTree,
        opt_state: PyTree,
        stats: PyTree,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        return params, state, opt_state
