"""What variety costs: lists drawn at several temperatures, beside those searched for.

    python experiments/benchmarks/temperature.py runs/hierarchical [--requests 4096]

At a temperature, SIDs are drawn without replacement from the model's distribution over
what may be answered (stochastic beam search, see `sid_jax/sids/beam.py`); 0 searches
for the likeliest. Hardware: one core of a CPU, in about a minute a temperature for
4,096 households of Beauty.

Printed of lists of ten test products: recall and NDCG at item level, entropy of their
categories (TIGER's Entropy@10), different categories, brands and first codes a list,
the share under its first product's first code, that of tail products, and the share of
the catalog that stands in any list.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.evals.ranking import mean, ranking_metrics
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.retriever import choose_requests, load_retriever, searching
from sid_jax.flows.slicing import LISTS, K, describe_answers
from sid_jax.flows.speller import Speller
from sid_jax.report.tables import format_rows


def load_test(folder: Path, limit: int) -> tuple[Speller, Corpus, Requests]:
    """A run that spells, its data, and at most `limit` test requests (0: all)."""
    retriever = load_retriever(folder)
    if not isinstance(retriever, Speller):
        raise InputError(f"{folder} scores items; name a retriever that spells")
    corpus = Corpus.load(retriever.config, folder / "sids.parquet")
    requests = choose_requests(retriever.config, corpus.data, corpus.test, limit)
    return retriever, corpus, requests


def measure(
    folder: Path, temperatures: Sequence[float], limit: int
) -> dict[str, dict[str, float]]:
    """Figures of lists at each temperature, for at most `limit` requests (0: all)."""
    retriever, corpus, requests = load_test(folder, limit)
    rows = {}
    for temperature in temperatures:
        answers = searching(retriever, temperature=temperature).retrieve(requests)
        found = np.concatenate([products.items for products, _ in answers])
        name = f"drawn at {temperature:g}" if temperature else "search"
        ranked = mean(ranking_metrics(found, requests.targets, (K,)))
        varied = describe_answers(corpus, {name: found})
        rows[name] = {
            f"R@{K}": ranked[f"recall@{K}"],
            f"N@{K}": ranked[f"ndcg@{K}"],
            **{figure: varied[f"lists/{name}/{figure}"] for figure in LISTS},
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[0, 0.5, 1, 1.5, 2]
    )
    parser.add_argument("--requests", type=int, default=4096, help="0 takes all")
    given = parser.parse_args()
    print(format_rows(measure(given.workdir, given.temperatures, given.requests)))


if __name__ == "__main__":
    main()
