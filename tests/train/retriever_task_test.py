from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from sid_jax.models.flat import FlatConfig
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.train.retriever_task import RetrieverTask
from sid_jax.train.sharding import MeshConfig

ONE = MeshConfig(data=1)
MESH = MeshConfig(data=4, model=2, rules="fsdp_tensor")
BATCH = 16
VOCAB = Vocab(codebook_sizes=(4, 3), num_retailers=2)
TRUNK = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=8)
RETRIEVER = RetrieverTask(FlatConfig(transformer=TRUNK), VOCAB)


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


@pytest.fixture(scope="module")
def retriever(train):
    return train(RETRIEVER, prompt_batch, ONE, 60)


def test_the_loss_falls(retriever):
    _, metrics, losses = retriever
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert np.isfinite([total / number for total, number in metrics.values()]).all()


def test_a_mesh_gives_what_one_device_gives(retriever, train):
    state, _, losses = train(RETRIEVER, prompt_batch, MESH, 3)
    np.testing.assert_allclose(losses, retriever[2][:3], rtol=1e-5, atol=1e-5)
    assert len(set(losses)) == 3
    chex.assert_tree_all_finite(state.params)


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
