"""Training a task for a few steps, on any mesh, counting its traces."""

from itertools import count

import jax
import pytest

from sid_jax.train.optimizer import OptimizerConfig, make_optimizer
from sid_jax.train.sharding import make_mesh, place, use_mesh
from sid_jax.train.step import abstract_state, jit_train_step, start_state


@pytest.fixture(scope="session")
def train():
    """`train(task, stream, layout, steps)` -> state, last metrics, losses."""
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


def _train(task, stream, layout, steps):
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
