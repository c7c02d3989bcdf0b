"""`sid compare`: two versions of SIDs, and whether one may take the other's place.

The verdict is about the new table as it stands, or, where an aligned one is written,
about that one.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sid_jax.errors import InputError
from sid_jax.evals.align import rename
from sid_jax.evals.stability import (
    Check,
    Comparison,
    StabilityLimits,
    compare_codes,
    judge,
    moves,
)
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.flows.runs import Log
from sid_jax.flows.versions import Versions, read_versions
from sid_jax.report.page import Picture, Report, write_report
from sid_jax.report.stability import churn_map, prefix_bars
from sid_jax.report.tables import Table
from sid_jax.sids.table import SidTable, write_table
from sid_jax.typing import NDArray

_ALIGNED = "aligned/"
_SUFFIX = ", aligned"
_NAMES = {
    "prefix_match": "prefix match",
    "churn": "churn",
    "surviving": "surviving",
    "ami": "AMI",
    "jaccard": "Jaccard",
    "known_prefix": "known prefix",
}
_GROUPS = {
    "unchanged": "unchanged items",
    "unchanged/purchases": "unchanged items, counted by purchases",
    "edited": "edited items",
    "edited/purchases": "edited items, counted by purchases",
    "added": "items of the new version alone",
    "trie": "all prefixes of the old version",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `compare_tables` finds.

    Attributes:
      values: the figures, as `compare_codes` names them.
      checks: each limit and what was found.
      reasons: why the new version cannot pass, whatever the limits.
    """

    values: dict[str, float]
    checks: list[Check]
    reasons: list[str]

    @property
    def passed(self) -> bool:
        return not self.reasons and all(check.passed for check in self.checks)


def compare_tables(
    old: Path,
    new: Path,
    log: Log,
    *,
    limits: StabilityLimits | None = None,
    changed: Path | None = None,
    purchases: Path | None = None,
    align: Path | None = None,
    out: Path | None = None,
) -> Verdict:
    """Prints what moved, writes a page and, beside it, the figures as JSON.

    Args:
      old: run folder, or table as `read_table` reads it, of the version in use.
      new: the same of the version that is to take its place.
      log: where lines go.
      limits: what the new version must reach; the defaults if None.
      changed: file of the ids whose items changed (`read_item_ids`). Without it, that
        is told from the catalogs beside the tables; without these, none counts as
        changed.
      purchases: file of how often items were bought (`read_purchases`).
      align: where to write the new table with its codes renamed after the old ones.
      out: the page to write; beside the new table if None.

    Raises:
      InputError: a bad file, or tables without a common item.
    """
    limits = limits or StabilityLimits()
    old, new = runs.find_sids(old), runs.find_sids(new)
    if align is not None:
        _check_target(align, (old, new))
    versions = read_versions(old, new, changed, purchases)
    before, after = versions.old.codes(), versions.new.codes()
    sizes = (versions.old.manifest.codebook_sizes, versions.new.manifest.codebook_sizes)
    found = compare_codes(
        before, after, sizes, versions.rows, versions.edited, versions.purchases
    )
    verdict = Verdict(
        values=found.values,
        checks=judge(
            found.values, limits, found.num_levels, "" if align is None else _ALIGNED
        ),
        reasons=[]
        if len(sizes[0]) == len(sizes[1])
        else [f"SIDs have {len(sizes[1])} levels, and had {len(sizes[0])}"],
    )
    for name, path, table in (("old", old, versions.old), ("new", new, versions.new)):
        shape = " x ".join(map(str, table.manifest.codebook_sizes))
        log(f"{name}  {path}: {len(table):,} items, codebooks {shape}")
    log("\n".join(_format(versions, found, verdict)))
    out = out or new.with_name(new.name.split(".")[0] + "_compare.html")
    write_report(out, _make_page(old, new, versions, found, verdict, limits))
    _write_figures(out.with_suffix(".json"), versions, found, verdict)
    log(f"report: {out}, figures: {out.with_suffix('.json')}")
    if align is not None:
        write_table(align, _renamed(versions.new, found.permutations))
        log(
            f"{align}: NEW with its codes renamed. Its tokenizer still says the names "
            "of NEW: renumber its codebooks by the permutations in the .json too "
            "(sid_jax.models.quantizer.permute)"
        )
    return verdict


def _check_target(align: Path, tables: tuple[Path, Path]) -> None:
    if align.suffix != ".parquet":
        raise InputError(f"--align {align}: a SID table is a .parquet file")
    if align.resolve() in [table.resolve() for table in tables]:
        raise InputError(
            f"--align {align}: that is one of the tables compared; choose another file"
        )


def _renamed(table: SidTable, permutations: list[NDArray]) -> SidTable:
    # No tokenizer at hand says these codes, so that no item may be added by one.
    manifest = dataclasses.replace(
        table.manifest,
        tokenizer="",
        created_by=f"sid compare --align, of {table.manifest.created_by}",
    )
    codes = rename(table.codes(), permutations)
    return SidTable.build(table.item_ids, codes, table.distances, manifest)


