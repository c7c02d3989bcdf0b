"""The whole idea in one picture, drawn from a run's own products and answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.config import RetrieverExperiment
from sid_jax.data.catalog import Catalog
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.report.plots import save
from sid_jax.report.story import Product, story
from sid_jax.sids.vocab import format_sid, parse_sid

_BRANCH = 12  # products drawn under one first code
_PER_PREFIX = 3  # of them, those that share all codes but the last


def draw_story(folder: Path, out: Path) -> None:
    """Draws a branch of the SID tree beside the sample with the most hits.

    Draws nothing where no sample has both a history and an answer.

    Args:
      folder: run of a retriever that was evaluated.
      out: the PNG.
    """
    lines = (folder / runs.SAMPLES).read_text().splitlines()
    samples = [each for each in map(json.loads, lines) if each["retrieved"]]
    samples = [each for each in samples if each["history"]]
    if not samples:
        return
    best = max(samples, key=lambda each: sum(p["hit"] for p in each["retrieved"][:7]))
    chosen = next((p for p in best["retrieved"] if p["hit"]), best["retrieved"][0])
    data = runs.open_finished(folder, RetrieverExperiment).data.name
    catalog = runs.read_catalog(folder)
    figure = story(
        _branch(folder, catalog, parse_sid(chosen["sid"])[0], chosen["title"]),
        [_product(each) for each in best["history"]],
        [_product(each) for each in best["retrieved"]],
        shopper=f"Household {best['user']}",
        retailer=f"store {best['retailer']}",
        subtitle=f"{data}: {len(catalog):,} products; the basket that it is compared "
        "with was never trained on",
    )
    with replacing(out) as temporary:
        save(figure, temporary, "png")


def _branch(folder: Path, catalog: Catalog, first: int, title: str) -> list[Product]:
    """Products of different titles under one first code, around one of them."""
    table = runs.read_sids(folder / runs.SIDS)
    rows = catalog.rows(table.item_ids.to_pylist())
    codes = table.codes()
    seen: set[str] = set()
    groups: dict[tuple[int, ...], list[Product]] = {}
    around = sorted(
        np.flatnonzero(codes[:, 0] == first),
        key=lambda i: (catalog.titles[rows[i]] != title, tuple(codes[i])),
    )
    for i in around:
        name = catalog.titles[rows[i]]
        group = groups.setdefault(tuple(codes[i][:-1]), [])
        if name in seen or len(group) >= _PER_PREFIX:
            continue
        seen.add(name)
        path = catalog.categories[rows[i]]
        group.append(Product(format_sid(codes[i]), name, path[-1] if path else ""))
    # Prefixes with several products show best what a shared prefix means.
    ranked = sorted(groups.values(), key=len, reverse=True)
    return [product for group in ranked for product in group][:_BRANCH]


def _product(plain: dict[str, Any]) -> Product:
    return Product(
        sid=plain["sid"],
        title=plain["title"] or plain["item_id"],
        category=plain["category"].split(" > ")[-1],
        hit=plain["hit"],
        owned=plain["owned"],
    )
