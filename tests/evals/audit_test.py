"""Suspects: planted ones are found, copies do not vote, prefixes back off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.audit import (
    branch_table,
    cast_ballots,
    group_copies,
    nearest_neighbours,
    neighbour_votes,
    prefix_neighbours,
    prefix_votes,
    rank_suspects,
)

PATHS = [("shop", f"d{d}", f"a{d}{a}") for d in range(3) for a in range(3)]


def shop(each=12):
    """Codes that say the category: (department, aisle, running number)."""
    paths = [path for path in PATHS for _ in range(each)]
    codes = [(d, a, i) for d in range(3) for a in range(3) for i in range(each)]
    return paths, np.asarray(codes, np.int32)


def audit(paths, codes, copies=None, **settings):
    tree = Taxonomy.from_paths(paths)
    ballots = cast_ballots(tree, copies)
    return tree, rank_suspects(
        tree, ballots, [prefix_votes(codes, ballots)], **settings
    )


@pytest.mark.parametrize("wrong", [("shop", "d2", "a21"), ("shop", "d0", "a01")])
def test_a_wrong_label_among_clear_codes_is_first_and_the_right_one_suggested(wrong):
    paths, codes = shop()
    assert len(audit(paths, codes)[1]) == 0
    paths[5] = wrong
    tree, found = audit(paths, codes)
    assert found.rows.tolist() == [5]
    assert tree.path(found.suggested[0]) == PATHS[0]
    assert found.own[0] < 0.1 and found.share[0] > 0.6
    assert 0 < found.confidence[0] < np.inf


def test_a_far_label_weighs_more_than_a_near_one():
    paths, codes = shop()
    paths[5], paths[40] = ("shop", "d2", "a21"), ("shop", "d1", "a12")
    _, found = audit(paths, codes)
    assert found.rows.tolist() == [5, 40]
    assert found.flagged[0]
    assert not audit(paths, codes, majority=1.0)[1].flagged.any()


def test_copies_do_not_vote_on_their_own_and_count_once_for_others():
    """Ten listings of one soda, all wrong, would otherwise vouch for each other."""
    paths, codes = shop()
    wrong = ("shop", "d2", "a21")
    paths += [wrong] * 10
    codes = np.concatenate([codes, np.tile([[0, 0, 50]], (10, 1))]).astype(np.int32)
    titles = [f"item {i}" for i in range(108)] + ["Old Soda!", "OLD  soda"] * 5
    copies = group_copies(codes, titles)
    assert len(set(copies[108:])) == 1 and len(set(copies[:108])) == 108
    _, found = audit(paths, codes, copies)
    assert found.rows.tolist() == list(range(108, 118))
    assert len(audit(paths, codes)[1]) != 10  # unless they are known to be copies


def test_copies_have_one_sid_and_near_vectors_or_one_title():
    codes = np.asarray([[0], [0], [0], [1], [0], [0]])
    vectors = np.eye(6, 4, dtype=np.float32) + 1
    vectors[1] = vectors[0] * (1 + 1e-6)
    vectors[3] = vectors[0]
    copies = group_copies(codes, ["a", "b", "B", "a", "", "!"], vectors)
    assert copies[0] == copies[1] == copies[2]  # a copy of a copy
    assert len(set(copies[2:].tolist())) == 3 + (copies[4] != copies[5])
    assert copies[3] != copies[0]
    assert len(set(group_copies(codes).tolist())) == 6


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.tuples(st.integers(0, 2), st.integers(0, 2)),
            st.sampled_from(["", "a", "b", "c"]),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_votes_equal_the_loop(rows):
    codes = np.asarray([code for code, _, _ in rows], np.int32)
    tree = Taxonomy.from_paths([(name,) if name else () for _, name, _ in rows])
    ballots = cast_ballots(tree, np.asarray([copy for *_, copy in rows]))
    everyone = np.arange(len(rows))
    listed = np.tile(everyone, (len(rows), 1))
    voted = [
        *prefix_votes(codes, ballots)(everyone),
        *neighbour_votes(listed, ballots)(everyone),
    ]
    for level, votes in zip((1, 2, 0), voted, strict=True):
        for i, (code, _, copy) in enumerate(rows):
            want = dict.fromkeys(ballots.nodes.tolist(), 0.0)
            for j, (other, _, its) in enumerate(rows):
                if tree.leaf[j] >= 0 and its != copy and code[:level] == other[:level]:
                    crowd = [
                        r
                        for k, r in enumerate(rows)
                        if r[2] == its and tree.leaf[k] > 0
                    ]
                    want[int(tree.leaf[j])] += 1 / len(crowd)
            assert votes[i] == pytest.approx(list(want.values()), abs=1e-9)


def test_evidence_backs_off_to_shorter_prefixes():
    """Each item has a SID of its own: only the first code is shared."""
    paths, codes = shop()
    codes = np.stack([codes[:, 0] * 3 + codes[:, 1], np.arange(len(codes))], axis=1)
    paths[5] = ("shop", "d2", "a21")
    tree = Taxonomy.from_paths(paths)
    ballots = cast_ballots(tree)
    found = rank_suspects(tree, ballots, [prefix_votes(codes, ballots)])
    assert found.rows.tolist() == [5]
    depth, near = prefix_neighbours(codes, ballots, found.rows, 4)
    assert depth.tolist() == [1]
    assert near.tolist() == [[0, 1, 2, 3]]
    depth, near = prefix_neighbours(codes, ballots, found.rows, 4, at_least=12)
    assert depth.tolist() == [0] and (near == -1).all()


def test_nearest_come_first_where_there_are_vectors():
    paths, codes = shop()
    vectors = np.arange(len(codes), dtype=np.float32)[:, None]
    ballots = cast_ballots(Taxonomy.from_paths(paths))
    _, near = prefix_neighbours(codes, ballots, np.asarray([5]), 3, vectors=vectors)
    assert near.tolist() == [[4, 6, 3]]


def test_knn_is_a_voter_like_any_other():
    paths, codes = shop()
    paths[5] = ("shop", "d2", "a21")
    corner = np.eye(9, dtype=np.float32)[codes[:, 0] * 3 + codes[:, 1]]
    vectors = corner + np.random.default_rng(0).normal(0, 0.05, corner.shape)
    near, cosine = nearest_neighbours(vectors.astype(np.float32), 10)
    tree = Taxonomy.from_paths(paths)
    ballots = cast_ballots(tree)
    found = rank_suspects(tree, ballots, [neighbour_votes(near, ballots, cosine)])
    assert found.rows.tolist() == [5]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_neighbours_equal_brute_force(k):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    near, cosine = nearest_neighbours(vectors, k)
    units = vectors - vectors.mean(axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    whole = units @ units.T
    for i in range(7):
        order = [j for j in np.argsort(-whole[i]) if j != i][:k]
        assert near[i].tolist() == order + [-1] * (k - len(order))
        assert cosine[i, : len(order)] == pytest.approx(whole[i, order], abs=1e-5)


@pytest.mark.parametrize(
    "paths",
    [[()] * 4, [("a", "b")] * 4, [("a",)], [()], [("a",), (), (), ()]],
    ids=["unknown", "one label", "one item", "one unknown item", "one known"],
)
def test_nothing_to_compare_gives_no_suspect(paths):
    tree, found = audit(paths, np.zeros((len(paths), 2), np.int32))
    assert len(found) == 0
    assert branch_table(tree, np.unique(tree.leaf[tree.leaf >= 0])).shape[1] == 0


def test_an_unknown_label_is_no_suspect_and_has_no_vote():
    paths, codes = shop()
    paths[5], paths[6] = ("shop", "d2", "a21"), ()
    assert audit(paths, codes)[1].rows.tolist() == [5]


def test_wrong_settings_are_refused():
    paths, codes = shop()
    tree = Taxonomy.from_paths(paths)
    ballots = cast_ballots(tree)
    with pytest.raises(InputError, match="one voter or more"):
        rank_suspects(tree, ballots, [])
    with pytest.raises(InputError, match="smoothing > 0"):
        audit(paths, codes, smoothing=0)
    with pytest.raises(InputError, match="3 groups of copies for 108 items"):
        cast_ballots(tree, np.arange(3))
