import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import (
    collisions,
    intrinsic_metrics,
    judge_subsets,
    level_use,
    similarity_depth,
    unexplained,
)

SIZES = (2, 5, 3)


@st.composite
def code_tables(draw):
    row = st.tuples(*(st.integers(0, size - 1) for size in SIZES))
    return np.asarray(draw(st.lists(row, min_size=1, max_size=30)), np.int32)


@settings(deadline=None, max_examples=50)
@given(code_tables())
def test_use_and_collisions_equal_the_loop(codes):
    for level, use in enumerate(level_use(codes, SIZES)):
        counts = Counter(codes[:, level].tolist())
        assert use.counts.tolist() == [counts[k] for k in range(SIZES[level])]
        entropy = -sum(
            n / len(codes) * math.log(n / len(codes)) for n in counts.values()
        )
        assert use.usage == len(counts) / SIZES[level]
        assert use.perplexity == pytest.approx(math.exp(entropy))
        assert use.entropy == pytest.approx(entropy / math.log(SIZES[level]), abs=1e-12)
    groups = Counter(map(tuple, codes.tolist()))
    crowded = [n for n in groups.values() if n > 1]
    assert collisions(codes) == pytest.approx(
        {
            "unique": len(groups) / len(codes),
            "collision_rate": 1 - len(groups) / len(codes),
            "largest_group": max(groups.values()),
            "mean_group": len(codes) / len(groups),
            "in_groups": sum(crowded) / len(codes),
        }
    )


@settings(deadline=None, max_examples=50)
@given(code_tables(), st.randoms(use_true_random=False))
def test_figures_know_no_item_order_and_no_code_names(codes, random):
    order = list(range(len(codes)))
    random.shuffle(order)
    renamed = np.asarray(SIZES) - 1 - codes[order]
    assert intrinsic_metrics(renamed, SIZES) == pytest.approx(
        intrinsic_metrics(codes, SIZES)
    )


def test_even_use_is_full_and_a_book_of_one_code_counts_as_even():
    codes = np.stack([np.arange(12) % 4, np.zeros(12, int)], axis=1)
    even, single = level_use(codes, (4, 1))
    assert (even.usage, even.entropy, single.entropy) == (1, pytest.approx(1), 1)
    assert even.perplexity == pytest.approx(4)


def _brute_near(codes, vectors, neighbours):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, depths = [], []
    for i in range(len(units)):
        cosine = units @ units[i]
        cosine[i] = -np.inf
        for j in np.argsort(-cosine)[:neighbours]:
            same = codes[i] == codes[j]
            cosines.append(cosine[j])
            depths.append(next((d for d, s in enumerate(same) if not s), len(same)))
    return np.asarray(cosines), np.asarray(depths)


@pytest.mark.parametrize("seed", range(3))
def test_near_stratum_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    codes = (vectors[:, :3] > 0).astype(np.int32)
    found = similarity_depth(codes, vectors, num_neighbours=7, close=0.8, seed=seed)
    cosine, depth = _brute_near(codes, vectors, 7)
    assert found["rho_near"] == pytest.approx(spearmanr(cosine, depth).statistic)
    for level in (1, 2, 3):
        share = np.mean(depth[cosine >= 0.8] >= level)
        assert found[f"share@{level}"] == pytest.approx(share)


def test_codes_that_follow_the_vectors_score_above_shuffled_ones():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    group, part = rng.integers(4, size=400), rng.integers(2, size=400)
    vectors = (centres[group] + 0.05 * rng.normal(size=(400, 8))).astype(np.float32)
    vectors[:, 0] += 0.2 * part
    codes = np.stack([group, part], axis=1)
    good = similarity_depth(codes, vectors, num_anchors=100)
    bad = similarity_depth(rng.permutation(codes), vectors, num_anchors=100)
    assert good == similarity_depth(codes, vectors, num_anchors=100)
    assert good["rho_half"] > 0.6
    assert all(abs(bad[f"rho_{name}"]) < 0.1 for name in ("near", "uniform", "half"))
    assert good["share@1"] > 0.95 > 0.5 > bad["share@1"]


def test_uniform_pairs_are_of_two_different_items():
    # Of two items there is one pair: all depths are equal, unless an (i, i) is drawn.
    for seed in range(10):
        found = similarity_depth(np.asarray([[0], [1]]), np.eye(2), seed=seed)
        assert math.isnan(found["rho_uniform"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_is_undefined_is_nan_without_a_warning(count):
    codes = np.zeros((count, 2), np.int32)
    found = similarity_depth(codes, np.zeros((count, 3), np.float32))
    assert (found.pop("anchors"), found.pop("alike_pairs")) in ((0, 0), (count, 0))
    undefined = [v for k, v in found.items() if k.startswith(("rho", "share@"))]
    assert all(map(math.isnan, undefined)) and len(undefined) == 11


def test_fraction_of_variance_unexplained():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)).astype(np.float32) + 3
    mean = np.broadcast_to(vectors.mean(axis=0), vectors.shape)
    assert unexplained(vectors, vectors) == 0
    assert unexplained(vectors, mean) == pytest.approx(1)
    assert unexplained(vectors, (vectors + mean) / 2) == pytest.approx(0.25)
    assert math.isnan(unexplained(np.ones((3, 2)), np.ones((3, 2))))


