"""Training a retriever that scores items: SASRec.

The loss is the mean over items of the negative log-likelihood under a softmax over the
whole catalog, or, with `negatives` S above 0, over the target and S items drawn anew a
step, with replacement, by q_i ~ (1 + n_i)^0.75 for an item bought n_i times: each drawn
item's score is lowered by log(S q_i), so that the sum estimates the whole's (Bengio and
Senecal 2008; the power is word2vec's), and a drawn one that is the target is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sid_jax.models.sasrec import SASRec, SASRecConfig
from sid_jax.train.retriever_task import RetrieverTaskConfig, like_rows
from sid_jax.train.step import Aux, Stats, lower_floats
from sid_jax.typing import Array, Bool, Float, Int, Key, NDArray, PyTree

_SMOOTHING = 0.75


@dataclass(frozen=True, eq=False)
class ScorerTask:
    """Score every item of a history above the rest of the catalog.

    A batch is `Sequences`.

    Attributes:
      model: sizes.
      rows: of each item, as from `models.sasrec.item_rows`.
      num_rows: of the table of vectors.
      num_specials: tokens that are no code's.
      config: what is learned from.
      bought: how often each item was bought in training, for `negatives`.
      vectors: what the table's first rows start as, for `start="codebooks"`.
      before: parameters to go on from, rather than any of that.
    """

    model: SASRecConfig
    rows: Int[NDArray, "N n"]
    num_rows: int
    num_specials: int
    config: RetrieverTaskConfig = field(default_factory=RetrieverTaskConfig)
    bought: Int[NDArray, " N"] | None = None
    vectors: Float[NDArray, "V E"] | None = None
    before: PyTree = None

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
        if self.before is not None:
            return self.before, state
        if self.vectors is None:
            return params, state
        table = jnp.asarray(params["embedding"])
        rows = like_rows(self.vectors, table.shape[1], key)
        # The vectors of an item's rows add up to one of length 1.
        rows *= self.rows.shape[1] ** -0.5
        return params | {"embedding": table.at[: len(rows)].set(rows)}, state

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        dropout_key, draw_key = jax.random.split(key)
        rows, targets = jnp.asarray(self.rows), batch.items[:, 1:]
        own = jnp.maximum(targets, 0)[..., None]

        def score(module: SASRec):
            outputs = module(batch, rows, train=True)[:, :-1]
            if not self.config.negatives:
                scores = module.scores(outputs, rows)
                return jnp.take_along_axis(scores, own, axis=-1)[..., 0], scores
            drawn, log_odds = self._draw(draw_key)
            told = module.score_own(outputs, rows[own[..., 0]])
            scores = module.scores(outputs, rows[drawn]) - log_odds
            scores = jnp.where(drawn == own, -jnp.inf, scores)
            return told, jnp.concatenate([told[..., None], scores], axis=-1)

        params, rngs = lower_floats(params, self.config.dtype), {"dropout": dropout_key}
        found: Any = self.module.apply({"params": params}, rngs=rngs, method=score)
        told, scores = found
        asks, count = _asks(batch), self.weight(batch)
        total = jax.nn.logsumexp(scores, axis=-1)
        smoothing = self.config.smoothing
        if smoothing:
            told = (1 - smoothing) * told + smoothing * scores.mean(axis=-1)
        loss = ((total - told) * asks).sum() / jnp.maximum(count, 1)
        tokens = count, jnp.float32(len(asks))  # items that are learned, an example
        return loss, ({"tokens": tokens}, Stats())

    def weight(self, batch: PyTree) -> Float[Array, ""]:
        return _asks(batch).sum().astype(jnp.float32)

    def fold(
        self,
        params: PyTree,
        state: PyTree,
        opt_state: PyTree,
        stats: Stats,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        return params, state, opt_state

    def _draw(self, key: Key[Array, ""]) -> tuple[Int[Array, " S"], Float[Array, " S"]]:
        """Items, and log(S q) of each."""
        assert self.bought is not None
        number = self.config.negatives
        logits = _SMOOTHING * jnp.log1p(jnp.asarray(self.bought, jnp.float32))
        ends = jnp.cumsum(jax.nn.softmax(logits))
        drawn = jnp.searchsorted(ends, ends[-1] * jax.random.uniform(key, (number,)))
        drawn = jnp.minimum(drawn, len(ends) - 1)
        return drawn, jax.nn.log_softmax(logits)[drawn] + jnp.log(float(number))


def _asks(batch: PyTree) -> Bool[Array, "B n"]:
    """Which positions have a next item of their household to score."""
    now, after = batch.segments[:, :-1], batch.segments[:, 1:]
    return (now == after) & (batch.items[:, 1:] >= 0)
