import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.train.optimizer import (
    OptimizerConfig,
    decayed,
    make_optimizer,
    make_schedule,
)

PARAMS = {
    "dense": {"kernel": np.full((3, 2), 2.0), "bias": np.full(2, 3.0)},
    "norm": {"scale": np.full((4, 2), 5.0)},  # stacked by a scan: rank 2
    "embedding": np.full((5, 2), -1.0),
}


def _run(config, steps=3):
    transform, _ = make_optimizer(config, steps)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = transform.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s), params)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def _reference(transform, steps=3):
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = transform.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s), params)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", optax.adamw(0.1, weight_decay=0.3, mask=decayed)),
        ("adagrad", optax.adagrad(0.1)),
        ("sgd", optax.sgd(0.1)),
    ],
)
def test_agrees_with_optax(name, reference):
    decay = 0.3 if name == "adamw" else 0.0
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=decay)
    chex.assert_trees_all_close(_run(config), _reference(reference), rtol=1e-6)


def test_decay_shrinks_kernels_and_embeddings_alone():
    transform, _ = make_optimizer(
        OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=0.5), 1
    )
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * 0.5 * 2.0)
    np.testing.assert_allclose(updates["embedding"], 0.1 * 0.5 * 1.0)
    np.testing.assert_array_equal(updates["dense"]["bias"], 0.0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0.0)


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_clipping_bounds_the_whole_step(limit):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=limit)
    transform, _ = make_optimizer(config, 1)
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 7.0), PARAMS)
    updates, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
    norm = optax.tree.norm(grads)
    np.testing.assert_allclose(optax.tree.norm(updates), limit or norm, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    schedule=st.sampled_from(["constant", "cosine", "inverse_sqrt"]),
    warmup=st.integers(0, 30),
    more=st.integers(1, 50),
)
def test_schedules_rise_to_the_peak_and_never_again(schedule, warmup, more):
    steps = warmup + more
    config = OptimizerConfig(learning_rate=0.2, warmup_steps=warmup, schedule=schedule)
    every = jnp.arange(81)  # one shape, so that nothing compiles twice
    rates = np.asarray(make_schedule(config, steps)(every))[: steps + 1]
    rising, falling = rates[:warmup], rates[warmup:]
    expected = 0.2 * np.arange(1, warmup + 1) / max(warmup, 1)
    np.testing.assert_allclose(rising, expected, rtol=1e-5)
    assert rates.max() <= 0.2 * (1 + 1e-6) and rates[0] > 0
    assert (np.diff(falling) <= 1e-9).all()
    if schedule == "cosine":
        np.testing.assert_allclose(rates[-1], 0.0, atol=1e-7)
    if schedule == "inverse_sqrt":
        shrink = np.sqrt(max(warmup, 1) / (steps + 1))
        np.testing.assert_allclose(rates[-1], 0.2 * shrink, rtol=1e-5)


@pytest.mark.parametrize(
    "field",
    [
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"warmup_steps": -1},
        {"name": "lion"},
        {"schedule": "step"},
    ],
)
def test_bad_fields_are_named(field):
    with pytest.raises(InputError, match=rf"optimizer\.{next(iter(field))}"):
        OptimizerConfig(**field)
