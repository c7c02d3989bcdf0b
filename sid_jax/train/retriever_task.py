"""Training a retriever: what is computed and scored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sid_jax.errors import InputError
from sid_jax.losses import code_log_prob
from sid_jax.models.flat import FlatConfig, FlatDecoder
from sid_jax.models.hierarchical import HierarchicalConfig, HierarchicalDecoder
from sid_jax.models.repeat import repeat_log_prob
from sid_jax.models.tiger import TigerConfig, TigerDecoder
from sid_jax.sids.vocab import Vocab
from sid_jax.train.step import Aux
from sid_jax.typing import Array, Key, PyTree

RetrieverConfig = FlatConfig | HierarchicalConfig | TigerConfig
_MODULES = {
    FlatConfig: FlatDecoder,
    HierarchicalConfig: HierarchicalDecoder,
    TigerConfig: TigerDecoder,
}


@dataclass(frozen=True, kw_only=True)
class RetrieverTaskConfig:
    """What a retriever learns from.

    Attributes:
      smoothing: share of each code's target that is spread over its level's codes
        (Szegedy et al. 2016).
    """

    smoothing: float = 0.0

    def __post_init__(self):
        if not 0 <= self.smoothing < 1:
            raise InputError(f"task.smoothing={self.smoothing} must be in [0, 1)")


@dataclass(frozen=True)
class RetrieverTask:
    """Spell every item that a batch asks for from all that precedes it.

    A batch is `Prompts` or `Sequences`. The loss is the mean over items of their SIDs'
    negative log-likelihood.
    """

    model: RetrieverConfig
    vocab: Vocab
    config: RetrieverTaskConfig = field(default_factory=RetrieverTaskConfig)

    @property
    def module(self) -> Any:
        return _MODULES[type(self.model)](self.model, self.vocab)

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), batch)
        return self.module.init(key, blank)["params"], {}

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
        asks, smoothing = outputs.asks, self.config.smoothing
        count = asks.sum().astype(jnp.float32)
        metrics = {}
        log_prob, spread = jnp.zeros(asks.shape), jnp.zeros(asks.shape)
        for level, offset in enumerate(self.vocab.level_offsets):
            codes = jnp.where(asks, outputs.targets[:, :, level] - offset, 0)
            logits = outputs.logits[level]
            gain = code_log_prob(logits, codes)
            metrics[f"loss_{level + 1}"] = (-(gain * asks).sum(), count)
            log_prob += gain
            if smoothing:
                spread += jax.nn.log_softmax(logits).mean(axis=-1)
        if outputs.repeat is not None:
            log_prob = repeat_log_prob(
                outputs.repeat, batch.history, outputs.targets, log_prob
            )
            gate = jnp.exp(outputs.repeat.repeat)
            metrics["repeat"] = ((gate * asks).sum(), count)
        learned = (1 - smoothing) * log_prob + smoothing * spread
        loss = -(learned * asks).sum() / jnp.maximum(count, 1)
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
