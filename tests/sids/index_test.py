from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.index import build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.sids.table import Manifest, SidTable

ARRAYS = ("leaves", "starts", "items", "sales")
seeds = st.integers(0, 2**32 - 1)
sizes = st.fixed_dictionaries(
    {
        "num_items": st.integers(1, 25),
        "num_codes": st.integers(1, 4),
        "num_retailers": st.integers(1, 4),
        "num_lines": st.integers(0, 60),
    }
)


def _store(rng, *, num_items, num_codes, num_retailers, num_lines):
    """A table, sales lines of stores that carry its items, and the index of both."""
    codes = rng.integers(0, num_codes, (num_items, 2))
    ids = [f"item{row}" for row in range(num_items)]
    table = SidTable.build(ids, codes, None, Manifest(codebook_sizes=(4, 4)))
    lines = (
        rng.integers(0, num_retailers, num_lines),
        rng.integers(0, num_items, num_lines),
        rng.integers(0, 3, num_lines),
    )
    return table, lines, build_index(table.leaves(), *lines, num_retailers)


def _carried(lines, retailer):
    """Item -> sales at a retailer, the slow way."""
    carried = {}
    for line_retailer, item, sales in zip(*lines, strict=True):
        if line_retailer == retailer:
            carried[int(item)] = carried.get(int(item), 0) + int(sales)
    return carried


def _masks(rng, batch, num_items):
    return [
        None,
        rng.random(num_items) < 0.5,
        rng.random((batch, num_items)) < 0.5,
        np.zeros(num_items, bool),
    ]


def _mask_row(mask, request, num_items):
    if mask is None:
        return np.ones(num_items, bool)
    return mask if mask.ndim == 1 else mask[request]


def _beams(rng, table, batch, num_beams):
    """Distinct leaves a request, scores from a coarse grid; some are no answers."""
    leaves = np.full((batch, num_beams), -1)
    for row in leaves:
        found = rng.permutation(len(table.sids))[:num_beams]
        row[: len(found)] = found
    valid = (leaves >= 0) & (rng.random(leaves.shape) < 0.8)
    scores = -np.sort(rng.integers(0, 3, leaves.shape), axis=1)
    return leaves, np.where(valid, scores, -np.inf).astype(np.float32), valid


@settings(deadline=None, max_examples=50)
@given(seeds, sizes)
def test_allowed_agrees_with_a_filter_over_the_table(seed, sizes):
    rng = np.random.default_rng(seed)
    table, lines, index = _store(rng, **sizes)
    retailers = rng.integers(0, index.num_retailers, 3)
    for mask in _masks(rng, 3, len(table)):
        allowed = index.allowed(retailers, mask)
        counts = index.counts(retailers, mask)
        assert allowed.shape == (3, len(table.sids))
        for request, retailer in enumerate(retailers):
            eligible = _mask_row(mask, request, len(table))
            carried = _carried(lines, retailer)
            for leaf in range(len(table.sids)):
                group = table.items[table.offsets[leaf] : table.offsets[leaf + 1]]
                expected = sum(eligible[item] and item in carried for item in group)
                assert counts[request, leaf] == expected
                assert allowed[request, leaf] == (expected > 0)


