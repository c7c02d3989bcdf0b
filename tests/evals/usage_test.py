"""Skew and branching against loops over items."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.usage import (
    LevelUse,
    branching,
    collisions,
    level_use,
    prefix_nodes,
    usage_metrics,
)

SIZES = (2, 5, 3)


@st.composite
def code_tables(draw):
    row = st.tuples(*(st.integers(0, size - 1) for size in SIZES))
    return np.asarray(draw(st.lists(row, min_size=1, max_size=30)), np.int32)


def _entropy(counts):
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_skew_is_that_of_all_pairs_of_codes(counts):
    """Gini: mean absolute difference of two codes over twice the mean."""
    use = LevelUse(np.asarray(counts))
    if not sum(counts):
        assert math.isnan(use.gini) and math.isnan(use.top)
        return
    mean = sum(counts) / len(counts)
    apart = np.mean([[abs(a - b) for a in counts] for b in counts])
    assert use.gini == pytest.approx(apart / 2 / mean, abs=1e-12)
    assert use.top == max(counts) / sum(counts)
    assert use.nats == pytest.approx(_entropy(counts), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(code_tables(), st.data())
def test_purchases_weigh_as_copies_of_the_item(codes, data):
    times = data.draw(
        st.lists(st.integers(0, 4), min_size=len(codes), max_size=len(codes))
    )
    found = usage_metrics(codes, SIZES, np.asarray(times, float))
    copies = np.repeat(codes, times, axis=0)
    if not len(copies):
        assert all(math.isnan(v) for k, v in found.items() if "purchase" in k)
        return
    for name, value in usage_metrics(copies, SIZES).items():
        kind, level = name.split("@")
        assert found[f"{kind}_by_purchase@{level}"] == pytest.approx(value, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(code_tables())
def test_nodes_collisions_and_branching_equal_the_loop(codes):
    nodes = prefix_nodes(codes)
    groups = Counter(map(tuple, codes.tolist()))
    assert collisions(codes)["mean_group"] == pytest.approx(len(codes) / len(groups))
    found, before = branching(codes), 0.0
    for level in (1, 2, 3):
        prefixes = [tuple(row) for row in codes[:, :level].tolist()]
        ranks = {prefix: rank for rank, prefix in enumerate(sorted(set(prefixes)))}
        assert nodes[:, level - 1].tolist() == [ranks[each] for each in prefixes]
        children = Counter(prefix[:-1] for prefix in ranks)
        mean = sum(children.values()) / len(children)
        assert found[f"branching@{level}"] == pytest.approx(mean)
        entropy = _entropy(Counter(prefixes).values())
        assert found[f"conditional_entropy@{level}"] == pytest.approx(
            entropy - before, abs=1e-9
        )
        before = entropy


def test_what_is_no_weight_is_refused():
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="item row 1"):
            level_use(np.zeros((2, 1), int), (1,), np.asarray([1.0, bad]))
