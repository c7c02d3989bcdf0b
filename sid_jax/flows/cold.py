"""Products that training never saw (`RetrieverExperiment.holdout`): are they found?

Two protocols. Lists of new products alone (as STATIC's constrained search, arXiv
2602.22647) tell how they are ranked among themselves; and lists of all products in
which a share epsilon of the places is kept for the new ones (TIGER's "at most epsilon
unseen", Rajput et al. 2023), what finding them costs the others.
"""

import math
from collections.abc import Mapping

import numpy as np

from sid_jax.data.pipeline import Requests
from sid_jax.evals.ranking import mean, pack, ranking_metrics
from sid_jax.flows.corpus import Corpus
from sid_jax.report.tables import Table
from sid_jax.typing import Bool, Int, NDArray, typed

K = 10
"""Length of the lists of both."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Epsilon: of the places that are kept for new products."""
_KS = (5, 10, 50)


def judge_unseen(
    corpus: Corpus,
    requests: Requests,
    lists: Mapping[str, NDArray],
    alone: Mapping[str, NDArray],
) -> dict[str, float]:
    """Figures of held-out items.

    Args:
      corpus: with items held out.
      requests: what was asked.
      lists: system -> products of each request, of all that are carried.
      alone: system -> products, of the held-out ones alone, for the same requests.

    Returns:
      `unseen/targets`, how many targets are held out; `unseen/alone/SYSTEM/METRIC` of
      those, by the lists of new products alone; and `unseen/share/EPSILON/SYSTEM/PART`,
      recall@10 of PART = `new`, `seen` and `all` targets where lists are mixed.
    """
    assert corpus.held is not None
    targets = requests.targets
    new = (targets >= 0) & corpus.held[np.maximum(targets, 0)]
    parts = {
        "new": np.where(new, targets, -1),
        "seen": np.where(new, -1, targets),
        "all": targets,
    }
    values: dict[str, float] = {"unseen/targets": int(new.sum())}
    for system, found in alone.items():
        figures = mean(ranking_metrics(found, parts["new"], _KS))
        values |= {f"unseen/alone/{system}/{k}": each for k, each in figures.items()}
        for share in SHARES:
            mixed = mix(lists[system], found, corpus.held, share, K)
            for part, wanted in parts.items():
                recall = mean(ranking_metrics(mixed, wanted, (K,)))[f"recall@{K}"]
                values[f"unseen/share/{share:g}/{system}/{part}"] = recall
    return values


@typed
def mix(
    lists: Int[NDArray, "B n"],
    alone: Int[NDArray, "B m"],
    held: Bool[NDArray, " N"],
    share: float,
    k: int,
) -> Int[NDArray, "B k"]:
    """Lists of k items whose last floor(share k) places are for those held out.

    Args:
      lists: item rows, best first; -1 is filler. Items held out are passed over.
      alone: item rows of those held out, best first.
      held: marks them.
      share: epsilon, in [0, 1].
      k: length.
    """
    few = math.floor(share * k + 1e-9)
    known = (lists >= 0) & ~held[np.maximum(lists, 0)]
    parts = (pack(lists, known, None, k - few), pack(alone, alone >= 0, None, few))
    return np.concatenate(parts, axis=1)


def unseen_tables(values: Mapping[str, float]) -> list[Table]:
    """What `judge_unseen` found, as tables; none where nothing was held out."""
    if "unseen/targets" not in values:
        return []
    prefix = "unseen/alone/"
    systems = list(
        dict.fromkeys(name.split("/")[2] for name in values if name.startswith(prefix))
    )
    columns = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in _KS]
    alone = Table(
        title="New products, ranked among themselves",
        rows={
            system: {each: values[f"{prefix}{system}/{each}"] for each in columns}
            for system in systems
        },
        note=f"{int(values['unseen/targets']):,} targets that no training basket held; "
        "only such products are offered.",
    )
    shares = Table(
        title=f"Recall@{K} by the places that are kept for new products",
        rows={
            f"{system}, {share:.0%} of the places": {
                part: values[f"unseen/share/{share:g}/{system}/{part}"]
                for part in ("new", "seen", "all")
            }
            for system in systems
            for share in SHARES
        },
        note="new, seen, all: which targets are counted.",
        best="none",
    )
    return [alone, shares]
