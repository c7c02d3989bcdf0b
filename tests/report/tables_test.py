"""The best of a column is bold, as it is written, where there is a choice."""

import re
from numbers import Real

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sid_jax.report.tables import Table, format_rows, render_table

NAN = float("nan")
VALUES = st.one_of(
    st.none(),
    st.floats(-9, 9),
    st.floats(-9, 9, width=32).map(np.float32),
    st.just(NAN),
    st.integers(-9, 9),
    st.integers(-9, 9).map(np.int64),
    st.just("text"),
)


@given(
    st.lists(VALUES, min_size=1, max_size=6), st.sampled_from(["max", "min", "none"])
)
def test_best_is_bold(values, best):
    rows = {f"row {place}": {"x": value} for place, value in enumerate(values)}
    page = render_table(Table(title="t", rows=rows, best=best, decimals=2))
    cells = re.findall(r"<td>(.*?)</td>", page)[1:]
    assert len(cells) == len(values)
    numbers = [v for v in values if isinstance(v, Real) and v == v]
    bold = [place for place, cell in enumerate(cells) if cell.startswith("<b>")]
    if len(numbers) < 2 or best == "none":
        assert not bold
        return
    pick = max(numbers) if best == "max" else min(numbers)
    assert bold
    assert any(values[place] == pick for place in bold)
    assert len({cells[place] for place in bold}) == 1


def test_columns_of_one_metric_stand_under_one_heading():
    row = {"Recall@5": 1.0, "Recall@10": 2.0, "NDCG@5": 3.0, "n": 4}
    page = render_table(Table(title="t", rows={"a": row, "b": {"n": 5, "extra": "e"}}))
    assert re.findall(r'colspan="(\d)"[^>]*>(.*?)<', page) == [
        ("2", "Recall"),
        ("1", "NDCG"),
        ("2", ""),
    ]
    assert re.findall(r'scope="col"[^>]*>(.*?)<', page) == [
        "@5",
        "@10",
        "@5",
        "n",
        "extra",
    ]


@pytest.mark.parametrize("rows", [{}, {"a": {}}])
def test_nothing_without_columns(rows):
    assert render_table(Table(title="t", rows=rows)) == ""


def test_numbers_are_written_for_reading():
    row = {"a": 1234567, "b": 0.123456, "c": NAN, "d": None, "e": "<b>", "f": -0.5}
    page = render_table(Table(title="t", rows={"r": row}))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)[1:]
    assert cells == ["1,234,567", "0.1235", "–", "–", "&lt;b&gt;", "-0.5000"]


def test_rows_for_a_terminal_show_counts_whole():
    rows = {"a": {"count": 1200, "share": 0.5}, "b": {"count": 3, "share": 1.0}}
    assert format_rows(rows).splitlines() == [
        "| | count | share |",
        "|---|---|---|",
        "| a | 1,200 | 0.500 |",
        "| b | 3 | 1.000 |",
    ]
