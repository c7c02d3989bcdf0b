"""Files of any form come in as they are; odd ones are counted, named or refused."""

import gzip
import io
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.datasets import DataConfig, list_names, load
from sid_jax.data.importer import import_dataset
from sid_jax.data.parsing import read_baskets, read_items, read_sequences
from sid_jax.errors import InputError

SHARED = Path(__file__).parents[2] / "../shared/data"
ITEMS = [
    {"item_id": 1, "title": "Tea", "brand": "A", "categories": ["Food", "Drinks"]},
    {"item_id": 2, "title": "Milk", "brand": None, "categories": ["Food"]},
    {"item_id": 3, "title": "Soap", "brand": "B", "categories": []},
]
CATALOG = Catalog.from_columns(["1", "2", "3"])


def write(path, content) -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# Items.

NAME = st.text("abc >|", min_size=1, max_size=5).map(str.strip).filter(
    lambda name: name and " >" not in name and "> " not in name and name != ">"
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(st.none() | NAME, st.none() | NAME, st.lists(NAME, max_size=3)),
        min_size=1,
        max_size=5,
    ),
    zipped=st.sampled_from(["", ".gz"]),
)
def test_every_form_gives_the_same_catalog(rows, zipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    records = [
        {"item_id": str(i), "title": t, "brand": b, "categories": c, "n": i, "x": i / 2}
        for i, (t, b, c) in enumerate(rows)
    ]
    want = Catalog.from_columns(
        [r["item_id"] for r in records],
        title=[r["title"] for r in records],
        brand=[r["brand"] for r in records],
        categories=[r["categories"] for r in records],
        attributes={"n": [r["n"] for r in records], "x": [r["x"] for r in records]},
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer)
    quote = lambda value: '"' + str(value).replace('"', '""') + '"'  # noqa: E731
    lines = ["item_id,title,brand,categories,n,x"] + [
        ",".join(
            quote(value)
            for value in (
                r["item_id"],
                r["title"] or "",
                r["brand"] or "",
                " > ".join(r["categories"]),
                r["n"],
                float(r["x"]),
            )
        )
        for r in records
    ]
    for name, content in (
        ("i.jsonl", records),
        ("i.csv", "\n".join(lines)),
        ("i.parquet", buffer.getvalue()),
    ):
        catalog, _ = read_items(write(folder / f"{name}{zipped}", content))
        assert catalog == want, name


def test_whole_number_ids_become_text(tmp_path):
    catalog, notes = read_items(write(tmp_path / "i.jsonl", ITEMS))
    assert catalog.item_ids == ["1", "2", "3"]
    assert catalog.categories == [("Food", "Drinks"), ("Food",), ()]
    assert len(notes) == 1 and "without a category path, kept" in notes[0]


@pytest.mark.parametrize(
    ("value", "path", "note"),
    [
        ("Food > Tea", ("Food", "Tea"), None),
        ("Food>Tea", ("Food>Tea",), None),
        ("Food > ", ("Food",), "with a gap"),
        ("Food >  > Tea", ("Food",), "with a gap"),
        (" > Tea", (), "with a gap"),
        (["Food", None, "Tea"], ("Food",), "with a gap"),
        (["Food", "", "Tea"], ("Food",), "with a gap"),
        ([["Food", "Tea"], ["Hot"]], ("Food", "Tea"), "several category paths"),
        ([["Food", "Tea"]], ("Food", "Tea"), None),
        (["Food", 12], ("Food", "12"), None),
        ("", (), "without a category path"),
        ([], (), "without a category path"),
        ([[]], (), "without a category path"),
        (None, (), "without a category path"),
        (7, (), r"without a category path.*\(7\)"),
        ({"a": 1}, (), r"without a category path.*\{'a': 1\}"),
    ],
)
def test_category_paths(value, path, note, tmp_path):
    rows = [{"item_id": "a", "title": "t", "categories": value}]
    catalog, notes = read_items(write(tmp_path / "i.jsonl", rows))
    assert catalog.categories == [path]
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])


