from dataclasses import replace
from functools import partial
from itertools import count

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.models.codebooks import lookup, make_codebooks
from sid_jax.models.quantizer import count_usage, quantize
from sid_jax.models.rqvae import ResidualKMeansConfig, RQVAEConfig
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.sharding import MeshConfig
from sid_jax.train.step import Stats
from sid_jax.train.tokenizer_config import (
    CooccurrenceTerm,
    TaxonomyTerm,
    TokenizerTaskConfig,
)
from sid_jax.train.tokenizer_task import TokenizerStart, TokenizerTask

ONE = MeshConfig(data=1)
SGD = OptimizerConfig(name="sgd", learning_rate=0.02)
BATCH, FEATURES = 16, 6
LEARNS = TokenizerTaskConfig(start_rows=64, start_iterations=5)
RQVAE = TokenizerTask(
    LEARNS, RQVAEConfig(hidden=(8,), latent=FEATURES, codebook_sizes=(6, 6))
)
KMEANS = TokenizerTask(LEARNS, ResidualKMeansConfig(codebook_sizes=(5, 5)))


def item_batch(step):
    vectors = np.random.default_rng(step).normal(size=(BATCH, FEATURES))
    return {"vectors": np.float32(vectors / FEATURES**0.5)}


@pytest.fixture(scope="module")
def tokenizer(train):
    return train(RQVAE, item_batch, ONE, 60)


def test_the_loss_falls(tokenizer):
    _, metrics, losses = tokenizer
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert np.isfinite([total / number for total, number in metrics.values()]).all()


EVERYTHING = TokenizerTask(
    replace(
        LEARNS,
        taxonomy=TaxonomyTerm(weight=0.1),
        cooccurrence=CooccurrenceTerm(weight=0.1),
        anchor=0.1,
        progressive=True,
        even=0.01,
    ),
    replace(RQVAE.model, principal=True, latent=4),
    blocks=(2, 4),
)


def full_batch(step):
    """Every stream that a tokenizer can learn from."""
    rng = np.random.default_rng(step + 100)
    items = item_batch(step)
    cells = np.int32(rng.integers(2, size=BATCH))
    paths = np.int32(rng.integers(3, size=(BATCH, 2)))
    contrast = item_batch(step + 50)["vectors"]
    pairs = item_batch(step + 70)["vectors"]
    return items | {
        "cells": cells,
        "anchor": items["vectors"][:, :4],
        "taxonomy": {"vectors": contrast, "paths": paths, "cells": cells},
        "pairs": {
            "vectors": pairs,
            "cells": cells,
            "log_prob": np.float32(rng.normal(size=BATCH)),
            "excluded": rng.random((BATCH, BATCH)) < 0.2,
        },
    }


@pytest.mark.parametrize(
    ("task", "stream", "hidden"),
    # A hidden layer there and one back; two streams more are encoded.
    [
        pytest.param(RQVAE, item_batch, 2, id="plain", marks=pytest.mark.slow),
        pytest.param(EVERYTHING, full_batch, 4, id="everything"),
    ],
)
def test_a_mesh_gives_what_one_device_gives(
    task, stream, hidden, layout, equal_on_a_mesh
):
    equal_on_a_mesh(task, stream, layout, constraints=2 * hidden)


