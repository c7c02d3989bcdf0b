"""The report of a retriever's run, from the files in its folder alone."""

import time
from pathlib import Path

from sid_jax import __version__
from sid_jax.config import RetrieverExperiment, SearchConfig, digest_config
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import intrinsic_metrics, level_use
from sid_jax.flows import runs
from sid_jax.flows.cold import unseen_tables
from sid_jax.flows.evaluate import (
    MODEL,
    RULE,
    drawn_systems,
    read_judgement,
    shown_systems,
    shown_views,
)
from sid_jax.flows.inspect import make_curves, make_similarity
from sid_jax.flows.samples import read_samples
from sid_jax.flows.slicing import slice_pictures, slice_tables
from sid_jax.flows.tokenizer import read_figures
from sid_jax.report.page import Report, write_report
from sid_jax.report.tables import Table
from sid_jax.report.tree import ItemTree

_CURVES = {"Retriever": "loss", "Recall": "validation"}


def report_run(folder: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Writes the page of a run that was evaluated.

    Args:
      folder: run of a retriever.
      out: the page.
      tokenizer: run of its tokenizer, for its curves and figures, if at hand.

    Raises:
      InputError: no retriever's run, a damaged one, or it was not evaluated.
    """
    config = runs.open_finished(folder, RetrieverExperiment)
    table = runs.read_sids(folder / runs.SIDS)
    catalog = runs.read_catalog(folder)
    rows, values = runs.read_rows(folder), read_judgement(folder)
    samples = read_samples(folder)
    if not values:
        raise InputError(f"{folder} was not evaluated yet: sid evaluate {folder}")
    codes, sizes = table.codes(), table.manifest.codebook_sizes
    figures = intrinsic_metrics(codes, sizes)
    curves = {name: make_curves(rows, key) for name, key in _CURVES.items()}
    if tokenizer is not None:
        lines = runs.read_rows(tokenizer)
        curves = {"Tokenizer": make_curves(lines, "loss")} | curves
        figures = read_figures(tokenizer)
    order = catalog.take(catalog.rows(table.item_ids.to_pylist()))
    drawn = drawn_systems(values)
    model, rule = (f"item/{name}/recall@10" for name in (MODEL, RULE))
    report = Report(
        title="From a product catalog to retrieved products",
        subtitle=f"{config.data.name}: {len(catalog):,} products, {len(table.sids):,} "
        "Semantic IDs; judged on each household's last basket",
        summary=[
            ("products", f"{len(table):,}"),
            ("Semantic IDs", f"{len(table.sids):,}"),
            ("codewords", f"{sum(sizes):,}"),
            ("recall@10", round(values[model], 4)),
            ("recall@10 of the rule", round(values[rule], 4)),
            ("beam yield", round(values["beam_yield"], 3)),
        ],
        tables=[
            *(_ranking(values, *each) for each in shown_views(values).items()),
            *slice_tables(values, drawn),
            *unseen_tables(values),
            Table(
                title="Codes",
                rows={"all items": _whole(figures)},
                best="none",
            ),
        ],
        pictures=slice_pictures(values, drawn),
        curves={name: each for name, each in curves.items() if each},
        levels=[use.counts for use in level_use(codes, sizes)],
        similarity=make_similarity(figures, len(sizes)),
        tree=ItemTree(codes=codes, titles=order.titles, categories=order.categories),
        samples=samples,
        notes=_notes(config.search, values["carried"]),
        footer=[
            ("sid_jax", __version__),
            ("written", time.strftime("%Y-%m-%d %H:%M")),
            ("configuration", digest_config(config)[:12]),
            ("seed", str(config.train.seed)),
        ],
    )
    write_report(out, report)


def _notes(search: SearchConfig, carried: float) -> list[str]:
    notes = [
        "Targets that the store's training baskets never held count as misses; "
        f"{carried:.1%} of the targets were ever sold at the store.",
        "Products of one SID are ranked by the household's own purchases, then by "
        "the store's sales, from training baskets.",
    ]
    if search.likeness:
        notes.append(
            "All products found are then ranked by log-probability and "
            f"{search.likeness:g} times their cosine with the last products."
        )
    if not search.owned:
        notes.append("What the household has bought before is left out.")
    return notes


def _whole(figures: dict[str, float]) -> dict[str, float]:
    """Figures of all levels; counts, kept as floats, as the numbers they are."""
    return {
        name: int(value) if value > 1 and value.is_integer() else value
        for name, value in figures.items()
        if "@" not in name
    }


def _ranking(values: dict[str, float], view: str, title: str) -> Table:
    rows = {}
    for name in shown_systems(values):
        columns = [f"{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 50)]
        rows[name] = {each: values[f"{view}/{name}/{each}"] for each in columns}
    return Table(title=title[0].upper() + title[1:], rows=rows)
