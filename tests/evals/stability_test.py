"""Stability figures against brute force, and what renumbering does to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.align import rename
from sid_jax.evals.stability import (
    StabilityLimits,
    compare_codes,
    judge,
    known_prefixes,
    moves,
    same_clusters,
    same_codes,
    surviving,
)

SIZES = (3, 4, 2)
seeds = st.integers(0, 2**32 - 1)


def draw(seed, rows=30, moved=0.3):
    """Codes of two versions, of which some items moved."""
    rng = np.random.default_rng(seed)
    old = np.stack([rng.integers(size, size=rows) for size in SIZES], axis=1)
    other = np.stack([rng.integers(size, size=rows) for size in SIZES], axis=1)
    return old, np.where(rng.random((rows, 1)) < moved, other, old), rng


def compare(old, new, edited=None, **words):
    rows = np.arange(len(old))
    edited = np.zeros(len(old), bool) if edited is None else edited
    sizes = (SIZES[: old.shape[1]], SIZES[: new.shape[1]])
    return compare_codes(old, new, sizes, (rows, rows), edited, **words)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_figures_are_what_their_words_say(seed):
    old, new, rng = draw(seed)
    weights = rng.integers(0, 4, len(old)).astype(float)
    weights[0] = 1
    for each in (None, weights):
        found = same_codes(old, new, each)
        w = np.ones(len(old)) if each is None else each
        total, pairs = 0.0, list(zip(old, new, strict=True))
        for level in range(1, len(SIZES) + 1):
            same = [tuple(a[:level]) == tuple(b[:level]) for a, b in pairs]
            match = w @ same / w.sum()
            assert found[f"prefix_match@{level}"] == pytest.approx(match)
            differ = old[:, level - 1] != new[:, level - 1]
            assert found[f"churn@{level}"] == pytest.approx(w @ differ / w.sum())
            total += match
        assert found["exact"] == pytest.approx(match)
        assert found["common_prefix"] == pytest.approx(total / len(SIZES))
    company = same_clusters(old, new)
    for level in range(1, len(SIZES) + 1):
        a = [tuple(sid[:level]) for sid in old]
        b = [tuple(sid[:level]) for sid in new]
        lives = np.mean([node in set(b) for node in set(a)])
        assert surviving(old, new)[f"surviving@{level}"] == pytest.approx(lives)
        known = np.mean([node in set(a) for node in b])
        assert known_prefixes(old, new)[f"known_prefix@{level}"] == pytest.approx(known)
        overlaps = []
        for i in range(len(old)):
            left = {j for j in range(len(old)) if a[j] == a[i]} - {i}
            right = {j for j in range(len(old)) if b[j] == b[i]} - {i}
            if left | right:
                overlaps.append(len(left & right) / len(left | right))
        assert company[f"jaccard@{level}"] == pytest.approx(np.mean(overlaps))


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_renumbering_is_told_from_clustering_anew(seed):
    old, new, rng = draw(seed, rows=80, moved=0.0)
    new = rename(new, [np.roll(np.arange(size), 1) for size in SIZES])
    values = compare(old, new).values
    assert values["unchanged/exact"] == 0
    assert values["aligned/unchanged/exact"] == 1
    assert values["unchanged/churn@1"] == 1
    for level in range(1, len(SIZES) + 1):
        assert values[f"unchanged/ami@{level}"] == pytest.approx(1)
        assert values[f"unchanged/jaccard@{level}"] == pytest.approx(1)
        assert values[f"aligned/trie/surviving@{level}"] == 1
    shuffled = compare(old, rng.permutation(old)).values
    assert abs(shuffled["unchanged/ami@1"]) < 0.2  # corrected for chance


def test_groups_are_judged_apart():
    old = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [2, 3, 1], [2, 3, 0]])
    new = np.array([[2, 3, 1], [0, 0, 0], [0, 1, 1], [2, 0, 0], [1, 2, 1]])
    rows = (np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0]))  # item 4 went; new 4 came
    new[0] = [2, 3, 1]
    edited = np.array([False, False, True, False])
    bought = np.array([3.0, 1.0, 5.0, 0.0])
    values = compare_codes(old, new, (SIZES, SIZES), rows, edited, bought).values
    assert values["unchanged/prefix_match@2"] == 1
    assert values["unchanged/exact"] == pytest.approx(2 / 3)
    assert values["unchanged/purchases/exact"] == pytest.approx(3 / 4)
    assert values["edited/prefix_match@1"] == 0
    assert values["added/known_prefix@1"] == 1
    assert values["added/known_prefix@2"] == 0
    assert values["trie/surviving@1"] == 1
    assert values["trie/surviving@3"] == pytest.approx(2 / 5)
    assert "unchanged/purchases/surviving@1" not in values


def test_a_group_without_items_has_no_figures_and_does_not_pass():
    old, new, _ = draw(0)
    values = compare(old, new, np.ones(len(old), bool)).values
    assert not any(name.startswith(("unchanged/", "added/")) for name in values)
    checks = judge(values, StabilityLimits(prefix_match=(0.0,)), 3)
    assert [check.passed for check in checks] == [False]
    none = compare(old, new, purchases=np.zeros(len(old))).values
    assert not any("purchases" in name for name in none)


def test_versions_of_other_depth_share_prefixes_and_no_sid():
    old, _, _ = draw(3)
    for left, right in ((old, old[:, :2]), (old[:, :2], old)):
        found = compare(left, right)
        assert found.num_levels == len(found.permutations) == 2
        assert found.values["unchanged/prefix_match@2"] == 1
        assert found.values["unchanged/exact"] == 0
        assert "unchanged/prefix_match@3" not in found.values


def test_no_common_item_is_refused():
    old, new, _ = draw(0)
    none = np.zeros(0, np.int64)
    with pytest.raises(InputError, match="no item is in both versions"):
        compare_codes(old, new, (SIZES, SIZES), (none, none), np.zeros(0, bool))


def test_limits_judge_the_levels_that_they_name():
    values = {
        "unchanged/prefix_match@1": 0.99,
        "unchanged/prefix_match@2": 0.5,
        "aligned/unchanged/prefix_match@1": 1.0,
        "aligned/unchanged/prefix_match@2": 0.9,
    }

    def passed(limits, num_levels=2, view=""):
        checks = judge(values, StabilityLimits(prefix_match=limits), num_levels, view)
        return [check.passed for check in checks]

    assert passed((0.99, 0.51)) == [True, False]
    assert passed((0.99,)) == [True]  # deeper levels are free
    assert passed((0.99, 0.5, 1.0, 1.0)) == [True, True]  # as there are two levels
    assert passed((0.99, 0.9), view="aligned/") == [True, True]
    assert passed(()) == []
    both = StabilityLimits(prefix_match=(), purchased_prefix_match=(0.9,))
    assert judge(values, both, 2) == []
    bought = {"unchanged/purchases/exact": 1, "unchanged/purchases/prefix_match@1": 0.8}
    assert [check.passed for check in judge(bought, both, 2)] == [False]


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_limit_that_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="is no share between"):
        StabilityLimits(prefix_match=(0.5, share))


def test_moves_count_every_item_once():
    old, new, _ = draw(1)
    table = moves(old[:, 0], new[:, 1], (3, 4))
    for k in range(3):
        for j in range(4):
            assert table[k, j] == np.sum((old[:, 0] == k) & (new[:, 1] == j))
