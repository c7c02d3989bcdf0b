"""A search held to what a store carries, beside one that is filtered afterwards.

    python experiments/benchmarks/allowances.py runs/retriever_grocery [--beams 10 50]

Both search by the same retriever with as many beams and answer by the same index, which
offers what the store carries alone. *Held*: beams may only spell SIDs of products that
the store carries (`sids/allowance.py`). *Filtered*: beams may spell any SID of the
catalog, and those of which the store carries nothing are lost. Hardware: one core of a
CPU, in about four minutes where prompts hold 64 products; long ones take long.

Printed of the test baskets: recall at item level, beam yield (the share of beams with
a product to offer), requests that got fewer than ten products, and the time of all
requests, index included (held = 1; medians of turns in both orders).
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from temperature import load_test
from turns import take_turns

from sid_jax.data.pipeline import Requests
from sid_jax.evals.ranking import mean, ranking_metrics
from sid_jax.flows.retriever import searching
from sid_jax.flows.speller import Speller
from sid_jax.report.tables import format_rows
from sid_jax.typing import Bool, NDArray

SHOWN = 10


class Filtered(Speller):
    """Searches the whole trie, whatever the store carries."""

    def _allow(
        self, requests: Requests, item_mask: Bool[NDArray, "*b N"] | None, mesh: Mesh
    ) -> nullcontext[None]:
        return nullcontext()


def measure(
    folder: Path, beams: Sequence[int], limit: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Figures of both searches with each number of beams.

    Args:
      folder: the run.
      beams: numbers of beams.
      limit: requests; 0 takes all.
      repeats: of the timing, on at most 512 requests.
    """
    retriever, _, requests = load_test(folder, limit)
    few = requests.take(np.arange(min(512, len(requests))))
    rows = {}
    for num_beams in beams:
        held = searching(retriever, num_beams=num_beams)
        told = {field.name: getattr(held, field.name) for field in fields(Speller)}
        sides = {"held": held, "filtered": Filtered(**told)}
        turns = {
            name: partial(lambda side: list(side.retrieve(few)), side)
            for name, side in sides.items()
        }
        times = {name: wall for name, (wall, _) in take_turns(turns, repeats).items()}
        for name, side in sides.items():
            found = [products for products, _ in side.retrieve(requests)]
            items = np.concatenate([each.items for each in found])
            figures = mean(ranking_metrics(items, requests.targets, (SHOWN, 50)))
            short = (items[:, :SHOWN] < 0).any(axis=1).mean()
            rows[f"{num_beams} beams, {name}"] = {
                "R@10": figures["recall@10"],
                "R@50": figures["recall@50"],
                "N@10": figures["ndcg@10"],
                "yield": float(np.mean([y for p in found for y in p.beam_yield])),
                "short": float(short),
                "time": times[name] / times["held"],
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--requests", type=int, default=0, help="0 takes all")
    parser.add_argument("--repeats", type=int, default=4)
    given = parser.parse_args()
    rows = measure(given.workdir, given.beams, given.requests, given.repeats)
    print(format_rows(rows))


if __name__ == "__main__":
    main()
