"""Strata, intervals and exact means against loops over pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.evals import similarity
from sid_jax.evals.similarity import coherence, draw_pairs, similarity_depth


def _catalog(count=300, seed=0):
    """Codes that follow the vectors, by halves."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 5)).astype(np.float32)
    return (vectors[:, :3] > 0).astype(np.int32), vectors


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_weighted_rho_is_scipys_of_the_copies(data):
    count = data.draw(st.integers(2, 20))
    column = st.lists(st.integers(0, 5), min_size=count, max_size=count)
    x, y, draw = (np.asarray(data.draw(column)) for _ in range(3))
    times = np.asarray(data.draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)))
    copies = times[draw]
    found = similarity._Ranked(x.astype(float), y, draw).rho(times.astype(float))
    x, y = np.repeat(x, copies), np.repeat(y, copies)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


def test_the_interval_is_as_wide_as_rho_varies_over_draws():
    """Of anchors drawn anew; resampling pairs instead would be far too sure."""
    codes, vectors = _catalog(2000)
    many = [
        similarity_depth(codes, vectors, 60, 30, seed=seed, resamples=0)["rho_near"]
        for seed in range(40)
    ]
    one = similarity_depth(codes, vectors, 60, 30, resamples=400)
    width = one["rho_near_high"] - one["rho_near_low"]
    assert width == pytest.approx(4 * np.std(many), rel=0.4)
    assert one["rho_near_low"] < one["rho_near"] < one["rho_near_high"]
    assert one["rho_half_low"] < one["rho_half"] < one["rho_half_high"]


def test_a_subset_is_judged_within_the_whole_catalog():
    codes, vectors = _catalog()
    rows = np.arange(0, 300, 7)
    near, uniform = draw_pairs(
        codes, vectors, np.random.default_rng(0), 20, 9, rows=rows
    )
    assert len(near.left) == len(uniform.left) == 20 * 9
    assert set(near.left) | set(uniform.left) <= set(rows)
    assert not set(near.right) <= set(rows) and not set(uniform.right) <= set(rows)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for anchor in set(near.left):
        others = np.argsort(-(units @ units[anchor]))[1:10]
        assert set(near.right[near.left == anchor]) == set(others)


def test_long_rows_give_the_same_neighbours(monkeypatch):
    rng = np.random.default_rng(0)
    row = rng.normal(size=9000).astype(np.float32)
    best = set(np.argsort(-row)[:50])
    assert set(similarity._top(row, 50)) == best
    # A row whose sample misleads: the top is nowhere but in the sample.
    row = np.zeros(9000, np.float32)
    row[::64] = 1
    assert row[similarity._top(row, 200)].sum() == len(row[::64])


def test_bins_hold_every_pair_of_half_once():
    codes, vectors = _catalog()
    found = similarity_depth(codes, vectors, 50, 20)
    rng = np.random.default_rng(0)
    near, uniform = draw_pairs(codes, vectors, rng, 50, 20)
    both = near + uniform
    for low, high in zip(similarity.BINS, similarity.BINS[1:], strict=False):
        kept = (both.cosine >= low) & (both.cosine < high + (high == 1))
        for level in (1, 2, 3):
            share = np.mean(both.depth[kept] >= level) if kept.any() else math.nan
            name = f"{similarity.name_bin(low, high)}@{level}"
            assert found[name] == pytest.approx(share, nan_ok=True)


def test_lca_rho_leaves_unknown_paths_out():
    codes, vectors = _catalog(80)
    # The tree is the codes themselves, of which two in three items are known.
    known = np.arange(80) % 3 > 0
    paths = [
        [str(tuple(row[: d + 1])) for d in range(3)] if k else []
        for row, k in zip(codes.tolist(), known, strict=True)
    ]
    found = similarity_depth(codes, vectors, taxonomy=Taxonomy.from_paths(paths))
    for name in ("near", "uniform", "half"):
        assert found[f"rho_lca_{name}"] == pytest.approx(1)


@pytest.mark.parametrize("block", [7, 2**16])
def test_coherence_is_exact_over_all_pairs(monkeypatch, block):
    monkeypatch.setattr(similarity, "_BLOCK", block)
    codes, vectors = _catalog(60)
    vectors[5] = 0  # no direction: cosine 0 with all
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    left, right = np.triu_indices(60, 1)
    cosine = np.sum(units[left] * units[right], axis=1)
    depth = np.cumprod(codes[left] == codes[right], axis=1).sum(axis=1)
    found = coherence(codes, vectors)
    assert len(found) == 7
    for level in (1, 2, 3):
        mean = cosine[depth >= level].mean()
        assert found[f"coherence@{level}"] == pytest.approx(mean, abs=1e-5)
    for shared in range(4):
        mean = cosine[depth == shared].mean()
        assert found[f"cosine@{shared}"] == pytest.approx(mean, abs=1e-5)
    apart = coherence(np.arange(3)[:, None], vectors[:3])
    assert math.isnan(apart["coherence@1"]) and math.isfinite(apart["cosine@0"])
