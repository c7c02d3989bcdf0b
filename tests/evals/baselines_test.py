from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.baselines import count_sales, nearest, popular, repeats, rule

RETAILERS, ITEMS = 2, 6


@st.composite
def worlds(draw):
    """Sales lines and a batch of requests over a few retailers and items."""
    pair = st.tuples(st.integers(0, RETAILERS - 1), st.integers(0, ITEMS - 1))
    lines = draw(st.lists(st.tuples(pair, st.integers(1, 3)), max_size=25))
    batch = draw(st.integers(0, 4))
    table = lambda width, values: np.asarray(  # noqa: E731
        [[draw(values) for _ in range(width)] for _ in range(batch)], np.int32
    ).reshape(batch, width)
    retailers = table(1, st.integers(0, RETAILERS - 1))[:, 0]
    width = draw(st.integers(0, ITEMS + 2))
    # An owned item stands once; two more than the catalog has were never sold.
    orders = [draw(st.permutations(range(ITEMS + 2)))[:width] for _ in range(batch)]
    items = np.asarray(orders, np.int32).reshape(batch, width)
    counts = table(width, st.integers(0, 2))
    items = np.where(counts > 0, items, -1)
    exclude = table(draw(st.integers(0, 3)), st.integers(-1, ITEMS))
    return lines, retailers, (items, counts), exclude, draw(st.integers(1, 7))


def _store(lines):
    (retailers, items), sales = (
        np.asarray([line[0] for line in lines], np.int64).reshape(-1, 2).T,
        np.asarray([line[1] for line in lines], np.int64),
    )
    return count_sales(retailers, items, RETAILERS, sales)


def _naive(lines, retailer, owned, excluded, k):
    """The three lists of one request, by plain sorting."""
    sold = Counter()
    for (r, item), sales in lines:
        if r == retailer:
            sold[item] += sales
    free = [i for i in sold if i not in excluded]
    best = sorted(free, key=lambda i: (-sold[i], i))
    counts = {i: c for i, c in zip(*owned, strict=True) if i >= 0 and c > 0}
    own = sorted(
        (i for i in counts if i in free), key=lambda i: (-counts[i], -sold[i], i)
    )
    both = own + [i for i in best if i not in own]
    return [(x + [-1] * k)[:k] for x in (best, own, both)]


@settings(deadline=None, max_examples=150)
@given(worlds())
def test_equal_the_loop(world):
    lines, retailers, owned, exclude, k = world
    store = _store(lines)
    lists = (
        popular(store, retailers, k, exclude),
        repeats(store, retailers, owned, k, exclude),
        rule(store, retailers, owned, k, exclude),
    )
    for i, retailer in enumerate(retailers.tolist()):
        own = (owned[0][i].tolist(), owned[1][i].tolist())
        wanted = _naive(lines, retailer, own, exclude[i].tolist(), k)
        assert [ranked[i].tolist() for ranked in lists] == wanted


@settings(deadline=None, max_examples=100)
@given(worlds(), st.integers(0, 3))
def test_the_nearest_equal_the_loop(world, length):
    lines, retailers, _, exclude, k = world
    rng = np.random.default_rng(len(lines))
    vectors = rng.normal(size=(ITEMS + 2, 3)).astype(np.float32)
    history = rng.integers(-1, ITEMS + 2, (len(retailers), length))
    store = _store(lines)
    found = nearest(store, retailers, vectors, history, k, exclude, decay=0.5)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, retailer in enumerate(retailers.tolist()):
        last = [item for item in history[i].tolist() if item >= 0][::-1]
        wanted = sum((units[x] * 0.5**ago for ago, x in enumerate(last)), np.zeros(3))
        sold = Counter()
        for (r, item), sales in lines:
            sold[item] += sales * (r == retailer)
        free = [x for x in sold if sold[x] and x not in exclude[i]]
        scores = {x: round(float(wanted @ units[x]), 5) for x in free}
        best = sorted(free, key=lambda x: (-scores[x], -sold[x], x))
        assert found[i].tolist() == (best + [-1] * k)[:k]


@settings(deadline=None, max_examples=25)
@given(worlds())
def test_nothing_excluded_is_an_empty_basket(world):
    lines, retailers, owned, exclude, k = world
    store, empty = _store(lines), np.full_like(exclude, -1)
    assert (popular(store, retailers, k) == popular(store, retailers, k, empty)).all()
    assert (
        rule(store, retailers, owned, k) == rule(store, retailers, owned, k, empty)
    ).all()


@settings(deadline=None, max_examples=25)
@given(worlds())
def test_a_line_sold_n_times_is_n_lines(world):
    pairs = [pair for pair, sales in world[0] for _ in range(sales)]
    retailers, items = np.asarray(pairs, np.int64).reshape(-1, 2).T
    single = count_sales(retailers, items, RETAILERS)
    summed = _store(world[0])
    for name in ("offsets", "items", "sales"):
        np.testing.assert_array_equal(getattr(single, name), getattr(summed, name))


def test_bad_retailers_are_named():
    one = np.asarray([0])
    store = count_sales(one, one, 1)
    with pytest.raises(InputError, match="request 1: retailer 5"):
        popular(store, np.asarray([0, 5]), 3)
    with pytest.raises(InputError, match="from 0 to 0"):
        count_sales(np.asarray([1]), one, 1)