def test_options_add_their_figures():
    rng = np.random.default_rng(0)
    codes = rng.integers(2, size=(20, 2))
    vectors = rng.normal(size=(20, 3))
    found = intrinsic_metrics(codes, (2, 2), vectors, vectors * 0)
    plain = intrinsic_metrics(codes, (2, 2))
    assert set(found) - set(plain) > {
        *("rho_near", "rho_uniform", "rho_half", "share@1", "share@2"),
        *("fvu", "coherence@2", "cosine@0"),
    }


def _catalog(count=120):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=count) for size in SIZES], axis=1)
    return codes, {
        "vectors": rng.normal(size=(count, 4)),
        "errors": rng.random((count, 3)),
        "purchases": rng.random(count),
        "taxonomy": Taxonomy.from_paths([["s", f"a{a}", f"b{b}"] for a, b, _ in codes]),
    }


def test_the_subset_of_all_items_is_judged_as_all():
    codes, given = _catalog()
    whole = intrinsic_metrics(codes, SIZES, **given)
    found = judge_subsets(codes, SIZES, {"all": np.arange(120)}, **given)
    assert {"fvu[a1]", "fvu@2", "gini_by_purchase@1", "ami_d2@2"} < set(whole)
    missing = {"compression", "compression_with_head"}
    assert {f"all/{name}" for name in set(whole) - missing} == set(found)
    for name, value in found.items():
        assert value == pytest.approx(whole[name[4:]], nan_ok=True)


def test_a_subset_is_judged_on_its_own_items():
    codes, given = _catalog()
    rows = np.arange(0, 120, 4)
    found = judge_subsets(codes, SIZES, {"heldout": rows, "rest": rows + 1}, **given)
    alone = {
        name: each if name == "taxonomy" else each[rows] for name, each in given.items()
    }
    paths = [given["taxonomy"].path(node) for node in given["taxonomy"].leaf[rows]]
    alone["taxonomy"] = Taxonomy.from_paths(paths)
    alone = intrinsic_metrics(codes[rows], SIZES, **alone)
    within = ("rho", "share", "fragmentation", "compression", "anchors", "alike")
    for name, value in alone.items():
        if not name.startswith(within):
            assert found[f"heldout/{name}"] == pytest.approx(value, nan_ok=True), name
    assert found["rest/items"] == 30


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no items"), ([0, 120], "names row 0 to 120"), ([3, 3], "twice")],
)
def test_what_is_no_subset_is_refused(rows, message):
    codes, _ = _catalog()
    with pytest.raises(InputError, match=message):
        judge_subsets(codes, SIZES, {"x": np.asarray(rows, int)})


def test_codes_of_another_codebook_are_refused():
    codes = np.asarray([[0, 1], [0, 7]])
    with pytest.raises(InputError, match="item row 1: code 7 of level 2"):
        level_use(codes, (4, 4))
    with pytest.raises(InputError, match="2 levels"):
        level_use(codes, (4, 4, 4))
    with pytest.raises(InputError, match="no items"):
        collisions(codes[:0])


@pytest.mark.slow
def test_two_million_items_are_judged():
    """Four levels, 64 dimensions, a tree of 4,000 leaves, purchases, errors."""
    rng = np.random.default_rng(0)
    count, sizes = 2_000_000, (256, 256, 256, 256)
    leaf = rng.integers(4000, size=count)
    centres = rng.normal(size=(4000, 64)).astype(np.float32)
    vectors = centres[leaf] + rng.normal(size=(count, 64)).astype(np.float32) / 2
    places = [np.abs(vectors[:, i] * 60).astype(np.int32) % 256 for i in (1, 2, 3)]
    codes = np.stack([leaf % 256, *places], axis=1).astype(np.int32)
    paths = [("shop", f"a{n % 20}", f"b{n % 400}", f"c{n}") for n in range(4000)]
    taxonomy = Taxonomy.from_paths([paths[each] for each in leaf])
    errors, purchases = rng.random((count, 4)), rng.random(count)
    found = intrinsic_metrics(
        codes,
        sizes,
        vectors,
        errors=errors,
        purchases=purchases,
        taxonomy=taxonomy,
    )
    assert (found["items"], found["anchors"]) == (count, 1015)
    assert found["ami_items"] == 20_000