def _format(versions: Versions, found: Comparison, verdict: Verdict) -> Iterator[str]:
    """The comparison as text, a line a group and level."""
    yield versions.summary()
    for note in versions.notes:
        yield f"note: {note}"
    for group, rows in _tables(found):
        columns = list(rows["level 1"])
        heads, views = "", ""
        for column in columns:
            aligned = column.endswith(_SUFFIX)
            twice = aligned or column + _SUFFIX in columns
            heads += f"  {'' if aligned else column:<12}"
            views += f"  {('aligned' if aligned else 'as it is') if twice else '':<12}"
        yield ""
        yield _GROUPS[group]
        yield f"{'':<9}{heads}".rstrip()
        yield f"{'':<9}{views}".rstrip()
        for label, row in rows.items():
            cells = "".join(f"  {row[column]:<12.4f}" for column in columns)
            yield f"  {label:<7}{cells}".rstrip()
    yield ""
    yield f"verdict: {_verdict(verdict)}"
    for reason in verdict.reasons:
        yield f"  {reason}"
    for check in verdict.checks:
        sign = ">=" if check.passed else "<"
        yield f"  {check.name:<44}{check.value:.4f} {sign:>2} {check.limit:g}"


def _tables(found: Comparison) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """(group, level -> figure -> value), the aligned figures beside the others."""
    for group in _GROUPS:
        rows: dict[str, dict[str, float]] = {}
        for level in range(1, found.num_levels + 1):
            for name, shown in _NAMES.items():
                for view in ("", _ALIGNED):
                    value = found.values.get(f"{view}{group}/{name}@{level}")
                    if value is not None:
                        column = shown + (_SUFFIX if view else "")
                        rows.setdefault(f"level {level}", {})[column] = value
        if rows:
            yield group, rows


def _verdict(verdict: Verdict) -> str:
    if verdict.passed and not verdict.checks:
        return "passes, as there is no limit"
    return "passes" if verdict.passed else "FAILS"


def _make_page(
    old: Path,
    new: Path,
    versions: Versions,
    found: Comparison,
    verdict: Verdict,
    limits: StabilityLimits,
) -> Report:
    left, right = (
        table.codes()[rows, 0]
        for table, rows in zip((versions.old, versions.new), versions.rows, strict=True)
    )
    sizes = (versions.old.manifest.codebook_sizes, versions.new.manifest.codebook_sizes)
    went = moves(left, found.permutations[0][right], (sizes[0][0], sizes[1][0]))
    levels = range(1, found.num_levels + 1)
    group = "unchanged" if not versions.edited.all() else "edited"
    before, after = (
        [found.values[f"{view}{group}/prefix_match@{level}"] for level in levels]
        for view in ("", _ALIGNED)
    )
    whole = {
        _GROUPS[each] + (_SUFFIX if view else ""): {
            "exact": found.values[f"{view}{each}/exact"],
            "common prefix": found.values[f"{view}{each}/common_prefix"],
        }
        for each in ("unchanged", "unchanged/purchases", "edited", "edited/purchases")
        for view in ("", _ALIGNED)
        if f"{each}/exact" in found.values
    }
    limit_rows = {
        check.name: {
            "found": check.value,
            "limit": check.limit,
            "verdict": "passes" if check.passed else "fails",
        }
        for check in verdict.checks
    }
    told = ", ".join(
        f"{n}: {a:.2f} and {b:.2f}"
        for n, a, b in zip(levels, before, after, strict=True)
    )
    return Report(
        title="Two versions of Semantic IDs",
        subtitle=versions.summary(),
        summary=[
            ("verdict", _verdict(verdict)),
            ("items in both", len(versions.edited)),
            ("exactly the same", f"{found.values[f'{group}/exact']:.1%}"),
            ("same when aligned", f"{found.values[f'{_ALIGNED}{group}/exact']:.1%}"),
        ],
        warnings=[*verdict.reasons, *versions.notes],
        tables=[
            Table(title="Limits", rows=limit_rows, best="none"),
            Table(title="Whole SIDs", rows=whole, best="none"),
            *(
                Table(title=_GROUPS[each].capitalize(), rows=rows, best="none")
                for each, rows in _tables(found)
            ),
        ],
        pictures=[
            Picture(
                figure=prefix_bars(before, after, limits.prefix_match),
                alt=f"Prefix match of {_GROUPS[group]} by level, as they are and "
                f"aligned: {told}",
            ),
            Picture(
                figure=churn_map(went, title="Level 1"),
                alt="Old against new code of level 1, after alignment: "
                f"{np.trace(went) / went.sum():.1%} of the shared items lie on the "
                "diagonal",
            ),
        ],
        notes=[
            "Alignment renames the codes of each level by one permutation, which a "
            "retriever profits from only if the codebooks' rows move with them.",
            "AMI and Jaccard (of the items that share the first levels) do not depend "
            "on names: high beside a low prefix match means renumbered, low means "
            "clustered anew.",
        ],
        footer=[("old", str(old)), ("new", str(new))],
    )


def _write_figures(
    path: Path, versions: Versions, found: Comparison, verdict: Verdict
) -> None:
    shared, edited = len(versions.edited), int(versions.edited.sum())
    content = {
        "passed": verdict.passed,
        "reasons": verdict.reasons,
        "checks": [
            dataclasses.asdict(check)
            | {"value": _plain(check.value), "passed": check.passed}
            for check in verdict.checks
        ],
        "items": {
            "unchanged": shared - edited,
            "edited": edited,
            "added": len(versions.new) - shared,
            "gone": len(versions.old) - shared,
        },
        "values": {name: _plain(value) for name, value in found.values.items()},
        "permutations": [each.tolist() for each in found.permutations],
        "notes": versions.notes,
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
