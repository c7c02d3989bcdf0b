"""A retriever that spells finds candidates, and one that scores ranks them.

    s(item) = w log p_scorer(item) + (1 - w) log p_speller(item)

The two know different things: beams share what is learned among products of like codes,
and a vector of its own tells a product from those. (LIGER, arXiv 2411.18814, has both
in one model, and ranks by the second alone.)
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sid_jax.config import RetrieverExperiment
from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.flows import runs
from sid_jax.flows.corpus import Corpus, keep_corpus
from sid_jax.flows.retriever import load_retriever, searching
from sid_jax.flows.scorer import Scorer
from sid_jax.sids.index import Products
from sid_jax.typing import typed


def load_ranker(ranker: Path, judged: RetrieverExperiment) -> Scorer:
    """The SASRec of a run, to rank what another retriever finds.

    Args:
      ranker: its run folder.
      judged: of the other one. The ranker answers what may be answered there, and is
        asked of the same halves of baskets.

    Raises:
      InputError: no run of a SASRec, or one that has learned from other baskets.
    """
    scorer = load_retriever(ranker)
    if not isinstance(scorer, Scorer):
        raise InputError(
            f"--ranker {ranker} spells SIDs; name the run of a SASRec, which scores"
        )
    for name, own, other in (
        ("data.name", judged.data.name, scorer.config.data.name),
        ("holdout", judged.holdout, scorer.config.holdout),
    ):
        if own != other:
            raise InputError(
                f"--ranker {ranker} has {name}={other}, and what it is to rank {own}: "
                "train it on the same baskets"
            )
    train = replace(scorer.config.train, seed=judged.train.seed)
    config = replace(scorer.config, data=judged.data, train=train)
    keep_corpus(ranker, Corpus.load(config, ranker / runs.SIDS))
    scorer = replace(scorer, config=config)
    return searching(scorer, owned=judged.search.owned)


@typed
def rank(
    scorer: Scorer,
    requests: Requests,
    products: Products,
    weight: float = 0.5,
) -> Products:
    """Candidates by both models' scores, best first; ties keep their order.

    Args:
      scorer: the ranker.
      requests: as the ranker is to be told of them.
      products: what was found, with log-probabilities.
      weight: w, of the ranker's.

    Raises:
      InputError: a weight outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise InputError(f"the ranker's weight {weight} must be in [0, 1]")
    items = products.items
    own = np.where(items >= 0, products.scores, 0)
    mixed = weight * scorer.score(requests, items) + (1 - weight) * own
    return products.reorder(mixed, top=items.shape[1])
