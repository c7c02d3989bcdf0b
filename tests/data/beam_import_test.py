"""An import on Beam, of files whole or in parts, is that of one machine."""

import csv
import gzip
import io
import json
import random
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from sid_jax.data.importer import import_dataset
from sid_jax.errors import InputError

pytest.importorskip("apache_beam", reason="pip install sid_jax[beam]")
# Beam wants an older protobuf, at which TFDS is warned.
pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")
SINGLE = ("direct_num_workers=1",)
DOUBLE = ("direct_num_workers=2", "direct_running_mode=multi_processing")

# Made files: every rule of `parsing.py` that skips or changes something has its case.


def make_items(rng, number):
    """Rows of JSON, some odd; which attributes there are depends on the row."""
    odd = [1, 2.5, True, "x", 2**70, float("nan"), [1, ["a", "b"]], [], {"k": 1}]
    paths = [["Food", "Tea"], "Food > Tea", "Food >  > Tea", [["A"], ["B"]], [], 7]
    rows = []
    for i in range(number):
        row = {
            "item_id": rng.choice([i, str(i), f" {i} "]),
            "title": rng.choice(["Vegan Tea", "Milk 12 oz", "", None, 5]),
            "brand": rng.choice(["A", " ", None]),
            "categories": rng.choice(paths),
            "price": rng.choice([1, 2.5, None, float("inf")]),
            "size": rng.choice([1, 2, None]),
            "odd": rng.choice(odd),
        }
        kept = {k: v for k, v in row.items() if k == "item_id" or rng.random() < 0.9}
        # Only all parts together tell what these columns hold.
        rows.append(
            kept | ({"late": "x", "turn": 0.5} if i > number // 2 else {"turn": i})
        )
    return rows


def make_table(rng, number):
    """Rows of CSV: a column of numbers, of codes, of flags, and one without a value."""
    return [
        {
            "item_id": f"p{i}",
            "title": rng.choice(['a "b", c', "two\nlines", ""]),
            "price": rng.choice(["1", "2.50", "nan", "", "1e999"]),
            "count": rng.choice(["1", "-2", ""]),
            "code": rng.choice(["007", "1", ""]),
            "sold": rng.choice(["TRUE", "false", ""]),
            "none": "",
        }
        for i in range(number)
    ]


def make_baskets(rng, ids, number):
    users = [f"u{n}" for n in range(number // 4 + 1)]
    rows = [
        {
            "user_id": None if rng.random() < 0.05 else rng.choice(users),
            "order": "x" if rng.random() < 0.05 else rng.choice([*range(6), 2.7]),
            "item_ids": [rng.choice([*ids, "?"]) for _ in range(rng.randrange(5))],
            "store_id": rng.choice(["s", "t", "é", None]),
            "unused": 1,
        }
        for _ in range(number)
    ]
    for row in rows[:: number // 2 + 1]:
        row |= {"user_id": "nobody", "item_ids": ["?"]}
    return rows


def make_sequences(rng, ids, number):
    users = [f"u{n}" for n in range(number // 2 + 1)]
    picked = (rng.choices([*ids, "?"], k=rng.randrange(6)) for _ in range(number))
    return [" ".join([rng.choice(users), *items]) for items in picked]


def ids_of(items):
    return [str(row["item_id"]).strip() for row in items]


def to_csv(rows, head):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    if head:
        writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: " ".join(v) if k == "item_ids" else v for k, v in row.items()}
        )
    return buffer.getvalue()


def write(folder, name, rows, parts):
    """The rows as one file, and as parts of it; returns the file and the pattern."""
    stem, suffix = name.split(".", 1)
    bounds = np.linspace(0, len(rows), parts + 1).astype(int)
    whole = ""
    for part, (start, stop) in enumerate(pairwise(bounds)):
        if suffix.startswith("csv"):
            content = to_csv(rows[start:stop], head=True)
            whole += to_csv(rows[start:stop], head=part == 0)
        else:
            lines = [
                r if isinstance(r, str) else json.dumps(r) for r in rows[start:stop]
            ]
            content = "".join(line + "\n" for line in lines)
            whole += content
        save(folder / f"{stem}-{part}.{suffix}", content)
    save(folder / name, whole)
    return folder / name, folder / f"{stem}-*.{suffix}"


def save(path, content):
    packed = content.encode()
    path.write_bytes(gzip.compress(packed) if path.suffix == ".gz" else packed)


# What is compared.


def read(root, name):
    """Records of each configuration, in the order in which they are written."""
    found = {}
    for folder in sorted((root / name).glob("[a-z]*")):
        builder = tfds.builder_from_directory(folder / "1.0.0")
        source = builder.as_data_source(split="train")
        records = source.__getitems__(range(len(source)))
        found[folder.name] = [
            {k: np.asarray(v).tolist() for k, v in record.items()} for record in records
        ]
        found[folder.name, "types"] = dict(builder.info.metadata or {})
    return found


def count_notes(notes):
    """Rule and count of each note, without files and places."""
    return sorted(re.sub(r"^\S+: (.*?)( at .*)?$", r"\1", note) for note in notes)


def assert_same(tmp_path, items, parts=None, options=SINGLE, **kinds):
    """Imports whole on one machine, and whole or in parts on Beam."""
    one = import_dataset(items, name="one", data_dir=str(tmp_path), **kinds)
    ours = {"items": items, **kinds} | (parts or {})
    two = import_dataset(
        **ours,
        name="two",
        data_dir=str(tmp_path),
        runner="DirectRunner",
        beam_options=options,
    )
    first, second = dict(vars(one)), dict(vars(two))
    if parts is None:
        assert first["notes"] == second["notes"]
    assert count_notes(first.pop("notes")) == count_notes(second.pop("notes"))
    for summary in (first, second):
        del summary["name"], summary["folder"]
    assert first == second
    assert read(tmp_path, "one") == read(tmp_path, "two")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["one", "two"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
    return two


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Records and stretches so small that rows of every file meet their ends."""
    for module, name in (
        ("builders", "BLOCK"),
        ("beam_items", "BLOCK"),
        ("beam_histories", "_STRETCH"),
    ):
        monkeypatch.setattr(f"sid_jax.data.{module}.{name}", 7)


def test_baskets_in_parts(tmp_path):
    rng = random.Random(0)
    rows = make_items(rng, 60)
    items, item_parts = write(tmp_path, "i.jsonl.gz", rows, 3)
    rows = make_baskets(rng, ids_of(rows), 120)
    baskets, basket_parts = write(tmp_path, "b.csv", rows, 4)
    parts = {"items": item_parts, "baskets": basket_parts}
    summary = assert_same(tmp_path, items, parts, baskets=baskets)
    assert summary.retailers == 4 and summary.users > 7
    # Each rule that skips or changes something has struck, so that it was compared.
    for rule in (
        "items without a title, kept",
        "category path, kept",
        "with a gap",
        "several category paths",
        "joined to text",
        "not finite",
        "not in the catalog",
        "without a known item",
        "baskets without a user",
        "readable time",
        "without a retailer",
        "users left with nothing",
        "columns not used: unused",
    ):
        assert any(rule in note for note in summary.notes), rule


def test_sequences_of_one_file(tmp_path):
    rng = random.Random(1)
    rows = make_table(rng, 30)
    items, _ = write(tmp_path, "i.csv", rows, 1)
    lines = make_sequences(rng, ids_of(rows), 40)
    sequences, _ = write(tmp_path, "s.txt", ["w ?", *lines], 1)
    summary = assert_same(tmp_path, items, sequences=sequences)
    for rule in ("continue an earlier line", "users left with nothing"):
        assert any(rule in note for note in summary.notes), rule


def test_what_is_refused_names_files_and_rows_and_writes_nothing(tmp_path):
    save(tmp_path / "i-0.csv", "item_id,title\na,Tea\nb,\n")
    save(tmp_path / "i-1.csv", "item_id,title\nc,x\na,Milk\na,x\n")
    root = tmp_path / "tfds"
    import_dataset(tmp_path / "i-0.csv", name="mine", data_dir=str(root))
    before = read(root, "mine")
    with pytest.raises(InputError) as error:
        import_on_beam(tmp_path / "i-*.csv", root)
    path = tmp_path / "i-0.csv"
    assert str(error.value) == (
        f"{tmp_path}/i-*.csv: rows whose item_id stands in an earlier row: 2 at "
        f"i-1.csv line 3 ('a', first at 2 of {path}), i-1.csv line 4 ('a', first at 2 "
        f"of {path}); keep one row an item"
    )
    assert [each.name for each in root.iterdir()] == ["mine"]
    assert read(root, "mine") == before


def test_an_unknown_runner_is_refused(tmp_path):
    save(tmp_path / "i.csv", "item_id\na\n")
    with pytest.raises(InputError, match="--runner Cloud: Unexpected pipeline runner"):
        import_on_beam(tmp_path / "i.csv", tmp_path / "tfds", runner="Cloud")


def test_an_option_that_cannot_be_read_is_refused(tmp_path, capsys):
    save(tmp_path / "i.csv", "item_id\na\n")
    told = "--beam-options: argument --direct_num_workers: invalid int value: 'x'"
    with pytest.raises(InputError, match=f"^{told}$"):
        import_on_beam(
            tmp_path / "i.csv",
            tmp_path / "tfds",
            beam_options=("direct_num_workers=x",),
        )
    assert "usage" not in capsys.readouterr().err


def import_on_beam(items, root, runner="DirectRunner", **kinds):
    return import_dataset(
        items, name="mine", data_dir=str(root), runner=runner, **kinds
    )


# The same at length.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_files(seed, tmp_path):
    rng = random.Random(f"any {seed}")
    rows = (make_items if rng.random() < 0.5 else make_table)(rng, rng.randrange(1, 90))
    form = rng.choice(["csv", "csv.gz"] if "code" in rows[0] else ["jsonl", "json.gz"])
    items, item_parts = write(tmp_path, f"i.{form}", rows, rng.randrange(1, 5))
    parts = {"items": item_parts}
    kinds = {}
    number = rng.randrange(1, 150)
    if rng.random() < 0.5:
        lines = ["u0 " + ids_of(rows)[0], *make_sequences(rng, ids_of(rows), number)]
        kinds["sequences"], parts["sequences"] = write(tmp_path, "s.txt.gz", lines, 3)
    else:
        known = {"user_id": "u0", "order": 3, "item_ids": ids_of(rows)[:1]}
        made = make_baskets(rng, ids_of(rows), number)
        made[0] = made[0] | known
        form = rng.choice(["csv", "jsonl.gz"])
        kinds["baskets"], parts["baskets"] = write(
            tmp_path, f"b.{form}", made, min(3, number)
        )
    assert_same(tmp_path, items, parts, **kinds)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "pq"])
def test_parquet_with_diets_and_other_columns_in_each_part(suffix, tmp_path):
    rows = [
        {"item_id": f"p{i}", "title": "Vegan Tea" if i % 3 else None, "n": i, "x": 0.5}
        for i in range(40)
    ]
    for row in rows[20:]:
        row["late"] = row.pop("n") % 2 == 0
    pq.write_table(pa.Table.from_pylist(rows[:20]), tmp_path / f"i-0.{suffix}")
    pq.write_table(pa.Table.from_pylist(rows[20:]), tmp_path / f"i-1.{suffix}")
    whole = [{"n": None, "late": None} | row for row in rows]
    schema = ["item_id", "title", "n", "x", "late"]
    table = pa.Table.from_pylist(whole).select(schema)
    pq.write_table(table, tmp_path / f"i.{suffix}")
    parts = {"items": tmp_path / f"i-*.{suffix}"}
    summary = assert_same(tmp_path, tmp_path / f"i.{suffix}", parts, dietary=True)
    assert summary.attributes[:4] == ("n", "x", "late", "vegan")


@pytest.mark.slow
def test_several_processes(tmp_path, monkeypatch):
    monkeypatch.undo()  # workers are processes of their own, with sizes of their own
    rng = random.Random(2)
    rows = make_items(rng, 2500)
    items, item_parts = write(tmp_path, "i.jsonl.gz", rows, 3)
    baskets, basket_parts = write(
        tmp_path, "b.csv", make_baskets(rng, ids_of(rows), 400), 4
    )
    parts = {"items": item_parts, "baskets": basket_parts}
    assert_same(tmp_path, items, parts, options=DOUBLE, baskets=baskets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"i.csv": "item_id\na\n\na\n"}, "1 at line 4 \\('a', first at 2\\)"),
        ({"i.csv": "item_id,title\n,x\n"}, "without an item_id: 1 at line 2"),
        ({"i.csv": "id\na\n"}, "no column item_id; it has id"),
        ({"i.csv": "item_id\n"}, "no rows"),
        ({"i.csv": "item_id,t\n1\n"}, "wrong number of columns"),
        ({"i.jsonl": '{"item_id": 1}\n[1]\n'}, "1 at line 2"),
        ({"i.jsonl.gz": "cut"}, "truncated or damaged gzip"),
        ({"i.txt": "a"}, "the name must end in"),
        ({"i.csv": "item_id,vegan\na,true\n"}, "has a column 'vegan' already"),
        ({"i.csv": "item_id\na\n", "s.txt": "u b\nv c\n"}, "nothing is left"),
        ({"i.csv": "item_id\na\n", "s.txt": b"u \xff\n"}, "not UTF-8"),
        (
            {"i.csv": "item_id\na\n", "b.csv": "user_id,time,item_ids\nu,x,a\n"},
            "nothing is left(.|\n)*readable time",
        ),
        (
            {
                "i.csv": "item_id\na\n",
                "b.csv": "user_id,time,item_ids\nu,1,a\nu,2017-01-01,a\n",
            },
            "a number at line 2, a date at line 3",
        ),
        ({"i.csv": "item_id\na\n", "b.csv": "user_id,time\nu,1\n"}, "no column prod"),
        ({"i.csv": "item_id\na\n", "b.csv": None}, "cannot be read"),
    ],
)
def test_one_file_is_refused_in_the_same_words(files, message, tmp_path):
    given = {}
    for name, content in files.items():
        kind = {"i": "items", "s": "sequences", "b": "baskets"}[name[0]]
        given[kind] = tmp_path / name
        if content == "cut":
            given[kind].write_bytes(gzip.compress(b'{"item_id": 1}\n')[:-9])
        elif content is not None:
            given[kind].write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
    errors = []
    for runner in ("", "DirectRunner"):
        with pytest.raises(InputError, match=message) as error:
            import_dataset(
                **given,
                name="mine",
                data_dir=str(tmp_path / "tfds"),
                runner=runner,
                dietary=True,
            )
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    assert not (tmp_path / "tfds" / "mine").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"i-0.csv": "item_id,x\na,1\n", "i-1.jsonl": '{"item_id": "b"}\n'},
            "some of the files are CSV and some are not",
        ),
        ({"i-0.csv": "item_id\na\n", "i-1.csv": "item_id\n"}, "i-1.csv: no rows"),
        (
            {
                "i-0.csv": "item_id\na\n",
                "b-0.csv": "user_id,time,item_ids\nu,1,a\n",
                "b-1.csv": "user_id,time,item_ids\nu,2017-01-01,a\n",
            },
            "b-0.csv numbers, .*b-1.csv dates; use one of the two",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused(files, message, tmp_path):
    for name, content in files.items():
        save(tmp_path / name, content)
    kinds = {"baskets": tmp_path / "b-*"} if "b-0.csv" in files else {}
    with pytest.raises(InputError, match=message):
        import_on_beam(tmp_path / "i-*", tmp_path / "tfds", **kinds)
