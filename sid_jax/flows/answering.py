"""Requests -> products around a search of SIDs, whoever searches. Knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import jax
import numpy as np

from sid_jax.data.pipeline import PromptConfig, Requests, last_items, prompts_of
from sid_jax.data.sequences import SequenceConfig
from sid_jax.evals.baselines import LAST, last_vectors, unit_rows
from sid_jax.sids.beam import Beams
from sid_jax.sids.index import ItemIndex, Products
from sid_jax.sids.search import SearchConfig
from sid_jax.sids.table import SidTable
from sid_jax.sids.vocab import Prompts, Vocab
from sid_jax.typing import Bool, Float, Int, Key, NDArray, PyTree

_RANKED = 2  # products a beam that are ranked by likeness


class Answerer(ABC):
    """Prompts, a search, the index, and how its products are ranked.

    Attributes:
      told: what a prompt tells.
      search: how products are retrieved.
      seed: of what is drawn.
      shares: devices that share a batch.
      vocab: token layout.
      codes: SID of each item row.
      table: the SID table.
      index: what each retailer carries.
      vectors: of each item row, where prompts tell of the household by them, or
        products are ranked by them.
    """

    told: PromptConfig | SequenceConfig
    search: SearchConfig
    seed: int
    shares: int
    vocab: Vocab
    codes: Int[NDArray, "N L"]
    table: SidTable
    index: ItemIndex
    vectors: Float[NDArray, "N E"] | None

    @abstractmethod
    def _find(
        self,
        requests: Requests,
        item_mask: Bool[NDArray, "*b N"] | None,
        params: PyTree | None,
        key: Key[jax.Array, ""],
    ) -> Beams:
        """The best SIDs of a batch."""

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
        that of the retriever's seed if None, draws the same answers to the same
        batches, and scores are log-probabilities raised by noise; with
        `search.likeness` they are raised by that.
        """
        key = jax.random.key(self.seed) if key is None else key
        batches = requests.batches(self.search.batch_size, self.shares)
        for number, (part, count) in enumerate(batches):
            mask = self._mask(part, item_mask)
            drawn = jax.random.fold_in(key, number)
            beams = self._find(part, mask, params, drawn)
            beams = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], beams)
            if mask is not None and mask.ndim == 2:
                mask = mask[:count]
            part = part.take(np.arange(count))
            yield self._products(part, beams, mask, top), beams

    def _products(
        self,
        requests: Requests,
        beams: Beams,
        mask: Bool[NDArray, "*b N"] | None,
        top: int | None,
    ) -> Products:
        search, top = self.search, top or self.search.top
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
        if self.search.owned:
            return item_mask
        mask = requests.answerable(len(self.codes), owned=False)
        return mask if item_mask is None else mask & item_mask

    def _prompts(self, requests: Requests) -> Prompts:
        return prompts_of(requests, self.codes, self.vocab, self.told, self.vectors)

    @cached_property
    def _units(self) -> Float[NDArray, "N E"]:
        assert self.vectors is not None
        return unit_rows(self.vectors)
