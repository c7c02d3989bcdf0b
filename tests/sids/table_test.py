import gzip
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sid_jax import files
from sid_jax.errors import InputError
from sid_jax.sids.table import Manifest, SidTable, read_table, write_table
from sid_jax.sids.vocab import format_sid

PEERS = sorted(
    (Path(__file__).parents[2] / "../shared/data").glob("*/reference-sids/*.csv.gz")
)
SIZES = (4, 2, 300)
MANIFEST = Manifest(codebook_sizes=SIZES, tokenizer="t", catalog="c", created_by="test")


@st.composite
def tables(draw, min_size=1):
    count = draw(st.integers(min_size, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = np.stack([rng.integers(0, min(size, 3), count) for size in SIZES], axis=1)
    ids = draw(
        st.lists(st.text(min_size=1), min_size=count, max_size=count, unique=True)
    )
    return ids, codes, rng.random(count, np.float32)


def _small(**changes) -> SidTable:
    table = SidTable.build(
        ["a", "b", "c"],
        np.asarray([[1, 0, 299], [0, 1, 5], [1, 0, 299]]),
        np.asarray([0.5, 0.25, 0.0]),
        MANIFEST,
    )
    return replace(table, **changes)


def _write_raw(path, manifest, **columns):
    """A Parquet file of any columns and metadata; the digest is that of `_small()`."""
    table = _small()
    columns = {
        "item_id": table.item_ids,
        "codes": table.codes().tolist(),
        "distance": table.distances,
    } | columns
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    metadata = {b"sid_jax": raw} if raw else {}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def _fields(**changes):
    """Of version 2, which had no seal."""
    told = {"digest": _small().digest(), "schema_version": 2}
    return asdict(MANIFEST) | told | changes


@settings(deadline=None, max_examples=50)
@given(tables())
def test_groups_items_by_sid(drawn):
    ids, codes, distances = drawn
    table = SidTable.build(ids, codes, distances, MANIFEST)
    np.testing.assert_array_equal(table.sids, np.unique(codes, axis=0))
    np.testing.assert_array_equal(table.codes(), codes)
    np.testing.assert_array_equal(np.sort(table.items), np.arange(len(ids)))
    for leaf, sid in enumerate(table.sids):
        group = table.items[table.offsets[leaf] : table.offsets[leaf + 1]]
        np.testing.assert_array_equal(group, np.flatnonzero((codes == sid).all(axis=1)))
        assert (table.leaves()[group] == leaf).all()
    assert len(table) == len(ids)
    backwards = table.rows(ids[::-1])
    np.testing.assert_array_equal(backwards, np.arange(len(ids))[::-1])


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tables())
def test_files_round_trip(tmp_path, drawn):
    ids, codes, distances = drawn
    table = SidTable.build(ids, codes, distances, MANIFEST)
    write_table(tmp_path / "sids.parquet", table)
    read = read_table(tmp_path / "sids.parquet")
    assert read.manifest == MANIFEST
    assert read.digest() == table.digest()
    assert read.item_ids.to_pylist() == ids
    for name in ("sids", "offsets", "items", "distances"):
        before, after = getattr(table, name), getattr(read, name)
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    texts = pq.read_table(tmp_path / "sids.parquet")["sid"].to_pylist()
    assert texts == [format_sid(row) for row in codes]


@settings(deadline=None, max_examples=40)
@given(tables(min_size=2), st.data())
def test_extending_moves_no_old_item(drawn, data):
    ids, codes, distances = drawn
    cut = data.draw(st.integers(1, len(ids) - 1))
    old = SidTable.build(ids[:cut], codes[:cut], distances[:cut], MANIFEST)
    new = old.extend(ids[cut:], codes[cut:], distances[cut:])
    whole = SidTable.build(ids, codes, distances, MANIFEST)
    np.testing.assert_array_equal(new.codes()[:cut], old.codes())
    np.testing.assert_array_equal(new.distances, distances)
    assert new.digest() == whole.digest() != old.digest()
    with pytest.raises(InputError, match="have a SID already"):
        old.extend([ids[0]], codes[:1], None)


@settings(deadline=None, max_examples=40)
@given(tables(), st.data())
def test_the_digest_tells_contents_apart(drawn, data):
    ids, codes, distances = drawn
    table = SidTable.build(ids, codes, distances, MANIFEST)
    row = data.draw(st.integers(0, len(ids) - 1))
    other = codes.copy()
    other[row, data.draw(st.integers(0, 1))] ^= 1
    other_ids = [*ids]
    other_ids[row] += "x"
    wider = replace(MANIFEST, codebook_sizes=(4, 4, 300))
    digests = {
        table.digest(),
        SidTable.build(
            ids, other, distances, replace(MANIFEST, codebook_sizes=(4, 4, 300))
        ).digest(),
        SidTable.build(ids, codes, distances, wider).digest(),
    }
    assert len(digests) == 3
    if len(set(other_ids)) == len(ids):
        renamed = SidTable.build(other_ids, codes, distances, MANIFEST)
        assert renamed.digest() not in digests


def test_the_digest_knows_where_ids_end():
    codes = np.zeros((2, 3), int)
    one = SidTable.build(["ab", "c"], codes, None, MANIFEST)
    other = SidTable.build(["a", "bc"], codes, None, MANIFEST)
    assert one.digest() != other.digest()
    # Arrow may hand over a part of a longer array.
    part = pa.array(["x", "ab", "c"])[1:]
    assert SidTable.build(part, codes, None, MANIFEST).digest() == one.digest()


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        (["a", "b", "a"], [[0, 0, 0]] * 3, "row 2: item id 'a' stands in row 0"),
        (["a", ""], [[0, 0, 0]] * 2, "row 1: no item id"),
        (["a", None], [[0, 0, 0]] * 2, "row 1: no item id"),
        (["a"], [[0, 0, 0]] * 2, "1 item ids for 2 SIDs"),
        (["a"], [[0, 2, 0]], r"row 0: code 2 at level 2 is outside 0\.\.1"),
        (["a"], [[0, 0]], "2 levels"),
    ],
)
def test_build_refuses(ids, codes, message):
    with pytest.raises(InputError, match=message):
        SidTable.build(pa.array(ids), np.asarray(codes), None, MANIFEST)


