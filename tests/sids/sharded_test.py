import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sid_jax.errors import InputError
from sid_jax.sids.allowance import Allowances, allow_leaves
from sid_jax.sids.beam import beam_search
from sid_jax.sids.sharded import shard_trie, sharded_beam_search
from sid_jax.sids.trie import build_trie

SIZES, BATCH = (24, 4, 5), 3
MESH = jax.make_mesh((8,), ("trie",), (jax.sharding.AxisType.Auto,))


def draw_sids(rng, count=150):
    """SIDs of every first code, some of which have many more than others."""
    first = np.minimum(rng.geometric(0.15, count) - 1, SIZES[0] - 1)
    rest = [rng.integers(0, size, count) for size in SIZES[1:]]
    rare = np.asarray([(code, 0, 0) for code in range(SIZES[0])])
    return np.concatenate([np.stack([first, *rest], axis=1), rare])


def step(context, state, codes, level):
    """Logits of the code before alone; few different ones, so that ties are common."""
    before = jnp.zeros((BATCH, 1), jnp.int32) if codes is None else codes
    return state, context[level][jnp.arange(BATCH)[:, None], before]


@partial(jax.jit, static_argnames=("num_beams", "softmax"))
def search(tables, trie, allowed, num_beams, softmax):
    told = {"num_beams": num_beams, "allowed": allowed, "softmax": softmax}
    return beam_search(step, tables, None, trie, **told)


@partial(jax.jit, static_argnames=("num_beams", "softmax"))
def search_parts(tables, trie, allowed, num_beams, softmax):
    told = {"num_beams": num_beams, "allowed": allowed, "softmax": softmax}
    return sharded_beam_search(step, tables, None, trie, mesh=MESH, axis="trie", **told)


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from([(7, "codes"), (30, "existing"), (7, "allowed")]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_parts_answer_as_the_whole_ties_included(told, free, seed):
    rng = np.random.default_rng(seed)
    sids = draw_sids(np.random.default_rng(0))
    sids[:, 1] = rng.permutation(SIZES[1])[sids[:, 1]]
    shapes = [
        (BATCH, before, size) for before, size in zip((1, *SIZES), SIZES, strict=False)
    ]
    # The first level's total over parts may round otherwise, which parts equal scores.
    ties = told[1] == "codes"
    tables = [
        jnp.float32(rng.integers(0, 3, shape) if ties else rng.normal(size=shape))
        for shape in shapes
    ]
    trie = build_trie(sids, SIZES)
    allowed = None if free else jnp.asarray(rng.random((BATCH, trie.num_leaves)) < 0.3)
    parts = shard_trie(sids, SIZES, 8)
    parts = jax.device_put(parts, NamedSharding(MESH, P("trie")))
    found = search_parts(tables, parts, allowed, *told)
    wanted = search(tables, trie, allowed, *told)
    chex.assert_trees_all_equal(found.leaves, wanted.leaves)
    chex.assert_trees_all_equal(found.codes, wanted.codes)
    chex.assert_trees_all_close(found.scores, wanted.scores, rtol=1e-6)


def test_parts_hold_about_as_many_sids_each():
    rng = np.random.default_rng(0)
    sids = np.unique(rng.integers(0, (64, 8, 8), (2000, 3)), axis=0)
    parts = shard_trie(sids, (64, 8, 8), 8)
    counts = np.diff(np.append(parts.first, len(sids)))
    assert counts.sum() == len(sids) and counts.min() > len(sids) / 8 * 0.7
    assert (np.asarray(parts.parts.bounds[-1][:, -1]) == counts).all()
    few = np.repeat(np.arange(4), [48, 50, 1, 1])
    uneven = np.stack([few, np.arange(100) % 50], axis=1)
    assert shard_trie(uneven, (4, 50), 2).first.tolist() == [0, 48]
    with pytest.raises(InputError, match="3 parts of SIDs that begin with 2"):
        shard_trie(np.asarray([[0, 1, 1], [1, 0, 0]]), (64, 8, 8), 3)
    with pytest.raises(InputError, match="4 parts for 8 devices along 'trie'"):
        four = shard_trie(sids, (64, 8, 8), 4)
        search_parts([jnp.zeros((BATCH, 1, 64))], four, None, 3, "codes")
    with pytest.raises(InputError, match="num_parts=0"):
        shard_trie(sids, (64, 8, 8), 0)
    with pytest.raises(InputError, match=f"5 leaves, the trie {len(sids)}"):
        eight, five = shard_trie(sids, (64, 8, 8), 8), jnp.ones((BATCH, 5), bool)
        search_parts([jnp.zeros((BATCH, 1, 64))], eight, five, 3, "codes")
    with pytest.raises(InputError, match="not drawn from a trie in parts"):
        trie, key = build_trie(sids, (64, 8, 8)), jax.random.key(0)
        told = {"softmax": "allowed", "key": key, "axis": "trie"}
        beam_search(step, None, None, trie, num_beams=2, **told)


@pytest.mark.parametrize("shared", [False, True])
def test_devices_that_share_requests_need_nothing_of_each_other(shared):
    """A request's set of leaves is its own, or one of a few that every device has."""
    rng, batch, sizes = np.random.default_rng(0), 16, (5, 4, 6)
    trie = build_trie(rng.integers(0, sizes, (60, 3)), sizes, tail=1)
    tables = [
        jnp.asarray(rng.normal(size=(batch, before, size)), jnp.float32)
        for before, size in zip((1, *sizes), sizes, strict=False)
    ]
    masks = jnp.asarray(rng.random((3 if shared else batch, trie.num_leaves)) < 0.5)
    allowed = allow_leaves(trie, masks)
    if shared:
        rows = jnp.asarray(rng.integers(0, 3, batch), jnp.int32)
        allowed = Allowances(allowed.words, rows)

    def step(context, state, codes, level):
        codes = jnp.zeros((len(state), 1), jnp.int32) if codes is None else codes
        return state, jax.vmap(lambda table, at: table[at])(context[level], codes)

    @jax.jit
    def run(tables, allowed):
        state = jnp.zeros((batch, 1))
        told = {"num_beams": 7, "allowed": allowed, "batch_axis": "data"}
        return beam_search(step, tables, state, trie, **told)

    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    whole, split = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
    sets = Allowances(whole, split) if shared else Allowances(split, None)
    told = jax.device_put(tables, split), _put(allowed, sets)
    with jax.set_mesh(mesh):
        found = run(*told)
        text = run.lower(*told).compile().as_text()
    state = jnp.zeros((batch, 1))
    alone = jax.jit(
        lambda tables, allowed: beam_search(
            step, tables, state, trie, num_beams=7, allowed=allowed
        )
    )(tables, allowed)
    chex.assert_trees_all_equal(found, alone)
    assert "num_partitions=8" in text
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", text)


def _put(allowed, shardings):
    words = jax.device_put(allowed.words, shardings.words)
    rows = allowed.rows
    return Allowances(
        words, rows if rows is None else jax.device_put(rows, shardings.rows)
    )
