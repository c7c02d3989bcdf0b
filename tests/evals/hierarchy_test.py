"""Codes against the category tree: by loops, and where the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    completeness_score,
    homogeneity_score,
)

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.hierarchy import (
    agreement,
    fragmentation,
    top_categories,
    trunk_depth,
)


def _world(count=200, seed=0):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(3, size=count), rng.integers(2, size=count)
    paths = [
        ["shop", f"a{a}", *([f"b{b}"] if row % 5 else [])] if row % 7 else []
        for row, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    codes = np.stack([first, second, rng.integers(4, size=count)], axis=1)
    codes[::11, 0] = rng.integers(3, size=len(codes[::11]))
    return codes, paths


def test_every_cell_is_sklearns_over_the_items_with_so_long_a_path():
    codes, paths = _world()
    rows = np.arange(3, 180)
    found = agreement(codes, Taxonomy.from_paths(paths), rows)
    assert found["ami_items"] == 177
    for depth in (1, 2):
        kept = [row for row in rows if len(paths[row]) > depth]
        category = [" ".join(paths[row][: depth + 1]) for row in kept]
        for level in (1, 2, 3):
            prefix = [" ".join(map(str, codes[row][:level])) for row in kept]
            for name, score in (
                ("ami", adjusted_mutual_info_score),
                ("homogeneity", homogeneity_score),
                ("completeness", completeness_score),
            ):
                assert found[f"{name}_d{depth}@{level}"] == pytest.approx(
                    score(category, prefix), abs=1e-9
                )
    assert "ami_d3@1" not in found


def test_codes_that_are_the_tree_agree_fully_and_shuffled_ones_by_chance():
    codes, paths = _world(3000)
    paths = [["shop", f"a{a}", f"b{b}"] for a, b, _ in codes]
    taxonomy = Taxonomy.from_paths(paths)
    found = agreement(codes, taxonomy)
    assert found["ami_d1@1"] == found["ami_d2@2"] == pytest.approx(1)
    assert found["homogeneity_d1@2"] == pytest.approx(1) and found["ami_d1@2"] < 0.8
    shuffled = np.random.default_rng(0).permutation(codes)
    assert abs(agreement(shuffled, taxonomy)["ami_d2@2"]) < 0.01
    drawn = agreement(codes, taxonomy, most_items=500)
    assert drawn["ami_items"] == 500
    assert drawn["ami_d1@2"] == pytest.approx(found["ami_d1@2"], abs=0.05)
    assert drawn["completeness_d1@2"] == found["completeness_d1@2"]


def test_a_level_that_parts_nothing_repeats_the_one_before():
    codes, paths = _world()
    codes[:, 1] = codes[:, 0]
    found = agreement(codes, Taxonomy.from_paths(paths))
    for name in ("ami", "homogeneity", "completeness"):
        assert found[f"{name}_d1@2"] == found[f"{name}_d1@1"]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_fragmentation_equals_the_loop_over_pairs(data):
    count = data.draw(st.integers(1, 14))

    def column(most):
        values = st.lists(st.integers(0, most), min_size=count, max_size=count)
        return data.draw(values)

    leaf = column(3)
    paths = [["a", str(each)][: 2 * bool(each)] for each in leaf]
    codes = np.stack([column(2), column(1)], axis=1)
    others = np.stack([column(2), column(1)], axis=1)
    rows = np.asarray(
        sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))), int
    )
    found = fragmentation(codes, Taxonomy.from_paths(paths), rows, others=others)
    for level in (1, 2):
        apart: dict[int, list[bool]] = {}
        for i in rows:
            for j in range(count):
                if i != j and leaf[i] and leaf[i] == leaf[j]:
                    parted = (codes[i, :level] != others[j, :level]).any()
                    apart.setdefault(leaf[i], []).append(parted)
        pairs = [each for leaf_pairs in apart.values() for each in leaf_pairs]
        whole = np.mean(pairs) if pairs else math.nan
        by_leaf = np.mean([np.mean(p) for p in apart.values()]) if pairs else math.nan
        assert found[f"fragmentation@{level}"] == pytest.approx(whole, nan_ok=True)
        assert found[f"fragmentation_by_leaf@{level}"] == pytest.approx(
            by_leaf, nan_ok=True
        )


@pytest.mark.parametrize(
    ("paths", "trunk", "tops"),
    [
        ([["s", "a"], ["s", "b", "c"], []], 1, ("a", "b", "")),
        ([["a"], ["b", "c"]], 0, ("a", "b")),
        ([["s"], ["s", "a"]], 1, ("", "a")),
        ([["s", "a"], ["s", "a"]], 2, ("a", "a")),
        ([[], []], 0, ("", "")),
    ],
)
def test_the_trunk_is_what_all_paths_share(paths, trunk, tops):
    taxonomy = Taxonomy.from_paths(paths)
    assert (trunk_depth(taxonomy), top_categories(taxonomy)) == (trunk, tops)
    codes = np.arange(2 * len(paths)).reshape(-1, 2)
    assert set(agreement(codes, taxonomy)) >= {"ami_items"}


def test_another_number_of_items_is_refused():
    with pytest.raises(InputError, match="3 items have codes but 2 a category path"):
        agreement(np.zeros((3, 1), int), Taxonomy.from_paths([["a"], ["b"]]))
