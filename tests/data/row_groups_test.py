"""Ranges of a Parquet file are its rows, however it is cut into row groups."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data import row_groups
from sid_jax.data.row_groups import read_ranges
from sid_jax.errors import InputError


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 60),
    group=st.integers(1, 30),
    batch=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 70), max_size=8),
)
def test_ranges_are_the_rows_between(rows, group, batch, cuts, tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "t.parquet"
    table = pa.table({"a": range(rows), "b": [["x", str(i)] for i in range(rows)]})
    pq.write_table(table, path, row_group_size=group)
    cuts = sorted(set(cuts))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "_BATCH", batch)
        found = list(read_ranges(path, iter(ranges), ["b", "a", "absent"]))
    want = [(a, table.slice(a, b - a)) for a, b in ranges if a < rows]
    assert [start for start, _ in found] == [start for start, _ in want]
    for (_, got), (_, wanted) in zip(found, want, strict=True):
        assert got.to_pylist() == wanted.to_pylist()


def test_row_groups_between_ranges_are_not_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": range(100)}), path, row_group_size=10)
    column = pq.ParquetFile(path).metadata.row_group(4).column(0)
    content, start = bytearray(path.read_bytes()), column.data_page_offset
    content[start : start + column.total_compressed_size // 2] = b"\xff" * (
        column.total_compressed_size // 2
    )
    path.write_bytes(content)
    ranges = [(5, 38), (50, 52), (99, 100)]
    found = [table["a"].to_pylist() for _, table in read_ranges(path, ranges, ["a"])]
    assert found == [list(range(start, stop)) for start, stop in ranges]
    with pytest.raises(InputError, match=r"t.parquet: not a readable Parquet file"):
        list(read_ranges(path, [(5, 45)], ["a"]))


def test_damage_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    packed = tmp_path / "t.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"t.parquet.gz: unpack it first"):
        list(read_ranges(packed, [(0, 1)], ["a"]))
    path.write_bytes(path.read_bytes()[:-9])
    for broken in (path, tmp_path / "absent.parquet"):
        with pytest.raises(InputError, match="not a readable Parquet file"):
            list(read_ranges(broken, [(0, 1)], ["a"]))
