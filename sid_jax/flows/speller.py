"""A spelling retriever answers requests: a beam search over SIDs, then the index."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sid_jax.config import RetrieverExperiment, SASRecConfig
from sid_jax.data.pipeline import Requests, last_items, prompts_of
from sid_jax.evals.baselines import LAST, last_vectors, unit_rows
from sid_jax.sids.allowance import AllowanceCache
from sid_jax.sids.beam import Beams, beam_search
from sid_jax.sids.index import ItemIndex, Products
from sid_jax.sids.scoring import score_sids
from sid_jax.sids.table import SidTable
from sid_jax.sids.trie import Trie, build_trie
from sid_jax.sids.vocab import Prompts, Vocab
from sid_jax.train.retriever_task import build_retriever
from sid_jax.train.sharding import make_mesh, place, use_mesh
from sid_jax.typing import Bool, Float, Int, Key, NDArray, PyTree

_RANKED = 2  # products a beam that are ranked by likeness
_SCORED_AT_ONCE = 2**16  # SIDs, over all requests of a batch
_SET_BYTES = 2**28  # of what retailers carry, kept on a device


@dataclass(frozen=True)
class Speller:
    """Requests -> products: decoder, trie and index.

    Attributes:
      config: of its run.
      vocab: token layout.
      params: of the decoder.
      codes: SID of each item row.
      table: the SID table.
      index: what each retailer carries.
      vectors: of each item row, where prompts tell of the household by them, or
        products are ranked by them.
    """

    config: RetrieverExperiment
    vocab: Vocab
    params: PyTree
    codes: Int[NDArray, "N L"]
    table: SidTable
    index: ItemIndex
    vectors: Float[NDArray, "N E"] | None = None

    def retrieve(
        self,
        requests: Requests,
        *,
        top: int | None = None,
        item_mask: Bool[NDArray, " N"] | None = None,
        params: PyTree = None,
        key: Key[jax.Array, ""] | None = None,
    ) -> Iterator[tuple[Products, Beams]]:
        """Answers requests, a batch at a time; the basket's items are left out, and, if
        so configured, what the household owns.

        Beams are held to the SIDs under which the retailer carries an item of
        `item_mask`. `params` stand in for the retriever's own. At a temperature, `key`,
        that of training's seed if None, draws the same answers to the same batches, and
        scores are log-probabilities raised by noise; with `search.likeness` they are
        raised by that.
        """
        size = self.config.search.batch_size
        shares = make_mesh(self.config.mesh).shape["data"]
        key = jax.random.key(self.config.train.seed) if key is None else key
        for number, (part, count) in enumerate(requests.batches(size, shares)):
            mask = self._mask(part, item_mask)
            drawn = jax.random.fold_in(key, number)
            beams = self._search(part, mask, params, drawn)
            beams = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], beams)
            if mask is not None and mask.ndim == 2:
                mask = mask[:count]
            part = part.take(np.arange(count))
            yield self._products(part, beams, mask, top), beams

    def exact(
        self, requests: Requests, *, top: int | None = None
    ) -> Iterator[tuple[Products, Beams]]:
        """As `retrieve`, with the best SIDs of all: each one is scored, none searched.

        What a search loses shows beside it. It takes as long as the table is large.
        """
        leaves, items = np.unique(self.index.leaves, return_index=True)
        size = min(self.config.search.batch_size, len(requests))
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
            order = order[:, : self.config.search.num_beams]
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
        found, size = [], self.config.search.batch_size
        params = self.params if params is None else params
        trie = self._trie if self.config.task.softmax == "existing" else None
        mesh = make_mesh(self.config.mesh)
        asked = replace(requests, targets=items)  # cut and filled up as the rest is
        for part, count in asked.batches(size, mesh.shape["data"]):
            codes = self.codes[np.maximum(part.targets, 0)]
            with use_mesh(mesh, self.config.mesh.rules):
                prompts, codes = place((self._prompts(part), codes), mesh)
                scores = self._scoring(params, trie, prompts, codes)
                found.append(np.asarray(scores)[:count])
        scores = np.concatenate(found)
        return np.where(items >= 0, scores, np.nan)

    def _products(
        self,
        requests: Requests,
        beams: Beams,
        mask: Bool[NDArray, "*b N"] | None,
        top: int | None,
    ) -> Products:
        search, top = self.config.search, top or self.config.search.top
        products = self.index.products(
            np.asarray(beams.leaves),
            np.asarray(beams.scores),
            np.asarray(beams.valid),
            requests.retailers,
            top=max(top, _RANKED * search.num_beams) if search.likeness else top,
            item_mask=mask,
            owned=(requests.owned, requests.owned_counts),
            exclude=requests.basket,
        )
        if not search.likeness:
            return products
        told, units = last_items(requests, LAST), self._units
        wanted = unit_rows(last_vectors(units, told))
        found = units[np.maximum(products.items, 0)]
        cosines = np.einsum("bd,bnd->bn", wanted, found)
        return products.reorder(products.scores + search.likeness * cosines, top)

    def _mask(
        self, requests: Requests, item_mask: Bool[NDArray, " N"] | None
    ) -> Bool[NDArray, "*b N"] | None:
        """Items that may be answered: of the mask and, if so configured, not owned."""
        if self.config.search.owned:
            return item_mask
        mask = requests.answerable(len(self.codes), owned=False)
        return mask if item_mask is None else mask & item_mask

    def _search(
        self,
        requests: Requests,
        item_mask: Bool[NDArray, "*b N"] | None,
        params: PyTree | None,
        key: Key[jax.Array, ""],
    ) -> Beams:
        prompts = self._prompts(requests)
        params = self.params if params is None else params
        mesh = make_mesh(self.config.mesh)
        with use_mesh(mesh, self.config.mesh.rules):
            if item_mask is None:
                stores = requests.retailers.tolist()
                allowed = self._stores.take(stores, self.index.leaves_at)
                prompts, rows = place((prompts, allowed.rows), mesh)
                allowed = replace(allowed, rows=rows)
            else:
                num_leaves = len(self.table.sids)
                allowed = self.index.allowed(requests.retailers, item_mask, num_leaves)
                prompts, allowed = place((prompts, allowed), mesh)
            return self._jitted(params, self._trie, prompts, allowed, key)

    def _prompts(self, requests: Requests) -> Prompts:
        config = self.config.prompts
        return prompts_of(requests, self.codes, self.vocab, config, self.vectors)

    @cached_property
    def _units(self) -> Float[NDArray, "N E"]:
        assert self.vectors is not None
        return unit_rows(self.vectors)

    @cached_property
    def _trie(self) -> Trie:
        return build_trie(self.table.sids, self.vocab.codebook_sizes)

    @cached_property
    def _stores(self) -> AllowanceCache:
        """What each retailer carries, as a search takes it."""
        mesh = make_mesh(self.config.mesh)
        fit = _SET_BYTES * 8 // self._trie.num_leaves
        shares = mesh.shape["data"]
        needed = -(-self.config.search.batch_size // shares) * shares
        capacity = max(min(fit, self.index.num_retailers), needed)
        return AllowanceCache(self._trie, capacity, NamedSharding(mesh, P()))

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

    @cached_property
    def _jitted(self):
        module, config = self._module, self.config
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
            )

        return jax.jit(search)