def test_empty_titles_are_kept_counted_and_placed(tmp_path):
    rows = [{"item_id": i, "title": ["", " ", None, "x"][i]} for i in range(4)]
    path = write(tmp_path / "i.jsonl", rows)
    catalog, notes = read_items(path)
    assert catalog.titles == ["", "", "", "x"]
    assert (
        notes[0] == f"{path}: items without a title, kept: 3 at line 1, line 2, line 3"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"item_id": 1}, {"item_id": 2}, {"item_id": "1"}],
            r"1 at line 3 \('1', first",
        ),
        ([{"item_id": 1}, {"title": "x"}], r"without an item_id: 1 at line 2 \(None\)"),
        ([{"item_id": " "}], "without an item_id: 1 at line 1"),
        ([{"item_id": 1.5}], r"line 1 \(1\.5\); an id is text or a whole"),
        ([{"item_id": True}], r"line 1 \(True\)"),
        ([{"item_id": []}], r"line 1 \(\[\]\)"),
        ([{"id": 1, "name": "x"}], "no column item_id; it has id, name"),
    ],
)
def test_items_refused(rows, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read_items(write(tmp_path / "i.jsonl", rows))
    assert "i.jsonl" in str(error.value)


# Histories.

ID = st.sampled_from(["1", "2", "3", "99"])


@settings(deadline=None, max_examples=40)
@given(
    lines=st.lists(
        st.tuples(st.sampled_from("uvw"), st.lists(ID, max_size=5)),
        min_size=1,
        max_size=6,
    )
)
def test_sequences_are_the_known_items_in_order(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("seq") / "s.txt"
    write(path, "\n\n".join(" ".join([user, *ids]) for user, ids in lines))
    histories: dict[str, list[str]] = {}
    for user, ids in lines:
        histories.setdefault(user, []).extend(i for i in ids if i != "99")
    histories = {user: ids for user, ids in histories.items() if ids}
    if not histories:
        with pytest.raises(InputError, match="nothing is left"):
            read_sequences(path, CATALOG)
        return
    data, notes = read_sequences(path, CATALOG)
    assert list(data.users) == list(histories) and data.retailers == ("all",)
    for u, ids in enumerate(histories.values()):
        span = slice(data.user_offsets[u], data.user_offsets[u + 1])
        assert data.time[span].tolist() == list(range(len(ids)))
        baskets = [data.basket(e).tolist() for e in range(span.start, span.stop)]
        assert [[CATALOG.item_ids[row] for row in b] for b in baskets] == [
            [i] for i in ids
        ]
    unknown = sum(ids.count("99") for _, ids in lines)
    skipped = len({user for user, _ in lines}) - len(histories)
    continued = len(lines) - len({user for user, _ in lines})
    for rule, count in (
        ("not in the catalog, skipped", unknown),
        ("users left with nothing", skipped),
        ("continue an earlier line", continued),
    ):
        found = [note for note in notes if rule in note]
        assert (f": {count} at line" in found[0]) if count else not found


def test_unknown_ids_are_named_with_their_line(tmp_path):
    path = write(tmp_path / "s.txt.gz", "u 1 x 2\nv y z 3 q\n")
    data, notes = read_sequences(path, CATALOG)
    assert len(data) == 3
    assert "4 at line 1 ('x'), line 2 ('y'), line 2 ('z'), ..." in notes[0]


HEADS = {
    "user": ["user_id", "household_id"],
    "time": ["timestamp", "time", "date", "order_number", "order"],
    "items": ["product_ids", "item_ids"],
    "store": ["retailer_id", "store_id"],
}


@settings(deadline=None, max_examples=40)
@given(
    heads=st.fixed_dictionaries({k: st.sampled_from(v) for k, v in HEADS.items()}),
    rows=st.lists(
        st.tuples(
            st.sampled_from("uvw"),
            st.integers(0, 3),
            st.lists(ID, max_size=4),
            st.sampled_from("st"),
        ),
        min_size=1,
        max_size=8,
    ),
    form=st.sampled_from(["csv", "json", "parquet"]),
)
def test_baskets_in_every_form_and_name(heads, rows, form, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baskets")
    user, time, items, store = (heads[k] for k in ("user", "time", "items", "store"))
    records = [{user: u, time: t, items: i, store: s} for u, t, i, s in rows]
    if form == "csv":
        lines = [f"{store},{items},{user},{time}"]
        lines += [f"{s},{' '.join(i)},{u},{t}" for u, t, i, s in rows]
        path = write(folder / "b.csv", "\n".join(lines))
    elif form == "json":
        path = write(folder / "b.jsonl.gz", records)
    else:
        path = folder / "b.parquet"
        kinds = {user: pa.string(), time: pa.int32(), items: pa.list_(pa.string())}
        schema = pa.schema({**kinds, store: pa.string()})
        pq.write_table(pa.Table.from_pylist(records, schema=schema), path)
    known = [(u, t, list(dict.fromkeys(x for x in i if x != "99")), s)
             for u, t, i, s in rows]  # fmt: skip
    known = [row for row in known if row[2]]
    if not known:
        with pytest.raises(InputError, match="nothing is left"):
            read_baskets(path, CATALOG)
        return
    users = list(dict.fromkeys(row[0] for row in known))
    known.sort(key=lambda row: (users.index(row[0]), row[1]))
    data, _ = read_baskets(path, CATALOG)
    got = [
        (
            data.users[data.user[e]],
            int(data.time[e]),
            [CATALOG.item_ids[row] for row in data.basket(e)],
            data.retailers[data.retailer[e]],
        )
        for e in range(len(data))
    ]
    assert got == known


NEW_YORK = timezone(timedelta(hours=-5))


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("2017-01-01", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01 11:53", datetime(2017, 1, 1, 11, 53, tzinfo=UTC)),
        ("2017-01-01T11:53:26.9Z", datetime(2017, 1, 1, 11, 53, 26, tzinfo=UTC)),
        ("2017-01-01T11:53-05:00", datetime(2017, 1, 1, 11, 53, tzinfo=NEW_YORK)),
        ("1960-06-01", datetime(1960, 6, 1, tzinfo=UTC)),
        (1_483_271_600, 1_483_271_600),
        ("9007199254740993", 9_007_199_254_740_993),
        (12.7, 12),
        ("-3", -3),
        ("yesterday", None),
        ("2017-13-01", None),
        ("", None),
        (None, None),
        (True, None),
        ([], None),
        ("inf", None),
        ("1e300", None),
        (2**63, None),
    ],
)
def test_times(value, want, tmp_path):
    number = isinstance(want, int)
    rows = [
        {"user_id": "u", "time": value, "item_ids": "1"},
        {"user_id": "u", "time": 0 if number else "2000-01-01", "item_ids": "2"},
    ]
    data, notes = read_baskets(write(tmp_path / "b.jsonl", rows), CATALOG)
    if want is None:
        assert len(data) == 1 and "readable time or order, skipped: 1 at" in notes[0]
    else:
        assert (want if number else int(want.timestamp())) in data.time.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user_id,order,items\nu,1,1\n",
            "no column product_ids or item_ids; it has user",
        ),
        ("user,order,item_ids\nu,1,1\n", "no column user_id or household_id"),
        ("user_id,when,item_ids\nu,1,1\n", "no column timestamp or time or date"),
        (
            "user_id,time,item_ids\nu,1,1\nu,2017-01-01,1\n",
            "number at line 2, a date at",
        ),
        ("user_id,time,item_ids\nu,x,1\n,1,1\nu,1,99\n", "nothing is left"),
        ("user_id,time,item_ids\nu,1\n", "wrong number of columns"),
    ],
)
def test_baskets_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read_baskets(write(tmp_path / "b.csv", content), CATALOG)
    assert "b.csv" in str(error.value)