def test_unknown_ids_are_named():
    with pytest.raises(InputError, match=r"2 of 3 item ids have no SID: 'x', 'y'"):
        _small().rows(["x", "a", "y"])


def test_cells_are_kept(tmp_path):
    cells = (("tier=Private, vegan=true", 3), ("other", 1))
    table = _small(manifest=replace(MANIFEST, cells=cells))
    write_table(tmp_path / "sids.parquet", table)
    assert read_table(tmp_path / "sids.parquet").manifest == table.manifest
    assert table.digest() == _small().digest()


def test_reads_version_1_which_had_no_cells(tmp_path):
    fields = _fields(schema_version=1)
    del fields["cells"]
    _write_raw(tmp_path / "sids.parquet", fields)
    read = read_table(tmp_path / "sids.parquet")
    assert read.manifest == replace(MANIFEST, schema_version=1)
    np.testing.assert_array_equal(read.codes(), _small().codes())


@pytest.mark.parametrize(
    ("manifest", "columns", "message"),
    [
        (b"", {}, "no SID manifest.*sid encode"),
        (b"{", {}, "malformed SID manifest"),
        (b"[]", {}, "malformed SID manifest"),
        ({"schema_version": 1}, {}, "malformed SID manifest .codebook_sizes"),
        (_fields(schema_version=4), {}, "schema version 4, but versions 1 to 3"),
        (_fields(schema_version=3), {}, "malformed SID manifest .seal: None"),
        (_fields(seal="0"), {}, "the manifest or the distances differ"),
        (_fields(schema_version="1"), {}, "malformed SID manifest .schema_version"),
        (_fields(codebook_sizes=[4, -1]), {}, "malformed SID manifest .codebook_sizes"),
        (_fields(digest=None), {}, "malformed SID manifest .digest"),
        (_fields(cells=None), {}, "malformed SID manifest .cells"),
        (_fields(cells=[["a", 3]]), {}, "malformed SID manifest .cells"),
        (_fields(cells=[["a", 5], ["b", -1]]), {}, "malformed SID manifest .cells"),
        (_fields(cells=[["a", 3], 1]), {}, "malformed SID manifest .cells"),
        (_fields(), {"codes": [[0, 0, 0], [0, 0], [1, 1, 1]]}, "row 1: a SID of 2 lev"),
        (_fields(), {"codes": [[0, 0, 0], None, [1, 1, 1]]}, "row 1: a SID of 0 lev"),
        (_fields(), {"codes": [[0, 0, 0], [0, None, 0], [1, 1, 1]]}, "row 1: code -1"),
        (_fields(), {"codes": [[0, 0, 0], [1, 0, 300], [1, 1, 1]]}, "row 1: code 300"),
        (_fields(), {"codes": [[0, 0, 0], [1, 0, 3], [1, 1, 1]]}, "differ from what"),
        (_fields(), {"codes": ["a", "b", "c"]}, "cannot be read"),
        (_fields(), {"item_id": ["a", "b", "b"]}, "row 2: item id 'b' stands in row 1"),
        (_fields(), {"item_id": ["a", "b", "d"]}, "differ from what was written"),
    ],
)
def test_reading_refuses_and_names_the_file(tmp_path, manifest, columns, message):
    path = tmp_path / "sids.parquet"
    _write_raw(path, manifest, **columns)
    with pytest.raises(InputError, match=rf"sids\.parquet.*{message}"):
        read_table(path)


