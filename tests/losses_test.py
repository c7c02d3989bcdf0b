from functools import partial
from itertools import takewhile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.losses import (
    commitment_loss,
    cooccurrence_loss,
    graded_contrastive_loss,
    level_weights,
    reconstruction_loss,
    straight_through_prefixes,
    taxonomy_grades,
)

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_reconstruction_is_summed_over_features(seed):
    vectors, other = np.random.default_rng(seed).normal(size=(2, 5, 3))
    vectors, other = jnp.float32(vectors), jnp.float32(other)
    loss = reconstruction_loss(vectors, other)
    np.testing.assert_allclose(loss, np.linalg.norm(vectors - other, axis=1) ** 2, 1e-4)
    wider = [jnp.pad(each, ((0, 0), (0, 4))) for each in (vectors, other)]
    np.testing.assert_allclose(reconstruction_loss(*wider), loss, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_commitment_pulls_the_latent_to_every_level_and_no_codeword(seed):
    rng = np.random.default_rng(seed)
    latent = jnp.float32(rng.normal(size=(4, 3)))
    codewords = jnp.float32(rng.normal(size=(4, 2, 3)))
    first = latent - codewords[:, 0]
    second = first - codewords[:, 1]
    wanted = (first**2).sum(axis=1) + (second**2).sum(axis=1)
    np.testing.assert_allclose(commitment_loss(latent, codewords), wanted, rtol=1e-4)
    of_latent, of_codewords = jax.grad(
        lambda *args: commitment_loss(*args).sum(), (0, 1)
    )(latent, codewords)
    np.testing.assert_allclose(of_latent, 2 * (first + second), rtol=1e-4, atol=1e-5)
    assert (of_codewords == 0).all()


ROWS, LEVELS, WIDTH, DEPTH = 8, 2, 3, 4
grade = partial(jax.jit, static_argnames=("sibling", "cousin"))(taxonomy_grades)
graded = partial(jax.jit, static_argnames="temperature")(graded_contrastive_loss)
together = partial(jax.jit, static_argnames="temperature")(cooccurrence_loss)
temperatures = st.sampled_from([0.07, 0.1, 1.0])


def draw_vectors(rng):
    """Among others a zero vector, a tiny one, a large one and duplicates."""
    vectors = rng.normal(size=(ROWS, LEVELS, WIDTH))
    vectors[0, 0] = 0
    vectors[1] *= 1e-3
    vectors[2] *= 1e3
    vectors[4] = vectors[3]
    return np.float32(vectors)


def draw_batch(seed):
    """Vectors, grades and which rows are known; from none of them to all."""
    rng = np.random.default_rng(seed)
    grades = rng.choice([0, 0, 0.25, 0.5, 1], size=(ROWS, ROWS))
    known = rng.random(ROWS) < rng.choice([0, 0.2, 0.7, 1])
    return draw_vectors(rng), np.float32(grades), known


def draw_pairs(seed):
    rng = np.random.default_rng(seed)
    log_prob = np.log(rng.dirichlet(np.ones(ROWS)))
    excluded = rng.random((ROWS, ROWS)) < rng.choice([0, 0.3, 1])
    return draw_vectors(rng), np.float32(log_prob), excluded


def cosines(vectors):
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    return np.einsum("bld,cld->lbc", units, units)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_prefixes_are_the_codes_and_move_the_latent_alone(seed):
    rng = np.random.default_rng(seed)
    latent = jnp.float32(rng.normal(size=(ROWS, WIDTH)) * 1e4)
    codewords = jnp.float32(rng.normal(size=(ROWS, LEVELS, WIDTH)))
    weights = jnp.float32(rng.normal(size=(ROWS, LEVELS, WIDTH)))
    prefixes = straight_through_prefixes(latent, codewords)
    np.testing.assert_array_equal(prefixes, jnp.cumsum(codewords, axis=1))
    of_latent, of_codewords = jax.grad(
        lambda *args: (weights * straight_through_prefixes(*args)).sum(), (0, 1)
    )(latent, codewords)
    np.testing.assert_allclose(of_latent, weights.sum(axis=1), rtol=1e-5, atol=1e-6)
    assert (of_codewords == 0).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.sampled_from("ab"), max_size=DEPTH), min_size=ROWS, max_size=ROWS
    ),
    st.sampled_from([(0.5, 0.25), (0.6, 0.1), (0.5, 0.0), (0.0, 0.0)]),
)
def test_grades_are_those_of_the_taxonomy(paths, numbers):
    sibling, cousin = numbers
    tree = Taxonomy.from_paths(paths)
    nodes = np.full((ROWS, DEPTH), -1, np.int32)
    for depth in range(1, tree.max_depth + 1):
        nodes[:, depth - 1] = tree.prefix(depth)
    grades = np.asarray(grade(nodes, sibling=sibling, cousin=cousin))
    for i, first in enumerate(paths):
        for j, second in enumerate(paths):
            same = (a == b for a, b in zip(first, second, strict=False))
            shared = len(list(takewhile(bool, same)))
            hops = max(len(first), len(second)) - shared
            wanted = [1, sibling][hops] if hops < 2 else cousin * sibling ** (hops - 2)
            if i == j or not shared:
                wanted = 0
            np.testing.assert_allclose(grades[i, j], wanted, rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seeds, temperatures)
