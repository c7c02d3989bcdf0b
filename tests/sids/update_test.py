import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.beam import beam_search
from sid_jax.sids.predicate import allowed_leaves
from sid_jax.sids.trie import build_trie
from sid_jax.sids.update import make_room, refit_trie, update_trie

SIZES = (4, 5, 6)
ROOM = 3.0


def draw_sids(rng, count):
    return np.stack([rng.integers(0, size, count) for size in SIZES], axis=1)


@partial(jax.jit, static_argnames="num_beams")
def search(tables, trie, allowed, num_beams):
    def step(context, state, codes, level):
        width = 1 if codes is None else codes.shape[1]
        return state, jnp.broadcast_to(context[level], (2, width, SIZES[level]))

    return beam_search(step, tables, None, trie, num_beams=num_beams, allowed=allowed)


def find_all(trie, allowed=None):
    """SIDs that a search reaches, of each request."""
    rng = np.random.default_rng(0)
    tables = [jnp.asarray(rng.normal(size=(2, 1, size))) for size in SIZES]
    beams = search(tables, trie, allowed, num_beams=120)
    return [
        {tuple(sid) for sid in codes[valid].tolist()}
        for codes, valid in zip(
            np.asarray(beams.codes), np.asarray(beams.valid), strict=True
        )
    ], beams


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]),
    st.integers(0, 2**32 - 1),
)
def test_a_chain_of_updates_is_the_trie_of_what_is_there(levels, seed):
    levels = dict(zip(("tail", "dense"), levels, strict=True))
    rng = np.random.default_rng(seed)
    there = {tuple(sid) for sid in draw_sids(np.random.default_rng(0), 30).tolist()}
    trie = make_room(build_trie(np.asarray(sorted(there)), SIZES, **levels), ROOM)
    shapes = jax.tree.map(jnp.shape, trie)
    for _ in range(3):
        leaving = [sid for sid in sorted(there) if rng.random() < 0.2][: len(there) - 1]
        coming = draw_sids(rng, rng.integers(0, 12))
        removed = np.asarray(leaving, int).reshape(-1, len(SIZES))
        trie = update_trie(trie, rng.permutation(coming), removed)
        there = (there - set(leaving)) | {tuple(sid) for sid in coming.tolist()}
        assert jax.tree.map(jnp.shape, trie) == shapes
        found, beams = find_all(trie)
        assert found == [there, there]
        leaves = np.asarray(beams.leaves)[np.asarray(beams.valid)]
        assert sorted(leaves) == sorted([*range(len(there))] * 2)
        # Array by array that of all of them at once.
        shuffled = rng.permutation(np.asarray(sorted(there)))
        chex.assert_trees_all_equal(trie, refit_trie(trie, shuffled))
    # As in a trie that has no room, leaf by leaf.
    fresh = find_all(build_trie(np.asarray(sorted(there)), SIZES, **levels))[1]
    chex.assert_trees_all_equal(beams, fresh)


def test_a_compiled_search_takes_the_next_version_and_its_allowances():
    trie = make_room(build_trie(draw_sids(np.random.default_rng(0), 30), SIZES), ROOM)
    mask = jnp.asarray(np.asarray([[True, False, True, False], [True] * 4]))
    before = search._cache_size()
    for seed in range(3):
        coming = draw_sids(np.random.default_rng(seed + 1), 5)
        trie = update_trie(trie, coming, np.zeros((0, 3), int))
        found, _ = find_all(trie, allowed_leaves(trie, mask))
        assert {sid[0] for sid in found[0]} == {0, 2}
        assert {tuple(sid) for sid in coming.tolist()} <= found[1]
    assert search._cache_size() == before + 1


def test_tells_what_does_not_fit():
    sids = draw_sids(np.random.default_rng(0), 30)
    none = np.zeros((0, 3), int)
    trie = make_room(build_trie(sids, SIZES), 0.1)
    absent = next(
        np.asarray([sid])
        for sid in np.ndindex(*SIZES)
        if sid not in {tuple(each) for each in sids.tolist()}
    )
    name = "_".join(map(str, absent[0]))
    with pytest.raises(InputError, match=f"removed SID {name} is not in the trie"):
        update_trie(trie, none, absent)
    with pytest.raises(InputError, match=r"no room at level 2: 71 places.*`make_room`"):
        update_trie(trie, draw_sids(np.random.default_rng(1), 80), none)
    with pytest.raises(InputError, match="code 9 at level 2"):
        update_trie(trie, np.asarray([[0, 9, 0]]), none)
    with pytest.raises(InputError, match="no SID is left"):
        update_trie(trie, none, sids)
    with pytest.raises(InputError, match="added SIDs have 2 levels, the trie 3"):
        update_trie(trie, none[:, :2], np.zeros((1, 2), int))
    for share in (-1.0, np.inf, np.nan, 1e9):
        with pytest.raises(InputError, match=re.escape(f"share={share}")):
            make_room(trie, float(share))


def test_codes_may_come_in_any_whole_type():
    sids = np.asarray([[127, 0], [126, 3], [5, 3]])
    trie = make_room(build_trie(sids, (128, 4)), 1.0)
    for kind in (np.int8, np.uint8, np.int64):
        left = update_trie(trie, sids[:1].astype(kind), sids[:2].astype(kind))
        assert int(left.bounds[-1][-1]) == 2


def test_versions_of_any_size_compile_nothing():
    rng, compiled = np.random.default_rng(0), []
    trie = make_room(build_trie(draw_sids(rng, 40), SIZES), ROOM)
    refit_trie(trie, draw_sids(rng, 20))

    def hear(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        for count in (5, 13, 31, 57):
            refit_trie(trie, draw_sids(rng, count))
            update_trie(trie, draw_sids(rng, count), draw_sids(rng, 0))
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    assert not compiled