def test_reads_what_others_call_the_same_types(tmp_path):
    path = tmp_path / "sids.parquet"
    wide = {
        "item_id": pa.array(["a", "b", "c"], pa.large_string()),
        "codes": pa.array(_small().codes().tolist(), pa.list_(pa.int64())),
        "distance": pa.array([0.5, None, 0.0]),
    }
    _write_raw(path, _fields(), **wide)
    table = read_table(path)
    assert table.digest() == _small().digest()
    np.testing.assert_array_equal(table.distances, np.float32([0.5, np.nan, 0.0]))


def test_a_damaged_absent_or_foreign_file_is_an_input_error(tmp_path):
    write_table(tmp_path / "sids.parquet", _small())
    whole = (tmp_path / "sids.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    _write_raw(tmp_path / "narrow.parquet", _fields())
    narrow = pq.read_table(tmp_path / "narrow.parquet").drop_columns(["codes"])
    pq.write_table(narrow, tmp_path / "narrow.parquet")
    (tmp_path / "sids.txt").write_text("a 0_0\n")
    for name, message in [
        ("half.parquet", "cannot be read"),
        ("none.parquet", "cannot be read"),
        ("narrow.parquet", "no column codes"),
        ("sids.txt", r"not a \.parquet"),
    ]:
        with pytest.raises(InputError, match=rf"{name}.*{message}"):
            read_table(tmp_path / name)


def test_a_changed_manifest_is_found(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, _small())
    good = pq.read_table(path)
    told = json.loads(good.schema.metadata[b"sid_jax"])
    assert read_table(path).manifest == MANIFEST
    for name in ("tokenizer", "catalog", "created_by", "dedup", "schema_version"):
        other = told | {name: {"dedup": True, "schema_version": 2}.get(name, "x")}
        metadata = {b"sid_jax": json.dumps(other).encode()}
        pq.write_table(good.replace_schema_metadata(metadata), path)
        with pytest.raises(InputError, match=r"t\.parquet: the manifest or the dist"):
            read_table(path)
    # Without its manifest it is not taken for the table of another system.
    pq.write_table(good.replace_schema_metadata({}), path)
    with pytest.raises(InputError, match="no SID manifest"):
        read_table(path)


def test_a_changed_distance_is_found(tmp_path):
    """Its page has a checksum, and it is in the seal."""
    path = tmp_path / "t.parquet"
    write_table(path, _small())
    file = pq.ParquetFile(path)
    column = file.metadata.row_group(0).column(file.schema.names.index("distance"))
    start, size = column.dictionary_page_offset, column.total_compressed_size
    good = path.read_bytes()
    for place in range(start + size - 8, start + size):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(InputError, match="cannot be read as a SID table"):
            read_table(path)


@pytest.mark.parametrize("separator", ["_", "-"])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_reads_the_csv_of_other_systems(tmp_path, separator, ending):
    rows = {"007": (3, 0, 12), 'a, "b"': (0, 1, 12), "é": (3, 0, 12)}
    lines = ["sid,item_id"]
    for item_id, codes in rows.items():
        quoted = item_id.replace('"', '""')
        lines.append(f'{format_sid(codes).replace("_", separator)},"{quoted}"')
    raw = "\n".join(lines).encode()
    path = tmp_path / f"peer{ending}"
    path.write_bytes(gzip.compress(raw) if ending == ".csv.gz" else raw)
    table = read_table(path)
    assert table.manifest.codebook_sizes == (4, 2, 13)
    assert table.item_ids.to_pylist() == [*rows]
    assert [tuple(codes) for codes in table.codes()] == [*rows.values()]
    assert np.isnan(table.distances).all()


def test_reads_the_parquet_of_other_systems(tmp_path):
    path = tmp_path / "peer.parquet"
    rows = {"item_id": [7, 12], "sid": ["3-0", "0-12"], "title": ["a", "b"]}
    pq.write_table(pa.table(rows), path)
    table = read_table(path)
    assert table.item_ids.to_pylist() == ["7", "12"]
    assert table.codes().tolist() == [[3, 0], [0, 12]]
    assert table.manifest.codebook_sizes == (4, 13)
    pq.write_table(pa.table(rows | {"sid": ["3-0", None]}), path)
    with pytest.raises(InputError, match=r"peer\.parquet: row 1: None is no SID"):
        read_table(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"item_id,sid\na,0_1\nb,0_1_2\n", "row 1: a SID of 3 levels"),
        (b"item_id,sid\na,0_1\nb,0_x\n", "row 1: '0_x' is no SID"),
        (b"item_id,sid\na,0_1\nb,\n", "row 1: '' is no SID"),
        (b"item_id,sid\na,1\na,1\n", "row 1: item id 'a' stands in row 0"),
        (b"item_id,sid\n", "no items"),
        (b"item,sid\na,1\n", "item_id"),
        (b"item_id,sid\n\xff,1\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_bad_csv_is_named(tmp_path, raw, message):
    path = tmp_path / "peer.csv"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=rf"peer\.csv.*{message}"):
        read_table(path)


def test_a_truncated_gzip_and_a_bomb_are_refused(tmp_path, monkeypatch):
    lines = [f"item{i},{i % 7}_{i * i % 11}_{i % 13}" for i in range(20_000)]
    raw = gzip.compress("\n".join(["item_id,sid", *lines]).encode())
    path = tmp_path / "peer.csv.gz"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match="truncated or damaged gzip") as error:
        read_table(path)
    assert str(error.value).count(str(path)) == 1
    monkeypatch.setattr(files, "_ROOM", 0)
    path.write_bytes(gzip.compress(b"item_id,sid\n" + b"a,1_2\n" * 50_000))
    with pytest.raises(InputError, match="more than 200 times its size"):
        read_table(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "sids.parquet"
    write_table(path, _small())
    broken = _small(distances=np.zeros(2, np.float32))
    with pytest.raises(pa.ArrowInvalid):
        write_table(path, broken)
    assert read_table(path).digest() == _small().digest()
    assert [file.name for file in tmp_path.iterdir()] == ["sids.parquet"]


def test_reads_a_grocers_catalog_at_once(tmp_path):
    rng = np.random.default_rng(0)
    count = 92_331
    ids = pa.array([str(item_id) for item_id in rng.permutation(count)])
    codes = rng.integers(0, 256, (count, 4))
    manifest = Manifest(codebook_sizes=(256,) * 4)
    write_table(tmp_path / "t.parquet", SidTable.build(ids, codes, None, manifest))
    start = time.process_time()
    assert len(read_table(tmp_path / "t.parquet")) == count
    assert time.process_time() - start < 2.0  # about 0.1 s on an idle core


@pytest.mark.skipif(not PEERS, reason="the peers' published SIDs are not at hand")
@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.name)
def test_reads_the_peers_published_sids(path):
    table = read_table(path)
    with gzip.open(path, "rt") as lines:
        rows = [line.rstrip("\n").split(",") for line in lines][1:]
    assert table.item_ids.to_pylist() == [item_id for item_id, _ in rows]
    texts = [format_sid(codes) for codes in table.codes()]
    assert texts == [sid.replace("-", "_") for _, sid in rows]
