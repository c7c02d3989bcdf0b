from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.allowance import AllowanceCache, allow_leaves, lift, pack_bits
from sid_jax.sids.trie import build_trie

SIZES, SETS = (3, 4, 5), 3
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def make_sids():
    rng = np.random.default_rng(0)
    return np.unique(
        np.stack([rng.integers(0, size, 60) for size in SIZES], axis=1), axis=0
    )


SIDS = make_sids()
TRIES = [
    build_trie(SIDS, SIZES, tail=tail, dense=dense)
    for tail, dense in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))
]


def unpack(words, count):
    bits = (np.asarray(words)[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    return bits.reshape(len(words), -1)[:, :count].astype(bool)


def lift_by_hand(allowed, trie):
    """A mask of each level's places before the tail, and that of the leaves."""
    masks = []
    for level in range(trie.tail):
        _, node = np.unique(SIDS[:, : level + 1], axis=0, return_inverse=True)
        if level < trie.dense:
            node = np.ravel_multi_index(SIDS[:, : level + 1].T, SIZES[: level + 1])
        mask = np.zeros((len(allowed), trie.num_places(level)), bool)
        for row, leaf in np.argwhere(allowed):
            mask[row, node[leaf]] = True
        masks.append(mask)
    return [*masks, allowed]


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(TRIES), st.integers(0, 2**32 - 1))
def test_a_place_is_allowed_if_a_leaf_below_is(trie, seed):
    rng = np.random.default_rng(seed)
    allowed = rng.random((SETS, len(SIDS))) < np.asarray([[0.0], [0.1], [1.0]])
    found = jax.jit(allow_leaves)(trie, jnp.asarray(allowed))
    assert found.rows is None
    for words, mask in zip(found.words, lift_by_hand(allowed, trie), strict=True):
        np.testing.assert_array_equal(unpack(words, mask.shape[1]), mask)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_sets_are_combined_by_their_leaves(seed):
    trie, rng = TRIES[-1], np.random.default_rng(seed)
    one, other = rng.random((2, SETS, len(SIDS))) < 0.3
    both = pack_bits(jnp.asarray(one)) & pack_bits(jnp.asarray(other))
    for words, mask in zip(
        lift(trie, both), lift_by_hand(one & other, trie), strict=True
    ):
        np.testing.assert_array_equal(unpack(words, mask.shape[1]), mask)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), max_size=8),
    st.sampled_from(TRIES[1:]),
)
def test_a_cache_holds_what_was_asked_for_last(calls, trie):
    masks = np.random.default_rng(1).random((7, len(SIDS))) < 0.3
    brought = []

    def leaves_of(name):
        brought.append(name)
        return np.flatnonzero(masks[name])

    cache, held = AllowanceCache(trie, 3, HERE), []
    for names in calls:
        brought.clear()
        found = cache.take(names, leaves_of)
        wanted = lift_by_hand(masks[names], trie)
        for words, mask in zip(found.words, wanted, strict=True):
            rows = np.asarray(words)[found.rows]
            np.testing.assert_array_equal(unpack(rows, mask.shape[1]), mask)
        assert sorted(brought) == sorted(set(names) - set(held))
        held = [name for name in held if name not in names]
        held = [*held, *reversed(dict.fromkeys(reversed(names)))][-3:]


def test_a_cache_compiles_once_and_refuses_too_much():
    cache, other = (AllowanceCache(TRIES[1], 2, HERE) for _ in range(2))
    before = cache._write._cache_size()
    shapes = [
        jax.tree.map(jnp.shape, cache.take([name], lambda n: np.arange(n + 1)).words)
        for name in range(5)
    ]
    assert shapes == shapes[:1] * 5
    other.take([3], lambda n: np.arange(n))
    assert other._write._cache_size() <= before + 1
    with pytest.raises(InputError, match="3 sets at once, but the cache holds 2"):
        cache.take([0, 1, 2], lambda n: np.arange(n))
    with pytest.raises(InputError, match=f"set 9: leaf {len(SIDS)} is outside"):
        cache.take([9], lambda n: np.asarray([0, len(SIDS)]))
    with pytest.raises(InputError, match="capacity=0"):
        AllowanceCache(TRIES[1], 0, HERE)


def test_threads_that_share_a_cache_get_what_they_asked_for():
    masks = np.random.default_rng(1).random((7, len(SIDS))) < 0.3
    cache = AllowanceCache(TRIES[1], 2, HERE)

    @jax.jit
    def read(words, rows):
        return words[-1][rows]

    def ask(seed):
        names = np.random.default_rng(seed).integers(0, 7, 2).tolist()
        with cache.lend(names, lambda name: np.flatnonzero(masks[name])) as lent:
            found = read(lent.words, lent.rows)
        return np.array_equal(unpack(found, len(SIDS)), masks[names])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))