def test_odd_baskets_are_skipped_and_counted(tmp_path):
    content = "user_id,order,item_ids,store_id,basket\nu,1,1 1 2,s,7\n,1,1,s,7\n"
    content += "u,2,,s,7\nv,1,99,s,7\nw,x,1,s,7\nu,3,3,,7\n"
    data, notes = read_baskets(write(tmp_path / "b.csv", content), CATALOG)
    assert (data.users, data.retailers) == (("u",), ("all", "s"))
    assert data.items.tolist() == [0, 1, 2]
    text = "\n".join(notes)
    for part in (
        "without a user, skipped: 1 at line 3",
        "without a known item, skipped: 2 at line 4, line 5",
        "not in the catalog, skipped: 1 at line 5 ('99')",
        "readable time or order, skipped: 1 at line 6 ('x')",
        "without a retailer, taken as 'all': 1 at line 7",
        "users left with nothing, skipped: 2 at line 5 ('v'), line 6 ('w')",
        "columns not used: basket",
    ):
        assert part in text
    assert len(notes) == 7


# The whole flow.


def test_import_then_load(tmp_path, capsys):
    items = write(tmp_path / "i.jsonl", [{**row, "size": 2} for row in ITEMS])
    baskets = write(tmp_path / "b.csv", "user_id,order,item_ids\nu,2,1\nu,1,3 2\n")
    root = tmp_path / "tfds"
    summary = import_dataset(items, None, baskets, name="mine_2", data_dir=str(root))
    assert (summary.items, summary.with_title, summary.with_brand) == (3, 3, 2)
    assert (summary.with_categories, summary.attributes) == (2, ("size",))
    assert (summary.users, summary.baskets, summary.interactions) == (1, 2, 3)
    text = "\n".join(summary.lines())
    assert "3 items (3 with a title, 2 with a brand, 2 with a category" in text
    assert "3 interactions in 2 baskets of 1 users" in text and str(root) in text
    catalog, data = load(DataConfig(name="mine_2", data_dir=str(root)))
    assert catalog == read_items(items)[0]
    assert [data.basket(e).tolist() for e in range(2)] == [[2, 1], [0]]
    capsys.readouterr()

    alone = write(tmp_path / "n.csv", "item_id\nx\n")
    with pytest.raises(InputError, match="alone would drop"):
        import_dataset(alone, name="mine_2", data_dir=str(root))
    assert load(DataConfig(name="mine_2", data_dir=str(root)))[0] == catalog

    basket = write(tmp_path / "m.csv", "user_id,order,item_ids\nu,1,x\n")
    import_dataset(alone, None, basket, name="mine_2", data_dir=str(root))
    catalog, data = load(DataConfig(name="mine_2", data_dir=str(root)))
    assert catalog.item_ids == ["x"] and data is not None and len(data) == 1


