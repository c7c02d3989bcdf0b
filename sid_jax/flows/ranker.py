"""A retriever that spells finds candidates, and one that scores ranks them.

    s(item) = w log p_scorer(item) + (1 - w) log p_speller(item)

The two know different things: beams share what is learned among products of like codes,
and a vector of its own tells a product from those. (LIGER, arXiv 2411.18814, has both
in one model, and ranks by the second alone.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.flows import runs
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.scorer import Scorer
from sid_jax.flows.speller import Speller
from sid_jax.sids.beam import Beams
from sid_jax.sids.index import Products
from sid_jax.typing import Bool, Float, Int, NDArray, typed


@dataclass(frozen=True)
class Ranked:
    """Requests -> products, as `Speller`, in the order of both models' scores.

    Attributes:
      speller: finds candidates.
      scorer: of the same catalog and retailers.
      weight: w, of the scorer's log-probability.
    """

    speller: Speller
    scorer: Scorer
    weight: float = 0.5

    @classmethod
    def load(cls, folder: Path, ranker: Path, weight: float = 0.5) -> "Ranked":
        """The retrievers of two runs.

        Raises:
          InputError: no such runs, not one of each kind, or of other data.
        """
        if not 0 <= weight <= 1:
            raise InputError(f"the ranker's weight {weight} must be in [0, 1]")
        speller, scorer = load_retriever(folder), load_retriever(ranker)
        if not isinstance(speller, Speller):
            raise InputError(f"{folder} scores items; --ranker is for one that spells")
        if not isinstance(scorer, Scorer):
            raise InputError(
                f"--ranker {ranker} spells SIDs; name the run of a SASRec, which scores"
            )
        items = [runs.read_catalog(each).item_ids for each in (folder, ranker)]
        told = [
            ("items", *map(len, items)),
            ("retailers", speller.index.num_retailers, scorer.index.num_retailers),
            ("prompts", speller.config.prompts, scorer.config.prompts),
        ]
        for name, own, other in told:
            if own != other or (name == "items" and items[0] != items[1]):
                raise InputError(
                    f"--ranker {ranker} has other {name} ({other}) than {folder} "
                    f"({own}); both must read the same data set in the same way"
                )
        return cls(speller, scorer, weight)

    def retrieve(
        self,
        requests: Requests,
        *,
        top: int | None = None,
        item_mask: Bool[NDArray, " N"] | None = None,
    ) -> Iterator[tuple[Products, Beams]]:
        """As `Speller.retrieve`; beams come as they were found."""
        start = 0
        for products, beams in self.speller.retrieve(
            requests, top=top, item_mask=item_mask
        ):
            rows = np.arange(start, start + len(products.items))
            start += len(rows)
            scores = self.scorer.score(requests.take(rows), products.items)
            yield rank(products, scores, self.weight), beams


@typed
def rank(products: Products, scores: Float[NDArray, "B n"], weight: float) -> Products:
    """Products by their own scores and another's; ties keep their order.

    Args:
      products: of each request.
      scores: log-probability of each by the other; not read of fillers.
      weight: of the other's.
    """
    real = products.items >= 0
    mixed = weight * np.where(real, scores, 0) + (1 - weight) * np.where(
        real, products.scores, 0
    )
    mixed = np.where(real, mixed, -np.inf).astype(np.float32)
    order: Int[NDArray, "B n"] = np.argsort(-mixed, axis=1, kind="stable")
    items, leaves, mixed = (
        np.take_along_axis(each, order, axis=1)
        for each in (products.items, products.leaves, mixed)
    )
    return Products(items, mixed, leaves, products.beam_yield)
