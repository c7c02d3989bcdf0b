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
    first_leaves,
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
    for level, bounds in enumerate(trie.bounds):
        degrees = np.diff(bounds)
        assert bounds[0] == 0 and bounds[-1] == trie.num_places(level)
        assert degrees.max() == trie.max_slots[level]
        assert (degrees > 0).all() or 0 < level == trie.dense
        paths = np.repeat(paths, degrees, axis=0)
        if level < trie.tail:
            codes = np.asarray(trie.tokens[level])[: trie.num_places(level)]
            if level < trie.dense:  # what is nobody's place says another code
                own = np.arange(len(codes)) % trie.codebook_sizes[level]
                below = np.diff(first_leaves(trie)[level])
                assert ((codes == own) == (below > 0)).all()
                codes = own
            paths = np.concatenate([paths, codes[:, None]], axis=1)
    count = trie.num_leaves
    columns = [np.asarray(codes)[:count] for codes in trie.tokens[trie.tail :]]
    return np.concatenate([paths, np.stack(columns, axis=1)], axis=1)


def _draw_trie(data, rows, sizes):
    tail = data.draw(st.integers(0, len(sizes) - 1), "tail")
    return build_trie(rows, sizes, tail=tail, dense=data.draw(st.integers(0, tail)))


def _walk(trie, prefix):
    """The node that a prefix leads to, and whether there is one."""
    nodes, found = trie.root((1,)), np.ones(1, bool)
    for level, code in enumerate(prefix):
        nodes, there = descend(trie, level, nodes, jnp.asarray([code]))
        found &= np.asarray(there)
    return nodes, bool(found[0])


@settings(deadline=None, max_examples=8)
@given(sid_rows(max_levels=3), st.data())
def test_nodes_tell_their_children(drawn, data):
    """Slots, the codes that exist, and where each leads, against sets of prefixes."""
    rows, sizes = drawn
    trie = _draw_trie(data, rows, sizes)
    leaves = [tuple(sid) for sid in np.unique(rows, axis=0).tolist()]
    for level, size in enumerate(sizes):
        for prefix in {sid[:level] for sid in leaves}:
            nodes, found = _walk(trie, prefix)
            assert found
            _, tokens, exists = child_slots(trie, level, nodes)
            codes = sorted({sid[level] for sid in leaves if sid[:level] == prefix})
            assert tokens[0][exists[0]].tolist() == codes
            there = existing_codes(trie, level, nodes)[0]
            assert np.flatnonzero(there).tolist() == codes
            for code in range(size):
                below, found = _walk(trie, (*prefix, code))
                assert found == (code in codes)
                assert found == bool(below.end[0] > below.first[0])
    for leaf, sid in enumerate(leaves):
        assert _walk(trie, sid)[0].first[0] == leaf


@settings(deadline=None, max_examples=15)
@given(sid_rows(max_levels=4), st.data())
def test_places_lead_to_their_first_leaves(drawn, data):
    rows, sizes = drawn
    trie = _draw_trie(data, rows, sizes)
    leaves = np.unique(rows, axis=0)
    for level, first in enumerate(first_leaves(trie)):
        heads, wanted = np.unique(leaves[:, : level + 1], axis=0, return_index=True)
        wanted = [*wanted.tolist(), len(leaves)]
        if level < trie.dense:  # places that hold no child begin where the next does
            places = np.ravel_multi_index(heads.T, sizes[: level + 1])
            assert first[places].tolist() == wanted[:-1]
            first = np.unique(first)
        assert first.tolist() == wanted


@settings(deadline=None, max_examples=50)
@given(sid_rows(), st.randoms())
def test_a_trie_spells_the_sorted_unique_sids(drawn, random):
    rows, sizes = drawn
    trie = build_trie(rows, sizes)
    np.testing.assert_array_equal(_spell(trie), np.unique(rows, axis=0))
    for tail in range(len(sizes)):
        dense = random.randint(0, tail)
        forced = build_trie(rows, sizes, tail=tail, dense=dense)
        assert (forced.tail, forced.dense) == (tail, dense)
        np.testing.assert_array_equal(_spell(forced), _spell(trie))
    assert trie.num_leaves == len(np.unique(rows, axis=0))
    assert trie.num_levels == len(sizes)

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


def test_rows_of_few_sids_a_prefix_have_no_nodes():
    rng = np.random.default_rng(0)
    sids = np.unique(rng.integers(0, 64, (5000, 4)), axis=0)
    trie = build_trie(sids, (64,) * 4)
    assert trie.tail == 2  # about 1.2 SIDs share two codes, 78 the first one
    assert trie.max_slots[3] <= 3
    with pytest.raises(InputError, match="tail=4"):
        build_trie(sids, (64,) * 4, tail=4)
    # One crowded prefix: its rows are read by their children.
    crowd = np.asarray([[0, 0, code, last] for code in range(9) for last in range(60)])
    crowded = build_trie(np.concatenate([sids, crowd]), (64,) * 4)
    assert crowded.tail == 3


def test_levels_of_which_most_codes_exist_are_dense():
    rng = np.random.default_rng(0)
    sizes = (32,) * 4
    rows = rng.integers(0, 32, (20_000, 4))
    trie = build_trie(rows, sizes)
    assert (trie.tail, trie.dense) == (2, 2)  # all pairs of codes, nearly
    assert trie.max_slots[:2] == (32, 32) and trie.num_places(1) == 1024
    rows[:, 1] %= 10
    assert build_trie(rows, sizes).dense == 1
    rows[:, 0] %= 10
    assert build_trie(rows, sizes).dense == 0
    for dense in (-1, 3):
        with pytest.raises(InputError, match=f"dense={dense} of SIDs whose tail"):
            build_trie(rows, sizes, tail=2, dense=dense)
    with pytest.raises(InputError, match="dense=2"):  # 2 ** 40 places
        build_trie(rows[:, :3], (2**20,) * 3, tail=2, dense=2)


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
