"""Tables of figures, as HTML and as Markdown: models in rows, metrics in columns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Literal

from sid_jax.report.markup import Value, element, number, optional, text


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures side by side.

    Attributes:
      title: above it.
      rows: name -> {column: value}. Neighbouring columns `recall@5`, `recall@10` stand
        under one heading; None and NaN are shown as a dash.
      note: below the title: what is counted.
      best: which value of a column is set in bold.
      decimals: of the numbers that are no integers.
    """

    title: str
    rows: Mapping[str, Mapping[str, Value]]
    note: str = ""
    best: Literal["max", "min", "none"] = "max"
    decimals: int = 4


def render_table(table: Table) -> str:
    """The table as HTML, its best values in bold; nothing where it has no columns."""
    columns = list(dict.fromkeys(name for row in table.rows.values() for name in row))
    if not columns:
        return ""
    best = {name: _best(table, name) for name in columns}
    groups = [name.rpartition("@")[0] for name in columns]
    edges = [
        "start" if place and group != groups[place - 1] else None
        for place, group in enumerate(groups)
    ]
    head = "".join(
        element("th", text(name[len(group) :]), scope="col", class_=edge)
        for name, group, edge in zip(columns, groups, edges, strict=True)
    )
    lines = []
    for label, row in table.rows.items():
        cells = [element("th", text(label), scope="row")]
        for name, edge in zip(columns, edges, strict=True):
            shown = number(row.get(name), table.decimals)
            if shown == best[name]:
                shown = element("b", shown)
            cells.append(element("td", shown, class_=edge))
        lines.append(element("tr", "".join(cells)))
    rows = _group_row(groups) + element("tr", element("td", "") + head)
    content = element("thead", rows) + element("tbody", "".join(lines))
    return (
        element("h3", text(table.title))
        + optional("p", text(table.note), class_="faint")
        + element(
            "div",
            element("table", content),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label=table.title,
        )
    )


def format_rows(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Name -> {column: figure} as a Markdown table; every row has the same columns.

    Integers are counts, and shown whole.
    """
    heads = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = " | ".join(
            f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
            for value in row.values()
        )
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def average(
    found: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Means of several seeds' rows, as `format_rows` takes them."""
    return {
        name: {key: math.fsum(f[name][key] for f in found) / len(found) for key in row}
        for name, row in found[0].items()
    }


def _group_row(groups: list[str]) -> str:
    """Headings over neighbouring columns that share what stands before their `@`."""
    if not any(groups):
        return ""
    row, place = element("td", ""), 0
    for group, run in groupby(groups):
        size = len(list(run))
        row += element(
            "th",
            text(group),
            colspan=size,
            scope="colgroup",
            class_="start" if place else None,
        )
        place += size
    return element("tr", row)


def _best(table: Table, column: str) -> str | None:
    """The best number of a column as it is written; None if fewer than two stand."""
    numbers = [
        value
        for value in (row.get(column) for row in table.rows.values())
        if isinstance(value, Real) and math.isfinite(value)
    ]
    if len(numbers) < 2 or table.best == "none":
        return None
    pick = max(numbers) if table.best == "max" else min(numbers)
    return number(pick, table.decimals)
