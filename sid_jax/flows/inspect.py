"""`sid inspect`: a SID table judged by itself, and beside its vectors if at hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.parsing import read_items
from sid_jax.data.purchases import read_purchases
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.data.vector_files import read_vectors
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import intrinsic_metrics, level_use
from sid_jax.flows import runs
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.figures import (
    format_figures,
    make_pictures,
    make_tables,
    write_figures,
)
from sid_jax.flows.runs import Log
from sid_jax.flows.tokenizer import read_figures
from sid_jax.report.page import Report, Similarity, write_report
from sid_jax.report.tree import ItemTree
from sid_jax.sids.dedup import drop_dedup_level
from sid_jax.sids.table import SidTable, read_table
from sid_jax.typing import NDArray

Series = dict[str, tuple[list[int], list[float]]]
"""Name -> (steps, values)."""


def inspect_table(
    path: Path,
    log: Log,
    *,
    vectors: str = "",
    items: Path | None = None,
    purchases: Path | None = None,
    partial: bool = False,
    out: Path | None = None,
) -> dict[str, float]:
    """Prints what the codes are like, writes a page, and the figures beside it.

    Args:
      path: `sids.parquet`, the run folder that it lies in, a folder of parts, or
        another system's table of `item_id,sid` (CSV or Parquet). Where it lies in a run
        folder, that run's catalog, item vectors and purchases are used.
      log: where lines go.
      vectors: file of item vectors to judge the codes against.
      items: file of the items, for titles and category paths.
      purchases: file of how often items were bought, or of baskets or sequences.
      partial: whether to judge the items that the files have, where they lack some.
      out: the page to write; beside the table if None. The figures go beside it, as
        `<its stem>_figures.json`.

    Returns:
      The figures by name.

    Raises:
      InputError: no such table, a damaged one, or files that lack some of its items.
    """
    path = runs.find_sids(path)
    folder, table = path.parent, read_table(path)
    described = None if items is None else _read_items(items, log)
    known, found = read_vectors(vectors) if vectors else ([], None)
    asked = {}
    if described is not None:
        asked[f"{items}: no item"] = described.item_ids
    if vectors:
        asked[f"{vectors}: no vector"] = known
    table = _keep(table, asked, partial, log)
    ids = table.item_ids.to_pylist()
    catalog, errors = _find_catalog(folder, table), None
    if found is not None:
        row_of = {item_id: row for row, item_id in enumerate(known)}
        found = found[[row_of[item_id] for item_id in ids]]
    elif catalog is not None and (folder / runs.VECTORS).exists():
        found, errors = _encode(folder, table, catalog)
    if described is not None:
        catalog = described.take(described.rows(ids))
    values = intrinsic_metrics(
        table.codes(),
        table.manifest.codebook_sizes,
        found,
        errors=errors,
        purchases=_find_purchases(folder, table, purchases, log),
        taxonomy=None if catalog is None else Taxonomy.from_paths(catalog.categories),
    )
    log(format_figures(table, values))
    out = out or path.with_name(path.name.split(".")[0] + "_report.html")
    figures = out.with_name(f"{out.stem}_figures.json")
    write_figures(figures, table, values)
    write_report(out, make_report(str(path), table, values, catalog))
    log(f"figures: {figures}")
    log(f"report: {out}")
    return values


def report_tokenizer(folder: Path, log: Log) -> None:
    """Prints what a tokenizer's run found of its codes, and writes its page.

    Raises:
      InputError: the run has not come so far.
    """
    table = drop_dedup_level(runs.read_sids(folder / runs.SIDS))
    values = read_figures(folder)
    catalog = _find_catalog(folder, table)
    curves = {"Tokenizer": make_curves(runs.read_rows(folder), "loss")}
    log(format_figures(table, values))
    page = make_report(str(folder), table, values, catalog, curves)
    write_report(folder / runs.REPORT, page)


def make_report(
    subtitle: str,
    table: SidTable,
    values: dict[str, float],
    catalog: Catalog | None,
    curves: Mapping[str, Series] | None = None,
) -> Report:
    """The page of a SID table."""
    codes, sizes = table.codes(), table.manifest.codebook_sizes
    tree = None
    if catalog is not None:
        tree = ItemTree(
            codes=codes, titles=catalog.titles, categories=catalog.categories
        )
    return Report(
        title=f"Semantic IDs of {len(table):,} items",
        subtitle=subtitle,
        summary=[
            ("items", f"{len(table):,}"),
            ("SIDs", f"{len(table.sids):,}"),
            ("codewords", f"{sum(sizes):,}"),
        ],
        tables=make_tables(table, values),
        curves={name: each for name, each in (curves or {}).items() if each},
        levels=[use.counts for use in level_use(codes, sizes)],
        similarity=make_similarity(values, len(sizes)),
        pictures=make_pictures(values, len(sizes)),
        tree=tree,
        footer=[
            (name, told)
            for name, told in (
                ("made by", table.manifest.created_by),
                ("tokenizer", table.manifest.tokenizer[:12]),
                ("catalog", table.manifest.catalog[:12]),
            )
            if told
        ],
    )


def make_similarity(values: dict[str, float], num_levels: int) -> Similarity | None:
    """How similarity follows depth; None where there were no vectors."""
    if "rho_half" not in values:
        return None
    return Similarity(
        share_by_level=[values[f"share@{level}"] for level in range(1, num_levels + 1)],
        mean_cosine=[
            values[f"cosine@{depth}"]
            for depth in range(num_levels + 1)
            if f"cosine@{depth}" in values
        ],
        note=(
            "Spearman's rho of cosine and shared depth: "
            f"{values['rho_near']:.3f} among near neighbours, "
            f"{values['rho_uniform']:.3f} among uniform pairs, "
            f"{values['rho_half']:.3f} among both pooled. Bars: pairs of near "
            "neighbours with cosine >= 0.9. Mean cosines are of all pairs that share "
            "so many levels and no more."
        ),
    )


def make_curves(rows: Sequence[Mapping[str, Any]], name: str) -> Series:
    """What metrics lines say of a metric, or of an evaluator's recall, by step."""
    series: Series = {}
    for row in rows:
        for key, value in row.items():
            group, _, plain = key.rpartition("/")
            wanted = key == name or (group == name and plain.startswith("recall"))
            if wanted and value is not None:
                steps, values = series.setdefault(plain, ([], []))
                steps.append(row["step"])
                values.append(value)
    return series


