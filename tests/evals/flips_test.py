"""Planted flips are of their kind, and the score counts those that are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.flips import KINDS, plant_flips, score_audit

NAMES = st.lists(st.sampled_from("ab"), max_size=3)
PATHS = st.lists(NAMES.map(lambda path: ["root", *path]), min_size=2, max_size=25)


@settings(deadline=None, max_examples=40)
@given(PATHS, st.sampled_from(KINDS), st.integers(0, 3))
def test_a_flip_is_of_its_kind(paths, kind, seed):
    tree = Taxonomy.from_paths(paths)
    labels = {tuple(path) for path in paths}
    try:
        flipped, rows = plant_flips(tree, 0.2, kind, seed)
    except InputError as error:
        assert kind in str(error)
        return
    assert len(rows) == max(1, round(0.2 * len(paths)))
    assert plant_flips(tree, 0.2, kind, seed)[0] == flipped
    changed = [i for i, path in enumerate(paths) if tuple(path) != flipped[i]]
    assert changed == rows.tolist()
    # The first depth at which labels differ.
    top = next(d for d in range(1, 5) if len({path[:d] for path in labels}) > 1)
    for row in rows:
        old, new = tuple(paths[row]), flipped[row]
        assert new in labels
        common = [x == y for x, y in zip(old, new, strict=False)] + [False]
        common = common.index(False)
        siblings = old[:-1] == new[:-1]
        if kind == "far":
            assert common < top
        elif kind == "sibling":
            assert siblings and len(old) > top
        else:
            assert common >= top and not siblings
            assert common < min(len(old), len(new))


def test_a_kind_that_the_tree_has_not_is_refused():
    flat = Taxonomy.from_paths([("a",), ("b",), ("c",), ()])
    for kind in ("sibling", "cousin"):
        with pytest.raises(InputError, match=f"1 {kind} flips are asked for, but only"):
            plant_flips(flat, 0.25, kind, 0)
    paths, rows = plant_flips(flat, 0.75, "far", 0)
    assert rows.tolist() == [0, 1, 2] and paths[3] == ()
    with pytest.raises(InputError, match="between 0 and 1"):
        plant_flips(flat, 0, "far", 0)
    for paths in ([()], [("a",), ("a",)]):
        with pytest.raises(InputError, match="only 0 of"):
            plant_flips(Taxonomy.from_paths(paths), 0.5, "far", 0)
    with pytest.raises(InputError, match="'near' is none of"):
        plant_flips(flat, 0.5, "near", 0)  # pyright: ignore


def test_the_score_of_a_perfect_and_of_a_half_right_audit():
    planted = np.asarray([2, 5])
    perfect = score_audit(np.asarray([0, 0, 9, 0, 0, 8.0]), planted)
    assert set(perfect.values()) == {1.0}
    half = score_audit(np.asarray([9, 0, 8, 0, 0, 7.0]), planted)
    assert half["precision@k"] == 0.5
    assert half["recall@2k"] == 1
    assert half["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    blind = score_audit(np.zeros(6), planted)
    assert blind["precision@k"] == 0  # ties to the lower row
    with pytest.raises(InputError, match="no flips"):
        score_audit(np.zeros(6), planted[:0])
