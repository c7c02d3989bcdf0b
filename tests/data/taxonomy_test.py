"""The tree agrees with the paths it was made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError

PATHS = st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(paths=PATHS)
def test_arrays_spell_the_paths_back(paths):
    tree = Taxonomy.from_paths(paths)
    for path, leaf in zip(paths, tree.leaf, strict=True):
        assert (leaf == -1) == (not path)
        assert tree.path(leaf) == tuple(path)
    prefixes = {tuple(path[:d]) for path in paths for d in range(len(path) + 1)}
    assert len(tree) == len(prefixes | {()})
    assert {tree.path(node) for node in range(len(tree))} == prefixes | {()}
    assert all(tree.parent[1:] < np.arange(1, len(tree))) and tree.parent[0] == -1
    assert tree.max_depth == max(map(len, paths))


@settings(deadline=None, max_examples=50)
@given(paths=PATHS)
def test_common_depth_is_the_length_of_the_common_prefix(paths):
    tree = Taxonomy.from_paths(paths)
    a, b = np.meshgrid(tree.leaf, tree.leaf, indexing="ij")
    depth = tree.common_depth(a, b)
    for i, first in enumerate(paths):
        for j, second in enumerate(paths):
            same = [x == y for x, y in zip(first, second, strict=False)]
            want = same.index(False) if False in same else len(same)
            assert depth[i, j] == want


@settings(deadline=None, max_examples=50)
@given(paths=PATHS)
def test_prefix_and_ancestors_are_cut_paths(paths):
    tree = Taxonomy.from_paths(paths)
    for depth in range(tree.max_depth + 1):
        for path, node in zip(paths, tree.prefix(depth), strict=True):
            if path and len(path) >= depth:
                assert tree.path(node) == tuple(path[:depth])
            else:
                assert node == -1
    for node, row in enumerate(tree.ancestors()):
        assert [x for x in row if x >= 0][-1] == node
        assert (row >= 0).sum() == tree.depth[node] + 1


def test_one_name_under_two_parents_is_two_nodes():
    tree = Taxonomy.from_paths([("food", "other"), ("toys", "other")])
    assert len(tree) == 5
    assert tree.leaf[0] != tree.leaf[1]
    assert tree.common_depth(tree.leaf[:1], tree.leaf[1:]) == [0]


def test_refuses_a_path_in_one_string_and_a_depth_out_of_range():
    with pytest.raises(InputError, match="list of names, not 'food > tea'"):
        Taxonomy.from_paths(["food > tea"])
    with pytest.raises(InputError, match="0 to 2, not 3"):
        Taxonomy.from_paths([("food", "tea")]).prefix(3)
