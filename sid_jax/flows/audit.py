"""`sid audit`: products whose code says another category than their label."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax import __version__
from sid_jax.config import Experiment, RetrieverExperiment
from sid_jax.data.catalog import Catalog
from sid_jax.data.parsing import read_items
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.data.vector_files import look_up
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.evals.audit import (
    Suspects,
    cast_ballots,
    group_copies,
    prefix_neighbours,
    prefix_votes,
    rank_suspects,
)
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.flows.runs import Log
from sid_jax.report.page import Report, write_report
from sid_jax.report.story import Product
from sid_jax.report.suspects import Suspect, suspects_section
from sid_jax.sids.table import read_table
from sid_jax.sids.vocab import format_sid
from sid_jax.typing import NDArray

COLUMNS = (
    *("rank", "item_id", "title", "label", "suggested", "confidence", "flagged"),
    *("suggested_share", "label_share", "sid", "prefix_levels", "neighbours"),
)
"""Of the list that is written."""

_SHOWN = 8  # neighbours of a suspect
_CURE = (
    "train a tokenizer for audits, which never sees the label: sid train "
    "experiments/FILE.py --workdir runs/audit --vectors.text title brand "
    "--task.taxonomy.weight 0"
)


def audit_catalog(
    tables: Sequence[Path],
    out: Path,
    log: Log,
    *,
    items: Path | None = None,
    vectors: str = "",
    top: int = 100,
) -> Suspects:
    """Lists suspects as CSV and on a page beside it.

    Args:
      tables: run folders, `sids.parquet` or `item_id,sid` CSV of the same items; all
        vote, and the first one's SIDs are shown.
      out: the CSV; the page has its name and `.html`.
      log: where lines go.
      items: file as `sid import` reads it; the catalog beside the first table if None.
      vectors: file of item vectors; those of the first run if empty and at hand.
      top: suspects to list.

    Returns:
      All suspects; rows are those of the first table.

    Raises:
      InputError: a bad file, items that one lacks, or fewer than two labels in use.
    """
    if not tables:
        raise InputError("name a run folder or a table: sid audit RUN")
    if top < 1:
        raise InputError(f"--top {top}: list one suspect or more")
    if out.suffix != ".csv":
        raise InputError(f"--out {out}: the list is a .csv file")
    paths = [runs.find_sids(path) for path in tables]
    found = [read_table(path) for path in paths]
    folder, table = paths[0].parent, found[0]
    ids = table.item_ids.to_pylist()
    catalog = _read_catalog(folder, items, ids, log)
    taxonomy = Taxonomy.from_paths(catalog.categories)
    if len(np.unique(taxonomy.leaf[taxonomy.leaf >= 0])) < 2:
        raise InputError(
            f"{items or folder / runs.CATALOG}: an audit compares labels, but fewer "
            "than two categories are in use; bring the paths with --items"
        )
    warnings = [line for path in paths for line in _find_leaks(path.parent)]
    for line in dict.fromkeys(warnings):
        log(f"WARNING: {line}")
    space = _find_vectors(folder, catalog, ids, items, vectors)
    codes = [each.codes()[each.rows(table.item_ids)] for each in found]
    ballots = cast_ballots(taxonomy, group_copies(codes[0], catalog.titles, space))
    voters = [prefix_votes(each, ballots) for each in codes]
    suspects = rank_suspects(taxonomy, ballots, voters)
    depths, near = prefix_neighbours(
        codes[0], ballots, suspects.rows[:top], _SHOWN, vectors=space
    )
    shown = [
        _describe(place, suspects, taxonomy, catalog, codes[0], depths, near)
        for place in range(len(depths))
    ]
    _write_list(out, shown, depths, near, ids)
    page = out.with_suffix(".html")
    write_report(
        page,
        Report(
            title="Products whose code says another category",
            subtitle=f"{', '.join(map(str, tables))}: {len(ids):,} items, "
            f"{len(ballots.nodes):,} categories in use",
            summary=[
                ("suspects", f"{len(suspects):,}"),
                ("flagged", f"{int(suspects.flagged.sum()):,}"),
                ("shown", f"{len(shown):,}"),
            ],
            warnings=list(dict.fromkeys(warnings)),
            sections=[suspects_section(shown)],
            notes=[
                "Neighbours share the first codes of a SID and vote on the label, the "
                "longest shared prefix most; copies of a product do not vote on it.",
                "Confidence is the logarithm of odds against the label, so that a far "
                "category weighs more than a near one; it ranks, and is no "
                "probability. Flagged: the neighbours give the suggested branch 80% "
                "or more and the label's 5% or less.",
            ],
            footer=[("sid_jax", __version__), ("list", out.name)],
        ),
    )
    log(
        f"{len(suspects):,} of {len(ids):,} items are suspect, "
        f"{int(suspects.flagged.sum()):,} flagged; the first {len(shown):,}: {out}"
    )
    log(f"report: {page}")
    return suspects


def find_leaks(config: Experiment) -> list[str]:
    """Why a run's codes may repeat the labels that an audit would hold against them."""
    if isinstance(config, RetrieverExperiment):
        return [
            "a retriever's run does not say how its SIDs were made; name the "
            "tokenizer's run to have that checked"
        ]
    lines = []
    if config.vectors.file:
        lines.append(
            f"the vectors are of a file ({config.vectors.file}): if its texts held the "
            "category path, the label audits itself; embed title and brand alone"
        )
    elif "categories" in config.vectors.text:
        lines.append(
            "the vectors hold the category path (vectors.text has categories), so the "
            f"label audits itself and wrong ones look right; {_CURE}"
        )
    if config.vectors.neighbours.k and config.vectors.neighbours.cut:
        lines.append(
            "the neighbours' graph was cut across top categories (vectors.neighbours."
            f"cut {config.vectors.neighbours.cut:g}), which the codes repeat; train "
            "a tokenizer for audits with a cut of 0"
        )
    taxonomy: Any = getattr(config.task, "taxonomy", None)
    weight = taxonomy if isinstance(taxonomy, (int, float)) else None
    weight = getattr(taxonomy, "weight", weight)
    if weight is not None and weight > 0:
        lines.append(
            f"the tokenizer was taught the categories (taxonomy weight {weight:g}), "
            f"which pulls codes toward the labels to be judged; {_CURE}"
        )
    return lines


