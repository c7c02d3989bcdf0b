from dataclasses import replace

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.models.flat import FlatConfig
from sid_jax.models.hierarchical import HierarchicalConfig
from sid_jax.models.t5 import T5Config
from sid_jax.models.tiger import TigerConfig
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.trie import build_trie
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.train.account import count_flops
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.retriever_task import RetrieverTask, RetrieverTaskConfig
from sid_jax.train.sharding import MeshConfig

ONE = MeshConfig(data=1)
BATCH = 16
VOCAB = Vocab(codebook_sizes=(4, 3), num_retailers=2)
TRUNK = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=8)
RETRIEVER = RetrieverTask(FlatConfig(transformer=TRUNK, repeat=True), VOCAB)
HIERARCHICAL = HierarchicalConfig(trunk=TRUNK, spell=TRUNK)
TIGER = TigerConfig(
    transformer=T5Config(width=16, depth=1, num_heads=2, head_width=8, mlp_width=8)
)


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


def test_a_mesh_gives_what_one_device_gives(layout, equal_on_a_mesh):
    # The embedding and a block: its hidden layer and its output; backward as forward.
    equal_on_a_mesh(RETRIEVER, prompt_batch, layout, constraints=2 * 3)


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
        found, told = run(padded)
        told["tokens"] = metrics["tokens"]  # an example
        chex.assert_trees_all_close((found, told), (loss, metrics), rtol=1e-4)
    assert metrics["tokens"] == (2 * metrics["loss_1"][1], 16)
    assert metrics["loss_1"][1] == (batch.basket[..., 0] != PAD).sum() == 16 + 16 - 4
    nothing, metrics = run(empty)
    assert nothing == 0 and metrics["loss_1"] == (0, 0)


def sequence_batch(step, sids=None):
    """Households that buy the successor of their last item, two to a row; or, of given
    SIDs, any.
    """
    rng = np.random.default_rng(step)
    start = rng.integers(0, VOCAB.codebook_sizes, (BATCH, 2))
    codes = (start[:, None] + np.arange(10)[:, None]) % VOCAB.codebook_sizes
    if sids is not None:
        codes = sids[rng.integers(0, len(sids), codes.shape[:2])]
    segments = np.repeat([[1] * 5 + [2] * 4 + [0]], BATCH, axis=0)
    opens = np.isin(np.arange(10), (0, 5))
    codes = np.where((opens | (segments == 0))[..., None], -1, codes)
    retailers = np.where(opens, rng.integers(0, 2, segments.shape), -1)
    items = np.where(codes[..., 0] < 0, -1, 0)
    return VOCAB.sequences(retailers, codes, items, segments)


@pytest.mark.parametrize(
    ("model", "stream", "constraints"),
    [
        (HIERARCHICAL, sequence_batch, 2 * (1 + 2 + 2)),
        pytest.param(TIGER, prompt_batch, 2 * (1 + 2 + 2), marks=pytest.mark.slow),
        pytest.param(
            replace(HIERARCHICAL, trunk=replace(TRUNK, depth=3), scan=True),
            sequence_batch,
            2 * (1 + 2 + 2),  # those of the loop once, whatever the depth
            marks=pytest.mark.slow,
        ),
    ],
    ids=["hierarchical", "tiger", "scanned"],
)
def test_every_retriever_lies_on_any_mesh(
    layout, equal_on_a_mesh, model, stream, constraints
):
    equal_on_a_mesh(RetrieverTask(model, VOCAB), stream, layout, constraints)


@pytest.mark.parametrize(
    ("model", "stream"),
    [(HIERARCHICAL, sequence_batch), (TIGER, prompt_batch)],
    ids=["hierarchical", "tiger"],
)
def test_every_retriever_learns(train, model, stream):
    task = RetrieverTask(model, VOCAB)
    _, metrics, losses = train(task, stream, ONE, 60)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert np.isfinite([total / number for total, number in metrics.values()]).all()


