"""Scores of given SIDs against plain sums, under both softmaxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.sids.scoring import code_gains
from sid_jax.sids.trie import build_trie

SIZES = (4, 3, 5)
SLOW = pytest.mark.slow


def make(seed, count):
    rng = np.random.default_rng(seed)
    sids = np.unique(rng.integers(0, SIZES, (count, 3)), axis=0)
    chosen = sids[rng.integers(0, len(sids), (2, 6))]
    logits = [jnp.asarray(rng.normal(size=(2, 6, k)), jnp.float32) for k in SIZES]
    return sids, chosen, logits


scored = jax.jit(code_gains)  # as one program: op by op compiles for longer


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 40]))
def test_each_code_is_scored_among_the_codes_that_exist(seed, count):
    sids, chosen, logits = make(seed, count)
    gains, means = scored(logits, jnp.asarray(chosen), build_trie(sids, SIZES))
    free, free_means = scored(logits, jnp.asarray(chosen))
    for place in np.ndindex(chosen.shape[:2]):
        sid = chosen[place]
        for level in range(3):
            scores = np.asarray(logits[level][place], np.float64)
            same = (sids[:, :level] == sid[:level]).all(axis=1)
            exist = np.unique(sids[same, level])
            for found, mean, over in (
                (gains, means, scores[exist]),
                (free, free_means, scores),
            ):
                total = np.logaddexp.reduce(over)
                want = scores[sid[level]] - total
                at = (*place, level)
                np.testing.assert_allclose(found[at], want, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(
                    mean[at], over.mean() - total, rtol=1e-4, atol=1e-5
                )


def test_the_existing_sids_share_all_probability():
    sids, _, _ = make(0, 25)
    rng = np.random.default_rng(1)
    tables = [
        rng.normal(size=(int(np.prod(SIZES[:at])), k)) for at, k in enumerate(SIZES)
    ]
    rows = [np.zeros(len(sids), int), sids[:, 0], sids[:, 0] * SIZES[1] + sids[:, 1]]
    logits = [
        jnp.asarray(table[row], jnp.float32)
        for table, row in zip(tables, rows, strict=True)
    ]
    gains, _ = scored(logits, jnp.asarray(sids), build_trie(sids, SIZES))
    np.testing.assert_allclose(np.exp(gains.sum(axis=1)).sum(), 1.0, rtol=1e-5)
    free, _ = scored(logits, jnp.asarray(sids))
    assert np.exp(free.sum(axis=1)).sum() < 0.99


def test_an_sid_that_is_not_there_has_no_probability_and_no_gradient():
    sids = np.asarray([[0, 0, 0], [0, 1, 2], [2, 2, 4]])
    trie = build_trie(sids, SIZES)
    given_sids = jnp.asarray([[0, 1, 2], [0, 2, 4], [3, 0, 0], [0, 1, 3]])

    def total(logits):
        gains, _ = code_gains(logits, given_sids, trie)
        return jnp.where(jnp.isfinite(gains), gains, 0).sum(), gains

    logits = [jnp.ones((4, k)) for k in SIZES]
    grads, gains = jax.jit(jax.grad(total, has_aux=True))(logits)
    finite = np.isfinite(gains)
    assert finite.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    # A code without siblings is certain.
    np.testing.assert_allclose(gains[0], [-np.log(2), -np.log(2), 0], atol=1e-6)
    for level, grad in enumerate(grads):
        assert np.isfinite(grad).all()
        assert (np.asarray(grad)[~finite[:, level]] == 0).all()


@pytest.mark.parametrize(
    "shape", [pytest.param((), marks=SLOW), pytest.param((3,), marks=SLOW), (2, 3, 4)]
)
def test_any_leading_axes(shape):
    sids, _, _ = make(0, 9)
    codes = jnp.broadcast_to(jnp.asarray(sids[0]), (*shape, 3))
    logits = [jnp.zeros((*shape, k)) for k in SIZES]
    for trie in (None, build_trie(sids, SIZES)):
        gains, means = scored(logits, codes, trie)
        assert gains.shape == means.shape == (*shape, 3)
        np.testing.assert_allclose(gains, means, rtol=1e-5, atol=1e-6)
