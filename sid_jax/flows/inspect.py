"""`sid inspect`: a SID table judged by itself, and beside its vectors if at hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sid_jax.data.catalog import Catalog
from sid_jax.data.vector_files import look_up
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import intrinsic_metrics, level_use
from sid_jax.flows import runs
from sid_jax.flows.runs import Log
from sid_jax.flows.tokenizer import Tokenizer, read_figures
from sid_jax.report.page import Report, Similarity, write_report
from sid_jax.report.tables import Table
from sid_jax.report.tree import ItemTree
from sid_jax.sids.table import SidTable, read_table
from sid_jax.typing import NDArray

Series = dict[str, tuple[list[int], list[float]]]
"""Name -> (steps, values)."""

_BY_LEVEL = ("usage", "perplexity", "entropy")


def inspect_table(
    path: Path, log: Log, *, vectors: str = "", out: Path | None = None
) -> dict[str, float]:
    """Prints what the codes are like, and writes a page.

    Args:
      path: `sids.parquet`, the run folder that it lies in, or another system's
        `item_id,sid` CSV. Where it lies in a run folder, that run's catalog and item
        vectors are used.
      log: where lines go.
      vectors: file of item vectors to judge the codes against.
      out: the page to write; beside the table if None.

    Returns:
      The figures by name.

    Raises:
      InputError: no such table, a damaged one, or vectors that lack some of its items.
    """
    if path.is_dir():
        path /= runs.SIDS
    if not path.exists():
        raise InputError(
            f"{path}: no such file; name the folder of a finished run, the {runs.SIDS} "
            "in it, or a CSV file with columns item_id,sid"
        )
    folder, table = path.parent, read_table(path)
    catalog = _find_catalog(folder, table)
    found, reconstructions = _find_vectors(folder, table, catalog, vectors)
    sizes = table.manifest.codebook_sizes
    values = intrinsic_metrics(table.codes(), sizes, found, reconstructions)
    log(format_figures(table, values))
    out = out or path.with_name(path.name.split(".")[0] + "_report.html")
    write_report(out, make_report(str(path), table, values, catalog))
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


def format_figures(table: SidTable, values: dict[str, float]) -> str:
    """The figures as text, a line a level and a line each for the rest."""
    sizes = table.manifest.codebook_sizes
    lines = [
        f"{len(table):,} items, {len(table.sids):,} SIDs, codebooks "
        + " x ".join(map(str, sizes)),
        f"{'level':>8}{'codes':>8}{'usage':>8}{'perplexity':>12}{'entropy':>9}",
    ]
    for level, size in enumerate(sizes, 1):
        lines.append(
            f"{level:>8}{size:>8}{values[f'usage@{level}']:>8.1%}"
            f"{values[f'perplexity@{level}']:>12.1f}{values[f'entropy@{level}']:>9.3f}"
        )
    rest = [key for key in values if key.split("@")[0] not in _BY_LEVEL]
    width = max(map(len, rest))
    lines += [f"{key:<{width + 2}}{values[key]:.4g}" for key in rest]
    return "\n".join(lines)


def make_report(
    subtitle: str,
    table: SidTable,
    values: dict[str, float],
    catalog: Catalog | None,
    curves: Mapping[str, Series] | None = None,
) -> Report:
    """The page of a SID table."""
    codes, sizes = table.codes(), table.manifest.codebook_sizes
    levels = range(1, len(sizes) + 1)
    figures = {
        f"level {level}": {name: values[f"{name}@{level}"] for name in _BY_LEVEL}
        for level in levels
    }
    rest = {key: value for key, value in values.items() if "@" not in key}
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
        tables=[
            Table(title="Codebooks", rows=figures, best="none"),
            Table(title="Codes", rows={"all items": rest}, best="none"),
        ],
        curves={name: each for name, each in (curves or {}).items() if each},
        levels=[use.counts for use in level_use(codes, sizes)],
        similarity=make_similarity(values, len(sizes)),
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
        note=(
            "Spearman's rho of cosine and shared depth: "
            f"{values['rho_near']:.3f} among near neighbours, "
            f"{values['rho_uniform']:.3f} among uniform pairs, "
            f"{values['rho_half']:.3f} among both pooled. Bars: pairs of near "
            "neighbours with cosine >= 0.9."
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


def _find_vectors(
    folder: Path, table: SidTable, catalog: Catalog | None, vectors: str
) -> tuple[NDArray | None, NDArray | None]:
    """The items' vectors and, if the tokenizer is at hand, what their codes say."""
    if vectors:
        return look_up(vectors, table.item_ids.to_pylist()), None
    if catalog is None or not (folder / runs.VECTORS).exists():
        return None, None
    tokenizer = Tokenizer.load(folder)
    encoded = tokenizer.encode(catalog)
    if tokenizer.digest() != table.manifest.tokenizer:
        return encoded.vectors, None
    return encoded.vectors, encoded.reconstructions
