"""Alignment undoes a renumbering, and is the best there is by brute force."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.evals.align import align_codes, rename

seeds = st.integers(0, 2**32 - 1)


def draw(seed, sizes, rows=60):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=rows) for size in sizes], axis=1), rng


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_a_renumbering_is_undone(seed):
    sizes = (4, 7, 3)
    old, rng = draw(seed, sizes)
    new = rename(old, [rng.permutation(size) for size in sizes])
    names = align_codes(old, new, sizes, sizes)
    np.testing.assert_array_equal(rename(new, names), old)


@settings(deadline=None, max_examples=30)
@given(seeds, st.sampled_from([(4, 4), (4, 2), (2, 4)]))
def test_no_other_renaming_of_a_level_agrees_more(seed, sizes):
    size_old, size_new = sizes
    (old, _), (new, _) = draw(seed, (3, size_old)), draw(seed + 1, (3, size_new))
    for weight in (1.0, 5.0):
        names = align_codes(
            old, new, (3, size_old), (3, size_new), prefix_weight=weight
        )
        for p, size in zip(names, (3, size_new), strict=True):
            np.testing.assert_array_equal(np.sort(p), np.arange(size))
        agrees = names[0][new[:, 0]] == old[:, 0]
        weights = np.where(agrees, weight, 1.0)

        def score(p, level, weights):
            return weights @ (np.asarray(p)[new[:, level]] == old[:, level])

        for level, each in ((0, np.ones(len(old))), (1, weights)):
            best = max(
                score(p, level, each) for p in permutations(range((3, size_new)[level]))
            )
            assert score(names[level], level, each) == pytest.approx(best)


def test_the_prefix_decides_where_it_weighs_more():
    # Level 2: code 0 means 0 to two items whose first code agrees, 1 to three others.
    old = np.array([[0, 0]] * 2 + [[1, 1]] * 4 + [[0, 1]] * 3)
    new = np.array([[0, 0]] * 2 + [[1, 1]] * 4 + [[1, 0]] * 3)
    old[2:6, 1] = 2
    sizes = (2, 3)
    assert align_codes(old, new, sizes, sizes, prefix_weight=1.0)[1][0] == 1
    assert align_codes(old, new, sizes, sizes, prefix_weight=10.0)[1][0] == 0


def test_unused_codes_keep_their_number_where_it_is_free():
    old, new = np.array([[5], [5], [1]]), np.array([[2], [2], [1]])
    (names,) = align_codes(old, new, (6,), (6,))
    np.testing.assert_array_equal(names, [0, 1, 5, 3, 4, 2])
    (names,) = align_codes(old, new, (6,), (3,))  # 5 is past the new codebook's end
    np.testing.assert_array_equal(names, [0, 1, 2])
    (names,) = align_codes(old[:0], new[:0], (6,), (3,))
    np.testing.assert_array_equal(names, [0, 1, 2])


def test_levels_without_a_permutation_keep_their_codes():
    renamed = rename(np.array([[0, 1], [1, 0]]), [np.array([1, 0])])
    np.testing.assert_array_equal(renamed, [[1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"sizes_old": (2,)}, "old codes have 2 levels, but 1 sizes"),
        ({"sizes_new": (2, 2)}, "new codes, row 1: code 2 of level 2 is outside"),
        ({"prefix_weight": 0.0}, "prefix_weight must be positive"),
    ],
)
def test_what_does_not_fit_is_named(words, message):
    codes = np.array([[0, 1], [1, 2]])
    given = {"sizes_old": (2, 3), "sizes_new": (2, 3)} | words
    with pytest.raises(InputError, match=message):
        align_codes(codes, codes, **given)