@pytest.mark.parametrize("softmax", ["codes", "existing"])
def test_the_loss_is_what_its_equation_says(softmax):
    """Level weights, and smoothing over the codes of the softmax."""
    still = replace(TRUNK, dropout=0.0)
    model = HierarchicalConfig(trunk=still, spell=still)
    config = RetrieverTaskConfig(
        softmax=softmax, smoothing=0.2, level_weights=(2.0, 0.5)
    )
    sids = np.asarray([(a, b) for a in range(4) for b in range(3) if (a + b) % 4])
    trie = build_trie(sids, VOCAB.codebook_sizes) if softmax == "existing" else None
    task = RetrieverTask(model, VOCAB, config, trie)
    batch = sequence_batch(3, sids)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch)[0])
    found, _ = jax.jit(task.loss)(params, {}, batch, jax.random.key(0))
    outputs = jax.jit(task.module.apply)({"params": params}, batch)
    asks = np.asarray(outputs.asks)
    assert asks.sum() == BATCH * (4 + 3)
    wanted = 0
    for place in np.argwhere(asks):
        target = outputs.targets[*place] - np.asarray(VOCAB.level_offsets)
        for level, weight in enumerate((2.0, 0.5)):
            scores = np.asarray(outputs.logits[level][*place], np.float64)
            own = scores[target[level]]
            if softmax == "existing":
                same = (sids[:, :level] == target[:level]).all(axis=1)
                scores = scores[np.unique(sids[same, level])]
            total = np.logaddexp.reduce(scores)
            wanted -= weight * (0.8 * own + 0.2 * scores.mean() - total) / asks.sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_start_as_the_codewords_lie(width, tied):
    """Inner products are the codewords' own, as far as the width can hold them."""
    rng = np.random.default_rng(0)
    words = tuple(np.float32(rng.normal(size=(size, 6))) for size in (4, 3))
    sizes = replace(TRUNK, width=width)
    model = HierarchicalConfig(trunk=sizes, spell=sizes, tied=tied)
    config = RetrieverTaskConfig(start="codebooks")
    vocab = Vocab(codebook_sizes=(4, 3, 5), num_retailers=2)  # the last: dedup's digits
    task = RetrieverTask(model, vocab, config, codewords=words)
    blank = vocab.sequences(
        np.zeros((1, 3), int),
        np.zeros((1, 3, 3), int),
        np.zeros((1, 3), int),
        np.ones((1, 3), int),
    )
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), blank)[0])
    started, _ = task.prepare(params, {}, iter(()), jax.random.key(1))
    every = np.concatenate(words)
    left, values, right = np.linalg.svd(every, full_matrices=False)
    kept = (left[:, :width] * values[:width]) @ right[:width]
    wanted = kept @ kept.T / (kept**2).sum(axis=1).mean()
    for name in ("tokens", "scores")[: 2 - tied]:
        table = np.asarray(started[name]["embedding"])
        np.testing.assert_allclose(table[4:11] @ table[4:11].T, wanted, atol=1e-4)
        before = np.asarray(params[name]["embedding"])
        assert (table[:4] == before[:4]).all() and (table[11:] == before[11:]).all()
    assert started["trunk_0"] is params["trunk_0"]


def test_settings_that_cannot_be_are_refused():
    for field in ({"softmax": "allowed"}, {"start": "x"}, {"level_weights": (-1.0,)}):
        with pytest.raises(InputError, match=next(iter(field))):
            RetrieverTaskConfig(**field)
    for config in (
        RetrieverTaskConfig(softmax="existing"),
        RetrieverTaskConfig(level_weights=(1.0,)),
    ):
        with pytest.raises(InputError, match=r"softmax|level_weights"):
            RetrieverTask(HIERARCHICAL, VOCAB, config)
    words = (np.zeros((5, 2), np.float32),)
    config = RetrieverTaskConfig(start="codebooks")
    task = RetrieverTask(HIERARCHICAL, VOCAB, config, codewords=words)
    params = {"tokens": {"embedding": np.zeros((VOCAB.size, 16), np.float32)}}
    with pytest.raises(
        InputError, match=r"codebooks of \[5\] codes for SIDs of \[4, 3"
    ):
        task.prepare(params, {}, iter(()), jax.random.key(0))


def without_dropout(model):
    parts = {
        name: replace(part, dropout=0.0)
        for name, part in vars(model).items()
        if isinstance(part, TransformerConfig | T5Config)
    }
    return replace(model, **parts)


@pytest.mark.parametrize(
    ("model", "remat"),
    [
        (RETRIEVER.model, "full"),
        pytest.param(TIGER, "dots", marks=pytest.mark.slow),
        pytest.param(RETRIEVER.model, "dots", marks=pytest.mark.slow),
    ],
    ids=["flat-full", "tiger-dots", "flat-dots"],
)
def test_what_is_computed_anew_is_the_same(model, remat):
    """Loss and gradient, dropout included; and less is kept. What was computed anew is
    no use of a device.
    """
    batch, key = prompt_batch(1), jax.random.key(0)
    less = replace(model, transformer=replace(model.transformer, remat=remat))
    params = nn.unbox(jax.jit(RetrieverTask(model, VOCAB).init)(key, batch)[0])
    found, kept, flops, useful = [], [], [], []
    for each in (model, less):
        task = RetrieverTask(each, VOCAB)

        def loss(params, task=task):
            return task.loss(params, {}, batch, jax.random.key(1))[0]

        step = jax.jit(jax.value_and_grad(loss))
        found.append(step(params))
        flops.append(count_flops(step.trace(params).jaxpr))
        useful.append(count_flops(step.trace(params).jaxpr, anew=False))
        _, pull = jax.eval_shape(lambda x, loss=loss: jax.vjp(loss, x), params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(pull)))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)
    assert kept[1] < 0.9 * kept[0]
    assert useful == [flops[0]] * 2 and flops[1] > flops[0]


