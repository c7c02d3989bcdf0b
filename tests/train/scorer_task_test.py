from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.models.sasrec import SASRecConfig, item_rows
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.vocab import Vocab
from sid_jax.train.retriever_task import RetrieverTaskConfig
from sid_jax.train.scorer_task import ScorerTask
from sid_jax.train.sharding import MeshConfig

ITEMS = 12
CODES = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], axis=1).astype(np.int32)
VOCAB = Vocab(codebook_sizes=(3, 4), num_retailers=2)
TRUNK = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=8)


def make_task(kind="atomic", **changes):
    config = SASRecConfig(transformer=TRUNK, items=kind)
    rows, num_rows = item_rows(config, CODES, VOCAB.codebook_sizes)
    told = RetrieverTaskConfig(**changes)
    bought = np.arange(ITEMS) ** 2
    return ScorerTask(config, rows, num_rows, VOCAB.level_offsets[0], told, bought)


def histories(step):
    """Two households a row, who mostly buy the next item of the catalog."""
    rng = np.random.default_rng(step)
    shape = (16, 12)
    steps = np.where(rng.random((16, 12)) < 0.8, 1, rng.integers(0, ITEMS, shape))
    items = np.cumsum(steps, axis=1) % ITEMS
    segments = np.repeat([[1] * 6 + [2] * 4 + [0] * 2], 16, axis=0)
    opens = np.isin(np.arange(12), (0, 6))
    items = np.where((segments == 0) | opens, -1, items)
    retailers = np.where(opens, rng.integers(0, 2, shape), -1)
    codes = np.where((items >= 0)[..., None], CODES[items], -1)
    return VOCAB.sequences(retailers, codes.astype(int), items, segments)


@pytest.mark.parametrize("kind", ["atomic", "sid"])
def test_the_loss_falls(train, kind):
    _, _, losses = train(make_task(kind), histories, MeshConfig(data=1), 60)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_a_mesh_gives_what_one_device_gives(layout, equal_on_a_mesh):
    equal_on_a_mesh(make_task("sid"), histories, layout, constraints=2 * 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_what_its_definition_says(smoothing):
    task = make_task(smoothing=smoothing)
    quiet = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=8, dropout=0.0)
    task = replace(task, model=SASRecConfig(transformer=quiet))
    batch = histories(3)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(1), batch)[0])
    params["bias"] += jnp.arange(ITEMS) / 7
    found, (metrics, _) = jax.jit(task.loss)(params, {}, batch, jax.random.key(0))
    rows = jnp.asarray(task.rows)

    @jax.jit
    def score(params):
        outputs = task.module.apply({"params": params}, batch, rows)
        return task.module.apply({"params": params}, outputs, rows, method="scores")

    log_probs = np.asarray(jax.nn.log_softmax(score(params)))
    terms = []
    for row in range(16):
        for at in range(11):
            here, after = batch.segments[row, at : at + 2]
            target = batch.items[row, at + 1]
            if here == after and target >= 0:
                own = log_probs[row, at, target]
                spread = log_probs[row, at].mean()
                terms.append((1 - smoothing) * own + smoothing * spread)
    assert len(terms) == 16 * (5 + 3) and metrics["tokens"] == (len(terms), 16)
    np.testing.assert_allclose(found, -np.mean(terms), rtol=1e-5)


def still(task):
    """The task without dropout."""
    sizes = replace(TRUNK, dropout=0.0)
    return replace(task, model=replace(task.model, transformer=sizes))


@pytest.mark.parametrize("kind", ["atomic", "sid"])
def test_many_negatives_estimate_the_softmax_over_the_catalog(kind):
    """Unevenly drawn ones too, whatever is likely to the model."""
    whole, drawn = (still(make_task(kind, negatives=n)) for n in (0, 20_000))
    batch = histories(3)
    params = nn.unbox(jax.jit(whole.init)(jax.random.key(1), batch)[0])
    params["bias"] += jnp.arange(len(params["bias"])) / 3
    wanted, _ = jax.jit(whole.loss)(params, {}, batch, jax.random.key(0))
    found, _ = jax.jit(drawn.loss)(params, {}, batch, jax.random.key(0))
    # The target is counted once for itself, and what is drawn stands for the others.
    np.testing.assert_allclose(found, wanted, rtol=0.01)
    gradients = [
        jax.jit(jax.grad(lambda p, t=t: t.loss(p, {}, batch, jax.random.key(0))[0]))(
            params
        )
        for t in (whole, drawn)
    ]
    bias, other = (np.asarray(each["bias"]) for each in gradients)
    np.testing.assert_allclose(other, bias, atol=0.05 * np.abs(bias).max())


def test_few_negatives_teach(train):
    task = make_task(negatives=4)
    _, _, losses = train(task, histories, MeshConfig(data=1), 60)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    mesh = MeshConfig(data=4, model=2, rules="fsdp_tensor")
    _, _, meshed = train(task, histories, mesh, 3)
    np.testing.assert_allclose(meshed, losses[:3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["atomic", "sid"])
def test_vectors_start_like_those_of_the_tokenizer(kind):
    rng = np.random.default_rng(0)
    task = make_task(kind, start="codebooks")
    vectors = rng.normal(size=(task.num_rows - 1, 5)).astype(np.float32)
    task = replace(task, vectors=vectors)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), histories(0))[0])
    started, _ = task.prepare(params, {}, iter([]), jax.random.key(1))
    rows = np.asarray(started["embedding"])
    gram = vectors @ vectors.T
    gram /= np.trace(gram) / len(gram) * task.rows.shape[1]
    np.testing.assert_allclose(rows[:-1] @ rows[:-1].T, gram, atol=1e-5)
    np.testing.assert_array_equal(rows[-1], params["embedding"][-1])


def test_smoothing_and_negatives_exclude_each_other():
    with pytest.raises(InputError, match="set one of them to 0"):
        make_task(smoothing=0.1, negatives=4)
