"""A SID table's figures in groups: as text, as tables and pictures, as a file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax import __version__
from sid_jax.evals.similarity import BINS, name_bin
from sid_jax.files import replacing
from sid_jax.report.pictures import Picture, heat_map, level_lines
from sid_jax.report.tables import Table
from sid_jax.sids.table import SidTable

Figures = Mapping[str, float]
"""By the names of `intrinsic_metrics`."""

_AGREEMENT = ("ami", "homogeneity", "completeness")
_TITLES = {"ami": "AMI", "homogeneity": "Homogeneity", "completeness": "Completeness"}
_COUNTS = ("items", "anchors", "alike_pairs", "ami_items", "largest_group")


def make_tables(table: SidTable, values: Figures) -> list[Table]:
    """Every figure once, in groups; a group without figures is left out."""
    sizes = table.manifest.codebook_sizes
    levels = range(1, len(sizes) + 1)
    rest = {name: each for name, each in values.items() if not _SUBSET.match(name)}

    def take(names: Sequence[str]) -> dict[str, float | int]:
        found = {name: rest.pop(name) for name in names if name in rest}
        return {name: _whole(name, value) for name, value in found.items()}

    def by_level(names: Sequence[str]) -> dict[str, dict[str, Any]]:
        rows = {}
        for level in levels:
            found = take([f"{name}@{level}" for name in names])
            rows[f"level {level}"] = {k.split("@")[0]: v for k, v in found.items()}
        return rows

    skew = ("usage", "perplexity", "entropy", "nats", "gini", "top1")
    use = by_level((*skew, "branching", "conditional_entropy"))
    bought = {
        level: {name.removesuffix("_by_purchase"): each for name, each in row.items()}
        for level, row in by_level([f"{name}_by_purchase" for name in skew]).items()
    }
    groups = [
        (
            "Codebooks",
            {k: {"codes": s} | use[k] for k, s in zip(use, sizes, strict=True)},
            "By items. entropy: H / ln K; nats: H; branching: codes that follow a "
            "prefix; conditional_entropy: H of the code, given those before it (nats).",
        ),
        (
            "Codebooks by purchase",
            bought,
            "Each item weighs as often as it was bought.",
        ),
        (
            "Codes",
            {
                "all items": take(
                    (
                        "items",
                        "unique",
                        "collision_rate",
                        "largest_group",
                        "mean_group",
                        "in_groups",
                        "compression",
                        "compression_with_head",
                    )
                )
            },
            "compression: rows of a table of items for one of codewords.",
        ),
        *_similarity(take, levels),
        *_taxonomy(take, rest, levels, len(table)),
        (
            "Variance unexplained (FVU)",
            {"all items": take(("fvu", *(f"fvu@{level}" for level in levels)))},
            "fvu@l: decoded from the first l codes.",
        ),
        (
            "FVU by top category",
            {
                name[4:-1]: {"fvu": rest.pop(name)}
                for name in list(rest)
                if name.startswith("fvu[")
            },
            "Squared error over the mean variance of all items.",
        ),
    ]
    groups.append(("Subsets", _subsets(values), _OF_SUBSETS))
    groups.append(("More", {"all items": take(list(rest))}, ""))
    return [
        Table(title=title, rows=rows, note=note, best="none", decimals=3)
        for title, every, note in groups
        if (rows := {name: row for name, row in every.items() if _tells(row)})
    ]


def format_figures(table: SidTable, values: Figures) -> str:
    """The figures as text, a block a group."""
    sizes = table.manifest.codebook_sizes
    head = f"{len(table):,} items, {len(table.sids):,} SIDs, codebooks " + " x ".join(
        map(str, sizes)
    )
    return "\n\n".join([head, *map(format_table, make_tables(table, values))])


def format_table(table: Table) -> str:
    """A table in columns of text."""
    columns = list(dict.fromkeys(name for row in table.rows.values() for name in row))
    cells = [["", *columns]]
    for label, row in table.rows.items():
        cells.append([label, *(_write(row.get(name)) for name in columns)])
    if len(cells) == 2 and len(columns) > 1:  # one row reads better as a column
        cells = [list(each) for each in zip(*cells, strict=True)][1:]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [table.title]
    for first, *others in cells:
        line = f"  {first:<{widths[0]}}"
        line += "".join(
            f"  {cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def make_pictures(values: Figures, num_levels: int) -> list[Picture]:
    """Shares by level for bins of cosine, and agreement by depth, where known."""
    levels = range(1, num_levels + 1)
    lines = {
        _describe_bin(low, high): [
            values.get(f"{name_bin(low, high)}@{level}", math.nan) for level in levels
        ]
        for low, high in pairwise(BINS)
    }
    pictures = []
    if any(np.isfinite(each).any() for each in lines.values()):
        told = "; ".join(
            f"{name}: " + ", ".join(f"{share:.2f}" for share in shares)
            for name, shares in lines.items()
        )
        figure = level_lines(
            lines, title="Pairs that share, by cosine", xlabel="first levels"
        )
        pictures.append(Picture(figure=figure, alt=f"Share of pairs by level: {told}"))
    depths = _depths(values)
    for name in _AGREEMENT if depths else ():
        cells = [
            [values.get(f"{name}_d{depth}@{level}", math.nan) for depth in depths]
            for level in levels
        ]
        title = f"{_TITLES[name]} of prefix and category"
        told = "; ".join(
            f"{level} levels: " + ", ".join(f"{cell:.2f}" for cell in row)
            for level, row in enumerate(cells, start=1)
        )
        figure = heat_map(
            cells,
            [str(level) for level in levels],
            [str(depth) for depth in depths],
            title=title,
            xlabel="depth of the category",
            ylabel="first levels",
        )
        pictures.append(Picture(figure=figure, alt=f"{title}, by depth: {told}"))
    return pictures


def write_figures(path: Path, table: SidTable, values: Figures) -> None:
    """Writes the figures as JSON, by name; what is undefined is null."""
    content = {
        "sid_jax": __version__,
        "items": len(table),
        "sids": len(table.sids),
        "codebook_sizes": list(table.manifest.codebook_sizes),
        "created_by": table.manifest.created_by,
        "digest": table.digest(),
        "figures": {k: v if math.isfinite(v) else None for k, v in values.items()},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _similarity(take, levels: range) -> list[tuple[str, dict[str, Any], str]]:
    rho = {}
    for stratum in ("near", "uniform", "half"):
        names = (f"rho_{stratum}", f"rho_{stratum}_low", f"rho_{stratum}_high")
        found = take((*names, f"rho_lca_{stratum}"))
        columns = ("rho", "low", "high", "rho of category")
        named = zip((*names, f"rho_lca_{stratum}"), columns, strict=True)
        rho[stratum] = {name: found[key] for key, name in named if key in found}
    shares = {"near, cosine >= 0.9": "share"} | {
        f"{_describe_bin(low, high)}": name_bin(low, high)
        for low, high in reversed(list(pairwise(BINS)))
    }
    rows = {}
    for label, name in shares.items():
        found = take([f"{name}@{level}" for level in levels])
        rows[label] = {f"share@{key.split('@')[1]}": v for key, v in found.items()}
    drawn = take(("anchors", "alike_pairs"))
    anchors = f" ({drawn['anchors']:,} anchors)" if "anchors" in drawn else ""
    alike = f" ({drawn['alike_pairs']:,})" if "alike_pairs" in drawn else ""
    rows = {
        f"{label}{alike if label[:4] == 'near' else ''}": r for label, r in rows.items()
    }
    means: dict[str, Any] = {
        "share the first": take([f"coherence@{level}" for level in levels]),
        "share no more than": take([f"cosine@{d}" for d in range(len(levels) + 1)]),
    }
    for label, row in means.items():
        means[label] = {f"cosine@{key.split('@')[1]}": v for key, v in row.items()}
    # A column at a time, so that depth 0, which one row has alone, stands first.
    order = [f"cosine@{depth}" for depth in range(len(levels) + 1)]
    means = {
        label: {name: row.get(name) for name in order} if row else {}
        for label, row in means.items()
    }
    return [
        (
            f"Similarity and depth{anchors}",
            rho,
            "Spearman's rho of cosine and shared levels, with a bootstrap 95% "
            "interval (anchors resampled); rho of category: of shared depth in the "
            "category tree and shared levels.",
        ),
        (
            "Pairs that share the first levels",
            rows,
            "First row: of the near neighbours; then all pairs of half, by cosine.",
        ),
        (
            "Mean cosine of pairs",
            means,
            "Exact, over all pairs of items that share the first l levels, or l and no "
            "more.",
        ),
    ]


def _taxonomy(
    take, rest: Figures, levels: range, num_items: int
) -> list[tuple[str, dict, str]]:
    depths = _depths(rest)
    groups, drawn = [], take(("ami_items",))
    for name in _AGREEMENT:
        rows = {}
        for level in levels:
            found = take([f"{name}_d{depth}@{level}" for depth in depths])
            row = {f"depth {_DEPTH.search(k)[1]}": v for k, v in found.items()}  # pyright: ignore
            rows[f"{level} levels" if level > 1 else "1 level"] = row
        title = f"{_TITLES[name]} with the category tree"
        if name == "ami" and drawn:
            title += f" ({drawn['ami_items']:,} of {num_items:,} items)"
        note = "Prefixes of the first levels beside the category tree."
        groups.append((title, rows, note))
    torn = {
        label: {
            f"level {key.split('@')[1]}": value
            for key, value in take([f"{name}@{level}" for level in levels]).items()
        }
        for label, name in (
            ("by pairs", "fragmentation"),
            ("by leaf", "fragmentation_by_leaf"),
        )
    }
    note = "Share of the pairs of one leaf category that do not share so many levels."
    return [
        *groups,
        ("Fragmentation", torn, note),
    ]


def _subsets(values: Figures) -> dict[str, dict[str, Any]]:
    """Subset -> headline figures, of names such as `heldout/rho_half`."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        match = _SUBSET.match(name)
        if match and name[match.end() :] in _HEADLINES:
            plain = name[match.end() :]
            rows.setdefault(match[1], {})[plain] = _whole(plain, value)
    return rows


