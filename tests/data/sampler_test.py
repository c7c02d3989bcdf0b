"""Batches hold the pairs that they promise, whatever the tree."""

from collections import Counter
from itertools import combinations, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.sampler import category_paths, hierarchical_stream
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError

PATHS = st.lists(
    st.lists(st.sampled_from("abc"), max_size=4).map(tuple), min_size=1, max_size=60
)
seeds = st.integers(0, 2**32 - 1)


def shared(first, second):
    same = (a == b for a, b in zip(first, second, strict=False))
    return len(list(takewhile(bool, same)))


def strip(paths):
    """Paths without what all known ones share."""
    known = [path for path in paths if path]
    trunk = min((shared(known[0], path) for path in known), default=0)
    return [path[trunk:] for path in paths]


def hops(first, second):
    """Steps between two categories; None where they share no ancestor."""
    depth = shared(first, second)
    return max(len(first), len(second)) - depth if depth else None


def promises_pairs(paths):
    """Whether some parent has two leaves, one of them of two items."""
    leaves = Counter(path for path in paths if path)
    for parent in {path[:d] for path in leaves for d in range(1, len(path) + 1)}:
        family = [
            leaf
            for leaf in leaves
            if leaf == parent or (leaf[:-1] == parent and not has_children(leaf, paths))
        ]
        if len(family) > 1 and max(leaves[leaf] for leaf in family) > 1:
            return True
    return False


def has_children(leaf, paths):
    return any(path[: len(leaf)] == leaf and path != leaf for path in paths)


@settings(deadline=None, max_examples=200)
@given(
    PATHS,
    st.sampled_from([(), ("shop",), ("shop", "all")]),
    st.integers(1, 30),
    st.integers(2, 5),
    st.sampled_from([0.25, 0.5, 0.8, 1.0]),
    seeds,
)
def test_a_group_holds_what_it_promises(paths, prefix, size, each, share, seed):
    paths = [(*prefix, *path) if path else path for path in paths]
    below = strip(paths)
    known = [row for row, path in enumerate(below) if path]
    tree = Taxonomy.from_paths(paths)
    if all(hops(below[a], below[b]) is None for a, b in combinations(known, 2)):
        with pytest.raises(InputError, match=r"no item has|no two items"):
            hierarchical_stream(tree, size, seed=seed)
        return
    size = min(size, len(known))
    stream = hierarchical_stream(
        tree, size, seed=seed, items_per_leaf=each, sibling_share=share
    )
    near = round(size * share)
    for step in range(3):
        rows = stream(step)
        assert rows.dtype == np.int32
        assert len(rows) == len(set(rows.tolist())) == size
        assert set(rows.tolist()) <= set(known)
        batch = [below[row] for row in rows]
        if near >= 3 and promises_pairs(below):
            distances = {hops(a, b) for a, b in combinations(batch, 2)}
            assert {0, 1} <= distances
            top = batch[0][0]
            inside = sum(below[row][0] == top for row in known)
            if inside >= near and len(known) - inside >= size - near:
                assert [path[0] == top for path in batch] == [
                    place < near for place in range(size)
                ]


def regular(tops, parents, leaves, items):
    return [
        (f"t{t}", f"p{p}", f"l{leaf}")
        for t in range(tops)
        for p in range(parents)
        for leaf in range(leaves)
        for _ in range(items)
    ]


def test_a_regular_tree_fills_half_from_one_parent_and_half_from_elsewhere():
    paths = regular(4, 3, 8, 6)
    tree = Taxonomy.from_paths(paths)
    widened = 0
    for step in range(50):
        rows = hierarchical_stream(tree, 48, seed=1, items_per_leaf=4)(step)
        near, far = [paths[row] for row in rows[:24]], [paths[row] for row in rows[24:]]
        assert set(Counter(near).values()) == set(Counter(far).values()) == {4}
        # A family is finished before the next one begins: six leaves are one parent's.
        families = Counter(path[:2] for path in near)
        assert len({path[0] for path in near}) == len(families) == 1
        assert near[0][0] not in {path[0] for path in far}
        widened += len({path[:2] for path in far}) > 1
        # Ten leaves are more than one parent has: the rest are its siblings' leaves.
        rows = hierarchical_stream(tree, 80, seed=1, items_per_leaf=4)(step)
        near = Counter(paths[row][:2] for row in rows[:40])
        assert len({top for top, _ in near}) == 1
        assert sorted(near.values()) == [8, 32]
    assert widened > 40


def test_pairs_are_certain_where_they_are_rare():
    # One family in forty has two leaves, and one of its ten leaves two items.
    paths = [("t", f"p{p}", "only") for p in range(40)]
    paths += [("t", "q", f"l{leaf}") for leaf in range(9)] + [("t", "q", "two")] * 2
    paths += [("u", f"p{p}", "only") for p in range(40)]
    stream = hierarchical_stream(Taxonomy.from_paths(paths), 6, seed=0)
    for step in range(50):
        near = Counter(paths[row] for row in stream(step)[:3])
        assert near[("t", "q", "two")] == 2
        assert {path[:2] for path in near} == {("t", "q")} and len(near) == 2


