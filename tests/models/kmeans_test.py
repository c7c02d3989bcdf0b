import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax.models.codebooks import block_of
from sid_jax.models.kmeans import fit_codebooks, kmeans, spread
from sid_jax.models.quantizer import assign, quantize
from sid_jax.train.sharding import MeshConfig, make_mesh

WIDTH = 4
seeds = st.integers(0, 2**32 - 1)


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


def test_many_codes_start_once_and_refill_what_runs_empty():
    # 70 codes and 31 distinct rows: random starts are copies of one, and run empty.
    rare = np.random.default_rng(0).normal(size=(30, 3))
    vectors = jnp.float32(np.concatenate([np.zeros((2000, 3)), rare]))
    key = jax.random.key(0)
    assert error_of(vectors, kmeans(key, vectors, 70, 0)) > 1e-3
    assert error_of(vectors, kmeans(key, vectors, 70, 30)) < 1e-10


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_start_is_of_rows_spread_over_clusters(seed):
    rng = np.random.default_rng(seed)
    centres = 100 * np.eye(6)
    labels = rng.permutation(np.append(np.arange(6).repeat(3), np.zeros(78, int)))
    vectors = jnp.float32(centres[labels] + rng.normal(size=(96, 6)))
    start = np.asarray(spread(jax.random.key(seed), vectors, 6))
    assert (start[:, None] == np.asarray(vectors)).all(axis=2).any(axis=1).all()
    # One of each, where random rows would nearly all be of the large cluster.
    assert len(set(start.argmax(axis=1))) == 6
    # And so several runs of few codes find the best clustering.
    found = kmeans(jax.random.key(seed), vectors, 6, 5)
    means = [np.asarray(vectors)[labels == label].mean(axis=0) for label in range(6)]
    np.testing.assert_allclose(
        np.asarray(found)[np.argsort(-np.asarray(found).argmax(axis=1))],
        means[::-1],
        atol=1e-3,
    )


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


def test_a_sharded_start_is_that_of_one_device():
    vectors = jax.random.normal(jax.random.key(5), (24, WIDTH))
    over_rows = NamedSharding(make_mesh(MeshConfig(data=8)), PartitionSpec("data"))
    start, wanted = (
        fit_codebooks(jax.random.key(0), each, (3,))
        for each in (jax.device_put(vectors, over_rows), vectors)
    )
    chex.assert_trees_all_close(
        jax.device_get(start), jax.device_get(wanted), rtol=1e-4, atol=1e-5
    )


def test_blocks_are_the_kmeans_of_each_cell():
    rng = np.random.default_rng(0)
    vectors = jnp.float32(rng.normal(size=(90, WIDTH)))
    cells = rng.integers(2, size=90)
    key, blocks = jax.random.key(0), (3, 2, 2)  # no row is of the third cell
    codebooks = fit_codebooks(key, vectors, (7, 4), blocks=blocks, cells=cells)
    assert codebooks.blocks == blocks and codebooks.sizes == (7, 4)
    quantized = quantize(vectors, codebooks, jnp.int32(cells))
    codes = np.asarray(quantized.codes[:, 0])
    np.testing.assert_array_equal(np.asarray(block_of(codebooks))[codes], cells)
    for code in range(5):  # Lloyd's fixed point within each cell
        mean = np.asarray(vectors)[codes == code].mean(axis=0)
        np.testing.assert_allclose(codebooks.vectors[0, code], mean, atol=1e-4)
    with pytest.raises(ValueError, match="come together"):
        fit_codebooks(key, vectors, (7, 4), blocks=blocks)


def test_a_cell_of_fewer_rows_than_codes_has_codewords_to_spare():
    vectors = jax.random.normal(jax.random.key(1), (40, WIDTH))
    cells = np.zeros(40, np.int64)
    cells[:2] = 1
    codebooks = fit_codebooks(
        jax.random.key(0), vectors, (8,), blocks=(3, 5), cells=cells
    )
    quantized = quantize(vectors, codebooks, jnp.int32(cells))
    np.testing.assert_allclose(quantized.distances[:2], 0, atol=1e-5)


def test_no_level_of_noise_is_taken_by_a_few_codes():
    """From whole rows as a start, nearly all rows fall to the shortest of them."""
    sizes = (128,) * 4
    vectors = jax.random.normal(jax.random.key(0), (2000, 64))
    vectors *= jnp.arange(1, 65) ** -0.5
    for seed in range(5):
        books = fit_codebooks(jax.random.key(seed), vectors, sizes, iterations=5)
        codes = np.asarray(quantize(vectors, books).codes)
        for level in codes.T:
            share = np.bincount(level, minlength=128) / len(level)
            assert share.max() < 0.1
            assert (share == 0).mean() < 0.1
