import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.trie import (
    build_trie,
    child_slots,
    descend,
    existing_codes,
    sort_sids,
)


@st.composite
def sid_rows(draw, max_levels=5):
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=max_levels)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=40))
    return np.asarray(rows, np.int32).reshape(-1, len(sizes)), sizes


def _spell(trie) -> np.ndarray:
    """Every leaf's SID in the order of leaf ids, read off the arrays from the root."""
    paths = np.zeros((1, 0), int)
    for tokens, row_start in zip(trie.tokens, trie.row_start, strict=True):
        degrees = np.diff(row_start)
        assert row_start[0] == 0 and row_start[-1] == len(tokens)
        assert (degrees > 0).all()
        parents = np.repeat(np.arange(len(paths)), degrees)
        paths = np.concatenate([paths[parents], np.asarray(tokens)[:, None]], axis=1)
    return paths


@settings(deadline=None, max_examples=15)
@given(sid_rows(max_levels=3))
def test_nodes_tell_their_children(drawn):
    """Slots, the codes that exist, and where each leads, against sets of prefixes."""
    rows, sizes = drawn
    trie = build_trie(rows, sizes)
    for level, size in enumerate(sizes):
        prefixes = np.unique(rows[:, :level], axis=0)
        longer = np.unique(rows[:, : level + 1], axis=0)
        place = {tuple(path): node for node, path in enumerate(longer.tolist())}
        nodes = jnp.arange(len(prefixes))
        bounds, tokens, exists = child_slots(trie, level, nodes)
        there = existing_codes(trie, level, nodes)
        for node, prefix in enumerate(prefixes.tolist()):
            codes = [code for code in range(size) if (*prefix, code) in place]
            assert np.flatnonzero(there[node]).tolist() == codes
            assert tokens[node][exists[node]].tolist() == codes
            wanted = [place[*prefix, code] for code in codes]
            assert bounds[node][:-1][exists[node]].tolist() == wanted
            assert (np.diff(bounds[node]) == exists[node]).all()
            alike = jnp.full(len(codes), node)
            assert descend(trie, level, alike, jnp.asarray(codes)).tolist() == wanted


@settings(deadline=None, max_examples=50)
@given(sid_rows(), st.randoms())
def test_a_trie_spells_the_sorted_unique_sids(drawn, random):
    rows, sizes = drawn
    trie = build_trie(rows, sizes)
    np.testing.assert_array_equal(_spell(trie), np.unique(rows, axis=0))
    assert trie.num_leaves == len(np.unique(rows, axis=0))
    assert trie.num_levels == len(sizes)
    for most, row_start in zip(trie.max_children, trie.row_start, strict=True):
        assert most == np.diff(row_start).max()

    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    chex.assert_trees_all_equal(trie, build_trie(rows[shuffled], sizes))


@pytest.mark.parametrize("sizes", [(6,) * 3, (256,) * 16, (3, 70_000, 2, 300)])
def test_sorting_by_key_or_by_column_is_the_stable_lexicographic_order(sizes):
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, size, 400) for size in sizes], axis=1)
    rows[:, : len(sizes) - 1] %= 3
    rows = np.concatenate([rows, rows[:50]])
    order, parting = sort_sids(rows, sizes)
    np.testing.assert_array_equal(order, np.lexsort(rows.T[::-1]))
    for before, after, level in zip(
        rows[order][:-1], rows[order][1:], parting[1:], strict=True
    ):
        assert level == next(
            (i for i in range(len(sizes)) if before[i] != after[i]), len(sizes)
        )
    assert parting[0] == -1


def test_codes_take_the_smallest_type_that_fits():
    sizes = (256, 257, 65_536, 65_537)
    last = np.asarray([sizes]) - 1
    trie = build_trie(last, sizes)
    assert [t.dtype.name for t in trie.tokens] == ["uint8", "uint16", "uint16", "int32"]
    np.testing.assert_array_equal(_spell(trie), last)
    narrow = build_trie(np.asarray([[255], [0]], np.uint8), (256,))
    np.testing.assert_array_equal(_spell(narrow), [[0], [255]])


@pytest.mark.parametrize(
    ("sids", "sizes", "message"),
    [
        (np.zeros((0, 2), int), (4, 4), "at least one SID"),
        (np.asarray([[0, 0], [1, 4]]), (4, 4), r"row 1: code 4 at level 2 .* 0\.\.3"),
        (np.asarray([[0, 0], [-1, 3]]), (4, 4), "row 1: code -1 at level 1"),
        (np.asarray([[0, 0]]), (4, 4, 4), "2 levels"),
        (np.zeros((3, 0), int), (), "0 levels"),
    ],
)
def test_refuses_what_is_no_set_of_sids(sids, sizes, message):
    with pytest.raises(InputError, match=message):
        build_trie(sids, sizes)
