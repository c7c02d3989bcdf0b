"""A spelling retriever answers requests: a beam search over SIDs, then the index."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sid_jax.config import (
    PromptConfig,
    RetrieverExperiment,
    SASRecConfig,
    SearchConfig,
    SequenceConfig,
)
from sid_jax.data.pipeline import Requests
from sid_jax.flows.answering import Answerer
from sid_jax.sids.allowance import AllowanceCache, Allowances
from sid_jax.sids.beam import Beams, beam_search
from sid_jax.sids.index import ItemIndex, Products
from sid_jax.sids.scoring import score_sids
from sid_jax.sids.table import SidTable
from sid_jax.sids.trie import Trie, build_trie
from sid_jax.sids.vocab import Prompts, Vocab
from sid_jax.train.hosts import fetch
from sid_jax.train.retriever_task import build_retriever
from sid_jax.train.sharding import make_mesh, spread, use_mesh
from sid_jax.typing import Array, Bool, Float, Int, Key, NDArray, PyTree

_SCORED_AT_ONCE = 2**16  # SIDs, over all requests of a batch
_SET_BYTES = 2**28  # of what retailers carry, kept on a device


@dataclass(frozen=True)
class Speller(Answerer):
    """Requests -> products: decoder, trie and index.

    Attributes:
      config: of its run.
      params: of the decoder.
    """

    config: RetrieverExperiment
    vocab: Vocab
    params: PyTree
    codes: Int[NDArray, "N L"]
    table: SidTable
    index: ItemIndex
    vectors: Float[NDArray, "N E"] | None = None

    @property
    def told(self) -> PromptConfig | SequenceConfig:
        return self.config.prompts

    @property
    def search(self) -> SearchConfig:
        return self.config.search

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def shares(self) -> int:
        return make_mesh(self.config.mesh).shape["data"]

    def exact(
        self, requests: Requests, *, top: int | None = None
    ) -> Iterator[tuple[Products, Beams]]:
        """As `retrieve`, with the best SIDs of all: each one is scored, none searched.

        What a search loses shows beside it. It takes as long as the table is large.
        """
        leaves, items = np.unique(self.index.leaves, return_index=True)
        size = min(self.search.batch_size, len(requests))
        chunk = max(_SCORED_AT_ONCE // size, 1)
        parts = -(-len(items) // chunk)
        padded = np.pad(items, (0, parts * chunk - len(items)), mode="edge")
        for start in range(0, len(requests), size):
            end = min(start + size, len(requests))
            part = requests.take(np.arange(start, end))
            mask = self._mask(part, None)
            scored = [
                self.score(part, np.tile(each.astype(np.int32), (end - start, 1)))
                for each in np.split(padded, parts)
            ]
            scores = np.concatenate(scored, axis=1)[:, : len(items)]
            allowed = self.index.allowed(part.retailers, mask)[:, leaves]
            scores = np.where(allowed, scores, -np.inf)
            order = np.argsort(-scores, axis=1, kind="stable")
            order = order[:, : self.search.num_beams]
            scores = np.take_along_axis(scores, order, axis=1)
            valid = scores > -np.inf
            codes = np.where(valid[..., None], self.codes[items[order]], -1)
            found = np.where(valid, leaves[order], -1).astype(np.int32)
            beams = Beams(*map(jax.numpy.asarray, (codes, scores, found, valid)))
            yield self._products(part, beams, mask, top), beams

    def score(
        self, requests: Requests, items: Int[NDArray, "B n"], params: PyTree = None
    ) -> Float[NDArray, "B n"]:
        """Log-probability of items' SIDs as the next one; NaN where an item is -1."""
        found, size = [], self.search.batch_size
        params = self.params if params is None else params
        trie = self.trie if self.config.task.softmax == "existing" else None
        mesh = make_mesh(self.config.mesh)
        asked = replace(requests, targets=items)  # cut and filled up as the rest is
        for part, count in asked.batches(size, self.shares):
            codes = self.codes[np.maximum(part.targets, 0)]
            with use_mesh(mesh, self.config.mesh.rules):
                prompts, codes = spread((self._prompts(part), codes), mesh)
                scores = self._scoring(params, trie, prompts, codes)
                found.append(fetch(scores)[:count])
        scores = np.concatenate(found)
        return np.where(items >= 0, scores, np.nan)

    def _find(
        self,
        requests: Requests,
        item_mask: Bool[NDArray, "*b N"] | None,
        params: PyTree | None,
        key: Key[jax.Array, ""],
    ) -> Beams:
        params = self.params if params is None else params
        mesh = make_mesh(self.config.mesh)
        with use_mesh(mesh, self.config.mesh.rules):
            prompts = spread(self._prompts(requests), mesh)
            with self._allow(requests, item_mask, mesh) as allowed:
                found = self._jitted(params, self.trie, prompts, allowed, key)
            return fetch(found)

    @contextmanager
    def _allow(
        self, requests: Requests, item_mask: Bool[NDArray, "*b N"] | None, mesh: Mesh
    ) -> Iterator[Allowances | Array]:
        """What each request is held to, for a block that begins the search: a set that
        is kept on the device, or a mask.
        """
        if item_mask is None:
            stores = requests.retailers.tolist()
            with self._stores.lend(stores, self.index.leaves_at) as allowed:
                yield replace(allowed, rows=spread(allowed.rows, mesh))
            return
        num_leaves = len(self.table.sids)
        mask = self.index.allowed(requests.retailers, item_mask, num_leaves)
        yield spread(mask, mesh)

    @cached_property
    def trie(self) -> Trie:
        return build_trie(self.table.sids, self.vocab.codebook_sizes)

    @cached_property
    def _stores(self) -> AllowanceCache:
        """What each retailer carries, as a search takes it."""
        mesh = make_mesh(self.config.mesh)
        fit = _SET_BYTES * 8 // self.trie.num_leaves
        needed = -(-self.search.batch_size // self.shares) * self.shares
        capacity = min(max(fit, needed), self.index.num_retailers)
        return AllowanceCache(self.trie, capacity, NamedSharding(mesh, P()))

    @property
    def _module(self) -> Any:
        assert not isinstance(self.config.model, SASRecConfig)  # that is a `Scorer`
        return build_retriever(self.config.model, self.vocab)

    @cached_property
    def _scoring(self):
        module = self._module

        def score(params, trie: Trie | None, prompts: Prompts, codes):
            def call(method: str, *args: Any) -> Any:
                return module.apply({"params": params}, *args, method=method)

            context = call("context", prompts).replace(trie=trie)
            state = call("start", context)
            step = partial(call, "step")
            return score_sids(step, context, state, codes, trie)

        return jax.jit(score)

    def blank_prompts(self, size: int) -> Prompts:
        """Prompts of nobody, in the shapes of a batch."""
        none = np.full((size, 1), -1, np.int32)
        requests = Requests(
            users=none[:, 0],
            retailers=np.zeros(size, np.int32),
            history=np.full((size, self.told.history), -1, np.int32),
            basket=none,
            targets=none,
            owned=none,
            owned_counts=np.zeros((size, 1), np.int32),
        )
        return self._prompts(requests)

    @cached_property
    def _jitted(self):
        return jax.jit(self.program("data" if self.shares > 1 else None))

    def program(self, batch_axis: str | None = None) -> Callable[..., Beams]:
        """The search: (params, trie, prompts, allowed, key) -> beams; not compiled.

        `batch_axis` as `beam_search` takes it.
        """
        return search_program(self.config, self.vocab, batch_axis)


def search_program(
    config: RetrieverExperiment, vocab: Vocab, batch_axis: str | None = None
) -> Callable[..., Beams]:
    """The search of a retriever that spells, as `Speller.program` has it."""
    assert not isinstance(config.model, SASRecConfig)  # that is a `Scorer`
    module = build_retriever(config.model, vocab)
    draws = config.search.temperature > 0

    def search(params, trie: Trie, prompts: Prompts, allowed, key) -> Beams:
        def call(method: str, *args: Any) -> Any:
            return module.apply({"params": params}, *args, method=method)

        context = call("context", prompts)
        if config.task.softmax == "existing":
            context = context.replace(trie=trie)
        return beam_search(
            partial(call, "step"),
            context,
            call("start", context),
            trie,
            num_beams=config.search.num_beams,
            allowed=allowed,
            softmax="allowed" if draws else config.task.softmax,
            temperature=float(config.search.temperature) if draws else 1.0,
            key=key if draws else None,
            batch_axis=batch_axis,
        )

    return search