def escape_cell(value: object) -> str:
    """A CSV cell that no spreadsheet takes for a formula; numbers stay numbers."""
    line = " ".join(str(value).split())
    if re.fullmatch(r"-?\d+(\.\d+)?", line):
        return line
    return f"'{line}" if line[:1] in ("=", "+", "-", "@", "|", "%") else line


def _read_catalog(
    folder: Path, items: Path | None, ids: list[str], log: Log
) -> Catalog:
    """The items in the table's order."""
    if items is not None:
        catalog, notes = read_items(items)
        for note in notes:
            log(f"note: {note}")
    elif (folder / runs.CATALOG).exists():
        catalog = runs.read_catalog(folder)
    else:
        raise InputError(
            f"{folder}: no {runs.CATALOG} beside the table; name the items with --items"
        )
    return catalog.take(catalog.rows(ids))


def _find_leaks(folder: Path) -> list[str]:
    if not (folder / runs.CONFIG).exists():
        return [
            f"{folder} does not say how the SIDs were made: if text or training held "
            "the categories, the label audits itself"
        ]
    return find_leaks(runs.read_config(folder))


def _find_vectors(
    folder: Path, catalog: Catalog, ids: list[str], items: Path | None, vectors: str
) -> NDArray | None:
    if vectors:
        return look_up(vectors, ids)
    if items is None and (folder / runs.VECTORS).exists():
        return ItemVectors.load(folder / runs.VECTORS).encode_plain(catalog)
    return None


def _describe(
    place: int,
    suspects: Suspects,
    taxonomy: Taxonomy,
    catalog: Catalog,
    codes: NDArray,
    depths: NDArray,
    near: NDArray,
) -> Suspect:
    def product(row: int) -> Product:
        path = " > ".join(catalog.categories[row])
        return Product(format_sid(codes[row]), catalog.titles[row], path)

    row = int(suspects.rows[place])
    return Suspect(
        product=product(row),
        item_id=catalog.item_ids[row],
        suggested=" > ".join(taxonomy.path(int(suspects.suggested[place]))),
        confidence=float(suspects.confidence[place]),
        share=float(suspects.share[place]),
        own=float(suspects.own[place]),
        flagged=bool(suspects.flagged[place]),
        prefix=format_sid(codes[row][: depths[place]]),
        neighbours=[product(int(each)) for each in near[place] if each >= 0],
    )


def _write_list(
    path: Path,
    suspects: Sequence[Suspect],
    depths: NDArray,
    near: NDArray,
    ids: list[str],
) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for rank, each in enumerate(suspects, start=1):
            row = (
                rank,
                each.item_id,
                each.product.title,
                each.product.category,
                each.suggested,
                f"{each.confidence:.4f}",
                "yes" if each.flagged else "no",
                f"{each.share:.4f}",
                f"{each.own:.4f}",
                each.product.sid,
                depths[rank - 1],
                " ".join(ids[n] for n in near[rank - 1] if n >= 0),
            )
            writer.writerow([escape_cell(cell) for cell in row])
