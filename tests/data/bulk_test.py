"""Items read a part at a time are those of the file read whole, and complaints too."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sid_jax.data import bulk
from sid_jax.data.bulk import find_files, stream_items, survey
from sid_jax.data.parsing import read_items
from sid_jax.errors import InputError

ITEMS = [
    {
        "item_id": f"i{row}",
        "title": "" if row % 7 == 0 else f"tea {row}",
        "brand": None if row % 3 else "Own",
        "categories": ["shop", "tea"] if row % 5 else [],
        "price": row if row < 9 else row + 0.5,
        "tag": [row] if row == 20 else "x",
        "unread": row,
    }
    for row in range(23)
]


def write(path, items=ITEMS):
    if path.suffix == ".parquet":
        items = [{**each, "tag": str(each.get("tag"))} for each in items]
        pq.write_table(pa.Table.from_pylist(items), path, row_group_size=6)
        return path
    content = "".join(json.dumps(each) + "\n" for each in items).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["i.jsonl", "i.jsonl.gz", "i.parquet"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_parts_are_rows_of_the_catalog(name, size, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "_BLOCK", 5)
    path = write(tmp_path / name)
    whole, notes = read_items(path)
    found = survey([path], ["title", "price", "tag", "absent"], tmp_path)
    assert found.rows == (23,)
    told = {column.name: str(column.kind.type) for column in found.columns}
    assert told == {"price": "double", "tag": "string", "absent": "None"}
    ranges = [(start, min(start + size, 23)) for start in range(0, 23, size)]
    some = ranges[::2]
    parts = list(stream_items(path, iter(some), found.columns))
    want = whole.table.select(
        ["item_id", "title", "brand", "categories", "price", "tag"]
    )
    for (start, stop), (catalog, _) in zip(some, parts, strict=True):
        assert catalog.table.equals(want.slice(start, stop - start))
    *_, (_, noted) = stream_items(path, ranges, found.columns)
    assert noted == [note for note in notes if "joined to text" not in note]


def test_the_files_of_a_folder_by_name(tmp_path):
    for name in ("b.csv", "a.csv.gz", "_SUCCESS", ".hidden.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    assert [each.name for each in find_files(tmp_path)] == ["a.csv.gz", "b.csv"]
    assert find_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]
    (tmp_path / "c.jsonl").touch()
    with pytest.raises(InputError, match=r"files of several forms \(csv, json\)"):
        find_files(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes.txt: the name must end in"):
        find_files(tmp_path)
    with pytest.raises(InputError, match=r"folder.csv: no files in the folder"):
        find_files(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_an_id_that_stands_twice_is_named_with_both_places(name, tmp_path):
    """Wherever the two are: in one file, or in two."""
    unit = "row" if name == "parquet" else "line"
    first = write(tmp_path / f"a.{name}", ITEMS[:10])
    second = write(tmp_path / f"b.{name}", [*ITEMS[10:], ITEMS[3], ITEMS[12]])
    with pytest.raises(InputError) as error:
        survey([first, second], [], tmp_path)
    assert f"'i3' at {first}, {unit} 4 and at {second}, {unit} 14" in str(error.value)
    assert f"'i12' at {second}, {unit} 3 and at {second}, {unit} 15" in str(error.value)
    assert "i1'" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"item_id": "a"}\n{"item_id": " "}\n', "without an item_id: 1 at line 2"),
        ('{"item_id": "a"}\n{"item_id": \n', "no JSON object: 1 at line 2"),
        ('{"id": "a"}\n', "no column item_id; it has id"),
        ("\n", "no rows"),
    ],
)
def test_bad_rows_are_refused_before_any_work(content, message, tmp_path):
    path = tmp_path / "i.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        survey([write(tmp_path / "a.jsonl"), path], [], tmp_path)


def test_a_parquet_file_without_ids_is_refused(tmp_path):
    path = write(tmp_path / "i.parquet", [{"id": "a", "title": "x"}])
    with pytest.raises(InputError, match="no column item_id"):
        survey([path], [], tmp_path)


def test_vectors_are_those_of_the_items_in_their_order(tmp_path):
    path, ids = write(tmp_path / "i.jsonl"), [each["item_id"] for each in ITEMS]
    survey([path], [], tmp_path, iter(ids))
    for wrong, message in (
        ([*ids[:4], ids[5], ids[4], *ids[6:]], "item 4 .*meets the vector of 'i5'"),
        (ids[:-1], "item 22 .*'i22', has no vector"),
        ([*ids, "z"], "after the last of 23 items with that of 'z'"),
    ):
        with pytest.raises(InputError, match=message):
            survey([path], [], tmp_path, iter(wrong))
