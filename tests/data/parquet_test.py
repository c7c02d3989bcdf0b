"""Parquet that we write says when it is no longer what was written."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.parquet import (
    digest_table,
    digest_tables,
    read_parquet,
    seal_parquet,
    write_parquet,
)
from sid_jax.errors import InputError

TABLE = pa.table(
    {
        "id": ["a", None, "", "bc"],
        "path": [["x", "y"], None, [], ["xy", None]],
        "price": [0.5, None, float("nan"), -0.0],
        "sold": [1, None, 2, 0],
        "new": [True, None, False, True],
        "vector": pa.FixedSizeListArray.from_arrays(np.arange(8, dtype=np.float32), 2),
    }
)


def test_a_table_comes_back(tmp_path):
    write_parquet(tmp_path / "a=b.parquet", TABLE)
    found = read_parquet(tmp_path / "a=b.parquet")
    assert digest_table(found) == digest_table(TABLE)
    assert found.schema.names == TABLE.schema.names  # and no column a


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 3), max_size=3))
def test_the_digest_is_of_values_however_they_are_chunked(cuts):
    ends = [0, *np.cumsum(cuts).clip(max=4).tolist(), 4]
    parts = [TABLE.slice(a, b - a) for a, b in pairwise(ends)]
    assert digest_table(pa.concat_tables(parts)) == digest_table(TABLE)
    assert digest_tables(parts) == digest_table(TABLE)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", ["a", "", "", "bc"]),
        ("id", ["a", None, "b", "c"]),
        ("path", [["x", "y"], [], [], ["xy", None]]),
        ("path", [["xy"], None, [], ["xy", None]]),
        ("path", [["x", "y"], None, ["xy"], [None]]),
        ("price", [0.5, None, float("nan"), 0.0]),
        ("price", [0.5, float("nan"), None, -0.0]),
        ("sold", [1, 0, 2, 0]),
        ("sold", [1.0, None, 2.0, 0.0]),
        ("new", [True, False, False, True]),
    ],
)
def test_other_values_have_another_digest(tmp_path, name, values):
    at = TABLE.schema.names.index(name)
    other = TABLE.set_column(at, name, [values])
    assert digest_table(other) != digest_table(TABLE)
    assert digest_table(TABLE.rename_columns([*"abcdef"])) != digest_table(TABLE)
    path = tmp_path / "a.parquet"
    write_parquet(path, TABLE)
    told = pq.read_schema(path).metadata
    pq.write_table(other.replace_schema_metadata(told), path)
    with pytest.raises(InputError, match=r"a\.parquet: not what was written"):
        read_parquet(path)
    pq.write_table(other, path)  # of another program
    assert read_parquet(path).num_rows == 4


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(0, 0)], ids=["rows", "none"])
def test_a_file_of_another_program_is_sealed_row_group_by_row_group(tmp_path, table):
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2)
    groups = pq.ParquetFile(path).num_row_groups
    for _ in range(2):  # once more changes nothing
        seal_parquet(path)
        assert digest_table(read_parquet(path)) == digest_table(table)
        assert pq.ParquetFile(path).num_row_groups == groups
    told = pq.read_schema(path).metadata
    other = table.set_column(3, "sold", [[7] * len(table)])
    if len(table):
        pq.write_table(other.replace_schema_metadata(told), path)
        with pytest.raises(InputError, match="not what was written"):
            read_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet"):
        seal_parquet(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]