@settings(deadline=None, max_examples=50)
@given(
    seeds, sizes, st.integers(1, 12), st.integers(1, 6), st.booleans(), st.booleans()
)
def test_products_agree_with_a_filter_over_the_table(
    seed, sizes, top, num_beams, has_owned, has_exclude
):
    batch = 3
    rng = np.random.default_rng(seed)
    table, lines, index = _store(rng, **sizes)
    retailers = rng.integers(0, index.num_retailers, batch)
    leaves, scores, valid = _beams(rng, table, batch, num_beams)
    owned = exclude = None
    if has_owned:
        shape = (batch, 8)
        owned = rng.integers(-1, len(table), shape), rng.integers(0, 4, shape)
    if has_exclude:
        exclude = rng.integers(-1, len(table), (batch, 3))
    for mask in _masks(rng, batch, len(table)):
        products = index.products(
            leaves,
            scores,
            valid,
            retailers,
            top=top,
            item_mask=mask,
            owned=owned,
            exclude=exclude,
        )
        for request, retailer in enumerate(retailers):
            eligible = _mask_row(mask, request, len(table)).copy()
            if exclude is not None:
                eligible[exclude[request][exclude[request] >= 0]] = False
            own = np.zeros(len(table))
            if owned is not None:
                for item, count in zip(
                    owned[0][request], owned[1][request], strict=True
                ):
                    if item >= 0:
                        own[item] += count
            carried = _carried(lines, retailer)
            expected, served = [], 0
            for beam in np.flatnonzero(valid[request]):
                leaf = leaves[request, beam]
                group = table.items[table.offsets[leaf] : table.offsets[leaf + 1]]
                group = [item for item in group if item in carried]
                total = sum(carried[item] for item in group)
                weights = {
                    item: own[item] + max(carried[item], 0.001) / (1 + total)
                    for item in group
                    if eligible[item]
                }
                served += bool(weights)
                for item, weight in weights.items():
                    shared = weight / sum(weights.values())
                    score = scores[request, beam] + np.log(shared)
                    expected.append((-score, beam, item, leaf))
            expected = sorted(expected)[:top]
            num = len(expected)
            assert products.items[request].tolist() == [
                *(item for _, _, item, _ in expected),
                *[-1] * (top - num),
            ]
            assert products.leaves[request].tolist() == [
                *(leaf for *_, leaf in expected),
                *[-1] * (top - num),
            ]
            np.testing.assert_allclose(
                products.scores[request, :num], [-entry[0] for entry in expected]
            )
            assert (products.scores[request, num:] == -np.inf).all()
            assert len(set(products.items[request, :num])) == num, "an item twice"
            share = served / max(valid[request].sum(), 1)
            np.testing.assert_allclose(products.beam_yield[request], share, rtol=1e-6)


def test_own_purchases_come_before_any_sales_and_unsold_items_last():
    leaves = np.zeros(4, int)
    items = np.arange(4)
    index = build_index(
        leaves, np.zeros(4, int), items, np.asarray([0, 1, 10**6, 5]), 1
    )
    products = index.products(
        np.zeros((1, 1), int),
        np.zeros((1, 1), np.float32),
        np.ones((1, 1), bool),
        np.zeros(1, int),
        top=4,
        owned=(np.asarray([[1]]), np.asarray([[1]])),
    )
    assert products.items.tolist() == [[1, 2, 3, 0]]
    np.testing.assert_allclose(np.exp(products.scores).sum(), 1.0, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seeds, sizes)
def test_the_index_does_not_depend_on_the_order_of_lines(seed, sizes):
    rng = np.random.default_rng(seed)
    table, lines, index = _store(rng, **sizes)
    order = rng.permutation(len(lines[0]))
    shuffled = [column[order] for column in lines]
    other = build_index(table.leaves(), *shuffled, sizes["num_retailers"])
    for name in ARRAYS:
        before, after = getattr(index, name), getattr(other, name)
        np.testing.assert_array_equal(before, after)


def _index():
    lines = np.asarray([[0, 1], [0, 0], [1, 2]])
    return build_index(np.asarray([1, 0, 1]), *lines.T, np.ones(3), 2)


def test_files_round_trip(tmp_path):
    path = tmp_path / "index.npz"
    index = replace(_index(), columns={"price": np.asarray([0.5, 2.0, 1.0])})
    save_index(path, index)
    found = load_index(path)
    assert found.columns.keys() == {"price"}
    for before, after in [
        *((getattr(i, name) for i in (index, found)) for name in ARRAYS),
        (index.columns["price"], found.columns["price"]),
    ]:
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_other_files_are_refused(tmp_path):
    save_index(tmp_path / "index.npz", _index())
    whole = (tmp_path / "index.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name, message in [
        ("none.npz", "cannot be read"),
        ("half.npz", "cannot be read"),
        ("other.npz", "is no item index"),
    ]:
        with pytest.raises(InputError, match=rf"{name} .*{message}"):
            load_index(tmp_path / name)


@pytest.mark.parametrize(
    ("retailer", "item", "leaf", "sales", "message"),
    [
        (2, 0, 0, 1, r"retailer 2 is outside 0\.\.1"),
        (0, 9, 0, 1, r"item 9 is outside 0\.\.2"),
        (0, 0, -1, 1, "leaf -1"),
        (0, 0, 0, -1, "sales -1"),
        (0, 0, 0, np.nan, "sales nan"),
    ],
)
def test_bad_lines_are_refused(retailer, item, leaf, sales, message):
    with pytest.raises(InputError, match=message):
        build_index(
            np.asarray([0, 0, leaf]),
            np.asarray([retailer]),
            np.asarray([item]),
            np.asarray([sales]),
            2,
        )


