"""Rows come back as written, in every form; damage is refused with its place."""

import csv
import gzip
import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sid_jax import files
from sid_jax.data import readers
from sid_jax.data.readers import plain_records, read_lines, read_table
from sid_jax.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)
NAMES = st.lists(
    TEXT.map(str.strip).filter(bool), min_size=2, max_size=4, unique=True
)  # A row of one empty column is a blank line in CSV: hence two.


def pack(path, content: bytes):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def to_csv(columns, rows) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([columns, *rows])
    return buffer.getvalue().encode()


@settings(deadline=None, max_examples=30)
@given(names=NAMES, zipped=st.sampled_from(["", ".gz"]), data=st.data())
def test_text_rows_are_the_same_in_every_form(names, zipped, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    row = st.lists(TEXT, min_size=len(names), max_size=len(names))
    cells = data.draw(st.lists(row, min_size=1, max_size=5))
    want = [dict(zip(names, line, strict=True)) for line in cells]
    lines = "".join(
        json.dumps(row, ensure_ascii=data.draw(st.booleans())) + "\n" for row in want
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(want), buffer)
    for name, content in (
        ("t.csv", to_csv(names, cells)),
        ("t.jsonl", lines.encode()),
        ("t.parquet", buffer.getvalue()),
    ):
        table = read_table(pack(folder / f"{name}{zipped}", content))
        got = [{k: v or "" for k, v in row.items()} for _, row in table.rows]
        assert got == want, name
        assert list(table.columns) == names


def test_line_numbers_are_those_of_the_file(tmp_path):
    content = '\ufeffitem_id,title\n\n1,"two\nlines"\n2,x\n\n3,y\n'
    path = pack(tmp_path / "t.csv.gz", content.encode())
    table = read_table(path)
    assert table.columns == ("item_id", "title")
    assert [number for number, _ in table.rows] == [3, 5, 7]
    path = pack(tmp_path / "t.jsonl", b'\n{"a": 1}\n\n{"a": 2}')
    assert [number for number, _ in read_table(path).rows] == [2, 4]


def test_a_column_without_a_name_is_left_out(tmp_path):
    table = read_table(pack(tmp_path / "t.csv", b",item_id\n0,a\n1,b\n"))
    assert table.columns == ("item_id",)


# Without its time, which would stand in the names of tests, and differ by process.
GOOD_ZIP = gzip.compress(b'{"item_id": "1"}\n' * 50, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"a", r"must end in \.csv"),
        ("t.gz", b"a", r"must end in \.csv"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"item_id,title\n", "no rows"),
        ("t.jsonl", b"\n\n", "no rows"),
        (
            "t.csv",
            b"a,b\n1,2\n1\n1,2,3\n",
            r"2 at line 3 \(1 for 2\), line 4 \(3 for 2",
        ),
        ("t.csv", b"a,b,a\n1,2,3\n", "two columns share a name"),
        ("t.csv", b'a,b\n1,"2\n3,4\n', "check the quotes"),
        ("t.csv", b'a,b\n1,"2"x\n', "line 2: .*check the quotes"),
        ("t.csv", b"a,b\n1,caf\xe9\n", r"line 2: not UTF-8 \(byte 0xe9 at position 6"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "line 1: not UTF-8"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "1 at line 2"),
        ("t.jsonl", b'[{"a": 1}]\n', r"1 at line 1 \(list\)"),
        ("t.jsonl", b'{"a": "\\ud800"}\n', r"broken \\u escape"),
        ("t.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", "no JSON object"),
        ("t.jsonl.gz", GOOD_ZIP[:-12], "truncated or damaged gzip"),
        ("t.jsonl.gz", GOOD_ZIP[:30] + b"!" + GOOD_ZIP[31:], "damaged gzip"),
        ("t.parquet", b"PAR1", "not a readable Parquet"),
    ],
)
def test_damage_is_refused_with_file_and_place(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name in ("absent.csv", "folder.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            read_table(tmp_path / name)


@settings(deadline=None, max_examples=50)
@given(
    content=st.binary(max_size=60), kind=st.sampled_from(["csv", "jsonl", "parquet"])
)
@example(content=b"\x1f\x8b", kind="csv")
def test_any_bytes_give_rows_or_an_input_error(content, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / f"t.{kind}"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert table.rows


def test_every_cut_of_a_parquet_file_is_refused(tmp_path):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"item_id": ["a", "b"]}), buffer)
    content = buffer.getvalue()
    for end in range(0, len(content), 7):
        path = tmp_path / "t.parquet"
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match="Parquet"):
            read_table(path)


def test_parquet_types_become_plain(tmp_path):
    table = pa.table(
        {
            "when": pa.array([1, None], pa.timestamp("us")),
            "price": pa.array([Decimal("1.25"), None]),
            "name": pa.array(["x", None]).dictionary_encode(),
            "small": pa.array([1.5, None], pa.float32()),
            "big": pa.array(["y", None], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read.findings.unit == "row"
    assert read.rows[0] == (
        1,
        {
            "when": "1970-01-01 00:00:00.000001",
            "price": 1.25,
            "name": "x",
            "small": 1.5,
            "big": "y",
        },
    )
    assert set(read.rows[1][1].values()) == {None}


def test_lines_end_anywhere(tmp_path):
    path = pack(tmp_path / "s.txt", b"\xef\xbb\xbfu 1 2\r\nv 3")
    assert [(n, line.split()) for n, line in read_lines(path)] == [
        (1, ["u", "1", "2"]),
        (2, ["v", "3"]),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.parquet.gz", "a.csv"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "_ROOM", 1 << 12)
    monkeypatch.setattr(readers, "_LONGEST", 1 << 16)
    path = tmp_path / name
    lines = b"{}\n" if "jsonl" in name else b"a,b\n"
    data = (b" " if name == "a.csv" else lines) * (1 << 18)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    with pytest.raises(InputError, match=r"200 times its size|longer than 65,536"):
        read_table(path)


def test_parts_of_objects_are_rows():
    table = pa.table({"a": [{"x": None}] * 9, "t": [*range(9)]})
    found = plain_records(table.slice(2, 5))
    assert found == [{"a": {"x": None}, "t": n} for n in range(2, 7)]
