"""Columns have the kind of all their values, whole or in parts; changes are told."""

import csv
import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.kinds import choose_kind, find_traits, infer_columns
from sid_jax.data.readers import Findings, Table, read_table

WORDS = st.sampled_from(
    ["1", "-2", "2.5", "1e999", "nan", "007", "true", " False ", "x", "9" * 20, "1_0"]
)
VALUES = st.sampled_from(
    [1, -2, 2.5, math.inf, True, False, "x", "nan", 2**70, [], [None], [1, [2]], {}]
)


@settings(deadline=None, max_examples=100)
@given(
    parts=st.booleans().flatmap(
        lambda text: st.tuples(
            st.just(text),
            st.lists(
                st.lists(st.none() | (WORDS if text else VALUES), max_size=3),
                min_size=1,
                max_size=4,
            ),
        )
    )
)
def test_parts_of_a_column_have_the_kind_of_the_whole(parts):
    text, parts = parts
    rows = [(0, {"x": value}) for part in parts for value in part]
    arrays, _ = infer_columns(Table(("x",), rows, text, Findings("f")), ())
    traits = set().union(*(find_traits(part, text) for part in parts))
    kind = choose_kind(traits, text)
    assert (kind.type is None) == (not arrays)
    if arrays:
        assert arrays["x"].type == kind.type
        pieces = [value for part in parts for value in kind.convert(part).to_pylist()]
        assert arrays["x"].to_pylist() == pieces


@pytest.mark.parametrize(
    ("cells", "kind", "want"),
    [
        (["1", "", "-20"], "int64", [1, None, -20]),
        (["1", "2.5", "1e3"], "double", [1.0, 2.5, 1000.0]),
        (["1", "nan", "2"], "double", [1.0, None, 2.0]),
        (["TRUE", "false", ""], "bool", [True, False, None]),
        (["007", "1", "2"], "string", ["007", "1", "2"]),
        (["007", "1", "2.5"], "string", ["007", "1", "2.5"]),
        (["1", "x", "2"], "string", ["1", "x", "2"]),
        (["1_000", "2", "3"], "string", ["1_000", "2", "3"]),
        (["99999999999999999999", "1", "2"], "double", [1e20, 1.0, 2.0]),
    ],
)
def test_kinds_of_csv_columns(cells, kind, want, tmp_path):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["item_id", "x"], *(["a", cell] for cell in cells)])
    path = tmp_path / "t.csv"
    path.write_text(buffer.getvalue())
    arrays, _ = infer_columns(read_table(path), {"item_id"})
    assert (str(arrays["x"].type), arrays["x"].to_pylist()) == (kind, want)


@pytest.mark.parametrize(
    ("values", "kind", "want", "note"),
    [
        ([1, None, 2], "int64", [1, None, 2], None),
        ([1, 2.5, None], "double", [1.0, 2.5, None], None),
        ([True, None, False], "bool", [True, None, False], None),
        ([1.5, math.inf, math.nan], "double", [1.5, None, None], "not finite"),
        (["a", 1, True], "string", ["a", "1", "true"], "mixed kinds"),
        ([2**70, 1, None], "string", [str(2**70), "1", None], "mixed kinds"),
        ([[1, 2], [], None], "string", ["1|2", None, None], "joined"),
        ([[["a", "b"], ["c"]], ["d"], "e"], "string", ["a > b|c", "d", "e"], "joined"),
        ([{"k": [1]}, None, None], "string", ['{"k": [1]}', None, None], "joined"),
    ],
)
def test_kinds_of_json_columns(values, kind, want, note, tmp_path):
    lines = "".join(json.dumps({"x": v, "empty": None}) + "\n" for v in values)
    path = tmp_path / "t.jsonl"
    path.write_text(lines)
    arrays, notes = infer_columns(read_table(path), ())
    assert list(arrays) == ["x"] and str(arrays["x"].type) == kind
    assert arrays["x"].to_pylist() == want
    assert any("no value: empty" in line for line in notes)
    assert len(notes) == 1 + (note is not None)
    assert note is None or any(note in line and ": x" in line for line in notes)