@pytest.mark.parametrize(
    "remat", [pytest.param("none", marks=pytest.mark.slow), "full"]
)
def test_a_loop_over_blocks_is_the_blocks_and_compiles_one(remat):
    """Loss and gradient; and the program is of one length, whatever the depth."""
    still = replace(TRUNK, dropout=0.0, depth=3, remat=remat)
    apart = HierarchicalConfig(trunk=still, spell=replace(still, depth=1))
    batch, key = sequence_batch(1), jax.random.key(0)
    params = nn.unbox(jax.jit(RetrieverTask(apart, VOCAB).init)(key, batch)[0])

    def step(model):
        task = RetrieverTask(model, VOCAB)
        return jax.jit(
            jax.value_and_grad(lambda params: task.loss(params, {}, batch, key)[0])
        )

    def stack(tree):
        blocks = [tree[f"trunk_{at}"] for at in range(3)]
        rest = {name: part for name, part in tree.items() if "trunk_" not in name}
        whole = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
        return rest | {"trunk_norm": tree["trunk_norm"], "trunk_0": {"block": whole}}

    looped = replace(apart, scan=True)
    loss, gradient = step(apart)(params)
    found, slopes = step(looped)(stack(params))
    chex.assert_trees_all_close(found, loss, rtol=1e-5)
    chex.assert_trees_all_close(slopes, stack(gradient), rtol=1e-4, atol=1e-6)
    for anew in (False, True):
        flops = [
            count_flops(step(model).trace(params).jaxpr, anew=anew)
            for model, params in [(apart, params), (looped, stack(params))]
        ]
        assert flops[0] == flops[1]

    deeper = replace(looped, trunk=replace(still, depth=9))
    drawn = nn.unbox(jax.jit(RetrieverTask(deeper, VOCAB).init)(key, batch)[0])
    query = drawn["trunk_0"]["block"]["query"]["kernel"]
    assert query.shape == (9, 16, 16) and len(np.unique(query)) > 0.99 * query.size
    products = [
        step(model).lower(params).as_text().count("dot_general")
        for model, params in [(looped, stack(params)), (deeper, drawn)]
    ]
    assert products[0] == products[1]


@pytest.mark.parametrize(
    "stream", [sequence_batch, pytest.param(prompt_batch, marks=pytest.mark.slow)]
)
def test_a_batch_in_parts_is_the_batch(train, stream):
    """Though parts ask for different numbers of items."""
    task = RetrieverTask(without_dropout(HIERARCHICAL), VOCAB)
    mesh, sgd = MeshConfig(data=2), OptimizerConfig(name="sgd", learning_rate=0.1)
    whole, metrics, losses = train(task, stream, mesh, 3, sgd)
    parts, told, found = train(task, stream, mesh, 3, sgd, accumulate=4)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(told, metrics, rtol=1e-4)


@pytest.mark.parametrize(
    "model",
    [RETRIEVER.model, pytest.param(TIGER, marks=pytest.mark.slow)],
    ids=["flat", "tiger"],
)
def test_half_the_bits_learn_the_same(train, model):
    """Products of the network in bfloat16; parameters, softmax, losses in float32."""
    low = RetrieverTaskConfig(dtype="bfloat16")
    plain, task = (
        RetrieverTask(without_dropout(model), VOCAB, each)
        for each in (RetrieverTaskConfig(), low)
    )
    batch, key = prompt_batch(0), jax.random.key(0)
    params = nn.unbox(jax.jit(task.init)(key, batch)[0])
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    def grad(task, params):
        return jax.value_and_grad(lambda x: task.loss(x, {}, batch, key)[0])(params)

    text = str(jax.make_jaxpr(lambda x: grad(task, x))(params))
    products = [line for line in text.split("\n") if "= dot_general" in line]
    low = [line for line in products if ":bf16[" in line]
    # All but the scores of codes, which come out in float32, and their gradients.
    assert len(low) > 0.7 * len(products)
    (loss, grads), (wanted, exact) = (
        jax.jit(grad, static_argnums=0)(each, params) for each in (task, plain)
    )
    assert loss.dtype == np.float32 and loss != wanted
    np.testing.assert_allclose(loss, wanted, rtol=0.01)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype("float32")}
    flat, exact = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)])
        for each in (grads, exact)
    )
    cosine = flat @ exact / np.linalg.norm(flat) / np.linalg.norm(exact)
    assert cosine > 0.999
