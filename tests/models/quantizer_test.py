from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax.models.codebooks import (
    block_of,
    lookup,
    make_codebooks,
    permute,
    restart,
    update,
)
from sid_jax.models.quantizer import (
    _smallest,
    _sum_by_product,
    _sum_by_scatter,
    assign,
    assign_evenly,
    beam_quantize,
    count_usage,
    pass_straight,
    quantize,
)
from sid_jax.train.sharding import MeshConfig, make_mesh

SIZES = (3, 5, 2)  # ragged: levels 1 and 3 are padded
ROWS, WIDTH = 24, 4
seeds = st.integers(0, 2**32 - 1)
jitted = {f.__name__: jax.jit(f) for f in (quantize, lookup, count_usage)}
jit_update = jax.jit(update, static_argnames="decay")


def draw(seed, far=0.0):
    """Vectors and codebooks; with `far`, no codeword is as near as the padding's 0."""
    rng = np.random.default_rng(seed)
    levels = [jnp.float32(rng.normal(size=(size, WIDTH)) + far) for size in SIZES]
    return jnp.float32(rng.normal(size=(ROWS, WIDTH))), make_codebooks(levels)


@settings(deadline=None, max_examples=30)
@given(seeds, st.sampled_from([0.0, 9.0]))
def test_codes_are_the_nearest_codewords_level_by_level(seed, far):
    vectors, codebooks = draw(seed, far)
    quantized = jitted["quantize"](vectors, codebooks)
    residual = np.asarray(vectors, np.float64)
    for level, size in enumerate(SIZES):
        codebook = np.asarray(codebooks.vectors[level, :size], np.float64)
        distances = ((residual[:, None] - codebook) ** 2).sum(axis=2)
        codes = np.asarray(quantized.codes[:, level])
        assert (codes < size).all()  # padding is never chosen
        chosen = distances[np.arange(ROWS), codes]
        np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(quantized.residuals[:, level], residual, atol=1e-4)
        residual = residual - codebook[codes]
    np.testing.assert_allclose(
        quantized.distances, (residual**2).sum(axis=1), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_codewords_and_what_is_left_sum_back(seed):
    vectors, codebooks = draw(seed)
    quantized = jitted["quantize"](vectors, codebooks)
    left = quantized.residuals[:, -1] - quantized.codewords[:, -1]
    np.testing.assert_allclose(quantized.total + left, vectors, atol=1e-5)
    np.testing.assert_allclose(
        jitted["lookup"](quantized.codes, codebooks), quantized.total, atol=1e-6
    )


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_permuted_codebooks_say_the_same_under_other_numbers(seed):
    vectors, codebooks = draw(seed)
    rng = np.random.default_rng(seed)
    names = [rng.permutation(size) for size in SIZES]
    renamed = permute(codebooks, names)
    before = jitted["quantize"](vectors, codebooks)
    after = jitted["quantize"](vectors, renamed)
    for level, p in enumerate(names):
        expected = p[before.codes[:, level]]
        np.testing.assert_array_equal(after.codes[:, level], expected)
    np.testing.assert_array_equal(after.codewords, before.codewords)
    for level, (size, p) in enumerate(zip(SIZES, names, strict=True)):
        for each in ("vectors", "counts", "sums"):
            old, new = getattr(codebooks, each)[level], getattr(renamed, each)[level]
            np.testing.assert_array_equal(new[p], old[:size])
            np.testing.assert_array_equal(new[size:], old[size:])  # padding stays
    back = permute(renamed, [np.argsort(p) for p in names])
    chex.assert_trees_all_equal(back, codebooks)


def test_what_is_no_permutation_is_refused():
    _, codebooks = draw(0)
    good = [np.arange(size) for size in SIZES]
    with pytest.raises(ValueError, match="2 permutations for 3 levels"):
        permute(codebooks, good[:2])
    for bad in ([0, 1, 2, 3, 3], [0, 1, 2, 3], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match="level 2: no permutation of its 5"):
            permute(codebooks, [good[0], np.asarray(bad), good[2]])


def test_a_tie_goes_to_the_lower_code():
    codebook = jnp.asarray([[1.0], [-1.0], [1.0], [-1.0], [0.0]])
    codes = assign(jnp.asarray([[1.0], [-2.0], [0.0], [-0.4]]), codebook, 4)
    np.testing.assert_array_equal(codes, [0, 1, 0, 1])


def test_half_precision_vectors_are_quantized_in_float32():
    vectors, codebooks = draw(0)
    half = vectors.astype(jnp.bfloat16)
    wanted = quantize(half.astype(jnp.float32), codebooks)
    chex.assert_trees_all_close(quantize(half, codebooks), wanted)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_usage_is_a_count_and_a_sum_by_code(seed):
    vectors, codebooks = draw(seed)
    quantized = jitted["quantize"](vectors, codebooks)
    usage = jitted["count_usage"](quantized, codebooks)
    for level in range(len(SIZES)):
        codes = np.asarray(quantized.codes[:, level])
        counts = np.bincount(codes, minlength=max(SIZES))
        np.testing.assert_array_equal(usage.counts[level], counts)
        sums = np.zeros((max(SIZES), WIDTH))
        np.add.at(sums, codes, np.asarray(quantized.residuals[:, level]))
        np.testing.assert_allclose(usage.sums[level], sums, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_a_product_and_a_scatter_add_alike(seed):
    """The ways of accelerators and of a CPU; weights, and a code that nobody has."""
    rng = np.random.default_rng(seed)
    codes, rows = jnp.int32(rng.integers(4, size=30)), jnp.float32(rng.random((30, 3)))
    weights = jnp.float32(rng.integers(2, size=30))
    product, scatter = (
        way(5, codes, rows, weights) for way in (_sum_by_product, _sum_by_scatter)
    )
    chex.assert_trees_all_close(product, scatter, rtol=1e-5)
    assert product[0][4] == 0 and product[0].sum() == weights.sum()


@settings(deadline=None, max_examples=30)
@given(seeds, st.sampled_from([1, 3, 5]), st.sampled_from([7, 64, 250, 256]))
def test_the_smallest_are_those_of_top_k_with_its_ties(seed, count, width):
    rng = np.random.default_rng(seed)
    values = np.float32(rng.integers(-20, 20, size=(16, width)))  # many ties
    values[:, rng.random(width) < 0.9 * (seed % 2)] = np.finfo("f").max
    least, places = jax.jit(_smallest, static_argnums=1)(jnp.asarray(values), count)
    wanted, at = jax.lax.top_k(-values, count)
    np.testing.assert_array_equal(places, at)
    np.testing.assert_array_equal(least, -wanted)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_an_update_is_its_formula(seed):
    vectors, codebooks = draw(seed)
    usage = jitted["count_usage"](jitted["quantize"](vectors, codebooks), codebooks)
    moved = jit_update(codebooks, usage, decay=0.9)
    for level, size in enumerate(SIZES):
        counts = 0.9 * codebooks.counts[level] + 0.1 * usage.counts[level]
        sums = 0.9 * codebooks.sums[level] + 0.1 * usage.sums[level]
        np.testing.assert_allclose(moved.counts[level], counts, rtol=1e-5)
        np.testing.assert_allclose(moved.sums[level], sums, rtol=1e-5, atol=1e-6)
        total = counts.sum()
        smoothed = (counts + 1e-5) / (total + size * 1e-5) * total
        wanted = (sums / smoothed[:, None])[:size]
        np.testing.assert_allclose(
            moved.vectors[level, :size], wanted, rtol=1e-4, atol=1e-6
        )
        assert (moved.vectors[level, size:] == 0).all()
        assert (moved.counts[level, size:] == 0).all()
    assert moved.updates == codebooks.updates + 1
    assert moved.sizes == SIZES


def test_updates_on_one_batch_converge_to_the_means():
    vectors, codebooks = draw(3)
    step = jax.jit(
        lambda codebooks: update(
            codebooks, count_usage(quantize(vectors, codebooks), codebooks), decay=0.8
        )
    )
    for _ in range(120):
        codebooks = step(codebooks)
    quantized = quantize(vectors, codebooks)
    for level in range(len(SIZES)):
        codes = np.asarray(quantized.codes[:, level])
        for code in np.unique(codes):
            mean = np.asarray(quantized.residuals[codes == code, level]).mean(axis=0)
            found = codebooks.vectors[level, code]
            np.testing.assert_allclose(found, mean, atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_a_restart_moves_dead_codewords_alone_and_onto_residuals(seed):
    vectors, codebooks = draw(seed)
    rng = np.random.default_rng(seed)
    counts = jnp.float32(rng.random(codebooks.counts.shape)) * (codebooks.counts > 0)
    codebooks = make_with(codebooks, counts)
    residuals = jitted["quantize"](vectors, codebooks).residuals
    fresh = _restart(codebooks, residuals, jax.random.key(seed))
    for level, size in enumerate(SIZES):
        dead = np.asarray(counts[level]) < 0.3
        dead[size:] = False  # padding is not dead but absent
        for name in ("vectors", "counts", "sums"):
            before, after = getattr(codebooks, name), getattr(fresh, name)
            np.testing.assert_array_equal(after[level, ~dead], before[level, ~dead])
        rows = np.asarray(residuals[:, level])
        for code in np.flatnonzero(dead):
            vector = np.asarray(fresh.vectors[level, code])
            assert (vector == rows).all(axis=1).any()
            assert fresh.counts[level, code] > 0.3  # it is given time to be used
            ratio = fresh.sums[level, code] / fresh.counts[level, code]
            np.testing.assert_allclose(ratio, vector, rtol=1e-5)


_restart = jax.jit(partial(restart, below=0.3))


def make_with(codebooks, counts):
    sums = codebooks.vectors * counts[..., None]
    return replace(codebooks, counts=counts, sums=sums)


def test_a_restarted_codeword_that_stays_unused_is_dead_after_a_half_life():
    vectors, codebooks = draw(0)
    codebooks = make_with(codebooks, jnp.zeros_like(codebooks.counts))
    residuals = quantize(vectors, codebooks).residuals
    codebooks = _restart(codebooks, residuals, jax.random.key(0))
    unused = jax.tree.map(
        jnp.zeros_like, count_usage(quantize(vectors, codebooks), codebooks)
    )
    lives = 0
    while (codebooks.counts[0, : SIZES[0]] >= 0.3).all():
        codebooks, lives = jit_update(codebooks, unused, decay=0.9), lives + 1
    assert lives == 7  # 0.9 ** 7 < 1/2 < 0.9 ** 6


def test_a_sharded_batch_gives_what_one_device_gives():
    vectors, codebooks = draw(5)

    @jax.jit
    def run(vectors, codebooks):
        quantized = quantize(vectors, codebooks)
        usage = count_usage(quantized, codebooks)
        moved = update(codebooks, usage, decay=0.9)
        fresh = restart(moved, quantized.residuals, jax.random.key(0), below=0.5)
        return quantized, usage, fresh

    mesh = make_mesh(MeshConfig(data=8))
    over_rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    sharded = run(
        jax.device_put(vectors, over_rows), jax.device_put(codebooks, everywhere)
    )
    assert len(sharded[0].codes.sharding.device_set) == 8
    chex.assert_trees_all_close(
        jax.device_get(sharded), jax.device_get(run(vectors, codebooks)), rtol=1e-5
    )


BLOCKS = (1, 2)  # of the three first codes
jit_beam = jax.jit(beam_quantize, static_argnames="num_beams")


def draw_blocks(seed):
    vectors, codebooks = draw(seed)
    cells = jnp.int32(np.random.default_rng(seed + 1).integers(2, size=ROWS))
    return vectors, replace(codebooks, blocks=BLOCKS), cells


def brute_force(vector, codebooks, first_codes):
    """Least distance over every SID whose first code is one of these."""
    levels = [np.asarray(codebooks.vectors[i, :k]) for i, k in enumerate(SIZES)]
    totals = levels[0][first_codes][:, None] + levels[1]
    totals = totals[:, :, None] + levels[2]
    return ((np.asarray(vector) - totals) ** 2).sum(axis=-1).min()


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_blocks_hold_the_first_code_to_the_cell_and_nothing_else(seed):
    vectors, codebooks, cells = draw_blocks(seed)
    np.testing.assert_array_equal(block_of(codebooks), [0, 1, 1, -1, -1])
    quantized = jitted["quantize"](vectors, codebooks, cells)
    first = np.asarray(quantized.codes[:, 0])
    np.testing.assert_array_equal(np.asarray(block_of(codebooks))[first], cells)
    # Within its block, the nearest; after it, as without blocks.
    for row in np.flatnonzero(np.asarray(cells) == 1):
        near = assign(vectors[row : row + 1], codebooks.vectors[0, 1:3], 2)
        assert first[row] == 1 + near[0]
    with pytest.raises(ValueError, match="cell of each row"):
        quantize(vectors, codebooks)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_first_codeword_restarts_on_rows_of_its_cell_or_stays(seed):
    vectors, codebooks, cells = draw_blocks(seed)
    if seed % 3 == 0:
        cells = jnp.zeros_like(cells)
    codebooks = make_with(codebooks, jnp.zeros_like(codebooks.counts))
    residuals = jitted["quantize"](vectors, codebooks, cells).residuals
    fresh = _restart(codebooks, residuals, jax.random.key(seed), cells)
    for code, block in enumerate((0, 1, 1)):
        own = np.asarray(residuals[np.asarray(cells) == block, 0])
        vector = np.asarray(fresh.vectors[0, code])
        if len(own):
            assert (vector == own).all(axis=1).any()
        else:
            np.testing.assert_array_equal(vector, codebooks.vectors[0, code])


@settings(deadline=None, max_examples=20)
@given(seeds, st.booleans())
def test_beams_are_greedy_at_one_and_exhaustive_at_many(seed, with_blocks):
    vectors, codebooks, cells = draw_blocks(seed)
    if not with_blocks:
        codebooks, cells = replace(codebooks, blocks=()), None
    greedy = jitted["quantize"](vectors, codebooks, cells)
    one = jit_beam(vectors, codebooks, cells, num_beams=1)
    np.testing.assert_array_equal(one.codes, greedy.codes)
    chex.assert_trees_all_close(one, greedy, atol=1e-5)
    many = jit_beam(vectors, codebooks, cells, num_beams=15)
    np.testing.assert_allclose(
        many.total, jitted["lookup"](many.codes, codebooks), atol=1e-5
    )
    blocks = np.asarray(block_of(codebooks)) if with_blocks else None
    for row in range(ROWS):
        allowed = np.arange(3)
        if blocks is not None:
            allowed = np.flatnonzero(blocks == int(cells[row]))
        wanted = brute_force(vectors[row], codebooks, allowed)
        np.testing.assert_allclose(many.distances[row], wanted, rtol=1e-4, atol=1e-4)


def test_even_assignment_uses_all_codes_alike_and_leaves_padding_alone():
    rng = np.random.default_rng(0)
    residual = jnp.float32(rng.normal(size=(120, WIDTH)) + 3)  # all nearest to one code
    codebook = jnp.float32(rng.normal(size=(5, WIDTH)))
    nearest = np.bincount(assign(residual, codebook, 4), minlength=5)
    even = np.bincount(
        assign_evenly(residual, codebook, 4, epsilon=0.003, iterations=200),
        minlength=5,
    )
    assert nearest.max() > 90  # what it is for
    assert even[4] == 0 and even[:4].min() >= 25 and even[:4].max() <= 35
    vectors, codebooks = draw(0)
    quantized = quantize(vectors, codebooks, even=0.01)
    greedy = quantize(vectors, codebooks)
    np.testing.assert_array_equal(quantized.codes[:, :-1], greedy.codes[:, :-1])


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other(seed):
    rng = np.random.default_rng(seed)
    latent, total, up = jnp.float32(rng.normal(size=(3, 6, WIDTH)))
    out, pull = jax.vjp(lambda z: pass_straight(z, total), latent)
    np.testing.assert_allclose(out, total, atol=1e-5)
    np.testing.assert_allclose(pull(up)[0], up, atol=1e-6)
