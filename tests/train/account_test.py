import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sid_jax.train.account import compile_program, count_collectives, count_flops
from sid_jax.train.sharding import MeshConfig, make_mesh


def product(x, w):
    return jnp.tanh(x @ w)


def scanned(x, w):
    return jax.lax.scan(lambda x, _: (product(x, w), None), x, None, length=5)[0]


def branched(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda x: product(product(x, w), w), jnp.sin, x)


def batched(x, w):
    return jnp.einsum("bi,cij->bcj", x, jnp.stack([w, w, w])).sum(axis=1)


def checkpointed(x, w):  # blocks in a scan, the whole anew once more
    block = jax.checkpoint(product)
    return jax.lax.scan(lambda x, _: (block(x, w), None), x, None, length=5)[0].sum()


@pytest.mark.parametrize(
    ("program", "products"),
    [
        (product, 1),
        (jax.jit(product), 1),
        (scanned, 5),
        (branched, 2),
        (batched, 3),
        (jax.grad(lambda x, w: product(x, w).sum(), 1), 2),
        (jax.grad(lambda x, w: jax.checkpoint(product)(x, w).sum(), (0, 1)), 4),
    ],
)
def test_products_count_as_often_as_they_run(program, products):
    shapes = jax.ShapeDtypeStruct((3, 8), "float32"), jax.ShapeDtypeStruct((8, 8), "f4")
    assert count_flops(jax.make_jaxpr(program)(*shapes)) == products * 2 * 3 * 8 * 8


@pytest.mark.parametrize(
    ("program", "products", "anew"),
    [
        (lambda x, w: scanned(x, w).sum(), 5 * 3, 0),
        (checkpointed, 5 * 3, 5),
        (jax.checkpoint(checkpointed), 5 * 3, 5 * 2),
        (jax.jit(lambda x, w: jax.checkpoint(jax.jit(product))(x, w).sum()), 3, 1),
    ],
)
def test_what_is_computed_anew_is_told_apart(program, products, anew):
    shapes = jax.ShapeDtypeStruct((3, 8), "float32"), jax.ShapeDtypeStruct((8, 8), "f4")
    traced = jax.make_jaxpr(jax.grad(program, (0, 1)))(*shapes)
    assert count_flops(traced, anew=False) == products * 2 * 3 * 8 * 8
    assert count_flops(traced) == (products + anew) * 2 * 3 * 8 * 8


def test_a_program_is_accounted_for_a_device():
    mesh = make_mesh(MeshConfig())
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct((32, 32), jnp.float32, sharding=whole)

    def step(w, x):  # a gradient of the batch: one sum over the devices
        return w - jax.grad(lambda w: jnp.sum(product(x, w) ** 2))(w)

    program = jax.jit(step, donate_argnums=0, out_shardings=whole)
    found = compile_program(program.trace(w, x))
    assert found.arguments == 4 * (32 * 32 + 16 * 32 // 8)
    assert found.results == 0  # they take the place of the parameters
    assert found.collectives == {"all-reduce": (1, 4 * 32 * 32)}
    assert found.moved == 4 * 32 * 32
    assert found.peak == found.arguments + found.scratch
    assert found.flops == 2 * 2 * 16 * 32 * 32


def test_collectives_in_a_loop_count_as_often():
    mesh = make_mesh(MeshConfig())
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def run(x, w):  # rows of w lie apart: each pass sums over the devices
        def once(x, _):
            total = jax.lax.with_sharding_constraint(x @ w, whole)
            return jax.lax.with_sharding_constraint(total, columns), None

        return jax.lax.scan(once, x, None, length=7)[0]

    columns = NamedSharding(mesh, P(None, "data"))
    program = jax.jit(run, in_shardings=(columns, split))
    x, w = np.ones((4, 16), np.float32), np.ones((16, 16), np.float32)
    times, size = compile_program(program.trace(x, w)).collectives["all-reduce"]
    assert times == 7 and size == 7 * 4 * 4 * 16


TPU = """
%pass (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = f32[8]{0:T(128)} all-reduce(%x), channel_id=3, to_apply=%add
  %begun = (f32[4], f32[8], u32[]) all-gather-start(%y), channel_id=4
  %done = f32[8]{0} all-gather-done(%begun)
}

%end (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%piece (p: f32[8]) -> f32[8] {
  %all-gather.7 = bf16[3,5]{1,0} all-gather(%p), channel_id=9
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%t), condition=%end, body=%pass
  %a = f32[8] fusion(%loop), kind=kLoop, calls=%piece
  %b = f32[8] fusion(%a), kind=kLoop, calls=%piece
}
"""


def test_a_tpus_text_is_read():
    """Loops whose count stands in their condition; a gather in pieces is one."""
    assert count_collectives(TPU) == {
        "all-reduce": (6, 6 * 32),
        "all-gather": (7, 6 * 32 + 30),
    }
