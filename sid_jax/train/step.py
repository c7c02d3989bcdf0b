"""The task that is trained, the train state, and one train step.

Everything random comes from `fold_in(key, step)`, so that a state needs no more than
its step to go on as if nothing had happened.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sid_jax.train.sharding import abstract_like, batch_sharding
from sid_jax.typing import Array, Key, Metrics, PyTree

Rng = Key[Array, ""]


@flax.struct.dataclass
class Stats:
    """What the batch of a step tells `fold`.

    Attributes:
      sums: arrays that add up over the parts of a batch.
      rows: arrays of a row for each row of the batch.
    """

    sums: PyTree = None
    rows: PyTree = None


Aux = tuple[Metrics, Stats]


class Task(Protocol):
    """What is computed and scored. All functions are pure."""

    def init(self, key: Rng, batch: PyTree) -> tuple[PyTree, PyTree]:
        """Parameters and state, from the shapes of a batch; traced.

        `state` is what moving averages own ({} for none). Leaves of both may be
        `nn.LogicallyPartitioned` boxes; no other function sees a box.
        """
        ...

    def prepare(
        self, params: PyTree, state: PyTree, batches: Iterator[PyTree], key: Rng
    ) -> tuple[PyTree, PyTree]:
        """What needs data before step 0, such as a k-means start; not traced.

        `batches` are those of steps 0, 1, ... without end, on the mesh.
        """
        ...

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Rng
    ) -> tuple[Array, Aux]:
        """The loss, and (metrics, statistics for `fold`)."""
        ...

    def weight(self, batch: PyTree) -> Array:
        """How many rows, or items asked for, the loss of a batch is the mean over."""
        ...

    def fold(
        self, params: PyTree, state: PyTree, opt_state: PyTree, stats: Stats, key: Rng
    ) -> tuple[PyTree, PyTree, PyTree]:
        """After the optimizer: averages move, dead codes restart; or the identity."""
        ...


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step; `step` counts the steps done."""

    step: Array
    params: PyTree
    state: PyTree
    opt_state: PyTree


def abstract_state(
    task: Task,
    transform: optax.GradientTransformation,
    batch: PyTree,
    mesh: Mesh,
    rules: str,
) -> TrainState:
    """The train state as shapes with shardings; nothing is computed."""
    boxed = jax.eval_shape(_init(task, transform), jax.random.key(0), batch)
    return abstract_like(boxed, mesh, rules)


def start_state(
    task: Task,
    transform: optax.GradientTransformation,
    batch: PyTree,
    batches: Iterator[PyTree],
    key: Rng,
    shardings: PyTree,
) -> TrainState:
    """The state of step 0, made where it is to lie, and prepared."""

    def init(key, batch):
        state = _init(task, transform)(key, batch)
        return jax.tree.unflatten(jax.tree.structure(shardings), jax.tree.leaves(state))

    state = jax.jit(init, out_shardings=shardings)(key, batch)
    params, moving = task.prepare(
        state.params, state.state, batches, jax.random.fold_in(key, 1)
    )
    # A task may hand back host arrays, or one array twice, which cannot be donated.
    params, moving = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree),
        out_shardings=(shardings.params, shardings.state),
    )((params, moving))
    return TrainState(state.step, params, moving, state.opt_state)


def make_train_step(
    task: Task,
    transform: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulate: int = 1,
) -> Callable[[TrainState, PyTree, Rng], tuple[TrainState, Metrics]]:
    """One pure step: (state, batch, key of the run) -> (state, metrics).

    To a task's metrics it adds loss, grad_norm (before clipping) and learning_rate.

    Args:
      task: what is trained.
      transform: the optimizer.
      schedule: its learning rate.
      accumulate: parts that a batch is computed in, one after the other, for less
        memory; the gradient is that of the whole batch.
    """

    def train_step(state, batch, key):
        loss_key, fold_key = jax.random.split(_step_key(key, state.step))
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        if accumulate > 1:
            gradient = _accumulate(task, gradient, accumulate)
        (loss, (metrics, stats)), grads = gradient(
            state.params, state.state, batch, loss_key
        )
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params, moving, opt_state = task.fold(
            params, state.state, opt_state, stats, fold_key
        )
        added = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        metrics = metrics | {name: (value, 1) for name, value in added.items()}
        return TrainState(state.step + 1, params, moving, opt_state), metrics

    return train_step


def jit_train_step(
    task: Task,
    transform: optax.GradientTransformation,
    schedule: optax.Schedule,
    shardings: PyTree,
    mesh: Mesh,
    accumulate: int = 1,
):
    """`make_train_step` compiled for a mesh; its state's buffers are donated.

    Call it inside `use_mesh`, or the constraints of the models do nothing.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        make_train_step(task, transform, schedule, accumulate),
        in_shardings=(shardings, batch_sharding(mesh), everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )


def lower_floats(params: PyTree, dtype: str, but: str = "") -> PyTree:
    """Parameters as a loss computes with them: the optimizer keeps them in float32.

    Args:
      params: a dictionary of parameters.
      dtype: `float32`, or `bfloat16` for half the memory and what is faster on
        accelerators; modules compute in the type of their parameters.
      but: the entry that stays as it is.
    """
    lowered = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return lowered | {but: params[but]} if but in params else lowered


def _accumulate(task: Task, gradient: Callable[..., Any], parts: int):
    """`gradient` in parts: each part's loss counts what it is a mean over."""

    def accumulated(params, state, batch, key):
        # Row r is of part r mod `parts`, so that every device has rows of each.
        split = jax.tree.map(
            lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch
        )
        total = jnp.maximum(jnp.asarray(task.weight(batch), jnp.float32), 1)

        def compute(place, part):
            at = jax.random.fold_in(key, place)
            (loss, (metrics, stats)), grads = gradient(params, state, part, at)
            share = task.weight(part) / total
            sums = {"loss": loss, "grads": grads}
            sums = jax.tree.map(lambda leaf: leaf * share, sums)
            return (sums, metrics, stats.sums), stats.rows

        def add(sums, told):
            found, rows = compute(*told)
            return jax.tree.map(lambda a, b: a + b, sums, found), rows

        first = jax.tree.map(lambda leaf: leaf[0], split)
        shapes, _ = jax.eval_shape(compute, 0, first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (sums, metrics, counted), rows = jax.lax.scan(
            add, zeros, (jnp.arange(parts), split)
        )
        rows = jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), rows
        )
        return (sums["loss"], (metrics, Stats(counted, rows))), sums["grads"]

    return accumulated


def _step_key(key: Rng, step: Array) -> Key[Array, ""]:
    # 0 and 1 are the start's, so that no step shares its randomness.
    return jax.random.fold_in(key, step + 2)


def _init(task: Task, transform: optax.GradientTransformation):
    def init(key, batch) -> TrainState:
        params, state = task.init(jax.random.fold_in(key, 0), batch)
        opt_state = transform.init(params)  # of boxes: moments lie as parameters do
        return TrainState(jnp.zeros((), jnp.int32), params, state, opt_state)

    return init
