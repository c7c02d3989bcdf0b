from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.models.transformer import Block, RMSNorm, TransformerConfig, rotate

CONFIG = TransformerConfig(width=8, num_heads=2, mlp_width=12)
BATCH, TOKENS = 2, 5
CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))


@cache
def make_block():
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(BATCH, TOKENS, CONFIG.width)))
    positions = jnp.tile(jnp.arange(TOKENS), (BATCH, 1))
    block = Block(CONFIG)
    params = jax.jit(block.init)(jax.random.key(0), x, positions, mask_of())
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
        nn.unbox(params),
    )
    return block, params, x, positions


def mask_of(present=None):
    present = np.ones((BATCH, TOKENS), bool) if present is None else present
    return jnp.asarray(CAUSAL & present[:, None])


@jax.jit
def run(x, positions, mask):
    block, params, _, _ = make_block()
    return block.apply(params, x, positions, mask)


def test_a_causal_block_looks_back_alone():
    _, _, x, positions = make_block()
    jacobian = jax.jacrev(lambda x: run(x, positions, mask_of())[0])(x)
    # Influence of each input position on each output position, within a row.
    reach = np.abs(jacobian).max(axis=(2, 5))[np.arange(BATCH), :, np.arange(BATCH)]
    np.testing.assert_array_equal(reach > 0, np.broadcast_to(CAUSAL, reach.shape))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_what_the_mask_hides_has_no_influence(seed):
    rng = np.random.default_rng(seed)
    _, _, x, positions = make_block()
    present = rng.random((BATCH, TOKENS)) < 0.6
    other = jnp.where(present[..., None], x, jnp.float32(rng.normal(size=x.shape) * 9))
    mask = mask_of(present)
    before, after = (np.asarray(run(each, positions, mask)[0]) for each in (x, other))
    np.testing.assert_allclose(before[present], after[present], atol=1e-5)
    assert np.isfinite(before).all()  # also where a row sees nothing at all


@pytest.mark.parametrize("first", [1, 3])
def test_stepping_on_is_the_whole_pass(first):
    """`first` tokens are shared context, the rest each beam's own, one at a time."""
    block, params, x, positions = make_block()
    present = np.ones((BATCH, TOKENS), bool)
    present[0, 0] = first == 1  # a hole in the context
    wanted, memory = run(x, positions, mask_of(present))
    context = jax.tree.map(lambda leaf: leaf[:, :first], memory)
    own = tuple(leaf[:, None, :0] for leaf in (memory.keys, memory.values))
    own = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=1), own)  # two beams

    @jax.jit
    def step_on(own):
        found = []
        for t in range(first, TOKENS):
            new, own = block.apply(
                params,
                jnp.repeat(x[:, t, None], 2, axis=1),
                jnp.repeat(positions[:, t, None], 2, axis=1),
                context,
                jnp.asarray(present[:, :first]),
                own,
                method="step",
            )
            found.append(new)
        return found, own

    found, own = step_on(own)
    for t, new in enumerate(found, start=first):
        np.testing.assert_allclose(new[:, 0], wanted[:, t], atol=1e-4)
        np.testing.assert_allclose(new[:, 1], wanted[:, t], atol=1e-4)
    assert own[0].shape == (BATCH, 2, TOKENS - first, 2, 4)


def test_beams_do_not_see_each_other():
    block, params, x, positions = make_block()
    _, memory = run(x, positions, mask_of())
    own = tuple(leaf[:, :3, None] for leaf in (memory.keys, memory.values))
    there = jnp.ones((BATCH, TOKENS), bool)

    def step(x, own):
        after = positions[:, :3] + TOKENS
        return block.apply(params, x, after, memory, there, own, method="step")[0]

    before = step(x[:, :3], own)
    keys, values = (leaf.at[:, 0].add(3.0) for leaf in own)
    after = step(x[:, :3].at[:, 0].add(1.0), (keys, values))
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-6)
    assert np.abs(after[:, 0] - before[:, 0]).min() > 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_rotated_products_depend_on_the_distance_alone(seed, shift):
    rng = np.random.default_rng(seed)
    query, key = jnp.float32(rng.normal(size=(2, 1, 4, 1, 8)))
    at = jnp.asarray(rng.integers(0, 50, (2, 1, 4)))

    def products(shift):
        first, second = rotate(query, at[0] + shift), rotate(key, at[1] + shift)
        return np.einsum("bthd,bshd->bts", first, second)

    np.testing.assert_allclose(products(shift), products(0), atol=2e-2)
    turned = rotate(query, at[0])
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), np.linalg.norm(query, axis=-1), rtol=1e-5
    )
    np.testing.assert_array_equal(rotate(query, jnp.zeros_like(at[0])), query)
    assert np.abs(products(0) - np.einsum("bthd,bshd->bts", query, key)).max() > 1e-3


def test_rms_norm_is_its_equation_and_free_of_scale():
    x = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    norm = RMSNorm()
    scale = np.linspace(0.5, 2, 8, dtype=np.float32)
    params = {"params": {"scale": scale}}
    wanted = x / np.sqrt((x**2).mean(axis=-1, keepdims=True)) * scale
    np.testing.assert_allclose(norm.apply(params, x), wanted, rtol=1e-4)
    np.testing.assert_allclose(norm.apply(params, 100 * x), wanted, rtol=1e-4)
    assert norm.apply(params, jnp.bfloat16(x)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"num_heads": 8}, "num_heads"),  # heads of odd width have no halves
        ({"num_heads": 0}, "num_heads"),
        ({"depth": 0}, "depth"),
        ({"mlp_width": -1}, "mlp_width"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change, name):
    with pytest.raises(InputError, match=name):
        replace(CONFIG, **change)
