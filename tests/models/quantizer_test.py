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

from sid_jax.models.quantizer import (
    assign,
    count_usage,
    fit_codebooks,
    kmeans,
    lookup,
    make_codebooks,
    permute,
    quantize,
    restart,
    update,
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


def error_of(vectors, centroids):
    distances = ((np.asarray(vectors)[:, None] - np.asarray(centroids)) ** 2).sum(
        axis=2
    )
    return distances.min(axis=1).mean()


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_kmeans_never_increases_the_error(seed):
    key = jax.random.key(seed)
    vectors = jax.random.normal(key, (60, 3))
    errors = [error_of(vectors, kmeans(key, vectors, 5, n)) for n in (0, 1, 2, 5, 80)]
    assert (np.diff(errors) <= 1e-6).all() and errors[-1] < errors[0]
    # It has converged: centroids are the means of what is nearest to them.
    centroids = kmeans(key, vectors, 5, 80)
    codes = np.asarray(assign(vectors, centroids, 5))
    means = [np.asarray(vectors)[codes == code].mean(axis=0) for code in range(5)]
    np.testing.assert_allclose(centroids, means, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_kmeans_separates_clusters_that_are_apart(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(60) % 2)
    vectors = jnp.float32(labels[:, None] * 100 + rng.normal(size=(60, 3)))
    codes = assign(vectors, kmeans(jax.random.key(seed), vectors, 2, 10), 2)
    assert len(set(zip(np.asarray(codes), labels, strict=True))) == 2


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_kmeans_refills_what_runs_empty(seed):
    # 56 equal rows: a start is mostly made of them, and all but one of those run empty.
    rare = np.random.default_rng(seed).normal(size=(4, 3))
    vectors = jnp.float32(np.concatenate([np.zeros((56, 3)), rare]))
    centroids = kmeans(jax.random.key(seed), vectors, 5, 30)
    assert error_of(vectors, centroids) < 1e-10
    assert len(np.unique(assign(vectors, centroids, 5))) == 5


def test_blocks_are_all_read_and_padding_is_not():
    """More rows than a block holds, and no multiple: the mean is over all of them."""
    vectors = 5 + jax.random.normal(jax.random.key(0), (8192 + 77, 2))
    codebooks = fit_codebooks(jax.random.key(1), vectors, (1, 1), iterations=1)
    np.testing.assert_allclose(codebooks.vectors[0, 0], vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(codebooks.vectors[1, 0], 0, atol=1e-4)


def test_the_start_quantizes_ever_finer_and_needs_enough_rows():
    vectors = jax.random.normal(jax.random.key(0), (200, WIDTH))
    codebooks = fit_codebooks(jax.random.key(1), vectors, (4, 4, 3), iterations=5)
    assert codebooks.sizes == (4, 4, 3) and codebooks.vectors.shape == (3, 4, WIDTH)
    residuals = quantize(vectors, codebooks).residuals
    left = [float((residuals[:, level] ** 2).sum()) for level in range(3)]
    left.append(float(quantize(vectors, codebooks).distances.sum()))
    assert (np.diff(left) < 0).all()
    again = fit_codebooks(jax.random.key(1), vectors, (4, 4, 3), iterations=5)
    chex.assert_trees_all_equal(again, codebooks)
    with pytest.raises(ValueError, match="3 rows cannot start 4"):
        fit_codebooks(jax.random.key(1), vectors[:3], (4, 4, 3))


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
    start, wanted = (
        fit_codebooks(jax.random.key(0), each, (3,))
        for each in (jax.device_put(vectors, over_rows), vectors)
    )
    chex.assert_trees_all_close(
        jax.device_get(start), jax.device_get(wanted), rtol=1e-4, atol=1e-5
    )
