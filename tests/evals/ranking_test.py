import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.ranking import (
    bootstrap_interval,
    contains,
    first_places,
    mean,
    merge,
    ranking_metrics,
    ranking_values,
)


@st.composite
def requests(draw):
    batch, k, t = (draw(st.integers(0, 5)) for _ in range(3))
    ids = st.integers(-1, 6)
    rows = lambda width: draw(  # noqa: E731
        st.lists(
            st.lists(ids, min_size=width, max_size=width),
            min_size=batch,
            max_size=batch,
        )
    )
    lists = np.asarray(rows(k), np.int32).reshape(batch, k)
    return lists, np.asarray(rows(t), np.int64).reshape(batch, t)


def _naive(recommended, targets, k):
    recalls, gains = [], []
    for listed, wanted in zip(recommended.tolist(), targets.tolist(), strict=True):
        wanted = {i for i in wanted if i >= 0}
        if not wanted:
            continue
        dcg, seen = 0.0, set()
        for rank, item in enumerate(listed[:k], start=1):
            if item in wanted and item not in seen:
                dcg += 1 / math.log2(1 + rank)
                seen.add(item)
        best = sum(1 / math.log2(1 + r) for r in range(1, min(k, len(wanted)) + 1))
        recalls.append(len(seen) / len(wanted))
        gains.append(dcg / best)
    return (sum(recalls), len(recalls)), (sum(gains), len(gains))


@settings(deadline=None, max_examples=50)
@given(requests(), st.integers(1, 8))
def test_equals_the_loop(case, k):
    recommended, targets = case
    metrics = ranking_metrics(recommended, targets, ks=(k, 3), prefix="new/")
    recall, ndcg = _naive(recommended, targets, k)
    np.testing.assert_allclose(metrics[f"new/recall@{k}"], recall)
    np.testing.assert_allclose(metrics[f"new/ndcg@{k}"], ndcg)
    names = {f"new/{m}@{n}" for m in ("recall", "ndcg") for n in (k, 3)}
    assert set(metrics) == names | {"new/mrr"}


@settings(deadline=None, max_examples=50)
@given(requests())
def test_reciprocal_rank_is_that_of_the_first_hit(case):
    recommended, targets = case
    found = ranking_values(recommended, targets)["mrr"]
    for value, listed, wanted in zip(found, recommended, targets, strict=True):
        wanted = {i for i in wanted.tolist() if i >= 0}
        ranks = [r for r, item in enumerate(listed, 1) if item in wanted]
        if not wanted:
            assert math.isnan(value)
        else:
            assert value == (1 / ranks[0] if ranks else 0)


def test_the_interval_of_a_coin_is_what_the_binomial_says():
    values = (np.arange(400) % 4 == 0).astype(float)
    low, high = bootstrap_interval(np.append(values, np.nan), resamples=4000)
    spread = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - spread, abs=0.005)
    assert high == pytest.approx(0.25 + spread, abs=0.005)
    assert all(math.isnan(end) for end in bootstrap_interval(np.asarray([np.nan])))


@settings(deadline=None, max_examples=25)
@given(requests(), st.integers(0, 5))
def test_parts_merge_to_the_whole(case, cut):
    recommended, targets = case
    whole = ranking_metrics(recommended, targets)
    parts = merge(
        ranking_metrics(recommended[:cut], targets[:cut]),
        ranking_metrics(recommended[cut:], targets[cut:]),
    )
    for name, pair in whole.items():
        np.testing.assert_allclose(parts[name], pair)
    np.testing.assert_allclose(list(mean(parts).values()), list(mean(whole).values()))


def test_merge_keeps_names_of_either_side():
    merged = merge({"a": (1.0, 2.0)}, {"b": (3.0, 4.0), "a": (1.0, 1.0)})
    assert merged == {"a": (2.0, 3.0), "b": (3.0, 4.0)}


def test_targets_first_is_perfect_and_nothing_counted_is_nan():
    targets = np.asarray([[4, 2, -1]])
    best = mean(ranking_metrics(np.asarray([[2, 4, 9]]), targets, ks=(2, 5)))
    assert set(best.values()) == {1.0}
    none = ranking_metrics(np.asarray([[2]]), np.asarray([[-1]]), ks=(5,))
    assert set(none) == {"recall@5", "ndcg@5", "mrr"}
    assert set(none.values()) == {(0.0, 0.0)}
    assert all(math.isnan(value) for value in mean(none).values())


@settings(deadline=None, max_examples=25)
@given(requests())
def test_sets_by_row(case):
    ids, sets = case
    for i, (row, members) in enumerate(zip(ids.tolist(), sets.tolist(), strict=True)):
        assert contains(sets, ids)[i].tolist() == [x >= 0 and x in members for x in row]
        first = [x >= 0 and x not in row[:j] for j, x in enumerate(row)]
        assert first_places(ids)[i].tolist() == first


def test_a_cutoff_below_one_is_refused():
    with pytest.raises(InputError, match="cutoffs"):
        ranking_metrics(np.zeros((1, 1), int), np.zeros((1, 1), int), ks=(0,))