def moving_batch(step):
    """Points near centres, all of which move to other places at step 8."""
    rng = np.random.default_rng(step)
    centres = np.random.default_rng(step // 8).normal(size=(12, FEATURES))
    near = centres[rng.integers(12, size=BATCH)]
    return {"vectors": np.float32(near + 0.05 * rng.normal(size=near.shape))}


def test_start_averages_and_restarts_are_those_of_one_device(train):
    """Sixteen steps on; peers' codebooks part here (their averages are a device's)."""

    def end(learns, data):
        task = TokenizerTask(learns, RQVAE.model)
        state, _, losses = train(task, moving_batch, MeshConfig(data=data), 16, SGD)
        return (state.params, state.state), losses

    learns = replace(LEARNS, decay=0.6, restart_below=0.1)
    wanted, losses = end(learns, 1)
    for data in (2, 8):
        found, also = end(learns, data)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(also, losses, rtol=1e-4)
    # Without restarts it ends elsewhere: they did take place.
    (_, never), _ = end(replace(learns, restart_below=0.0), 1)
    moved = np.abs(never.vectors - wanted[1].vectors).max(axis=2) > 0.1
    assert moved.any(axis=1).all()


def start(task):
    """Parameters, and codebooks of nothing yet; no jit of a test sees a box."""
    return nn.unbox(jax.jit(task.init)(jax.random.key(0), item_batch(0)))


def item_batches(drawn):
    for step in count():
        drawn.append(step)
        yield jax.tree.map(jnp.asarray, item_batch(step))


def test_a_tokenizer_starts_from_the_kmeans_of_its_latents():
    params, codebooks = start(RQVAE)
    assert codebooks.sizes == (6, 6) and codebooks.vectors.shape == (2, 6, FEATURES)
    drawn, key = [], jax.random.key(1)
    same, codebooks = RQVAE.prepare(params, codebooks, item_batches(drawn), key)
    assert drawn == [0, 1, 2, 3]  # 64 rows
    assert same is params
    rows = np.concatenate([item_batch(step)["vectors"] for step in drawn])
    latents = jax.jit(RQVAE.encode)(params, rows)
    left = jax.jit(quantize)(latents, codebooks).distances
    assert left.mean() < 0.5 * (latents**2).sum(axis=1).mean()

    few = TokenizerTask(replace(LEARNS, start_rows=4), RQVAE.model)
    with pytest.raises(InputError, match="start_rows=4"):
        few.prepare(params, codebooks, item_batches([]), key)


def test_codebooks_move_with_the_batch_and_dead_codes_restart(tokenizer):
    params, codebooks = tokenizer[0].params, tokenizer[0].state
    assert int(codebooks.updates) == 60
    dead = jax.tree.map(np.copy, codebooks)
    dead.vectors[0, 1] = 100.0  # far off: nothing revives it
    dead.counts[0, 1] = 0.0
    dead.sums[0, 1] = 0.0

    @partial(jax.jit, static_argnums=0)
    def fold(task, state):
        batch, key = jax.tree.map(jnp.asarray, item_batch(0)), jax.random.key(0)
        _, (_, stats) = task.loss(params, state, batch, key)
        return task.fold(params, state, {}, stats, key)[1]

    moved = fold(RQVAE, dead)
    latents = jax.jit(RQVAE.encode)(params, item_batch(0)["vectors"])
    there = np.abs(np.asarray(latents) - moved.vectors[0, 1]).max(axis=1) < 1e-5
    assert there.any() and moved.counts[0, 1] > LEARNS.restart_below
    settled = fold(TokenizerTask(replace(LEARNS, restart_steps=60), RQVAE.model), dead)
    assert settled.counts[0, 1] == 0
    np.testing.assert_array_equal(settled.vectors[0, 0], moved.vectors[0, 0])
    assert np.abs(moved.vectors[0, [0, 2]] - dead.vectors[0, [0, 2]]).max() > 0


def test_residual_kmeans_is_done_when_it_starts(train):
    state, metrics, losses = train(KMEANS, item_batch, ONE, 2)
    assert state.params == {}
    key = jax.random.fold_in(jax.random.key(0), 1)
    _, started = KMEANS.prepare({}, start(KMEANS)[1], item_batches([]), key)
    chex.assert_trees_all_close(state.state, jax.device_get(started), atol=1e-6)
    folded = KMEANS.fold({}, started, "opt", None, key)
    assert folded[0] == {} and folded[1] is started and folded[2] == "opt"
    assert np.isfinite(losses).all() and float(metrics["grad_norm"][0]) == 0


@pytest.mark.parametrize("task", [RQVAE, KMEANS], ids=["rqvae", "kmeans"])
def test_tokenize_gives_codes_distances_and_reconstructions(task):
    params, codebooks = start(task)
    key = jax.random.key(1)
    _, codebooks = task.prepare(params, codebooks, item_batches([]), key)

    @jax.jit
    def run(vectors):
        loss, (metrics, _) = task.loss(params, codebooks, {"vectors": vectors}, key)
        latents = task.encode(params, vectors)
        found = task.tokenize(params, codebooks, vectors)
        return found, loss, metrics, latents, quantize(latents, codebooks).codes

    vectors = jnp.asarray(item_batch(0)["vectors"])
    (codes, distances, decoded), loss, metrics, latents, wanted = run(vectors)
    np.testing.assert_array_equal(codes, wanted)
    left = latents - lookup(codes, codebooks)
    np.testing.assert_allclose(distances, (left**2).sum(axis=1), rtol=1e-4, atol=1e-6)
    total, rows = metrics["reconstruction"]
    left = ((vectors - decoded[:, -1]) ** 2).sum(axis=1)
    np.testing.assert_allclose(total / rows, left.mean(), rtol=1e-4)
    commitment = metrics["commitment"][0] / rows
    np.testing.assert_allclose(loss, total / rows + 0.25 * commitment, rtol=1e-5)
    assert decoded.shape == (BATCH, 2, FEATURES)
    assert np.abs(decoded[:, 0] - decoded[:, -1]).max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": -1.0},
        {"decay": 1.0},
        {"decay": 2.0},
        {"start_rows": 0},
        {"start_iterations": 0},
        {"restart_below": float("nan")},
        {"anchor": -1.0},
        {"beams": 0},
    ],
)
def test_a_task_that_cannot_learn_is_refused(change):
    with pytest.raises(InputError, match=f"task.{next(iter(change))}"):
        TokenizerTaskConfig(**change)


