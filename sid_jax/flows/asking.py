"""What a household at a store is offered next, by names of items and stores."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.histories import lay_out
from sid_jax.data.pipeline import (
    PromptConfig,
    Requests,
    SequenceConfig,
    tell_histories,
)
from sid_jax.errors import InputError
from sid_jax.sids.vocab import format_sid


@dataclass(frozen=True)
class Offer:
    """A retrieved product; its score is a log-probability, raised by noise if drawn."""

    item_id: str
    title: str
    category: str
    sid: str
    score: float


def ask(
    load: Callable[[], Any],
    told: PromptConfig | SequenceConfig,
    catalog: Catalog,
    retailers: Sequence[str],
    *,
    history: Sequence[str] = (),
    basket: Sequence[str] = (),
    retailer: str = "",
    where: Mapping[str, str] | None = None,
    top: int = 10,
    **drawing: Any,
) -> list[Offer]:
    """The best products for one request.

    Args:
      load: gives what answers requests, once the words are found good.
      told: what its prompts tell.
      catalog: its items.
      retailers: names of its retailers.
      history: item ids the household bought, oldest first, as often as it did.
      basket: item ids in the basket so far.
      retailer: the store; may be left out if there is one only.
      where: conditions on attributes, `brand`, or `category`.
      top: at most so many products.
      **drawing: a `key`, where SIDs are drawn.

    Raises:
      InputError: unknown items, retailers, attributes or values.
    """
    if top < 1:
        raise InputError(f"--top must be positive: {top}")
    store = _find_retailer(retailer, list(retailers))
    with _about("--history"):
        bought = catalog.rows(history)
    with _about("--basket"):
        held = catalog.rows(basket)
    with _about("--where"):
        mask = catalog.where(where) if where else None
    # Given as a list, not as baskets: how often counts, then how lately.
    none = np.zeros_like(bought)
    shown, owned, counts = tell_histories(none, bought, none, 1, told)
    requests = Requests(
        users=np.zeros(1, np.int32),
        retailers=np.asarray([store], np.int32),
        history=shown,
        basket=lay_out(np.zeros_like(held), held, 1),
        targets=np.full((1, 1), -1, np.int32),
        owned=owned,
        owned_counts=counts,
    )
    retriever = load()
    answers = retriever.retrieve(requests, top=top, item_mask=mask, **drawing)
    products, _ = next(answers)
    return [
        Offer(
            item_id=catalog.item_ids[item],
            title=catalog.titles[item],
            category=" > ".join(catalog.categories[item]),
            sid=format_sid(retriever.codes[item]),
            score=float(score),
        )
        for item, score in zip(products.items[0], products.scores[0], strict=True)
        if item >= 0
    ]


@contextmanager
def _about(flag: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{flag}: {error}") from None


def _find_retailer(retailer: str, retailers: list[str]) -> int:
    if retailer in retailers:
        return retailers.index(retailer)
    if not retailer and len(retailers) == 1:
        return 0
    close = difflib.get_close_matches(retailer, retailers) or retailers[:5]
    problem = f"{retailer!r} is not among" if retailer else "name one of"
    raise InputError(
        f"--retailer: {problem} the {len(retailers)} of this run, such as "
        + ", ".join(close)
    )