def test_graded_loss_is_the_divergence_by_hand(seed, temperature):
    vectors, grades, known = draw_batch(seed)
    found, anchors = graded(vectors, grades, known, temperature=temperature)
    scores = cosines(vectors) / temperature
    for i in range(ROWS):
        others = [j for j in range(ROWS) if known[i] and known[j] and j != i]
        total = float(grades[i, others].sum(dtype=np.float64))
        assert anchors[i] == (total > 0)
        for level in range(LEVELS):
            norm = np.logaddexp.reduce(scores[level, i, others])
            wanted = 0.0
            for j in (j for j in others if grades[i, j] > 0):
                target = float(grades[i, j]) / total
                log_prob = scores[level, i, j] - norm
                wanted += target * (np.log(target) - log_prob)
            np.testing.assert_allclose(found[i, level], wanted, rtol=2e-4, atol=2e-5)
    assert (found > -1e-5).all()


@settings(deadline=None, max_examples=50)
@given(seeds, temperatures)
def test_cooccurrence_loss_is_the_softmax_by_hand(seed, temperature):
    vectors, log_prob, excluded = draw_pairs(seed)
    found = together(vectors, log_prob, excluded, temperature=temperature)
    scores = cosines(vectors) / temperature - log_prob.astype(np.float64)
    for i in range(ROWS):
        partner = i + 1 if i % 2 == 0 else i - 1
        others = [
            j for j in range(ROWS) if j == partner or (j != i and not excluded[i, j])
        ]
        wanted = np.logaddexp.reduce(scores[:, i, others], axis=-1)
        wanted = wanted - scores[:, i, partner]
        np.testing.assert_allclose(found[i], wanted, rtol=2e-4, atol=2e-5)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_gradients_are_finite_and_ignore_what_takes_no_part(seed):
    vectors, grades, known = draw_batch(seed)

    def of_graded(vectors):
        return graded(vectors, grades, known, temperature=0.1)[0].sum()

    gradient = np.asarray(jax.grad(of_graded)(vectors))
    assert np.isfinite(gradient).all()
    assert (gradient[~known] == 0).all() and (gradient[0, 0] == 0).all()
    vectors, log_prob, excluded = draw_pairs(seed)
    gradient = jax.grad(
        lambda x: together(x, log_prob, excluded, temperature=0.1).sum()
    )(vectors)
    assert np.isfinite(gradient).all()


