"""The mesh, and ONE table from logical axis to mesh axis.

Models name the axes of their parameters and activations; only this table says where on
the `data x model` mesh an axis lies. Another parallelism is another row.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sid_jax.errors import InputError
from sid_jax.typing import NDArray, PyTree

# Rules of one row are tried in order, and a mesh axis serves one axis of an array: with
# `batch` first, an activation [batch, embed] is split over its batch, not its width.
RULES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "data": (
        ("batch", "data"),
        ("embed", None),
        ("mlp", None),
        ("heads", None),
        ("codes", None),
        ("vocab", None),
        ("levels", None),
        ("layers", None),
    ),
    "fsdp": (
        ("batch", "data"),
        ("embed", "data"),
        ("mlp", None),
        ("heads", None),
        ("codes", None),
        ("vocab", None),
        ("levels", None),
        ("layers", None),
    ),
    "tensor": (
        ("batch", "data"),
        ("embed", None),
        ("mlp", "model"),
        ("heads", "model"),
        ("codes", "model"),
        ("vocab", None),  # its size is a sum of odd parts: rarely a multiple
        ("levels", None),
        ("layers", None),
    ),
    "fsdp_tensor": (
        ("batch", "data"),
        ("embed", "data"),
        ("mlp", "model"),
        ("heads", "model"),
        ("codes", "model"),
        ("vocab", None),
        ("levels", None),
        ("layers", None),
    ),
}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are laid out and what is split over them.

    Attributes:
      data: devices along the batch; -1 takes what `model` leaves.
      model: devices along the width of a model.
      rules: row of the sharding table: data, fsdp, tensor or fsdp_tensor.

    Raises:
      InputError: no such row, or numbers that are not positive.
    """

    data: int = -1
    model: int = 1
    rules: str = "data"

    def __post_init__(self):
        if self.rules not in RULES:
            raise InputError(
                f"mesh.rules: {self.rules!r} is none of {', '.join(RULES)}"
            )
        if self.model < 1 or (self.data < 1 and self.data != -1):
            raise InputError(
                f"mesh.data={self.data}, mesh.model={self.model}: give positive numbers"
                " of devices (data may be -1: all that are left)"
            )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The `data x model` mesh over all devices, or over the first if it is smaller.

    Args:
      config: the layout.
      devices: defaults to all devices of all processes.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    data = len(devices) // config.model if config.data == -1 else config.data
    needed = data * config.model
    whole = config.data == -1 or jax.process_count() > 1
    if not 0 < needed <= len(devices) or (whole and needed != len(devices)):
        raise InputError(
            f"mesh.data={config.data} x mesh.model={config.model} does not fit"
            f" {len(devices)} devices: choose numbers whose product is {len(devices)}"
        )
    # Auto, because Linen's logical constraints refuse explicit axes.
    axes = ("data", "model"), (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((data, config.model), *axes, devices=devices[:needed])
    if _in_order(mesh):
        return mesh
    # JAX's order follows the network's rings. Where it scatters a host's devices over
    # the batch, the hosts' own order stands: a batch is the same rows in any case.
    devices = sorted(devices[:needed], key=lambda each: (each.process_index, each.id))
    shaped = np.asarray(devices).reshape(data, config.model)
    return Mesh(shaped, axes[0], axis_types=axes[1])


@contextmanager
def use_mesh(mesh: Mesh, rules: str) -> Iterator[None]:
    """Makes `mesh` and a row of the table those of all logical names in the block."""
    # Not `with mesh:`, under which logical constraints silently do nothing.
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES[rules]):
        yield


def state_shardings(boxed: PyTree, mesh: Mesh, rules: str) -> PyTree:
    """Where each leaf of a state lies; what carries no logical names is replicated.

    Args:
      boxed: shapes from `jax.eval_shape`, made outside the mesh, in which leaves may
        be `nn.LogicallyPartitioned` boxes.
      mesh: the mesh.
      rules: row of the table.

    Returns:
      Shardings in the structure of the unboxed state.

    Raises:
      InputError: a name that the table lacks, or a size that does not divide.
    """

    def place_leaf(path, leaf) -> NamedSharding:
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _spec(name, leaf, mesh, rules))

    return jax.tree_util.tree_map_with_path(
        place_leaf, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
    )


def abstract_like(boxed: PyTree, mesh: Mesh, rules: str) -> PyTree:
    """Boxed shapes -> the unboxed `jax.ShapeDtypeStruct`s with their shardings."""
    shardings, structure = jax.tree.flatten(state_shardings(boxed, mesh, rules))
    leaves = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for leaf, sharding in zip(jax.tree.leaves(boxed), shardings, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def input_share(mesh: Mesh) -> tuple[int, int]:
    """Which part of a batch this process reads: its index, and how many there are.

    Processes that share devices along `model` alone read the same part.
    """
    own = np.flatnonzero(_local(mesh).any(axis=1))
    return int(own[0]) // len(own), mesh.shape["data"] // len(own)


def spread(batch: PyTree, mesh: Mesh) -> PyTree:
    """`place` for a batch that every process has whole."""
    index, count = input_share(mesh)

    def own(leaf):
        rows = len(leaf) // count
        return leaf[index * rows : (index + 1) * rows]

    return place(batch if count == 1 else jax.tree.map(own, batch), mesh)


def replicate(tree: PyTree) -> PyTree:
    """Arrays whole on every device of the mesh that they lie on."""
    leaf = jax.tree.leaves(tree)[0]
    if not isinstance(leaf.sharding, NamedSharding):
        return tree
    everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)


def place(batch: PyTree, mesh: Mesh) -> PyTree:
    """The global batch from each process's own rows (NumPy arrays).

    Raises:
      InputError: the rows of a process do not divide among its devices.
    """
    sharding = batch_sharding(mesh)
    shares = mesh.local_mesh.shape["data"]

    def place_leaf(path, leaf) -> jax.Array:
        leaf = np.asarray(leaf)
        if leaf.ndim == 0 or len(leaf) % shares:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(
                f"batch {name or 'array'} of shape {leaf.shape}: its rows do not divide"
                f" among {shares} devices; change the batch size or mesh.data"
            )
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree_util.tree_map_with_path(place_leaf, batch)


def _local(mesh: Mesh) -> NDArray:
    """Which devices of a mesh are this process's: bool [data, model]."""
    here = jax.process_index()
    return np.vectorize(lambda device: device.process_index == here)(mesh.devices)


def _in_order(mesh: Mesh) -> bool:
    """Whether each process's devices stand together along the batch, by process."""
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    return bool((np.diff(owners.min(axis=1)) >= 0).all())


def _spec(name: str, box: nn.Partitioned, mesh: Mesh, rules: str) -> PartitionSpec:
    table = dict(RULES[rules])
    unknown = [axis for axis in box.names if axis is not None and axis not in table]
    if unknown:
        raise InputError(
            f"{name}: logical axis {unknown[0]!r} is none of {', '.join(table)}"
        )
    spec = logical_to_mesh_axes(box.names, RULES[rules])
    assert spec is not None
    for axis, size, mesh_axis in zip(box.names, box.value.shape, spec, strict=True):
        axes = (mesh_axis,) if isinstance(mesh_axis, str) else (mesh_axis or ())
        shares = math.prod(mesh.shape[a] for a in axes)
        if size % shares:
            raise InputError(
                f"{name}: axis {axis!r} of size {size} does not divide among {shares}"
                f" devices along {mesh_axis!r}; change the size, the mesh or mesh.rules"
            )
    return spec
