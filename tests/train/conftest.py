"""Training a task for a few steps, on any mesh, counting its traces."""

from functools import cache
from itertools import count

import chex
import jax
import numpy as np
import pytest

from sid_jax.train.optimizer import OptimizerConfig, make_optimizer
from sid_jax.train.sharding import MeshConfig, make_mesh, place, use_mesh
from sid_jax.train.step import abstract_state, jit_train_step, start_state

ADAMW = OptimizerConfig(name="adamw", learning_rate=0.01)
SGD = OptimizerConfig(name="sgd", learning_rate=0.02)
_LOWERED = []  # text of the last program


@pytest.fixture(scope="session")
def train():
    """`train(task, stream, layout, steps, optimizer, accumulate)` -> state, last
    metrics, losses.
    """
    return _train


class Counted:
    """A task that counts the traces of its loss."""

    def __init__(self, task):
        self.task, self.traces = task, 0

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, *args):
        self.traces += 1
        return self.task.loss(*args)


def _train(task, stream, layout, steps, optimizer=ADAMW, accumulate=1):
    task, mesh, key = Counted(task), make_mesh(layout), jax.random.key(0)
    transform, schedule = make_optimizer(optimizer, steps)
    batch = place(stream(0), mesh)
    abstract = abstract_state(task, transform, batch, mesh, layout.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    losses = []
    with use_mesh(mesh, layout.rules):
        batches = (place(stream(step), mesh) for step in count())
        state = start_state(task, transform, batch, batches, key, shardings)
        train_step = jit_train_step(
            task, transform, schedule, shardings, mesh, accumulate
        )
        lowered = train_step.lower(state, batch, key)
        before = task.traces
        for step in range(steps):
            state, metrics = train_step(state, place(stream(step), mesh), key)
            losses.append(float(metrics["loss"][0]))
    assert task.traces == before  # one program, and it is the lowered one
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf.sharding, state), shardings
    )
    _LOWERED[:] = [lowered.as_text()]
    return jax.device_get(state), jax.device_get(metrics), losses


LAYOUTS = [
    MeshConfig(data=4, model=2, rules="fsdp_tensor"),
    *(
        pytest.param(layout, marks=pytest.mark.slow)
        for layout in (
            MeshConfig(data=8),
            MeshConfig(data=2),
            MeshConfig(data=8, rules="fsdp"),
            MeshConfig(data=4, model=2, rules="tensor"),
        )
    ),
]


@pytest.fixture(params=LAYOUTS, ids=lambda it: f"{it.rules}-{it.data}x{it.model}")
def layout(request):
    """A row of the sharding table on a mesh; all but one in the slow tests."""
    return request.param


@pytest.fixture(scope="session")
def equal_on_a_mesh():
    """`equal_on_a_mesh(task, stream, layout, constraints)` trains there and alone.

    Losses and parameters are the same after five steps of plain descent, and as many
    of a model's constraints are in the program as it has.
    """
    return _equal_on_a_mesh


@cache
def _train_alone(task, stream):
    return _train(task, stream, MeshConfig(data=1), 5, SGD)


def _equal_on_a_mesh(task, stream, layout, constraints):
    state, _, losses = _train(task, stream, layout, 5, SGD)
    found = _LOWERED[0].count("sdy.sharding_constraint")
    assert found == constraints
    alone, _, wanted = _train_alone(task, stream)
    assert len(set(losses)) == 5
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=1e-5)
    told = ((each.params, each.state) for each in (state, alone))
    chex.assert_trees_all_close(*told, rtol=1e-5, atol=1e-5)
