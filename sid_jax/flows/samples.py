"""A few requests and what was answered, in words: `samples.jsonl` of a run."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.flows.corpus import Corpus
from sid_jax.report.page import Sample
from sid_jax.report.story import Product
from sid_jax.sids.index import Products
from sid_jax.sids.vocab import format_sid
from sid_jax.typing import NDArray

_NUM_SAMPLES = 8
_SHOWN = 10


def write_samples(
    folder: Path, corpus: Corpus, requests: Requests, found: Products
) -> None:
    """Tells a run's folder of the first requests and their answers."""
    samples = [
        _describe(corpus, requests, row, found.items[row], found.scores[row])
        for row in range(min(_NUM_SAMPLES, len(requests)))
    ]
    with replacing(folder / runs.SAMPLES) as temporary:
        temporary.write_text("".join(json.dumps(each) + "\n" for each in samples))


def read_samples(folder: Path) -> list[Sample]:
    """What `write_samples` told.

    Raises:
      InputError: it is not there, or damaged.
    """
    path = folder / runs.SAMPLES
    try:
        return [_parse(json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not readable ({error!r}); `sid evaluate {folder}` writes it anew"
        ) from None


def _describe(
    corpus: Corpus, requests: Requests, row: int, answer: NDArray, scores: NDArray
) -> dict[str, Any]:
    """A request and its answer in words, for the report."""
    bought = {int(item) for item in requests.owned[row] if item >= 0}
    wanted = {int(item) for item in requests.targets[row] if item >= 0}
    told = zip(answer[:_SHOWN].tolist(), scores[:_SHOWN].tolist(), strict=True)
    shown = {item: score for item, score in told if item >= 0}

    def describe(item: int, hits: Collection[int] = ()) -> dict[str, Any]:
        return {
            "item_id": corpus.catalog.item_ids[item],
            "sid": format_sid(corpus.codes[item]),
            "title": corpus.catalog.titles[item],
            "category": " > ".join(corpus.catalog.categories[item]),
            "owned": item in bought,
            "hit": item in hits,
        }

    return {
        "user": corpus.data.users[requests.users[row]],
        "retailer": corpus.data.retailers[requests.retailers[row]],
        "history": [describe(int(i)) for i in requests.history[row] if i >= 0],
        "basket": [describe(int(i)) for i in requests.basket[row] if i >= 0],
        "held_out": [describe(item, shown) for item in sorted(wanted)],
        "retrieved": [
            describe(item, wanted) | {"score": score} for item, score in shown.items()
        ],
    }


def _parse(plain: Any) -> Sample:
    def products(name: str) -> list[Product]:
        return [
            Product(
                sid=each["sid"],
                title=each["title"] or each["item_id"],
                category=each["category"],
                score=each.get("score"),
                hit=each["hit"],
                owned=each["owned"] and name != "history",  # where all of them are
            )
            for each in plain[name]
        ]

    return Sample(
        shopper=f"Household {plain['user']}",
        retailer=f"store {plain['retailer']}",
        history=products("history"),
        basket=products("basket"),
        held_out=products("held_out"),
        retrieved=products("retrieved"),
    )
