"""`sid flavours`: what the prefixes of two tokenizers join, side by side."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sid_jax import __version__
from sid_jax.config import TokenizerExperiment
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import DataConfig, load
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.neighbours import neighbour_metrics
from sid_jax.flows import runs
from sid_jax.flows.runs import Log
from sid_jax.report.neighbours import Comparison, Neighbours, neighbours_section
from sid_jax.report.page import Report, write_report
from sid_jax.report.story import Product
from sid_jax.report.tables import Table
from sid_jax.sids.vocab import format_sid
from sid_jax.typing import Int, NDArray

NAMES = ("precision", "discovery")
_DRAWN = 8  # products shown where none are named
_SHOWN = 12  # neighbours of each, at most


def compare_flavours(
    folders: tuple[Path, Path], out: Path, log: Log, *, items: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Prints what prefix neighbours are like in both, and writes the page.

    Args:
      folders: runs of two tokenizers on the same items, in the order of NAMES.
      out: the page.
      log: where lines go.
      items: ids of the products to show; empty: some are drawn, always the same.

    Returns:
      The figures of `neighbour_metrics` by flavour.

    Raises:
      InputError: no tokenizer's run, runs on different items, or an unknown id.
    """
    config = runs.open_finished(folders[0], TokenizerExperiment)
    runs.open_finished(folders[1], TokenizerExperiment)
    catalog = runs.read_catalog(folders[0])
    codes = []
    for folder in folders:
        table = runs.read_sids(folder / runs.SIDS)
        if set(table.item_ids.to_pylist()) != set(catalog.item_ids):
            raise InputError(
                f"{folder}: its items are not those of {folders[0]}; train both "
                "tokenizers on one data set"
            )
        codes.append(table.codes()[table.rows(catalog.item_ids)])
    rows = [int(row) for row in catalog.rows(list(items))] or _draw(len(catalog))
    leaf = Taxonomy.from_paths(catalog.categories).leaf
    data, note = _find_data(config.data, catalog)
    figures = {
        name: neighbour_metrics(each, leaf, data)
        for name, each in zip(NAMES, codes, strict=True)
    }
    for line in _lines(figures, note):
        log(line)
    report = Report(
        title="Two flavours of Semantic IDs",
        subtitle=f"{config.data.name}: {len(catalog):,} products; what shares leading "
        "codes in each",
        warnings=[note] if note else [],
        tables=_tables(figures),
        sections=[
            neighbours_section([_compare(catalog, codes, leaf, row) for row in rows])
        ],
        footer=[
            ("sid_jax", __version__),
            ("written", time.strftime("%Y-%m-%d %H:%M")),
            *zip(NAMES, map(str, folders), strict=True),
        ],
    )
    write_report(out, report)
    log(f"report: {out}")
    return figures


def _find_data(config: DataConfig, catalog: Catalog) -> tuple[Interactions | None, str]:
    """What was bought together, and what to say where that is not known."""
    try:
        there, data = load(config)
    except InputError as error:
        return None, f"No co-purchase lift: {error}"
    if data is None:
        return None, f"No co-purchase lift: {config.name} has no histories"
    if there.digest() != catalog.digest():
        return None, f"No co-purchase lift: {config.name} has other items by now"
    return data, ""


def _draw(count: int) -> list[int]:
    rng = np.random.default_rng(0)
    return sorted(rng.choice(count, min(_DRAWN, count), replace=False).tolist())


def _lines(figures: dict[str, dict[str, float]], note: str) -> list[str]:
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    lines = [f"{'':<16}" + "".join(f"{flavour:>12}" for flavour in figures)]
    lines += [
        f"{name:<16}"
        + "".join(f"{row.get(name, np.nan):>12.4f}" for row in figures.values())
        for name in names
    ]
    return [*lines, *([f"note: {note}"] if note else [])]


def _tables(figures: dict[str, dict[str, float]]) -> list[Table]:
    kinds = {
        "same_leaf": (
            "Substitutes",
            "Share of prefix neighbours in the product's own taxonomy leaf, by number "
            "of shared codes; 0: any two products.",
        ),
        "lift": (
            "Bought together",
            "Times as often as by chance, over prefix neighbours.",
        ),
        "lift_across": (
            "Complements",
            "The same, over prefix neighbours of another leaf.",
        ),
        "anchors": ("Products with a neighbour", "Share of all products."),
    }
    tables = []
    for kind, (title, told) in kinds.items():
        rows = {
            flavour: {
                f"codes shared@{name.partition('@')[2]}": value
                for name, value in row.items()
                if name.partition("@")[0] == kind
            }
            for flavour, row in figures.items()
        }
        if any(rows.values()):
            tables.append(
                Table(title=title, rows=rows, note=told, best="none", decimals=3)
            )
    return tables


def _compare(
    catalog: Catalog, codes: Sequence[NDArray], leaf: Int[NDArray, " N"], row: int
) -> Comparison:
    def product(other: int, sid: str) -> Product:
        return Product(
            sid=sid,
            title=catalog.titles[other] or catalog.item_ids[other],
            category=" > ".join(catalog.categories[other]),
            hit=other != row and leaf[other] == leaf[row] >= 0,
        )

    sides = []
    for name, each in zip(NAMES, codes, strict=True):
        shared = np.cumprod(each == each[row], axis=1).sum(axis=1)
        shared[row] = 0
        order = np.argsort(-shared, kind="stable")[:_SHOWN]
        nearest = [int(other) for other in order if shared[other]]
        depth = int(shared[nearest[-1]]) if nearest else 0
        sides.append(
            Neighbours(
                flavour=name,
                sid=format_sid(each[row]),
                depth=depth,
                total=int((shared >= depth).sum()) if nearest else 0,
                nearest=[product(other, format_sid(each[other])) for other in nearest],
            )
        )
    return Comparison(product=product(row, ""), sides=sides)
