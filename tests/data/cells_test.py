import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import OTHER, CellConfig, Cells, share_codes
from sid_jax.errors import InputError

COLUMNS = ("tier", "vegan", "price")
CONFIG = CellConfig(columns=COLUMNS, price_bands=2, min_items=1)
NUM_CODES = 40

items = st.tuples(
    st.sampled_from(["Private", "National", None]),
    st.sampled_from([True, False, None]),
    st.sampled_from([1.0, 2.5, 4.0, None]),
)
tables = st.lists(items, min_size=NUM_CODES, max_size=90)


def _catalog(rows) -> Catalog:
    """A first item gives the columns their types, whatever the others lack."""
    typed = [("Private", True, 1.0), *rows]
    columns = dict(zip(COLUMNS, map(list, zip(*typed, strict=True)), strict=True))
    ids = [str(i) for i in range(len(typed))]
    whole = Catalog.from_columns(ids, attributes=columns)
    return whole.take(range(1, len(typed)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.data())
def test_codes_are_shared_by_the_square_root(items, data):
    most = np.maximum(items, 1)
    num_codes = data.draw(st.integers(len(items), int(most.sum())))
    sizes = np.asarray(share_codes(np.asarray(items), num_codes))
    assert sizes.sum() == num_codes
    assert (sizes >= 1).all() and (sizes <= most).all()
    # Cells at neither bound are within one code of one scale of the square root.
    free = (sizes > 1) & (sizes < most)
    low, high = ((sizes + by)[free] / np.sqrt(most[free]) for by in (-1, 1))
    assert not free.any() or low.max() < high.min() + 1e-6
    by_items = np.argsort(items, kind="stable")
    assert (np.diff(sizes[by_items]) >= -1).all()


@settings(deadline=None, max_examples=40)
@given(tables)
def test_items_of_a_cell_agree_in_every_value(rows):
    catalog = _catalog(rows)
    cells = Cells.fit(CONFIG, catalog, NUM_CODES)
    of = cells.of(catalog)
    labels = list(zip(*cells.labels(catalog).values(), strict=True))
    assert of.dtype == np.int32
    assert [cells.combinations[cell] for cell in of] == labels
    assert cells.num_codes == NUM_CODES and OTHER not in cells.names
    assert cells.items == tuple(np.bincount(of, minlength=len(cells)))
    assert len(set(cells.names)) == len(cells)


@settings(deadline=None, max_examples=40)
@given(tables, st.data())
def test_an_exact_mask_holds_the_items_that_satisfy_and_no_others(rows, data):
    catalog = _catalog(rows)
    cells = Cells.fit(CONFIG, catalog, NUM_CODES)
    chosen = data.draw(st.sampled_from([("tier",), ("vegan",), ("tier", "vegan")]))
    conditions = {}
    for name in chosen:
        known = [v for v in cells.labels(catalog)[name] if v is not None]
        if known:
            conditions[name] = data.draw(st.sampled_from(sorted(set(known))))
    allowed = cells.allow(conditions)
    assert allowed.exact
    # Whichever of its block an item has for first code.
    first = np.cumsum(cells.sizes)[cells.of(catalog)] - 1
    expected = np.ones(len(catalog), bool)
    for name, value in conditions.items():
        expected &= np.asarray([v == value for v in cells.labels(catalog)[name]])
    np.testing.assert_array_equal(allowed.codes[first], expected)
    assert allowed.codes.sum() == sum(
        size
        for size, values in zip(cells.sizes, cells.combinations, strict=True)
        if all(values[COLUMNS.index(n)] == v for n, v in conditions.items())
    )
    if expected.any() and conditions:
        np.testing.assert_array_equal(expected, catalog.where(conditions))


@settings(deadline=None, max_examples=40)
@given(tables, st.integers(2, 20), st.integers(1, 6))
def test_a_merged_cell_loses_no_item_and_is_not_exact(rows, min_items, max_cells):
    catalog = _catalog(rows)
    config = CellConfig(
        columns=COLUMNS, price_bands=2, min_items=min_items, max_cells=max_cells
    )
    cells = Cells.fit(config, catalog, NUM_CODES)
    assert len(cells) <= max_cells
    of = cells.of(catalog)
    counts = Counter(zip(*cells.labels(catalog).values(), strict=True))
    kept = {each for each in cells.combinations if each is not None}
    rest = [n for each, n in counts.items() if each not in kept]
    assert all(counts[each] >= max([min_items, *rest]) for each in kept)
    assert (cells.combinations[-1] is None) == bool(rest)
    first = np.cumsum(cells.sizes)[of] - 1
    for value in ("Private", "National"):
        having = np.asarray([v == value for v in catalog.column("tier")])
        if not having.any():
            continue
        allowed = cells.allow({"tier": value})
        assert allowed.codes[first[having]].all()
        assert allowed.exact == (not rest)
        if allowed.exact:
            assert not allowed.codes[first[~having]].any()


def test_unknown_satisfies_nothing_unless_asked_for():
    rows = [("Private", None, None)] * 20 + [(None, True, None)] * 20
    catalog = _catalog(rows)
    cells = Cells.fit(CONFIG, catalog, 8)
    assert cells.names == (
        "tier=Private, vegan=unknown, price=unknown",
        "tier=unknown, vegan=true, price=unknown",
    )
    known = cells.allow({"tier": "Private"})
    assert known.codes.tolist() == [True] * 4 + [False] * 4
    both = cells.allow({"tier": "Private"}, unknown=True)
    assert both.codes.all() and both.exact
    assert cells.allow({"vegan": "TRUE"}).codes.tolist() == [False] * 4 + [True] * 4


def test_what_the_fit_did_not_see():
    rows = [("Private", True, None)] * 20 + [("National", True, None)] * 20
    seen, unseen = _catalog(rows), _catalog([("Private", False, None)])
    with pytest.raises(InputError, match=r"item '1'.*vegan=false.*reserve_other"):
        Cells.fit(CONFIG, seen, 8).of(unseen)
    spare = Cells.fit(dataclasses.replace(CONFIG, reserve_other=True), seen, 8)
    assert spare.names[-1] == OTHER and spare.sizes[-1] == 1 and spare.items[-1] == 0
    assert spare.of(unseen).tolist() == [2]
    allowed = spare.allow({"tier": "Private"})
    assert allowed.codes[-1] and not allowed.exact
    blank = Cells.fit(CONFIG, _catalog([*rows, *[(None, None, None)] * 5]), 8)
    assert blank.of(unseen).tolist() == [2]
    assert not blank.allow({"tier": "Private"}).codes[-1]
    assert not blank.allow({"tier": "Private"}, unknown=True).exact


def test_a_number_means_its_band():
    catalog = _catalog([("a", True, float(v)) for v in range(40)])
    cells = Cells.fit(CONFIG, catalog, 8)
    assert cells.masks("price").keys() == {"..20", "20.."}
    band, number = cells.allow({"price": "20.."}), cells.allow({"price": "20"})
    assert band.exact and not number.exact
    np.testing.assert_array_equal(band.codes, number.codes)
    first = np.cumsum(cells.sizes)[cells.of(catalog)] - 1
    np.testing.assert_array_equal(band.codes[first], np.arange(40) >= 20)
    with pytest.raises(
        InputError, match=r"price is a number or one of ..20, 20.., not"
    ):
        cells.allow({"price": "cheap"})


@settings(deadline=None, max_examples=10)
@given(tables)
def test_files_round_trip_and_the_fit_knows_no_order(tmp_path_factory, rows):
    catalog = _catalog(rows)
    cells = Cells.fit(CONFIG, catalog, NUM_CODES)
    path = tmp_path_factory.mktemp("cells") / "cells.json"
    cells.save(path)
    assert Cells.load(path) == cells
    assert Cells.fit(CONFIG, catalog.take(range(len(rows))[::-1]), NUM_CODES) == cells


def test_refuses_what_cannot_work(tmp_path):
    catalog = _catalog([(t, v, None) for t in "abcd" for v in (True, False)] * 2)
    with pytest.raises(InputError, match="8 cells of tier, vegan for 4 first codes"):
        Cells.fit(CellConfig(columns=("tier", "vegan"), min_items=1), catalog, 4)
    with pytest.raises(InputError, match="16 items for 17 first codes"):
        Cells.fit(CONFIG, catalog, 17)
    with pytest.raises(InputError, match="no attribute 'teir'"):
        Cells.fit(CellConfig(columns=("teir",)), catalog, 4)
    cells = Cells.fit(CellConfig(columns=("tier",), min_items=1), catalog, 4)
    with pytest.raises(InputError, match="no cell has tier=z; it has a, b, c, d"):
        cells.allow({"tier": "z"})
    with pytest.raises(InputError, match="cells are of tier, not of category"):
        cells.allow({"category": "tea"})
    with pytest.raises(InputError, match="names one twice"):
        CellConfig(columns=("a", "a"))
    with pytest.raises(InputError, match="name at least one attribute"):
        Cells.fit(CellConfig(), catalog, 4)
    for name in ("price_bands", "min_items", "max_cells"):
        with pytest.raises(InputError, match=f"{name} must be at least 1"):
            CellConfig(columns=("a",), **{name: 0})
    path = tmp_path / "cells.json"
    cells.save(path)
    fields = json.loads(path.read_text())
    for text in ("", "[]", "{}", json.dumps(fields | {"schema_version": 9})):
        path.write_text(text)
        with pytest.raises(InputError, match="no cells"):
            Cells.load(path)
    with pytest.raises(InputError, match="no cells"):
        Cells.load(tmp_path / "absent.json")