def test_bad_requests_are_refused():
    index = _index()
    with pytest.raises(InputError, match="no retailer 5; the index has 0 to 1"):
        index.allowed(np.asarray([0, 5]))
    with pytest.raises(InputError, match="item_mask of shape"):
        index.allowed(np.asarray([0, 1]), np.ones(2, bool))
    with pytest.raises(InputError, match="item_mask of shape"):
        index.allowed(np.asarray([0, 1]), np.ones((3, 3), bool))
    with pytest.raises(InputError, match="entry_mask of shape"):
        index.allowed(np.asarray([0, 1]), entry_mask=np.ones(9, bool))
    beams = np.zeros((1, 1), int), np.zeros((1, 1)), np.ones((1, 1), bool)
    for bad in (lambda found: 0 * found.sales, lambda found: np.ones(9)):
        with pytest.raises(InputError, match="weights above 0, one a candidate"):
            index.products(*beams, np.zeros(1, int), top=1, rule=bad)
    with pytest.raises(InputError, match="column 'brand' holds objects"):
        brand = np.asarray(["a"], object)
        one = np.zeros(1, int)
        build_index(one, one, one, one, 1, {"brand": brand})
    nothing = build_index(np.zeros(1, int), *[np.zeros(0, int)] * 3, 1)
    assert nothing.entries_of(np.zeros(1, int), np.asarray([[0, 7]])).max() == -1
    with pytest.raises(InputError, match="top must be >= 1"):
        index.products(*beams, np.zeros(1, int), top=0)


def test_columns_tell_what_the_last_line_says():
    retailers, items = np.asarray([[0, 2], [1, 0], [0, 2], [0, 1]]).T
    price = np.asarray([1.0, 2.0, 3.0, 4.0])
    index = build_index(
        np.asarray([1, 0, 1]), retailers, items, np.ones(4), 2, {"price": price}
    )
    asked = np.asarray([[0, 1, 2, -1], [0, 1, 2, 0]])
    entries = index.entries_of(np.asarray([0, 1]), asked)
    told = np.where(entries < 0, np.nan, index.columns["price"][entries])
    np.testing.assert_array_equal(
        told, [[np.nan, 4, 3, np.nan], [2, np.nan, np.nan, 2]]
    )


@settings(deadline=None, max_examples=20)
@given(seeds, sizes)
def test_what_is_out_of_stock_is_as_if_not_carried(seed, sizes):
    rng = np.random.default_rng(seed)
    table, _, whole = _store(rng, **sizes)
    stocked = rng.random(len(whole.items)) < 0.6
    retailers = np.repeat(np.arange(whole.num_retailers), np.diff(whole.starts))
    part = build_index(
        whole.leaves,
        retailers[stocked],
        whole.items[stocked].astype(int),
        whole.sales[stocked],
        whole.num_retailers,
    )
    asked = rng.integers(0, whole.num_retailers, 3)
    np.testing.assert_array_equal(
        whole.allowed(asked, entry_mask=stocked), part.allowed(asked)
    )
    leaves, scores, valid = _beams(rng, table, 3, 4)
    told = {"top": 5, "rule": lambda found: 1.0 + found.items}  # knows no sales
    found, wanted = (
        index.products(leaves, scores, valid, asked, **told, **mask)
        for index, mask in ((whole, {"entry_mask": stocked}), (part, {}))
    )
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)


def test_a_rule_shares_out_a_sids_probability():
    index = build_index(
        np.asarray([0, 0, 0]), np.zeros(3, int), np.arange(3), np.asarray([5, 1, 0]), 1
    )
    price = np.asarray([3.0, 1.0, 2.0])
    beams = np.zeros((1, 1), int), np.zeros((1, 1)), np.ones((1, 1), bool)
    cheap = index.products(
        *beams, np.zeros(1, int), top=3, rule=lambda found: 1 / price[found.items]
    )
    assert cheap.items.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(np.exp(cheap.scores).sum(), 1, rtol=1e-6)
    usual = index.products(*beams, np.zeros(1, int), top=3)
    assert usual.items.tolist() == [[0, 1, 2]]
