"""Sticky assignment against brute force over the old prefixes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.models.codebooks import block_of, lookup, make_codebooks
from sid_jax.models.quantizer import quantize
from sid_jax.models.sticky import keep_codes, stick

SIZES = (3, 5, 2)  # ragged: levels 1 and 3 are padded
ROWS, WIDTH = 24, 4
seeds = st.integers(0, 2**32 - 1)
keep = jax.jit(keep_codes)  # slack is traced: one program for all of them
quantize_rows = jax.jit(quantize)


def draw(seed):
    """Vectors, codebooks of now, and SIDs of a codebook that was a little different."""
    rng = np.random.default_rng(seed)
    levels = [
        rng.normal(size=(size, WIDTH)) / (1 + place) for place, size in enumerate(SIZES)
    ]
    moved = [level + rng.normal(scale=0.2, size=level.shape) for level in levels]
    vectors = jnp.float32(rng.normal(size=(ROWS, WIDTH)))
    old = quantize_rows(vectors, make_codebooks([jnp.float32(m) for m in moved])).codes
    return vectors, old, make_codebooks([jnp.float32(level) for level in levels])


def distance(vectors, codes, codebooks):
    return np.asarray(jnp.sum((vectors - lookup(codes, codebooks)) ** 2, axis=1))


def prefix(codes, old):
    return np.cumprod(np.asarray(codes) == np.asarray(old), axis=1).sum(axis=1)


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from([0.0, 0.05, 0.5, 3.0]))
def test_the_longest_old_prefix_within_the_slack_is_kept(seed, slack):
    vectors, old, codebooks = draw(seed)
    codes = np.asarray(keep(old, vectors, codebooks, slack))
    best = distance(vectors, quantize_rows(vectors, codebooks).codes, codebooks)
    for row in range(ROWS):
        for length in range(len(SIZES), -1, -1):
            wanted = list(np.asarray(old[row, :length]))
            residual = np.asarray(vectors[row], np.float64)
            for level, size in enumerate(SIZES):
                rows = np.asarray(codebooks.vectors[level, :size], np.float64)
                if level >= length:
                    wanted.append(int(np.argmin(((residual - rows) ** 2).sum(axis=1))))
                residual = residual - rows[wanted[level]]
            excess = (residual**2).sum() - (1 + slack) * best[row]
            if excess <= 1e-5:
                break
        # Within rounding of the border, either side is right.
        assert list(codes[row]) == wanted or abs(excess) < 2e-5


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_more_slack_keeps_more_and_costs_no_more_than_it_allows(seed):
    vectors, old, codebooks = draw(seed)
    greedy = quantize_rows(vectors, codebooks).codes
    best = distance(vectors, greedy, codebooks)
    kept = prefix(greedy, old)
    for slack in (0.0, 0.02, 0.1, 0.7, 5.0, np.inf):
        codes = keep(old, vectors, codebooks, slack)
        assert (prefix(codes, old) >= kept).all()
        kept = prefix(codes, old)
        assert (distance(vectors, codes, codebooks) <= (1 + slack) * best + 1e-5).all()
    np.testing.assert_array_equal(codes, old)


def test_without_slack_only_what_is_no_worse_is_kept():
    # By the second level, 0 + 1 and 2 - 1 are equally near to 1; 0 - 1 is far.
    codebooks = make_codebooks(
        [jnp.asarray([[0.0], [2.0]]), jnp.asarray([[1.0], [-1]])]
    )
    vectors = jnp.full((3, 1), 0.9)
    old = jnp.asarray([[1, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(
        keep(old, vectors, codebooks, 0.0), [[1, 1], [0, 0], [1, 1]]
    )


def test_a_vector_that_is_met_exactly_moves_for_nothing_less_than_infinity():
    codebooks = make_codebooks([jnp.asarray([[0.0], [2.0]])])
    vectors, old = jnp.zeros((1, 1)), jnp.asarray([[1]])
    for slack, code in ((0.0, 0), (1e6, 0), (np.inf, 1)):
        with jax.debug_nans(True):
            assert keep(old, vectors, codebooks, slack)[0, 0] == code


def test_a_worse_tail_is_given_up_before_the_whole():
    codebooks = make_codebooks(
        [jnp.asarray([[0.0], [1.0]]), jnp.asarray([[-0.2], [0.3], [5.0]])]
    )
    vectors = jnp.asarray([[0.6]])  # greedy: 1 - 0.2; but 0 + 0.3 is not far off
    old = jnp.asarray([[0, 2]])
    np.testing.assert_array_equal(keep(old, vectors, codebooks, 0.0), [[1, 0]])
    np.testing.assert_array_equal(keep(old, vectors, codebooks, 1.5), [[0, 1]])


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches(rows):
    vectors, old, codebooks = draw(0)
    assert keep_codes(old[:rows], vectors[:rows], codebooks, 0.05).shape == (rows, 3)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_row_keeps_its_old_sid_if_it_has_one_and_its_cell_is_the_same(seed):
    vectors, old, codebooks = draw(seed)
    codebooks = replace(codebooks, blocks=(1, 2))
    before = jnp.int32(block_of(codebooks)[old[:, 0]])
    rng = np.random.default_rng(seed)
    cells = jnp.where(rng.random(ROWS) < 0.5, before, 1 - before)
    absent = rng.random(ROWS) < 0.3
    told = jnp.where(absent[:, None], -1, old)
    greedy = quantize_rows(vectors, codebooks, cells)
    found = jax.jit(stick)(greedy, told, vectors, codebooks, np.inf, cells)
    stays = ~absent & np.asarray(cells == before)
    np.testing.assert_array_equal(found.codes[stays], old[stays])
    np.testing.assert_array_equal(found.codes[~stays], greedy.codes[~stays])
    left = found.residuals[:, -1] - found.codewords[:, -1]
    np.testing.assert_allclose(found.total + left, vectors, atol=1e-5)