def _find_catalog(folder: Path, table: SidTable) -> Catalog | None:
    """The catalog beside a table, in the table's order; None if it is another one."""
    if not (folder / runs.CATALOG).exists():
        return None
    catalog = runs.read_catalog(folder)
    ids = table.item_ids.to_pylist()
    if not set(ids) <= set(catalog.item_ids):
        return None
    return catalog.take(catalog.rows(ids))


def _read_items(path: Path, log: Log) -> Catalog:
    catalog, notes = read_items(path)
    for note in notes:
        log(f"note: {note}")
    return catalog


def _encode(
    folder: Path, table: SidTable, catalog: Catalog
) -> tuple[NDArray, NDArray | None]:
    """The items' vectors in a run, and the errors of its codes if they are its own."""
    tokenizer = Tokenizer.load(folder)
    encoded = tokenizer.encode(catalog)
    own = tokenizer.digest() == table.manifest.tokenizer
    return encoded.vectors, encoded.errors if own else None


def _keep(
    table: SidTable, asked: Mapping[str, Sequence[str]], partial: bool, log: Log
) -> SidTable:
    """The table of the items that all files have.

    Args:
      table: of all items.
      asked: what a file was asked for -> the items that it knows.
      partial: whether items may be lacking.
      log: where lines go.

    Raises:
      InputError: items are lacking, and that was not allowed, or none is left.
    """
    ids = table.item_ids.to_pylist()
    kept = np.ones(len(table), bool)
    for file, known in asked.items():
        there = set(known)
        absent = [item_id for item_id in ids if item_id not in there]
        if not absent:
            continue
        told = (
            f"{file} for {len(absent):,} of {len(ids):,} items of the SID table: "
            + ", ".join(map(repr, absent[:5]))
            + (" ..." if len(absent) > 5 else "")
        )
        if not partial or len(absent) == len(ids):
            fix = "" if len(absent) == len(ids) else ", or judge the others: --partial"
            raise InputError(
                f"{told}; add them to the file (ids are text, as in the table){fix}"
            )
        log(f"note: {told}; left out")
        kept &= [item_id in there for item_id in ids]
    if kept.all():
        return table
    if not kept.any():
        raise InputError("no item is in all files; are their ids of one system?")
    log(f"judged: {kept.sum():,} of {len(table):,} items")
    rows = np.flatnonzero(kept)
    codes, distances = table.codes()[rows], table.distances[rows]
    return SidTable.build(table.item_ids.take(rows), codes, distances, table.manifest)


def _find_purchases(
    folder: Path, table: SidTable, purchases: Path | None, log: Log
) -> NDArray | None:
    """How often each item was bought, by the file given or the run's own."""
    path = purchases or folder / runs.PURCHASES
    if purchases is None and not path.exists():
        return None
    counts, notes = read_purchases(path, table.item_ids.to_pylist())
    for note in notes:
        log(f"note: {note}")
    return counts
