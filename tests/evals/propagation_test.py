import numpy as np
import pytest

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.distortion import depth_fvu
from sid_jax.evals.hierarchy import agreement, fragmentation
from sid_jax.evals.propagation import error_propagation, short_rows


def _made(count=400, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(k, size=count) for k in (4, 3, 5)], axis=1)
    taxonomy = Taxonomy.from_paths([[f"a{a}", f"b{b}"] for a, b, _ in codes])
    cut = codes.copy()
    strayed = rng.random(count) < 0.3
    cut[strayed] = np.stack([rng.integers(k, size=count) for k in (4, 3, 5)], 1)[
        strayed
    ]
    return codes, cut, strayed, taxonomy


def test_texts_that_say_enough_change_nothing():
    codes, _, _, taxonomy = _made()
    rng = np.random.default_rng(1)
    vectors, errors = rng.normal(size=(400, 3)), rng.random((400, 3))
    found = error_propagation(codes, codes, taxonomy, vectors, errors, errors)
    assert all(found[f"prefix_match@{level}"] == 1 for level in (1, 2, 3))
    for name, value in found.items():
        if name.startswith("full/"):
            assert value == found[name.replace("full/", "cut/")]
    judged = agreement(codes, taxonomy) | fragmentation(codes, taxonomy)
    judged |= depth_fvu(vectors, errors)
    assert {k[5:]: v for k, v in found.items() if k.startswith("full/")} == judged


def test_strayed_items_part_from_mates_that_stayed():
    codes, cut, strayed, taxonomy = _made()
    found = error_propagation(codes, cut, taxonomy)
    for level in (1, 2, 3):
        same = (codes[:, :level] == cut[:, :level]).all(axis=1)
        assert found[f"prefix_match@{level}"] == np.mean(same)
    assert found["full/fragmentation@2"] == 0
    # All mates have the code of the whole text: an item strays from all or from none.
    apart = (codes[:, :2] != cut[:, :2]).any(axis=1)
    leaf = taxonomy.leaf
    mates = np.bincount(leaf)[leaf] - 1
    expected = mates[apart].sum() / mates.sum()
    assert found["cut/fragmentation@2"] == pytest.approx(expected)
    assert found["cut/ami_d1@1"] < 0.9 < found["full/ami_d1@1"]
    stayed = error_propagation(codes, cut, taxonomy, rows=np.flatnonzero(~strayed))
    assert stayed["prefix_match@3"] == 1 and stayed["cut/fragmentation@2"] == 0
    with pytest.raises(InputError, match="at least one row"):
        error_propagation(codes, cut, rows=np.zeros(0, int))


def test_short_texts_are_found():
    assert short_rows(["a b c", "a b c d", "", "a"]).tolist() == [0, 3]