def test_the_floor_is_zero_where_siblings_lie_a_grade_further():
    temperature = 0.1
    # Four leaves of two items under two parents of one category.
    nodes = [[0, 1 + leaf // 2, 3 + leaf] for leaf in range(4) for _ in range(2)]
    grades = np.asarray(taxonomy_grades(jnp.asarray(nodes)), np.float64)
    cosine = 0.5 + temperature * np.log(grades + np.eye(ROWS))
    np.fill_diagonal(cosine, 1)
    factor = np.linalg.cholesky(cosine) * np.arange(1, ROWS + 1)[:, None]
    vectors = jnp.float32(np.stack([factor, -factor], axis=1))
    known = np.ones(ROWS, bool)
    apply = partial(graded, temperature=temperature)
    loss, anchors = apply(vectors, jnp.float32(grades), known)
    assert anchors.all()
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    gap = cosine[0, 1] - cosine[0, 2]
    np.testing.assert_allclose(gap, temperature * np.log(2))
    gradient = jax.grad(lambda x: apply(x, jnp.float32(grades), known)[0].sum())
    np.testing.assert_allclose(gradient(vectors), 0, atol=1e-5)
    moved = vectors.at[0, :, 1].add(0.5)  # off its direction
    assert (apply(moved, jnp.float32(grades), known)[0] > 1e-5).all()


@settings(deadline=None, max_examples=25)
@given(seeds, temperatures)
def test_with_one_grade_it_is_supcon_up_to_a_constant(seed, temperature):
    rng = np.random.default_rng(seed)
    vectors, labels = draw_vectors(rng), rng.integers(0, 3, ROWS)
    same = (labels[:, None] == labels) & ~np.eye(ROWS, dtype=bool)
    found, anchors = graded(
        vectors, np.float32(0.7 * same), np.ones(ROWS, bool), temperature=temperature
    )
    scores = cosines(vectors) / temperature
    scores[:, np.eye(ROWS, dtype=bool)] = -np.inf
    log_prob = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    for i in np.flatnonzero(anchors):
        supcon = -log_prob[:, i, same[i]].mean(axis=-1)
        np.testing.assert_allclose(
            found[i], supcon - np.log(same[i].sum()), rtol=2e-4, atol=2e-5
        )


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_losses_follow_the_rows(seed):
    rng = np.random.default_rng(seed)
    vectors, grades, known = draw_batch(seed)
    order = rng.permutation(ROWS)
    loss, anchors = graded(vectors, grades, known, temperature=0.1)
    moved, moved_anchors = graded(
        vectors[order], grades[np.ix_(order, order)], known[order], temperature=0.1
    )
    np.testing.assert_allclose(moved, loss[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved_anchors, anchors[order])
    # Pairs move as pairs, and either item may come first.
    vectors, log_prob, excluded = draw_pairs(seed)
    order = rng.permutation(np.arange(ROWS).reshape(-1, 2), axis=0)
    order = rng.permuted(order, axis=1).ravel()
    loss = together(vectors, log_prob, excluded, temperature=0.1)
    moved = together(
        vectors[order], log_prob[order], excluded[np.ix_(order, order)], temperature=0.1
    )
    np.testing.assert_allclose(moved, loss[order], rtol=1e-4, atol=1e-5)


def test_constants_that_cancel():
    vectors, log_prob, excluded = draw_pairs(0)
    loss = together(vectors, log_prob, excluded, temperature=0.1)
    shifted = together(vectors, log_prob + 3, excluded, temperature=0.1)
    np.testing.assert_allclose(shifted, loss, rtol=1e-4, atol=1e-5)
    vectors, grades, known = draw_batch(3)
    loss = graded(vectors, grades, known, temperature=0.1)[0]
    scaled = graded(vectors * 7, grades * 3, known, temperature=0.1)[0]
    np.testing.assert_allclose(scaled, loss, rtol=1e-4, atol=1e-5)
    short = vectors.astype(jnp.bfloat16)
    assert graded(short, grades, known, temperature=0.1)[0].dtype == jnp.float32


def test_a_split_batch_has_the_losses_and_gradients_of_a_whole_one():
    rng = np.random.default_rng(0)
    B = 64
    latent = np.float32(rng.normal(size=(B, WIDTH)))
    codewords = np.float32(rng.normal(size=(B, LEVELS, WIDTH)))
    paths = rng.integers(0, 3, (B, 2)).astype(np.int32)
    paths[:, 1] += 3 + 3 * paths[:, 0]
    paths[:5] = -1
    log_prob = np.float32(np.log(rng.dirichlet(np.ones(B))))
    excluded = rng.random((B, B)) < 0.2

    def losses(latent, codewords, paths, log_prob, excluded):
        vectors = straight_through_prefixes(latent, codewords)
        known = paths[:, 0] >= 0
        grades = taxonomy_grades(paths)
        first, anchors = graded_contrastive_loss(
            vectors, grades, known, temperature=0.1
        )
        second = cooccurrence_loss(vectors, log_prob, excluded, temperature=0.1)
        total = first.sum() / anchors.sum() + second.mean()
        return total, (first, second, anchors)

    compute = jax.value_and_grad(losses, has_aux=True)
    args = (latent, codewords, paths, log_prob, excluded)
    whole = jax.jit(compute)(*args)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    split = jax.jit(compute, in_shardings=rows)(*args)
    for found, wanted in zip(
        jax.tree.leaves(split), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_gradient_at_a_realistic_size_is_the_one_by_hand():
    B, L, D, temperature = 192, 4, 32, 0.07
    rng = np.random.default_rng(0)
    # Three levels of categories; a batch of near neighbours, in which rounding tells.
    leaf = rng.integers(0, 60, B)
    paths = jnp.asarray(np.stack([leaf // 20, leaf // 4 + 3, leaf + 18], axis=1))
    known = rng.random(B) < 0.9
    vectors = np.float32(rng.normal(size=(B, L, D)) * 0.1 + rng.normal(size=D))
    grades = taxonomy_grades(paths)
    gradient = jax.jit(
        jax.grad(
            lambda x: graded_contrastive_loss(
                x, grades, jnp.asarray(known), temperature=temperature
            )[0].sum()
        )
    )(vectors)
    contrasts = known[:, None] & known & ~np.eye(B, dtype=bool)
    target = np.where(contrasts, np.float64(grades), 0)
    target /= np.maximum(target.sum(axis=1, keepdims=True), 1e-30)
    anchors = target.sum(axis=1) > 0
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    units = vectors / lengths
    scores = np.where(contrasts, cosines(vectors) / temperature, -np.inf)
    scores, pull = scores[:, anchors], np.zeros((L, B, B))
    odds = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
    pull[:, anchors] = (odds - target[anchors]) / temperature
    wanted = np.einsum("lbc,cld->bld", pull + pull.transpose(0, 2, 1), units)
    wanted -= (wanted * units).sum(axis=-1, keepdims=True) * units
    wanted /= lengths
    # The sums run over pairs whose parts cancel: absolute error, by the largest.
    np.testing.assert_allclose(gradient, wanted, atol=2e-5 * abs(wanted).max())


def test_level_weights_sum_to_one_and_fall_or_rise():
    assert level_weights(4) == (8 / 15, 4 / 15, 2 / 15, 1 / 15)
    assert level_weights(4, 0.5) == level_weights(4)[::-1]
    assert level_weights(3, 1.0) == (1 / 3, 1 / 3, 1 / 3)
    for levels in range(1, 9):
        assert abs(sum(level_weights(levels)) - 1) < 1e-12
    with pytest.raises(InputError, match="num_levels=0"):
        level_weights(0)
    with pytest.raises(InputError, match=r"base=-1\.0"):
        level_weights(4, -1.0)


def test_rows_that_are_no_pairs_are_refused():
    with pytest.raises(InputError, match="not 3 rows"):
        cooccurrence_loss(
            jnp.ones((3, 1, 2)), jnp.zeros(3), jnp.zeros((3, 3), bool), temperature=1.0
        )
