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
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.scorer import Scorer
from sid_jax.typing import Float, Int, NDArray, typed


def load_ranker(ranker: Path, judged: RetrieverExperiment) -> Scorer:
    """The SASRec of a run, to rank what another retriever finds.

    Args:
      ranker: its run folder.
      judged: of the other one. The ranker answers what may be answered there.

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
    config = replace(scorer.config, data=judged.data)
    keep_corpus(ranker, Corpus.load(config, ranker / runs.SIDS))
    search = replace(config.search, owned=judged.search.owned)
    return replace(scorer, config=replace(config, search=search))


@typed
def rank(
    scorer: Scorer,
    requests: Requests,
    items: Int[NDArray, "B n"],
    scores: Float[NDArray, "B n"],
    weight: float = 0.5,
) -> tuple[Int[NDArray, "B n"], Float[NDArray, "B n"]]:
    """Candidates by both models' scores, best first; ties keep their order.

    Args:
      scorer: the ranker.
      requests: as the ranker is to be told of them.
      items: candidates of each request; -1 is filler, which comes last.
      scores: their log-probabilities by what found them.
      weight: w, of the ranker's.

    Raises:
      InputError: a weight outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise InputError(f"the ranker's weight {weight} must be in [0, 1]")
    real = items >= 0
    own, other = np.where(real, scores, 0), scorer.score(requests, items)
    mixed = weight * np.where(real, other, 0) + (1 - weight) * own
    mixed = np.where(real, mixed, -np.inf).astype(np.float32)
    order = np.argsort(-mixed, axis=1, kind="stable")
    return np.take_along_axis(items, order, 1), np.take_along_axis(mixed, order, 1)