def test_evenly_used_codes_do_not_restart_in_a_small_batch():
    rows, codes = 4, 64
    task = TokenizerTask(TokenizerTaskConfig(), RQVAEConfig(codebook_sizes=(codes,)))
    assert rows / codes < TokenizerTaskConfig().restart_below
    vectors = jax.random.normal(jax.random.key(0), (codes, 3))
    state = make_codebooks([vectors])
    even = state.counts * rows / codes
    state = state.replace(counts=even, sums=vectors[None] * even[..., None])
    used = quantize(vectors[:rows], state)
    stats = Stats(sums=count_usage(used, state), rows=(used.residuals, None))
    _, after, _ = task.fold({}, state, (), stats, jax.random.key(1))
    np.testing.assert_allclose(after.vectors, state.vectors, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TaxonomyTerm(weight=-1.0),
        lambda: TaxonomyTerm(temperature=0.0),
        lambda: TaxonomyTerm(cousin=2.0),
        lambda: CooccurrenceTerm(weight=float("inf")),
        lambda: CooccurrenceTerm(base=0.0),
    ],
)
def test_a_term_that_means_nothing_is_refused(make):
    with pytest.raises(InputError, match=r"task\.(taxonomy|cooccurrence)\."):
        make()


def first_loss(task, batch):
    params, codebooks = start(task)
    batches = (jax.tree.map(jnp.asarray, full_batch(step)) for step in count())
    params, codebooks = task.prepare(params, codebooks, batches, jax.random.key(1))
    batch, key = jax.tree.map(jnp.asarray, batch), jax.random.key(2)
    return jax.jit(task.loss)(params, codebooks, batch, key)


def test_each_term_adds_its_weight_times_its_mean():
    plain = replace(EVERYTHING.config, taxonomy=TaxonomyTerm(), anchor=0.0)
    plain = replace(plain, cooccurrence=CooccurrenceTerm())
    batch = full_batch(0)
    without, _ = first_loss(replace(EVERYTHING, config=plain), batch)
    loss, (metrics, _) = first_loss(EVERYTHING, batch)
    names = ("taxonomy", "cooccurrence", "anchor")
    terms = [metrics[name][0] / metrics[name][1] for name in names]
    assert min(terms) > 0.01
    np.testing.assert_allclose(loss, without + 0.1 * sum(terms), rtol=1e-5)


def test_the_taxonomy_of_the_batch_itself_needs_no_second_pass():
    batch = full_batch(0)
    batch["taxonomy"] |= {"vectors": batch["vectors"], "cells": batch["cells"]}
    config = replace(EVERYTHING.config, even=0.0, progressive=False)
    task = replace(EVERYTHING, config=config)
    twice, _ = first_loss(task, batch)
    own = batch | {"taxonomy": {"paths": batch["taxonomy"]["paths"]}}
    once, _ = first_loss(task, own)
    np.testing.assert_allclose(once, twice, rtol=1e-6)


def test_a_principal_start_is_residual_kmeans_of_the_principal_axes():
    model = RQVAEConfig(hidden=(8,), latent=FEATURES, codebook_sizes=(5, 5))
    task = TokenizerTask(LEARNS, replace(model, principal=True))
    params, codebooks = start(task)
    key = jax.random.key(1)
    params, codebooks = task.prepare(params, codebooks, item_batches([]), key)
    vectors = jnp.asarray(item_batch(0)["vectors"])
    latents = jax.jit(task.encode)(params, vectors)
    # All axes are kept: a rotation, and decoding turns it back.
    np.testing.assert_allclose(latents @ latents.T, vectors @ vectors.T, atol=1e-4)
    _, distances, decoded = jax.jit(task.tokenize)(params, codebooks, vectors)
    left = ((vectors - decoded[:, -1]) ** 2).sum(axis=1)
    np.testing.assert_allclose(left, distances, rtol=1e-3, atol=1e-5)
    spread = np.asarray(task.encode(params, jnp.eye(FEATURES)))
    assert np.abs(spread.T @ spread - np.eye(FEATURES)).max() < 1e-4
    wide = TokenizerTask(LEARNS, replace(model, principal=True, latent=FEATURES + 1))
    with pytest.raises(InputError, match=r"model\.latent=7"):
        wide.prepare(*start(wide), item_batches([]), key)


