"""A packed tree agrees with counting by hand, whatever was left out of it."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.report.tree import ItemTree, pack

PATHS = [(), ("a",), ("a", "b"), ("a", "c"), ("d", "b"), ("d", "b", "e")]


@st.composite
def trees(draw):
    count, levels = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    row = st.tuples(
        st.tuples(*[st.integers(0, 3)] * levels),
        st.sampled_from(["", "milk", "bread", "</script>", "été"]),
        st.sampled_from(PATHS),
    )
    rows = draw(st.lists(row, min_size=count, max_size=count))
    codes, titles, categories = zip(*rows, strict=True)
    return ItemTree(
        codes=np.array(codes),
        titles=titles,
        categories=categories,
        max_leaves=draw(st.integers(1, 20)),
        max_titles=draw(st.integers(1, 3)),
    )


def _walk(nodes, above, levels):
    for node in nodes:
        codes = (*above, node[0])
        yield codes, node
        if len(codes) < levels:
            yield from _walk(node[4], codes, levels)


@settings(deadline=None, max_examples=50)
@given(trees())
def test_agrees_with_counting(tree):
    packed = pack(tree)
    data = json.loads(json.dumps(packed.data))
    rows = [tuple(row) for row in tree.codes.tolist()]
    leaves, shown = Counter(rows), 0
    met = list(_walk(data["nodes"], (), data["levels"]))
    assert len({codes for codes, _ in met}) == len(met)
    for codes, (_, count, text, percent, children) in met:
        depth = len(codes)
        mates = [i for i, row in enumerate(rows) if row[:depth] == codes]
        paths = Counter(tree.categories[i][: tree.trunk + depth] for i in mates)
        most = max(paths.values())
        assert count == len(mates)
        assert percent == round(100 * most / count)
        assert data["texts"][text] in {
            path[-1] if path else "" for path, size in paths.items() if size == most
        }
        assert len(children) >= 1
        if depth == data["levels"]:
            titles = Counter(tree.titles[i] for i in mates)
            told = Counter()
            for title, _, times in children:
                told[title] += times
            assert all(told[title] <= titles[title] for title in told)
            assert len(children) <= tree.max_titles
            shown += sum(told.values())
        else:
            sizes = [child[1] for child in children]
            assert sizes == sorted(sizes, reverse=True)
    in_page = {codes for codes, _ in met if len(codes) == data["levels"]}
    assert packed.shown == (len(in_page), shown)
    assert packed.total == (len(leaves), len(rows))
    assert len(in_page) == min(tree.max_leaves, len(leaves))
    left_out = [size for leaf, size in leaves.items() if leaf not in in_page]
    assert max(left_out, default=0) <= min(leaves[leaf] for leaf in in_page)


@settings(deadline=None, max_examples=25)
@given(trees(), st.data())
def test_keeps_what_is_asked_for(tree, data):
    rows = sorted({tuple(row) for row in tree.codes.tolist()})
    asked = data.draw(st.lists(st.sampled_from(rows), max_size=tree.max_leaves))
    packed = pack(tree, {"_".join(map(str, row)) for row in asked}).data
    shown = {codes for codes, _ in _walk(packed["nodes"], (), packed["levels"])}
    assert set(asked) <= shown


def test_equal_sizes_are_spread_over_the_first_codes():
    codes = np.array([[first, second] for first in range(4) for second in range(9)])
    tree = ItemTree(
        codes=codes, titles=["x"] * 36, categories=[("a",)] * 36, max_leaves=8
    )
    assert [len(node[4]) for node in pack(tree).data["nodes"]] == [2, 2, 2, 2]


def test_a_name_that_nearly_all_paths_begin_with_is_passed_over():
    paths = [("Beauty", "Hair")] * 60 + [("Beauty", "Skin", "Face")] * 39 + [("Toys",)]
    tree = ItemTree(codes=np.zeros((100, 1), int), titles=[""] * 100, categories=paths)
    assert Counter(tree.tops) == {"Hair": 60, "Skin": 39, "Toys": 1}
    assert pack(tree).data["texts"][pack(tree).data["nodes"][0][2]] == "Hair"


def test_parts_must_match():
    with pytest.raises(InputError, match=r"codes of shape \(2, 3\), 1 titles"):
        ItemTree(codes=np.zeros((2, 3), int), titles=["a"], categories=[(), ()])
