"""A scoring retriever answers requests: every item of the catalog is compared.

Where items are sums of their codes' vectors, those of one SID score alike: each SID is
compared once, for as many items as may be answered under it, and the index tells these
apart, as it does for a retriever that spells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.config import RetrieverExperiment, SASRecConfig
from sid_jax.data.pipeline import Requests, last_items
from sid_jax.errors import InputError
from sid_jax.models.sasrec import SASRec, item_rows
from sid_jax.sids.index import ItemIndex, Products
from sid_jax.sids.table import SidTable
from sid_jax.sids.vocab import Sequences, Vocab
from sid_jax.train.hosts import fetch
from sid_jax.train.scorer_task import ScorerTask
from sid_jax.train.sharding import make_mesh, spread, use_mesh
from sid_jax.typing import Bool, Float, Int, NDArray, PyTree


def scorer_task(
    config: RetrieverExperiment,
    vocab: Vocab,
    codes: Int[NDArray, "N L"],
    bought: Int[NDArray, " N"] | None = None,
    codewords: tuple[NDArray, ...] = (),
) -> ScorerTask:
    """What trains the scoring retriever of an experiment on items of these SIDs.

    Args:
      config: of the run.
      vocab: token layout.
      codes: SID of each item.
      bought: how often each was bought in training.
      codewords: a level, the vectors of its codes; an item's vector is to start like
        the sum of its codes' ones.
    """
    assert isinstance(config.model, SASRecConfig)
    rows, num_rows = item_rows(config.model, codes, vocab.codebook_sizes)
    vectors = None
    if codewords and config.model.items == "prefix":
        raise InputError(
            'task.start="codebooks": rows of prefixes are hashed and have no codewords;'
            ' use items="atomic" or "sid", or start="random"'
        )
    if codewords and config.model.items == "sid":
        vectors = np.concatenate(codewords)
    elif codewords:
        pairs = zip(codewords, codes.T, strict=False)  # a de-duplication level has none
        vectors = np.sum([words[level] for words, level in pairs], axis=0)
    return ScorerTask(
        model=config.model,
        rows=rows,
        num_rows=num_rows,
        num_specials=vocab.level_offsets[0],
        config=config.task,
        bought=bought,
        vectors=vectors,
    )


@dataclass(frozen=True)
class Scorer:
    """Requests -> products, as `Speller`, but by the score of each item.

    Attributes:
      config: of its run.
      vocab: token layout.
      params: of the model.
      codes: SID of each item row.
      table: the SID table.
      index: what each retailer carries.
    """

    config: RetrieverExperiment
    vocab: Vocab
    params: PyTree
    codes: Int[NDArray, "N L"]
    table: SidTable
    index: ItemIndex

    def retrieve(
        self,
        requests: Requests,
        *,
        top: int | None = None,
        item_mask: Bool[NDArray, " N"] | None = None,
        params: PyTree = None,
    ) -> Iterator[tuple[Products, None]]:
        """Answers requests, a batch at a time; the basket's items are left out, and, if
        so configured, what the household owns. Where items are scored by their SIDs,
        they come from the best `search.num_beams` of these.
        """
        top = top or self.config.search.top
        width = self.config.search.num_beams if self._by_sid else top
        mesh = make_mesh(self.config.mesh)
        size, shares = self.config.search.batch_size, mesh.shape["data"]
        params = self.params if params is None else params
        for part, count in requests.batches(size, shares):
            mask = part.answerable(len(self.codes), owned=self.config.search.owned)
            if item_mask is not None:
                mask &= item_mask
            batch, eligible = self._lay_out(part), self._eligible(part, mask)
            few = min(width, eligible.shape[1])
            with use_mesh(mesh, self.config.mesh.rules):
                batch, eligible = spread((batch, eligible), mesh)
                scores, best = self._jitted(params, batch, eligible, few)
            scores, best = (each[:count] for each in fetch((scores, best)))
            part, mask = part.take(np.arange(count)), mask[:count]
            yield self._products(part, scores, best, mask, top), None

    def score(
        self, requests: Requests, items: Int[NDArray, "B n"]
    ) -> Float[NDArray, "B n"]:
        """Log-probability of items as the next one of the catalog; NaN where -1."""
        found, size = [], self.config.search.batch_size
        mesh = make_mesh(self.config.mesh)
        asked = replace(requests, targets=items)  # cut and filled up as the rest is
        for part, count in asked.batches(size, mesh.shape["data"]):
            chosen = np.maximum(part.targets, 0)
            with use_mesh(mesh, self.config.mesh.rules):
                batch, chosen = spread((self._lay_out(part), chosen), mesh)
                scores = self._scoring(self.params, batch, chosen)
                found.append(fetch(scores)[:count])
        scores = np.concatenate(found)
        return np.where(items >= 0, scores, np.nan)

    def _lay_out(self, requests: Requests) -> Sequences:
        """A row a request: the retailer, then the history."""
        items = last_items(requests, self.config.prompts.history)
        items = np.pad(items, ((0, 0), (1, 0)), constant_values=-1)
        retailers = np.full(items.shape, -1)
        retailers[:, 0] = requests.retailers
        segments = ((items >= 0) | (retailers >= 0)).astype(np.int32)
        codes = np.where((items >= 0)[..., None], self.codes[items], -1)
        return self.vocab.sequences(retailers, codes, items, segments)

    @property
    def _by_sid(self) -> bool:
        assert isinstance(self.config.model, SASRecConfig)
        return self.config.model.items != "atomic"

    def _eligible(
        self, requests: Requests, mask: Bool[NDArray, "B N"]
    ) -> Int[NDArray, "B C"]:
        """How many items each candidate, an item or a SID of the table, may answer."""
        if self._by_sid:
            num_leaves = len(self.table.sids)
            counts = self.index.counts(requests.retailers, mask, num_leaves)
            return counts.astype(np.int32)
        eligible = np.zeros(mask.shape, np.int32)
        for row, retailer in enumerate(requests.retailers):
            first, end = self.index.starts[retailer : retailer + 2]
            eligible[row, self.index.items[first:end]] = 1
        return eligible & mask

    def _products(
        self,
        requests: Requests,
        scores: Float[NDArray, "B n"],
        best: Int[NDArray, "B n"],
        mask: Bool[NDArray, "B N"],
        top: int,
    ) -> Products:
        found = np.isfinite(scores)
        best = np.where(found, best, -1).astype(np.int32)
        if self._by_sid:
            return self.index.products(
                best,
                scores,
                found,
                requests.retailers,
                top=top,
                item_mask=mask,
                owned=(requests.owned, requests.owned_counts),
            )
        return Products(
            items=best,
            scores=scores,
            leaves=np.where(found, self.index.leaves[best], -1),
            beam_yield=np.ones(len(requests), np.float32),
        )

    @cached_property
    def _task(self) -> ScorerTask:
        return scorer_task(self.config, self.vocab, self.codes)

    @cached_property
    def _scoring(self):
        task, rows = self._task, jnp.asarray(self._task.rows)

        def score(params, batch, items):
            scores: Any = task.module.apply(
                {"params": params}, batch, rows, rows, method=_next_scores
            )
            return jnp.take_along_axis(jax.nn.log_softmax(scores), items, axis=1)

        return jax.jit(score)

    @cached_property
    def _jitted(self):
        task = self._task
        compared = jnp.asarray(task.rows)
        if self._by_sid:
            told = self.table.sids, self.vocab.codebook_sizes
            compared = jnp.asarray(item_rows(task.model, *told)[0])

        return jax.jit(answer_program(task, compared), static_argnums=3)


def answer_program(
    task: ScorerTask, compared: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The search of a retriever that scores: (params, batch, eligible, how many) ->
    scores and places of the best of `compared`, candidates by their rows; not compiled.
    """
    rows = jnp.asarray(task.rows)

    def answer(params, batch, eligible, few):
        scores: Any = task.module.apply(
            {"params": params}, batch, rows, compared, method=_next_scores
        )
        return jax.lax.top_k(scores + jnp.log(eligible), few)

    return answer


def _next_scores(
    module: SASRec, batch: Sequences, rows: jax.Array, compared: jax.Array
) -> jax.Array:
    """Scores `[B, C]` of candidates, by their rows, after the end of each history."""
    last = (batch.segments > 0) * jnp.arange(batch.segments.shape[1])
    at = last.argmax(axis=1)[:, None, None]
    outputs = jnp.take_along_axis(module(batch, rows), at, axis=1)
    return module.scores(outputs, compared)[:, 0]