def test_parents_are_drawn_by_a_power_of_their_items():
    sizes = {"a": 2, "b": 8, "c": 32}
    paths = [(top, f"{n % 2}") for top, count in sizes.items() for n in range(count)]
    tree = Taxonomy.from_paths(paths)
    for power in (0.0, 0.5, 1.0):
        stream = hierarchical_stream(
            tree, 6, seed=0, sibling_share=0.5, power=power, items_per_leaf=2
        )
        found = Counter(paths[stream(step)[0]][0] for step in range(1500))
        # The two items of `a` cannot make a pair of each kind.
        wanted = {top: sizes[top] ** power for top in "bc"}
        assert set(found) == set(wanted)
        for top, weight in wanted.items():
            odds = weight / sum(wanted.values())
            np.testing.assert_allclose(found[top] / 1500, odds, atol=0.05)


def test_all_items_of_a_leaf_are_drawn_alike():
    paths = [("a", "x")] * 7 + [("a", "y")] * 3 + [("b", "z")] * 40
    stream = hierarchical_stream(
        Taxonomy.from_paths(paths), 12, seed=5, items_per_leaf=3
    )
    found = np.zeros(len(paths))
    for step in range(1500):
        np.add.at(found, stream(step), 1)
    np.testing.assert_allclose(found[:7] / 1500, 3 / 7, atol=0.05)
    np.testing.assert_allclose(found[7:10] / 1500, 1.0)
    np.testing.assert_allclose(found[10:] / 1500, 6 / 40, atol=0.05)


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(0, 1000), st.sampled_from([24, 40, 48, 60]))
def test_a_function_of_seed_and_step_that_processes_share(seed, step, batch_size):
    tree = Taxonomy.from_paths(regular(3, 3, 3, 3))

    def make(seed=seed, **kwargs):
        return hierarchical_stream(tree, batch_size, seed=seed, group=20, **kwargs)

    stream = make()
    wanted = stream(step)
    stream(step + 1)
    np.testing.assert_array_equal(stream(step), wanted)
    for processes in (2, 4):
        parts = [
            make(process=p, num_processes=processes)(step) for p in range(processes)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), wanted)
    parts = np.array_split(wanted, -(-batch_size // 20))
    assert all(len(part) == len(set(part.tolist())) for part in parts)
    others = [stream(step + 1), make(seed=seed + 1)(step)]
    assert all((other != wanted).any() for other in others)


def test_irregular_catalogs_fall_back_by_rule():
    # One top below the trunk would be the trunk: its children are the tops.
    paths = [("all", "a", "x")] * 4 + [("all", "a", "y")] * 4 + [("all", "b", "z")] * 4
    rows = hierarchical_stream(Taxonomy.from_paths(paths), 6, seed=0)(0)
    assert sorted(rows[:3] // 4) in ([0, 0, 1], [0, 1, 1]) and set(rows[3:] // 4) == {2}
    # Too few unrelated items: the rest comes from the parent's own top.
    rows = hierarchical_stream(Taxonomy.from_paths(paths[:9]), 8, seed=0)(0)
    assert (rows == 8).sum() == 1 and (rows < 8).sum() == 7
    # A flat catalog has no siblings; its batches are leaves at random.
    paths = [(name,) for name in "abcdefgh" for _ in range(8)]
    rows = hierarchical_stream(Taxonomy.from_paths(paths), 16, seed=0)(0)
    assert sorted(Counter(rows // 8).values()) == [4] * 4
    # A parent whose items are its own beside a child's makes siblings of these.
    paths = [("a",)] * 4 + [("a", "x")] * 4 + [("b",)] * 9
    rows = hierarchical_stream(Taxonomy.from_paths(paths), 12, seed=0)(0)
    assert (rows < 8).sum() == 6 and 2 <= (rows < 4).sum() <= 4


@settings(deadline=None, max_examples=50)
@given(PATHS, st.sampled_from([(), ("shop",)]))
def test_category_paths_start_below_what_all_share(paths, prefix):
    paths = [(*prefix, *path) if path else path for path in paths]
    tree = Taxonomy.from_paths(paths)
    table = category_paths(tree)
    assert table.shape[0] == len(paths) and table.shape[1] >= 1
    for path, below, row in zip(paths, strip(paths), table, strict=True):
        nodes = row[: len(below)]
        depths = range(len(path) - len(below) + 1, len(path) + 1)
        assert [tree.path(node) for node in nodes] == [path[:d] for d in depths]
        assert (row[len(below) :] == -1).all()


def test_catalogs_and_numbers_that_cannot_work_are_refused():
    tree = Taxonomy.from_paths(regular(2, 2, 2, 2))
    with pytest.raises(InputError, match=r"16 items.*fewer than the 17"):
        hierarchical_stream(tree, 17, seed=0)
    assert len(hierarchical_stream(tree, 17, seed=0, group=16)(0)) == 17
    with pytest.raises(InputError, match="no item has a category"):
        hierarchical_stream(Taxonomy.from_paths([(), ()]), 2, seed=0)
    with pytest.raises(InputError, match="no item has a category"):
        hierarchical_stream(Taxonomy.from_paths([("a",), ("a",)]), 2, seed=0)
    with pytest.raises(InputError, match="no two items share"):
        hierarchical_stream(Taxonomy.from_paths([("a",), ("b",)]), 2, seed=0)
    with pytest.raises(InputError, match="batch_size 9"):
        hierarchical_stream(tree, 9, seed=0, num_processes=2)
    for field, value in (
        ("group", 3),
        ("items_per_leaf", 1),
        ("sibling_share", 1.5),
        ("power", -1.0),
    ):
        with pytest.raises(InputError, match=field):
            hierarchical_stream(tree, 8, seed=0, **{field: value})
