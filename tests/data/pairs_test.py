"""Pairs are those counted by hand, and batches say how they were drawn."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data import pairs as pairs_module
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.pairs import PAIRS, Pairs, mine_pairs, pair_stream, read_pairs
from sid_jax.errors import InputError

ITEMS = 9
baskets = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7, unique=True)
households = st.lists(st.lists(baskets, min_size=1, max_size=6), min_size=1, max_size=5)


def make_data(households):
    rows = [
        (f"u{user}", time, basket)
        for user, bought in enumerate(households)
        for time, basket in enumerate(bought)
    ]
    return Interactions.from_baskets(*zip(*rows, strict=True))


def mine_by_hand(households, window, max_basket):
    """Counts and PMI of every pair, from all ordered pairs of near baskets."""
    units, alone, together = 0, Counter(), Counter()
    for bought in households:
        short = [basket for basket in bought if len(basket) <= max_basket]
        for e, first in enumerate(short):
            for f, second in enumerate(short):
                if abs(e - f) <= window:
                    units += 1
                    alone.update(first)
                    together.update((i, j) for i in first for j in second if i < j)
    return {
        (i, j): (count, np.log(count * units / (alone[i] * alone[j])))
        for (i, j), count in together.items()
    }


@settings(deadline=None, max_examples=100)
@given(
    households,
    st.integers(1, 4),
    st.sampled_from([-5.0, 0.0, 0.3]),
    st.integers(0, 3),
    st.integers(1, 7),
    st.sampled_from([1, 20, 1 << 24]),
)
def test_pairs_are_those_counted_by_hand(
    households, support, least, window, max_basket, block
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "_BLOCK", block)
        found = mine_pairs(
            make_data(households),
            ITEMS,
            min_support=support,
            min_pmi=least,
            window=window,
            max_basket=max_basket,
        )
    wanted = {
        pair: (count, pmi)
        for pair, (count, pmi) in mine_by_hand(households, window, max_basket).items()
        if count >= support and pmi >= least - 1e-9
    }
    both = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert both == sorted(wanted)
    assert found.count.tolist() == [wanted[pair][0] for pair in both]
    np.testing.assert_allclose(
        found.pmi, [wanted[pair][1] for pair in both], rtol=1e-5, atol=1e-6
    )
    assert [each.dtype for each in vars(found).values()] == [np.int32] * 3 + [
        np.float32
    ]


def test_chance_is_zero_and_a_sequence_needs_a_window():
    # Two items that are independent, and one pair that is always together.
    data = make_data([[[0, 1, 2, 3], [0, 2, 3], [1], [4]]])
    found = mine_pairs(data, ITEMS, min_support=1)
    pmi = dict(zip(zip(found.left, found.right, strict=True), found.pmi, strict=True))
    assert pmi[0, 1] == 0 and pmi[2, 3] == np.float32(np.log(2))
    assert (1, 2) in pmi and len(pmi) == 6
    line = make_data([[[0], [1], [2]], [[0], [1]]])
    assert len(mine_pairs(line, ITEMS, min_support=1)) == 0
    found = mine_pairs(line, ITEMS, min_support=2, window=1, min_pmi=-9.0)
    assert (found.left.tolist(), found.right.tolist()) == ([0], [1])


@settings(deadline=None, max_examples=20)
@given(households=households, names=st.permutations(range(ITEMS)), rng=st.randoms())
def test_a_file_of_pairs_in_any_order_is_read_as_mined(
    households, names, rng, tmp_path_factory
):
    mined = mine_pairs(make_data(households), ITEMS, min_support=1, min_pmi=-9.0)
    ids = [f"p{name}" for name in names]
    ends = zip(mined.left.tolist(), mined.right.tolist(), strict=True)
    rows = [
        {"left": left, "right": right, "count": count, "pmi": pmi}
        for (left, right), count, pmi in zip(
            [sorted((ids[i], ids[j])) for i, j in ends],
            mined.count.tolist(),
            mined.pmi.tolist(),
            strict=True,
        )
    ]
    rng.shuffle(rows)
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), path)
    found = read_pairs(path, Catalog.from_columns(ids))
    for name, value in vars(mined).items():
        assert vars(found)[name].dtype == value.dtype
        np.testing.assert_array_equal(vars(found)[name], value)


def test_a_file_of_other_pairs_is_refused(tmp_path):
    path = tmp_path / "pairs.parquet"
    rows = [{"left": "a", "right": "b", "count": 1, "pmi": 0.0}]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), path)
    with pytest.raises(InputError, match="not in the catalog of 1 items: 'b'"):
        read_pairs(path, Catalog.from_columns(["a"]))
    pq.write_table(pa.table({"left": ["a"]}), path)
    for each in (path, tmp_path / "absent.parquet"):
        with pytest.raises(InputError, match="no file of pairs"):
            read_pairs(each, Catalog.from_columns(["a"]))


def draw_pairs(seed):
    rng = np.random.default_rng(seed)
    chosen = np.triu(rng.random((ITEMS, ITEMS)) < 0.4, 1)
    chosen[0, 1] = True
    left, right = np.nonzero(chosen)
    return Pairs(
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        count=rng.integers(1, 30, len(left)).astype(np.int32),
        pmi=np.ones(len(left), np.float32),
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(1, 4))
def test_batches_are_pairs_and_exclude_what_is_known(seed, step, each):
    pairs = draw_pairs(seed)
    known = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    stream = pair_stream(pairs, ITEMS, 4 * each, seed=seed)
    batch = stream(step)
    items = batch["items"].tolist()
    assert len(items) == 8 * each
    assert all(pair in known for pair in zip(items[::2], items[1::2], strict=True))
    for i, first in enumerate(items):
        for j, second in enumerate(items):
            pair = (min(first, second), max(first, second))
            wanted = (first == second or pair in known) and j != i ^ 1
            assert batch["excluded"][i, j] == wanted
    stream(step + 1)
    for name, wanted in batch.items():
        np.testing.assert_array_equal(stream(step)[name], wanted)
        parts = [
            pair_stream(pairs, ITEMS, 4 * each, seed=seed, process=p, num_processes=4)(
                step
            )[name]
            for p in range(4)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), wanted)
    assert batch["items"].dtype == np.int32
    assert batch["log_prob"].dtype == np.float32


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_probabilities_are_the_frequencies_of_the_draws(power):
    pairs = draw_pairs(1)
    stream = pair_stream(pairs, ITEMS, 2000, seed=0, power=power)
    drawn, told = Counter(), {}
    for step in range(10):
        batch = stream(step)
        items = batch["items"].tolist()
        drawn.update(zip(items[::2], items[1::2], strict=True))
        told.update(zip(items, batch["log_prob"].tolist(), strict=True))
    weights = pairs.count.astype(float) ** power
    for left, right, weight in zip(pairs.left, pairs.right, weights, strict=True):
        share = drawn[left, right] / 20_000
        np.testing.assert_allclose(share, weight / weights.sum(), atol=0.01)
    rows = Counter(item for pair, n in drawn.items() for item in pair for _ in range(n))
    for item, log_prob in told.items():
        np.testing.assert_allclose(rows[item] / 40_000, np.exp(log_prob), atol=0.01)
    np.testing.assert_allclose(sum(map(np.exp, told.values())), 1, rtol=1e-5)


def test_what_cannot_work_is_refused():
    data = make_data([[[0, 1, 5]]])
    for field in ("min_support", "window", "max_basket"):
        with pytest.raises(InputError, match=f"{field}=-1"):
            mine_pairs(data, ITEMS, **{field: -1})
    with pytest.raises(InputError, match="min_pmi=nan"):
        mine_pairs(data, ITEMS, min_pmi=float("nan"))
    with pytest.raises(InputError, match="row 5, but the catalog has 5"):
        mine_pairs(data, 5)
    nothing = mine_pairs(data, ITEMS, max_basket=2, min_support=1)
    with pytest.raises(InputError, match="lower min_support"):
        pair_stream(nothing, ITEMS, 2, seed=0)
    with pytest.raises(InputError, match="batch_pairs 3"):
        pair_stream(draw_pairs(0), ITEMS, 3, seed=0, num_processes=2)
    with pytest.raises(InputError, match="power=-1"):
        pair_stream(draw_pairs(0), ITEMS, 2, seed=0, power=-1.0)