def test_codebooks_that_learn_by_gradient_are_parameters(train):
    task = TokenizerTask(replace(LEARNS, codebooks="gradient"), RQVAE.model)
    state, _, losses = train(task, item_batch, ONE, 40)
    np.testing.assert_array_equal(state.params["codebooks"], state.state.vectors)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    started = start(task)
    params, codebooks = task.prepare(
        *started, item_batches([]), jax.random.fold_in(jax.random.key(0), 1)
    )
    np.testing.assert_array_equal(params["codebooks"], codebooks.vectors)
    assert np.abs(state.state.vectors - codebooks.vectors).max() > 0.01
    # No codeword of padding is ever made.
    ragged = TokenizerTask(task.config, replace(RQVAE.model, codebook_sizes=(5, 3)))
    state, *_ = train(ragged, item_batch, ONE, 3)
    assert (state.state.vectors[1, 3:] == 0).all()


def test_frozen_levels_stay_and_the_others_move(tokenizer, train):
    before = TokenizerStart(tokenizer[0].params, tokenizer[0].state)
    config = replace(LEARNS, frozen=1, anchor=1.0)
    task = TokenizerTask(config, RQVAE.model, start=before)

    def stream(step):
        vectors = item_batch(step + 900)["vectors"] * 2
        old = np.asarray(RQVAE.encode(before.params, jnp.asarray(vectors)))
        return {"vectors": vectors, "anchor": old}

    state, metrics, _ = train(task, stream, ONE, 5)
    first, second = state.state.vectors
    np.testing.assert_array_equal(first, before.codebooks.vectors[0])
    assert np.abs(second - before.codebooks.vectors[1]).max() > 1e-3
    assert metrics["anchor"][0] > 0
    other = replace(task, model=replace(RQVAE.model, codebook_sizes=(5, 4)))
    with pytest.raises(InputError, match="another shape"):
        other.prepare(*start(other), iter(()), jax.random.key(0))


def test_more_beams_leave_less():
    wide = replace(RQVAE, config=replace(LEARNS, beams=5))
    params, codebooks = start(RQVAE)
    key = jax.random.key(1)
    _, codebooks = RQVAE.prepare(params, codebooks, item_batches([]), key)
    many = [item_batch(step)["vectors"] for step in range(10, 26)]
    vectors = jnp.concatenate(many)
    _, greedy, _ = jax.jit(RQVAE.tokenize)(params, codebooks, vectors)
    codes, best, _ = jax.jit(wide.tokenize)(params, codebooks, vectors)
    assert (best <= greedy + 1e-6).all() and best.sum() < greedy.sum()
    left = RQVAE.encode(params, vectors) - lookup(codes, codebooks)
    np.testing.assert_allclose(best, (left**2).sum(axis=1), rtol=1e-4, atol=1e-6)


def test_a_batch_in_parts_is_the_batch(train):
    mesh, sgd = MeshConfig(data=2), OptimizerConfig(name="sgd", learning_rate=0.02)
    whole, metrics, losses = train(RQVAE, item_batch, mesh, 3, sgd)
    parts, told, found = train(RQVAE, item_batch, mesh, 3, sgd, accumulate=4)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    # Dead codes restart on the rows of the whole batch, in its order.
    chex.assert_trees_all_close(parts.state, whole.state, rtol=1e-5, atol=1e-6)
    for name in ("reconstruction", "commitment"):
        np.testing.assert_allclose(told[name], metrics[name], rtol=1e-5)


@pytest.mark.parametrize(
    "learned", ["average", pytest.param("gradient", marks=pytest.mark.slow)]
)
def test_half_the_bits_learn_the_same(learned):
    """Encoder and decoder in bfloat16; codebooks, distances, losses in float32."""
    plain = replace(RQVAE, config=replace(LEARNS, codebooks=learned))
    task = replace(plain, config=replace(plain.config, dtype="bfloat16"))
    params, codebooks = start(plain)
    key = jax.random.key(1)
    params, codebooks = plain.prepare(params, codebooks, item_batches([]), key)
    batch = jax.tree.map(jnp.asarray, item_batch(0))

    def grad(task, params):
        def loss(params):
            return task.loss(params, codebooks, batch, key)

        return jax.value_and_grad(loss, has_aux=True)(params)

    text = str(jax.make_jaxpr(lambda x: grad(task, x))(params))
    products = [line for line in text.split("\n") if "= dot_general" in line]
    assert sum(":bf16[" in line for line in products) == 2 + 2 + 2 * 4 - 1
    ((loss, (_, stats)), grads), ((wanted, _), exact) = (
        jax.jit(grad, static_argnums=0)(each, params) for each in (task, plain)
    )
    kinds = {leaf.dtype for leaf in jax.tree.leaves((loss, grads, stats))}
    assert kinds == {np.dtype("float32")}
    assert loss != wanted
    np.testing.assert_allclose(loss, wanted, rtol=0.02)
    flat, exact = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)])
        for each in (grads, exact)
    )
    cosine = flat @ exact / np.linalg.norm(flat) / np.linalg.norm(exact)
    assert cosine > 0.99
