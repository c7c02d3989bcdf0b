import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.spmd import with_logical_constraint

from sid_jax.train.optimizer import OptimizerConfig, make_optimizer
from sid_jax.train.sharding import MeshConfig, make_mesh, place, use_mesh
from sid_jax.train.step import Stats, abstract_state, jit_train_step, start_state

WIDTH = 8


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        kernel = nn.with_logical_partitioning(init, ("embed", "mlp"))
        x = with_logical_constraint(x, ("batch", "embed"))
        x = jnp.tanh(nn.Dense(2 * WIDTH, kernel_init=kernel)(x))
        x = with_logical_constraint(x, ("batch", "mlp"))
        return nn.Dense(1)(x)[:, 0]


class Regression:
    """Fits y from x; keeps a moving mean of what it saw, and counts its traces."""

    def __init__(self):
        self.traces = 0

    def init(self, key, batch):
        params = Net().init(key, batch["x"])["params"]
        mean = nn.LogicallyPartitioned(jnp.zeros(WIDTH), ("embed",))
        return params, {"mean": mean, "folds": jnp.zeros((), jnp.int32)}

    def prepare(self, params, state, batches, key):
        return params, state

    def loss(self, params, state, batch, key):
        self.traces += 1
        error = Net().apply({"params": params}, batch["x"]) - batch["y"]
        loss = jnp.mean(error**2)
        metrics = {"error": (jnp.abs(error).sum(), error.size)}
        return loss, (metrics, Stats(sums=batch["x"].sum(0), rows=batch["y"]))

    def weight(self, batch):
        return jnp.float32(len(batch["x"]))

    def fold(self, params, state, opt_state, stats, key):
        mean = 0.9 * state["mean"] + 0.1 * stats.sums / len(stats.rows)
        return params, {"mean": mean, "folds": state["folds"] + 1}, opt_state


def _batch(step):
    x = np.random.default_rng(step).normal(size=(16, WIDTH)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(1))}


def _train(mesh_config, task, steps=5):
    mesh = make_mesh(mesh_config)
    config = OptimizerConfig(name="sgd", learning_rate=0.1)
    transform, schedule = make_optimizer(config, steps)
    key, batch = jax.random.key(0), place(_batch(0), mesh)
    abstract = abstract_state(task, transform, batch, mesh, mesh_config.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    losses = []
    with use_mesh(mesh, mesh_config.rules), jax.default_matmul_precision("highest"):
        state = start_state(task, transform, batch, iter(()), key, shardings)
        train_step = jit_train_step(task, transform, schedule, shardings, mesh)
        text = train_step.lower(state, batch, key).as_text()
        before = task.traces
        for step in range(steps):
            state, metrics = train_step(state, place(_batch(step), mesh), key)
            losses.append(float(metrics["loss"][0]))
    traces = task.traces - before
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    chex.assert_trees_all_equal(layout, shardings)
    return state, metrics, losses, text.count("sdy.sharding_constraint"), traces


@pytest.fixture(scope="module")
def one_device():
    return _train(MeshConfig(data=1), Regression())


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8),
        MeshConfig(data=4, model=2),
        MeshConfig(data=8, rules="fsdp"),
        MeshConfig(data=4, model=2, rules="tensor"),
        MeshConfig(data=2, model=4, rules="fsdp_tensor"),
    ],
    ids=lambda mesh: f"{mesh.rules}-{mesh.data}x{mesh.model}",
)
def test_every_mesh_computes_what_one_device_does(mesh, one_device):
    state, _, losses, constraints, traces = _train(mesh, Regression())
    wanted, _, wanted_losses, _, _ = one_device
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    assert len(set(losses)) == 5
    chex.assert_trees_all_close(
        jax.device_get((state.params, state.state)),
        jax.device_get((wanted.params, wanted.state)),
        rtol=1e-5,
        atol=1e-5,
    )
    assert constraints >= 2  # those of Net: none of them silently dropped
    assert traces <= 1  # the program lowered above is the one that ran every step
    split = not state.params["Dense_0"]["kernel"].sharding.is_fully_replicated
    assert split == (mesh.rules != "data")


def test_moments_lie_as_their_parameters_do():
    mesh = make_mesh(MeshConfig(model=2))
    transform, _ = make_optimizer(OptimizerConfig(name="adamw"), 1)
    state = abstract_state(Regression(), transform, _batch(0), mesh, "fsdp_tensor")
    moments = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state[0].mu)
    params = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    chex.assert_trees_all_equal(moments, params)
    assert not params["Dense_0"]["kernel"].is_fully_replicated


def test_a_step_is_gradient_then_optimizer_then_fold(one_device):
    state, metrics, losses, _, _ = one_device
    assert int(state.step) == int(state.state["folds"]) == 5
    assert float(metrics["loss"][0]) == losses[-1]
    np.testing.assert_allclose(metrics["learning_rate"][0], 0.1)
    assert metrics["error"][1] == 16 and metrics["grad_norm"][0] > 0
    mean = np.zeros(WIDTH)
    for step in range(5):
        mean = 0.9 * mean + 0.1 * _batch(step)["x"].mean(0)
    np.testing.assert_allclose(state.state["mean"], mean, rtol=1e-4, atol=1e-6)


class Dice:
    """Its loss is the random number of the step; it has no parameters at all."""

    def init(self, key, batch):
        return {}, {"a": jnp.zeros(3), "b": jnp.zeros(3), "draw": jnp.zeros(())}

    def prepare(self, params, state, batches, key):
        same = np.asarray(next(batches)["x"])[0, :3].copy()
        return params, {"a": same, "b": same, "draw": jax.random.uniform(key)}

    def loss(self, params, state, batch, key):
        return jax.random.uniform(key), ({}, Stats())

    def fold(self, params, state, opt_state, stats, key):
        return params, state | {"draw": jax.random.uniform(key)}, opt_state


def test_randomness_is_fresh_at_each_place_and_step():
    mesh = make_mesh(MeshConfig())
    task = Dice()
    transform, schedule = make_optimizer(OptimizerConfig(name="adamw"), 3)
    batch, key = place(_batch(0), mesh), jax.random.key(1)
    abstract = abstract_state(task, transform, batch, mesh, "data")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    with use_mesh(mesh, "data"):
        state = start_state(task, transform, batch, iter([batch]), key, shardings)
        np.testing.assert_array_equal(state.state["a"], _batch(0)["x"][0, :3])
        draws = [float(state.state["draw"])]
        train_step = jit_train_step(task, transform, schedule, shardings, mesh)
        for _ in range(3):  # `a` and `b` were one array: it is not donated twice
            state, metrics = train_step(state, batch, key)
            draws += [float(metrics["loss"][0]), float(state.state["draw"])]
    assert len(set(draws)) == 7
