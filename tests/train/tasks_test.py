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
from sid_jax.models.decoder import DecoderConfig
from sid_jax.models.quantizer import count_usage, quantize
from sid_jax.models.rqvae import ResidualKMeansConfig, RQVAEConfig
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.train.optimizer import OptimizerConfig, make_optimizer
from sid_jax.train.sharding import MeshConfig, make_mesh, place, use_mesh
from sid_jax.train.step import abstract_state, jit_train_step, start_state
from sid_jax.train.tasks import RetrieverTask, TokenizerTask, TokenizerTaskConfig

ONE = MeshConfig(data=1)
MESH = MeshConfig(data=4, model=2, rules="fsdp_tensor")
BATCH, FEATURES = 16, 6
LEARNS = TokenizerTaskConfig(start_rows=64, start_iterations=5)
RQVAE = TokenizerTask(
    LEARNS, RQVAEConfig(hidden=(8,), latent=FEATURES, codebook_sizes=(5, 5))
)
KMEANS = TokenizerTask(LEARNS, ResidualKMeansConfig(codebook_sizes=(5, 5)))
VOCAB = Vocab(codebook_sizes=(4, 3), num_retailers=2)
TRUNK = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=8)
RETRIEVER = RetrieverTask(DecoderConfig(transformer=TRUNK), VOCAB)


def item_batch(step):
    vectors = np.random.default_rng(step).normal(size=(BATCH, FEATURES))
    return {"vectors": np.float32(vectors / FEATURES**0.5)}


def prompt_batch(step):
    """Households that buy what they bought, or the successor of the last item."""
    rng = np.random.default_rng(step)
    codes = rng.integers(0, VOCAB.codebook_sizes, (BATCH, 6, 2))
    codes[:, 4] = np.where(rng.random((BATCH, 1)) < 0.7, codes[:, 3], codes[:, 4])
    codes[:, 5] = (codes[:, 4] + 1) % VOCAB.codebook_sizes
    codes[:3, :4] = -1  # no history
    codes[2:5, 5] = -1  # one item in the basket
    codes[4, 4] = -1  # none at all
    return VOCAB.prompts(np.arange(BATCH) % 2, codes[:, :4], codes[:, 4:])


class Counted:
    """A task that counts the traces of its loss."""

    def __init__(self, task):
        self.task, self.traces = task, 0

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, *args):
        self.traces += 1
        return self.task.loss(*args)


def train(task, stream, layout, steps):
    task, mesh, key = Counted(task), make_mesh(layout), jax.random.key(0)
    optimizer = OptimizerConfig(name="adamw", learning_rate=0.01)
    transform, schedule = make_optimizer(optimizer, steps)
    batch = place(stream(0), mesh)
    abstract = abstract_state(task, transform, batch, mesh, layout.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    losses = []
    with use_mesh(mesh, layout.rules):
        batches = (place(stream(step), mesh) for step in count())
        state = start_state(task, transform, batch, batches, key, shardings)
        train_step = jit_train_step(task, transform, schedule, shardings, mesh)
        for step in range(steps):
            state, metrics = train_step(state, place(stream(step), mesh), key)
            losses.append(float(metrics["loss"][0]))
    assert task.traces == 1
    return jax.device_get(state), jax.device_get(metrics), losses


@pytest.fixture(scope="module")
def tokenizer():
    return train(RQVAE, item_batch, ONE, 60)


@pytest.fixture(scope="module")
def retriever():
    return train(RETRIEVER, prompt_batch, ONE, 60)


@pytest.mark.parametrize("name", ["tokenizer", "retriever"])
def test_the_loss_falls(name, request):
    _, metrics, losses = request.getfixturevalue(name)
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert np.isfinite([total / number for total, number in metrics.values()]).all()


@pytest.mark.parametrize(
    ("name", "task", "stream"),
    [("tokenizer", RQVAE, item_batch), ("retriever", RETRIEVER, prompt_batch)],
)
def test_a_mesh_gives_what_one_device_gives(name, task, stream, request):
    state, _, losses = train(task, stream, MESH, 3)
    np.testing.assert_allclose(
        losses, request.getfixturevalue(name)[2][:3], rtol=1e-5, atol=1e-5
    )
    assert len(set(losses)) == 3
    chex.assert_tree_all_finite(state.params)


def start(task):
    """Parameters, and codebooks of nothing yet; no jit of a test sees a box."""
    return nn.unbox(jax.jit(task.init)(jax.random.key(0), item_batch(0)))


def item_batches(drawn):
    for step in count():
        drawn.append(step)
        yield jax.tree.map(jnp.asarray, item_batch(step))


def test_a_tokenizer_starts_from_the_kmeans_of_its_latents():
    params, codebooks = start(RQVAE)
    assert codebooks.sizes == (5, 5) and codebooks.vectors.shape == (2, 5, FEATURES)
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


def test_residual_kmeans_is_done_when_it_starts():
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

    vectors = item_batch(0)["vectors"]
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


def test_padded_basket_rows_change_nothing(retriever):
    """Rows with an empty basket have no weight; absent items of a basket neither."""
    quiet = RetrieverTask(
        replace(RETRIEVER.model, transformer=replace(TRUNK, dropout=0.0)), VOCAB
    )
    params = retriever[0].params

    @jax.jit
    def run(batch):
        loss, (metrics, _) = quiet.loss(params, {}, batch, jax.random.key(0))
        return loss, metrics

    batch = prompt_batch(7)
    empty = replace(batch, basket=np.full_like(batch.basket, PAD))
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), batch, empty)
    wider = replace(batch, basket=np.pad(batch.basket, ((0, 0), (0, 2), (0, 0))))
    loss, metrics = run(batch)
    for padded in (both, wider):
        chex.assert_trees_all_close(run(padded), (loss, metrics), rtol=1e-4)
    assert metrics["loss_1"][1] == (batch.basket[..., 0] != PAD).sum() == 16 + 16 - 4
    nothing, metrics = run(empty)
    assert nothing == 0 and metrics["loss_1"] == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": -1.0},
        {"decay": 1.0},
        {"decay": 2.0},
        {"start_rows": 0},
        {"start_iterations": 0},
        {"restart_below": float("nan")},
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
    stats = (count_usage(used, state), used.residuals)
    _, after, _ = task.fold({}, state, (), stats, jax.random.key(1))
    np.testing.assert_allclose(after.vectors, state.vectors, rtol=0.01, atol=0.01)
