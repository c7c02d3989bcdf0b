"""Slices and lists against plain loops."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.slices import (
    count_bins,
    describe_lists,
    sliced_recall,
    tail_items,
)


def test_bins_are_named_by_what_they_hold():
    bins, names = count_bins(np.asarray([[0, 1, 2], [4, 5, 999]]), (0, 1, 2, 5))
    assert names == ["0", "1", "2-4", "5+"]
    assert bins.tolist() == [[0, 1, 2], [2, 3, 3]]
    with pytest.raises(InputError, match="must rise"):
        count_bins(np.asarray([1]), (0, 0, 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_slices_share_out_the_targets(seed):
    rng = np.random.default_rng(seed)
    lists = rng.integers(-1, 9, (7, 4))
    targets = rng.integers(-1, 9, (7, 3))
    bins = rng.integers(-1, 3, (7, 3))
    recalls, number = sliced_recall(lists, targets, bins, 4)
    found, told = Counter(), Counter()
    for row in range(7):
        seen = set()
        for target, place in zip(targets[row], bins[row], strict=True):
            if target >= 0 and target not in seen:
                seen.add(target)
                if place >= 0:
                    told[place] += 1
                    found[place] += target in lists[row]
    for place in range(4):
        assert number[place] == told[place]
        if told[place]:
            assert recalls[place] == pytest.approx(found[place] / told[place])
        else:
            assert math.isnan(recalls[place])


def test_lists_are_described():
    lists = np.asarray([[0, 1, 2, -1], [3, 3, 0, 1], [-1, -1, -1, -1]])
    found = describe_lists(
        lists,
        categories=np.asarray([0, 0, 1, -1, 2]),
        brands=np.asarray([5, -1, 5, 6, 7]),
        firsts=np.asarray([1, 1, 0, 2, 2]),
        tail=np.asarray([True, False, False, True, True]),
    )
    thirds = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert found == {
        "entropy": pytest.approx((thirds + 0) / 2),
        "categories": (2 + 1) / 2,
        "brands": (1 + 2) / 2,
        "firsts": (2 + 2) / 2,
        "confined": pytest.approx((2 / 3 + 2 / 4) / 2),
        "tail": pytest.approx((1 + 3) / 7),
        "coverage": 4 / 5,
    }


def test_a_catalog_without_brands_has_no_number_of_them():
    ones = np.ones(2, int)
    told = {"categories": ones, "firsts": ones, "tail": ones > 0}
    found = describe_lists(np.asarray([[0, 1]]), brands=np.full(2, -1), **told)
    assert math.isnan(found.pop("brands")) and np.isfinite(list(found.values())).all()


def test_no_lists_have_no_figures():
    none = np.full((2, 3), -1)
    ones = np.ones(2, int)
    found = describe_lists(
        none, categories=ones, brands=ones, firsts=ones, tail=ones > 0
    )
    assert all(math.isnan(value) for value in found.values())


def test_the_tail_is_all_but_what_is_bought_most():
    bought = np.asarray([5, 0, 9, 1, 1, 0, 0, 0, 0, 0])
    assert np.flatnonzero(~tail_items(bought)).tolist() == [0, 2]
    assert tail_items(bought, head=0.0).all()
