import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.spmd import with_logical_constraint
from jax.sharding import PartitionSpec

from sid_jax.errors import InputError
from sid_jax.train.sharding import (
    RULES,
    MeshConfig,
    abstract_like,
    make_mesh,
    place,
    state_shardings,
    use_mesh,
)


def _boxed(names=("embed", "mlp"), shape=(8, 4)):
    value = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"w": nn.LogicallyPartitioned(value, names), "b": value}


def test_rows_differ_only_in_where_an_axis_lies():
    names = [tuple(axis for axis, _ in row) for row in RULES.values()]
    assert set(names) == {names[0]}
    assert {dict(row)["batch"] for row in RULES.values()} == {"data"}
    assert {where for row in RULES.values() for _, where in row} <= {
        "data",
        "model",
        None,
    }


@pytest.mark.parametrize(("data", "model"), [(-1, 1), (-1, 4), (8, 1), (2, 4), (1, 1)])
def test_mesh_has_the_asked_shape_over_different_devices(data, model):
    mesh = make_mesh(MeshConfig(data=data, model=model))
    assert dict(mesh.shape) == {
        "data": 8 // model if data < 0 else data,
        "model": model,
    }
    assert len(set(mesh.devices.flat)) == mesh.size


@pytest.mark.parametrize(("data", "model"), [(-1, 3), (16, 1), (4, 4), (-1, 16)])
def test_a_mesh_that_does_not_fit_is_refused(data, model):
    with pytest.raises(InputError, match=r"mesh\.data.*does not fit 8 devices"):
        make_mesh(MeshConfig(data=data, model=model))


@pytest.mark.parametrize("field", [{"rules": "spread"}, {"data": 0}, {"model": -1}])
def test_bad_fields_are_named(field):
    with pytest.raises(InputError, match=rf"mesh\.{next(iter(field))}"):
        MeshConfig(**field)


@pytest.mark.parametrize(
    ("rules", "spec"),
    [
        ("data", (None, None)),
        ("fsdp", ("data", None)),
        ("tensor", (None, "model")),
        ("fsdp_tensor", ("data", "model")),
    ],
)
def test_parameters_lie_as_the_row_says(rules, spec):
    mesh = make_mesh(MeshConfig(model=2))
    found = state_shardings(_boxed(), mesh, rules)
    assert found["w"].spec == PartitionSpec(*spec)
    assert found["b"].spec == PartitionSpec()
    abstract = abstract_like(_boxed(), mesh, rules)
    shares = [mesh.shape[axis] if axis else 1 for axis in spec]
    assert abstract["w"].sharding.shard_shape((8, 4)) == (
        8 // shares[0],
        4 // shares[1],
    )


def test_a_mesh_axis_serves_one_axis_of_an_array():
    boxed = _boxed(("batch", "embed"), (8, 8))
    spec = state_shardings(boxed, make_mesh(MeshConfig()), "fsdp")["w"].spec
    assert spec == PartitionSpec("data", None)


def test_a_name_outside_the_table_is_refused():
    with pytest.raises(InputError, match="w: logical axis 'width' is none of"):
        state_shardings(_boxed(("width", "mlp")), make_mesh(MeshConfig()), "data")


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"w: axis 'embed' of size 12 .* 8 devices"):
        state_shardings(_boxed(shape=(12, 4)), make_mesh(MeshConfig()), "fsdp")


@pytest.mark.parametrize("data", [1, 2, 8])
def test_placed_batches_are_the_same_rows_split(data):
    mesh = make_mesh(MeshConfig(data=data))
    batch = {"x": np.arange(48).reshape(16, 3), "y": np.arange(8.0)}
    placed = place(batch, mesh)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.addressable_shards[0].data.shape[0] == len(batch[name]) // data


@pytest.mark.parametrize("bad", [np.zeros((12, 2)), np.zeros(())])
def test_rows_that_do_not_divide_are_refused(bad):
    with pytest.raises(InputError, match="batch x of shape"):
        place({"x": bad}, make_mesh(MeshConfig()))


def test_logical_constraints_reach_the_program():
    mesh = make_mesh(MeshConfig(model=2))

    def twice(x):
        return with_logical_constraint(2 * x, ("batch", "mlp"))

    x = np.ones((8, 4), np.float32)
    with use_mesh(mesh, "tensor"):
        text = jax.jit(twice).lower(x).as_text()
        shard = jax.jit(twice)(x).addressable_shards[0].data.shape
    assert text.count("sharding_constraint") == 1
    assert shard == (2, 2)
