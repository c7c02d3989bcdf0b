from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, softmax

from sid_jax.errors import InputError
from sid_jax.models.bert import Bert, BertConfig
from sid_jax.train.sharding import MeshConfig, make_mesh, state_shardings, use_mesh

CONFIG = BertConfig(
    vocab_size=11,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=9,
)
MODULE = Bert(CONFIG)
TOKENS = np.random.default_rng(0).integers(11, size=(4, 6)).astype(np.int32)
LENGTHS = np.asarray([6, 1, 4, 0], np.int32)
BOXED = jax.eval_shape(MODULE.init, jax.random.key(0), TOKENS, LENGTHS)


def make_params():
    rng = np.random.default_rng(1)
    shapes = nn.unbox(BOXED)
    return jax.tree.map(lambda s: rng.normal(0.2, 0.7, s.shape).astype("f4"), shapes)


@jax.jit
def run(tokens, lengths):
    return MODULE.apply(make_params(), tokens, lengths)


def reference(params, tokens):
    """One text without padding, in plain NumPy and float64."""

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]
        )

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    p = jax.tree.map(np.float64, params["params"])
    x = p["word"][tokens] + p["position"][: len(tokens)] + p["segment"][0]
    x = norm(x, p["norm"])
    for block in (p["block_0"], p["block_1"]):
        query, key, value = (dense(x, block[n]) for n in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in (slice(0, 4), slice(4, 8)):
            weights = softmax(query[:, head] @ key[:, head].T / np.sqrt(4), axis=-1)
            mixed[:, head] = weights @ value[:, head]
        x = norm(x + dense(mixed, block["out"]), block["attention_norm"])
        hidden = dense(x, block["up"])
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        x = norm(x + dense(hidden, block["down"]), block["mlp_norm"])
    return x


def test_is_the_plain_equations():
    outputs = np.asarray(run(TOKENS, LENGTHS))
    for row in range(3):
        length = LENGTHS[row]
        wanted = reference(make_params(), TOKENS[row, :length])
        np.testing.assert_allclose(outputs[row, :length], wanted, atol=2e-5)
    assert np.isfinite(outputs).all()  # the filler of a batch too


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_padding_has_no_influence(seed):
    rng = np.random.default_rng(seed)
    real = np.arange(6) < LENGTHS[:, None]
    other = np.where(real, TOKENS, rng.integers(11, size=TOKENS.shape, dtype=np.int32))
    before, after = (np.asarray(run(each, LENGTHS)) for each in (TOKENS, other))
    np.testing.assert_array_equal(before[real], after[real])


def test_split_parameters_and_rows_give_the_same():
    rules = "fsdp_tensor"
    mesh = make_mesh(MeshConfig(data=4, model=2))
    places = state_shardings(BOXED, mesh, rules)
    params = jax.device_put(make_params(), places)
    assert not any(
        kernel.is_fully_replicated
        for kernel in jax.tree.leaves(params)
        if kernel.ndim == 2 and len(kernel) == CONFIG.hidden_size
    )
    with use_mesh(mesh, rules):
        program = jax.jit(MODULE.apply).lower(params, TOKENS, LENGTHS)
        outputs = program.compile()(params, TOKENS, LENGTHS)
    assert program.as_text().count("sharding_constraint") >= 2  # one a block
    np.testing.assert_allclose(outputs, run(TOKENS, LENGTHS), atol=1e-5)


def test_bfloat16_is_near():
    outputs = jax.jit(Bert(CONFIG, jnp.bfloat16).apply)(make_params(), TOKENS, LENGTHS)
    assert outputs.dtype == jnp.bfloat16
    wide = np.asarray(outputs[0], np.float32)
    exact = np.asarray(run(TOKENS, LENGTHS)[0])
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((wide * exact).sum(axis=1) / norms).min() > 0.99
    assert np.abs(wide - exact).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hidden_size": 9}, "num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
        ({"type_vocab_size": True}, "type_vocab_size"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps"),
    ],
)
def test_sizes_that_cannot_be_are_named(change, name):
    with pytest.raises(InputError, match=name):
        replace(CONFIG, **change)
