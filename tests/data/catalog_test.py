"""A catalog keeps its rules; filters and baskets agree with plain Python."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog, Interactions, read_catalog, write_catalog
from sid_jax.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
MAYBE = st.none() | TEXT
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def catalogs(draw):
    ids = draw(st.lists(TEXT.filter(bool), unique=True, max_size=12))
    column = lambda values: draw(  # noqa: E731
        st.lists(values, min_size=len(ids), max_size=len(ids))
    )
    return Catalog.from_columns(
        ids,
        title=column(MAYBE),
        brand=column(MAYBE),
        categories=column(st.lists(TEXT.filter(bool), max_size=3)),
        attributes={
            "kind": column(MAYBE),
            "count": column(st.none() | st.integers(-5, 5)),
            "price": column(st.none() | FINITE),
            "sold": column(st.none() | st.booleans()),
        },
    )


def _toy() -> Catalog:
    return Catalog.from_columns(
        ["a", "b", "c", "d"],
        title=["Tea", None, "Milk", ""],
        brand=["Acme", "Acme", None, "Best"],
        categories=[("food", "drinks"), ("food",), ("drinks", "milk"), ()],
        attributes={
            "tier": ["Private", "National", "National", None],
            "price": [1.5, None, 2.0, 2.0],
            "count": [1, 2, 3, None],
            "sold": [True, False, None, True],
        },
    )


@settings(deadline=None, max_examples=40)
@given(catalog=catalogs())
def test_parquet_round_trip(catalog, tmp_path_factory):
    path = tmp_path_factory.mktemp("catalog") / "catalog.parquet"
    write_catalog(path, catalog)
    again = read_catalog(path)
    assert again == catalog
    assert again.digest() == catalog.digest()


@settings(deadline=None, max_examples=40)
@given(catalog=catalogs(), data=st.data())
def test_digest_is_of_content_alone(catalog, data):
    cut = data.draw(st.integers(0, len(catalog)))
    table = catalog.table
    chunked = Catalog(pa.concat_tables([table.slice(0, cut), table.slice(cut)]))
    assert chunked.digest() == catalog.digest()
    order = data.draw(st.permutations(range(len(catalog))))
    moved = catalog.take(order)
    assert moved.item_ids == [catalog.item_ids[row] for row in order]
    assert (moved.digest() == catalog.digest()) == (moved == catalog)


def test_an_empty_title_or_brand_is_unknown_and_columns_differ():
    unknown = Catalog.from_columns(["a"])
    assert Catalog.from_columns(["a"], title=[""], brand=[""]) == unknown
    assert unknown.titles == [""] and unknown.brands == [None]
    digests = {
        Catalog.from_columns(["a"], title=["x"]).digest(),
        Catalog.from_columns(["a"], brand=["x"]).digest(),
        Catalog.from_columns(["a"], attributes={"size": ["x"]}).digest(),
        Catalog.from_columns(["a"], attributes={"size": [""]}).digest(),
        Catalog.from_columns(["a"], attributes={"size": [None]}).digest(),
        Catalog.from_columns(["a"], attributes={"size": [1]}).digest(),
        Catalog.from_columns(["a"], attributes={"size": [1.0]}).digest(),
        unknown.digest(),
    }
    assert len(digests) == 8


@settings(deadline=None, max_examples=40)
@given(catalog=catalogs(), data=st.data())
def test_rows_find_ids(catalog, data):
    known = range(len(catalog))
    picked = data.draw(
        st.lists(st.sampled_from(known), max_size=8) if known else st.just([])
    )
    ids = [catalog.item_ids[row] for row in picked]
    np.testing.assert_array_equal(catalog.rows(ids), np.asarray(picked, np.int32))
    with pytest.raises(InputError, match=r"1 item ids are not in the catalog.*no such"):
        catalog.rows([*ids, "no such\0id"])


@pytest.mark.parametrize(
    ("conditions", "want"),
    [
        ({}, "abcd"),
        ({"tier": "National"}, "bc"),
        ({"brand": "Acme"}, "ab"),
        ({"category": "drinks"}, "ac"),
        ({"category": "drinks", "tier": "Private"}, "a"),
        ({"price": "2"}, "cd"),
        ({"count": "2.0"}, "b"),
        ({"sold": "true"}, "ad"),
        ({"sold": "False"}, "b"),
        ({"brand": "Best", "sold": "false"}, ""),
    ],
)
def test_where(conditions, want):
    mask = _toy().where(conditions)
    assert "".join(np.asarray(list("abcd"))[mask]) == want


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": "red"}, "category, brand, tier, price, count, sold"),
        ({"title": "Tea"}, "cannot filter on 'title'"),
        ({"tier": "private"}, "did you mean 'Private'"),
        ({"category": "drink"}, "did you mean 'drinks'"),
        ({"brand": "zzz"}, "it has 2 values: 'Acme', 'Best'"),
        ({"price": "cheap"}, "price is a number"),
        ({"price": "9"}, "no item has price=9"),
        ({"sold": "maybe"}, "true or false"),
    ],
)
def test_where_explains_itself(conditions, message):
    with pytest.raises(InputError, match=message):
        _toy().where(conditions)


def test_an_attribute_named_category_goes_first():
    catalog = Catalog.from_columns(
        ["a", "b"], categories=[("x",), ("y",)], attributes={"category": ["y", "x"]}
    )
    assert catalog.where({"category": "x"}).tolist() == [False, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda t: t.drop_columns("brand"), "columns start with item_id, title, brand"),
        (lambda t: t.select([1, 0, 2, 3]), "columns start with"),
        (lambda t: _replace(t, "item_id", ["a", "a", "b", "b"]), "2 item ids occur"),
        (lambda t: _replace(t, "item_id", ["a", None, "c", "d"]), "row 1: no id"),
        (lambda t: _replace(t, "item_id", ["a", "b", "", "d"]), "row 2: no id"),
        (lambda t: _replace(t, "categories", [[], None, [], []]), "row 1: None"),
        (lambda t: _replace(t, "categories", [[], [], ["x", ""], []]), "row 2"),
        (lambda t: _replace(t, "price", [1.0, float("nan"), 0, 0]), "row 1: not fin"),
        (lambda t: t.append_column("n", pa.array([1] * 4, pa.int8())), "type int8"),
        (lambda t: t.append_column("tier", pa.array(["x"] * 4)), "share a name"),
    ],
)
def test_refuses_what_is_no_catalog(table, message, tmp_path):
    bad = table(_toy().table)
    with pytest.raises(InputError, match=message):
        Catalog(bad)
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"bad\.parquet: "):
        read_catalog(tmp_path / "bad.parquet")


def test_refuses_files_that_are_not_parquet(tmp_path):
    (tmp_path / "no.parquet").write_text("item_id,title")
    for name in ("no.parquet", "absent.parquet"):
        with pytest.raises(InputError, match=name):
            read_catalog(tmp_path / name)


def _replace(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


BASKETS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w"]),
        st.integers(0, 4),
        st.sampled_from(["s", "t"]),
        st.lists(st.integers(0, 9), max_size=5),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=50)
@given(events=BASKETS)
def test_interactions_are_the_baskets_sorted(events):
    user, time, retailer, baskets = (
        list(part) for part in zip(*events, strict=True)
    ) if events else ([], [], [], [])  # fmt: skip
    data = Interactions.from_baskets(user, time, baskets, retailer)
    kept = [event for event in events if event[3]]
    assert len(data) == len(kept)
    assert list(data.users) == list(dict.fromkeys(event[0] for event in kept))
    assert data.user_offsets.shape == (len(data.users) + 1,)
    for u, name in enumerate(data.users):
        mine = sorted((e for e in kept if e[0] == name), key=lambda event: event[1])
        span = range(data.user_offsets[u], data.user_offsets[u + 1])
        assert len(span) == len(mine)
        for e, (_, when, store, basket) in zip(span, mine, strict=True):
            assert data.user[e] == u and data.time[e] == when
            assert data.retailers[data.retailer[e]] == store
            assert data.basket(e).tolist() == list(dict.fromkeys(basket))


def _break(**changes):
    good = Interactions.from_baskets(
        ["u", "u", "v"], [1, 2, 0], [[0, 1], [2], [0]], ["s", "t", "s"]
    )
    return Interactions(**{**vars(good), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": np.array([2, 1, 0])}, "sorted by user, then time"),
        ({"user": np.array([0, 1, 0], np.int32)}, "sorted by user"),
        ({"user": np.array([0, 0, 1])}, "must be int32"),
        ({"users": ("u", "v", "w")}, "each user must have a basket"),
        ({"offsets": np.array([0, 2, 2, 4])}, "no empty basket"),
        ({"offsets": np.array([0, 2, 3])}, "E, E, E and E"),
        ({"items": np.array([0, 0, 2, 0], np.int32)}, "holds an item twice"),
        ({"items": np.array([0, -1, 2, 0], np.int32)}, "negative"),
        ({"retailers": ("t", "s")}, "sorted and unique"),
        ({"retailers": ("s",)}, "out of range"),
    ],
)
def test_refuses_broken_interactions(changes, message):
    _break()
    with pytest.raises(InputError, match=message):
        _break(**changes)