_HEADLINES = (
    *("items", "unique", "largest_group", "rho_near", "rho_uniform", "rho_half"),
    *("share@1", "share@2", "share@3", "share@4", "ami_d1@1", "ami_d2@1", "ami_d2@2"),
    *("fragmentation@1", "fragmentation@2", "fvu"),
    *("prefix_match@1", "prefix_match@2", "prefix_match@3", "prefix_match@4"),
)
_OF_SUBSETS = (
    "Use, collisions, AMI and FVU of the subset's items alone; neighbours and leaf-"
    "mates are sought in the whole catalog."
)
_SUBSET = re.compile(r"(\w+)/")
_DEPTH = re.compile(r"_d(\d+)@")


def _depths(values: Figures) -> list[int]:
    found = (_DEPTH.search(name) for name in values if name.startswith("ami_d"))
    return sorted({int(match[1]) for match in found if match})


def _describe_bin(low: float, high: float) -> str:
    return f"cosine {name_bin(low, high).split('_', 1)[1].replace('_', ' ')}"


def _whole(name: str, value: float) -> float | int:
    counts = name in _COUNTS and math.isfinite(value)
    return int(value) if counts else value


def _tells(row: Mapping[str, Any]) -> bool:
    return any(
        isinstance(v, int) or math.isfinite(v) for v in row.values() if v is not None
    )


def _write(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