def test_import_adds_what_titles_say_of_diets(tmp_path):
    items = write(tmp_path / "i.csv", "item_id,title\na,Vegan Cheese\nb,Cheese\n")
    root = str(tmp_path / "tfds")
    summary = import_dataset(items, name="mine", data_dir=root, dietary=True)
    assert {"vegan", "halal"} <= set(summary.attributes)
    catalog, _ = load(DataConfig(name="mine", data_dir=root))
    assert catalog.column("vegan") == [True, None]
    assert catalog.column("halal") == [None, None]


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({"items": [{"item_id": 1}, {"item_id": 1}]}, "mine", "earlier row"),
        ({"baskets": "user_id,order,item_ids\nu,1,9\n"}, "mine", "nothing is left"),
        ({"sequences": b"u 1 \xff\n"}, "mine", "not UTF-8"),
        ({"sequences": "u 1\n", "baskets": "x\n1\n"}, "mine", "not both"),
        ({}, "complete_journey", "built in"),
        ({}, "My-Catalog", "small letters"),
        ({}, "../mine", "small letters"),
        ({}, "", "small letters"),
    ],
)
def test_a_refused_import_writes_nothing(files, name, message, tmp_path):
    root = tmp_path / "tfds"
    old = write(tmp_path / "old.jsonl", ITEMS)
    import_dataset(old, name="mine", data_dir=str(root))
    names = {"items": "i.jsonl", "baskets": "b.csv", "sequences": "s.txt"}
    paths = {k: write(tmp_path / names[k], v) for k, v in files.items()}
    with pytest.raises(InputError, match=message):
        import_dataset(**{"items": old, **paths}, name=name, data_dir=str(root))
    assert [path.name for path in root.iterdir()] == ["mine"] == list_names(root)
    assert load(DataConfig(name="mine", data_dir=str(root)))[0] == read_items(old)[0]


def test_without_beam_a_runner_is_refused_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr("sid_jax.data.importer.find_spec", lambda name: None)
    items = write(tmp_path / "i.jsonl", ITEMS)
    with pytest.raises(InputError, match=r'pip install "sid_jax\[beam\]"'):
        import_dataset(items, name="mine", data_dir=str(tmp_path), runner="Direct")


# The shared public data, where it is at hand.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "histories", "counts"),
    [
        ("amazon2014-beauty", "sequences.txt.gz", (12_101, 22_363, 198_502, 198_502)),
        ("amazon2014-toys", "sequences.txt.gz", (11_924, 19_412, 167_597, 167_597)),
        (
            "amazon2018-office-minionerec",
            "sequences.txt.gz",
            (3459, 3231, 22447, 22447),
        ),
        ("complete-journey", "baskets.csv.gz", (68_492, 2_469, 155_691, 1_464_471)),
        ("instacart2017-sample", "baskets.csv.gz", (49_688, 593, 15_183, 150_000)),
    ],
)
def test_shared_data_imports_as_it_is(folder, histories, counts, tmp_path):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no ../shared/data/{folder}")
    kind = histories.split(".")[0]
    summary = import_dataset(
        SHARED / folder / "items.jsonl.gz",
        **{kind: SHARED / folder / histories},
        name="mine",
        data_dir=str(tmp_path),
    )
    got = (summary.items, summary.users, summary.baskets, summary.interactions)
    assert got == counts
    catalog, data = load(DataConfig(name="mine", data_dir=str(tmp_path)))
    assert (len(catalog), len(data.users), len(data), len(data.items)) == counts
