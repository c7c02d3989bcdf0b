"""`sid inspect`: a SID table judged by itself, and beside its vectors if at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.importer import read_items
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
      path: `sids.parquet`, the run folder that it lies in, or another system's table
        of `item_id,sid` (CSV or Parquet). Where it lies in a run folder, that run's
        catalog, item vectors and purchases are used.
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
    if path.is_dir():
        path /= runs.SIDS
    if not path.exists():
        raise InputError(
            f"{path}: no such file; name the folder of a finished run, the {runs.SIDS} "
            "in it, or a CSV file with columns item_id,sid"
        )
    table = read_table(path)
    sources = _read_sources(path.parent, table, vectors, items, log)
    table, sources = _join(table, sources, partial, log)
    bought = _find_purchases(path.parent, table, purchases, log)
    catalog = sources.catalog
    values = intrinsic_metrics(
        table.codes(),
        table.manifest.codebook_sizes,
        sources.vectors,
        errors=sources.errors,
        purchases=bought,
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
    table, values = runs.read_sids(folder / runs.SIDS), read_figures(folder)
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
            ("made by", table.manifest.created_by),
            ("tokenizer", table.manifest.tokenizer[:12]),
            ("catalog", table.manifest.catalog[:12]),
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


@dataclass(frozen=True)
class _Sources:
    """What is known of a table's items, in the table's order.

    Attributes:
      catalog: titles and category paths.
      vectors: what was, or may have been, tokenized.
      errors: of the tokenizer's reconstructions, a level; only of its own codes.
      lacking: what a file was asked for -> rows that it does not have.
    """

    catalog: Catalog | None = None
    vectors: NDArray | None = None
    errors: NDArray | None = None
    lacking: dict[str, NDArray] = field(default_factory=dict)


def _read_sources(
    folder: Path, table: SidTable, vectors: str, items: Path | None, log: Log
) -> _Sources:
    """Everything at hand; rows of items that a file lacks are filled with any other."""
    ids = table.item_ids.to_pylist()
    own = catalog = _find_catalog(folder, table)
    lacking, found, errors = {}, None, None
    if items is not None:
        catalog, notes = read_items(items)
        for note in notes:
            log(f"note: {note}")
        rows, lacking[f"{items}: no item"] = _match(ids, catalog.item_ids)
        catalog = catalog.take(rows)
    if vectors:
        known, found = read_vectors(vectors)
        rows, lacking[f"{vectors}: no vector"] = _match(ids, known)
        found = found[rows]
    elif own is not None and (folder / runs.VECTORS).exists():
        tokenizer = Tokenizer.load(folder)
        encoded = tokenizer.encode(own)
        found = encoded.vectors
        if tokenizer.digest() == table.manifest.tokenizer:
            errors = encoded.errors
    return _Sources(catalog, found, errors, lacking)


def _match(ids: Sequence[str], known: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Row of each id among those known, and which ids are not: they get row 0."""
    row_of = {item_id: row for row, item_id in enumerate(known)}
    rows = np.asarray([row_of.get(item_id, -1) for item_id in ids], np.int64)
    return np.maximum(rows, 0), np.flatnonzero(rows < 0)


def _join(
    table: SidTable, sources: _Sources, partial: bool, log: Log
) -> tuple[SidTable, _Sources]:
    """The table of the items that all files have.

    Raises:
      InputError: a file lacks items, and that was not allowed, or it lacks all.
    """
    ids = table.item_ids
    absent = np.zeros(len(table), bool)
    for file, rows in sources.lacking.items():
        if not len(rows):
            continue
        some = ", ".join(repr(ids[int(row)].as_py()) for row in rows[:5])
        told = (
            f"{file} for {len(rows):,} of {len(table):,} items of the SID table: {some}"
            + (" ..." if len(rows) > 5 else "")
        )
        if not partial or len(rows) == len(table):
            fix = "" if len(rows) == len(table) else ", or judge the others: --partial"
            raise InputError(
                f"{told}; add them to the file (ids are text, as in the table){fix}"
            )
        log(f"note: {told}; left out")
        absent[rows] = True
    if not absent.any():
        return table, sources
    kept = np.flatnonzero(~absent)
    if not len(kept):
        raise InputError("no item is in all files; are their ids of one system?")
    log(f"judged: {len(kept):,} of {len(table):,} items")
    catalog, vectors, errors = sources.catalog, sources.vectors, sources.errors
    codes, distances = table.codes()[kept], table.distances[kept]
    part = SidTable.build(ids.take(kept), codes, distances, table.manifest)
    return part, _Sources(
        None if catalog is None else catalog.take(kept),
        None if vectors is None else vectors[kept],
        None if errors is None else errors[kept],
    )


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
