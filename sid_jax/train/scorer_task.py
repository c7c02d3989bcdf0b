"""Training a retriever that scores items: SASRec."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sid_jax.models.sasrec import SASRec, SASRecConfig
from sid_jax.train.retriever_task import RetrieverTaskConfig
from sid_jax.train.step import Aux
from sid_jax.typing import Array, Int, Key, NDArray, PyTree


@dataclass(frozen=True, eq=False)
class ScorerTask:
    """Score every item of a history above the rest of the catalog.

    A batch is `Sequences`. The loss is the mean over items of the negative
    log-likelihood under a softmax over all of them.

    Attributes:
      model: sizes.
      rows: of each item, as from `models.sasrec.item_rows`.
      num_rows: of the table of vectors.
      num_specials: tokens that are no code's.
      config: what is learned from.
    """

    model: SASRecConfig
    rows: Int[NDArray, "N n"]
    num_rows: int
    num_specials: int
    config: RetrieverTaskConfig = field(default_factory=RetrieverTaskConfig)

    @property
    def module(self) -> SASRec:
        return SASRec(self.model, self.num_rows, self.num_specials)

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), batch)

        def both(module: SASRec, batch, rows):
            return module.scores(module(batch, rows), rows)

        rows = jnp.asarray(self.rows[:1])
        return self.module.init(key, blank, rows, method=both)["params"], {}

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
        rows = jnp.asarray(self.rows)

        def score(module: SASRec):
            return module.scores(module(batch, rows, train=True)[:, :-1], rows)

        rngs = {"dropout": key}
        scores: Any = self.module.apply({"params": params}, rngs=rngs, method=score)
        now, after = batch.segments[:, :-1], batch.segments[:, 1:]
        targets = batch.items[:, 1:]
        asks = (now == after) & (targets >= 0)
        count = asks.sum().astype(jnp.float32)
        total = jax.nn.logsumexp(scores, axis=-1)
        own = jnp.maximum(targets, 0)[..., None]
        told = jnp.take_along_axis(scores, own, axis=-1)[..., 0]
        smoothing = self.config.smoothing
        if smoothing:
            told = (1 - smoothing) * told + smoothing * scores.mean(axis=-1)
        loss = ((total - told) * asks).sum() / jnp.maximum(count, 1)
        return loss, ({}, {})

    def fold(
        self,
        params: PyTree,
        state: PyTree,
        opt_state: PyTree,
        stats: PyTree,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        return params, state, opt_state
