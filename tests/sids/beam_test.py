from functools import partial
from math import prod
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.allowance import allow_leaves
from sid_jax.sids.beam import beam_search
from sid_jax.sids.scoring import Softmax
from sid_jax.sids.trie import build_trie

# Codebook sizes, SIDs drawn, beams, the trie's tail and its dense levels. A search
# compiles for each; hypothesis draws what is in the arrays: the trie's codes, the
# logits, the allowances.
SHAPES = [
    ((3, 4, 2), 40, 5, 0, 0),
    ((3, 4, 2), 40, 5, 2, 1),
    ((2, 2, 2, 2), 9, 3, 1, 1),
    ((4, 1, 5), 8, 30, 1, 0),
    ((7,), 4, 2, 0, 0),
    ((7,), 1, 3, 0, 0),
    ((1, 6, 6), 20, 1, 2, 2),
    ((5, 5), 18, 8, 0, 0),
    # More leaves than a word of the packed allowance holds.
    ((9, 9), 200, 6, 0, 0),
    ((9, 9), 200, 6, 1, 0),
    ((9, 9), 30, 6, 1, 1),
]
WIDE = [((3, 4, 2), 40, 30, 1, 0), ((3, 4, 2), 12, 30, 2, 2), ((4, 1, 5), 8, 12, 0, 0)]
SHARES = np.asarray([1.0, 0.6, 0.2, 0.0])  # of leaves allowed, a request


def look_up(sizes, context, state, codes, level):
    """Logits are a function of (request, prefix), and the prefix lives in the state."""
    prefix = state["prefix"]
    if codes is not None:
        prefix = prefix * sizes[level - 1] + codes
    chex.assert_shape(state["more"], (*prefix.shape, 2, 3))
    logits = context[level][jnp.arange(len(prefix))[:, None], prefix]
    return {"prefix": prefix, "more": state["more"]}, logits


@partial(jax.jit, static_argnames=("num_beams", "softmax", "batch_axis"))
def search(tables, trie, allowed, *, num_beams, softmax="codes", **drawing):
    batch = len(tables[0])
    state = {
        "prefix": jnp.zeros((batch, 1), jnp.int32),
        "more": jnp.zeros((batch, 1, 2, 3)),
    }
    return beam_search(
        partial(look_up, trie.codebook_sizes),
        tables,
        state,
        trie,
        num_beams=num_beams,
        allowed=allowed,
        softmax=softmax,
        **drawing,
    )


def grid_tables(rng, batch, sizes):
    """Logits whose log-softmax is themselves, exactly: one 0 a row, the rest <= -1024.

    Sums of them are whole numbers, so scores are exact and ties are common.
    """
    tables = []
    for level, size in enumerate(sizes):
        shape = (batch, prod(sizes[:level]), size)
        table = rng.choice([-1024.0, -2048.0], shape)
        np.put_along_axis(table, rng.integers(0, size, (*shape[:2], 1)), 0.0, axis=2)
        tables.append(jnp.asarray(table, jnp.float32))
    return tables


def normal_tables(rng, batch, sizes):
    return [
        jnp.asarray(rng.normal(size=(batch, prod(sizes[:level]), size)), jnp.float32)
        for level, size in enumerate(sizes)
    ]


def plain_beam_search(tables, request, sids, kept, num_beams, softmax="codes"):
    """One request's beams as (score, SID), best first; equal scores in SID order."""
    sizes = [table.shape[2] for table in tables]
    alive, every = ({tuple(sid) for sid in g.tolist()} for g in (sids[kept], sids))
    beams = [(0.0, ())]
    for level in range(len(sizes)):
        grown = []
        for score, path in beams:
            row = np.ravel_multi_index(path, sizes[:level]) if path else 0
            logits = np.asarray(tables[level][request, row], np.float64)
            slots, exist = (
                sorted({sid[level] for sid in group if sid[:level] == path})
                for group in (alive, every)
            )
            over = {
                "codes": logits,
                "existing": logits[exist],
                "allowed": logits[slots],
            }
            over = over[softmax]
            total = np.logaddexp.reduce(over) if len(over) else 0.0
            grown += [(score + logits[code] - total, (*path, code)) for code in slots]
        beams = sorted(grown, key=lambda beam: (-beam[0], beam[1]))[:num_beams]
    return beams


def random_sids(rng, sizes, count):
    """Unique SIDs in order. Which nodes have how many children hangs on sizes and
    count alone; the codes are renamed at random below each node.
    """
    shape = np.random.default_rng(0)
    sids = np.stack([shape.integers(0, size, count) for size in sizes], axis=1)
    renamed = sids.copy()
    for level, size in enumerate(sizes):
        for prefix in np.unique(sids[:, :level], axis=0):
            below = (sids[:, :level] == prefix).all(axis=1)
            renamed[below, level] = rng.permutation(size)[sids[below, level]]
    return np.unique(renamed, axis=0)


def assert_fillers_marked(beams):
    valid = np.asarray(beams.valid)
    assert (np.diff(valid.astype(int), axis=1) <= 0).all(), "fillers come last"
    assert (np.asarray(beams.codes)[~valid] == -1).all()
    assert (np.asarray(beams.leaves)[~valid] == -1).all()
    assert (np.asarray(beams.scores)[~valid] == -np.inf).all()
    assert np.isfinite(np.asarray(beams.scores)[valid]).all()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1))
def test_equals_a_plain_beam_search_ties_included(shape, seed):
    sizes, count, num_beams, tail, dense = shape
    rng = np.random.default_rng(seed)
    sids = random_sids(rng, sizes, count)
    tables = grid_tables(rng, len(SHARES), sizes)
    allowed = rng.random((len(SHARES), len(sids))) < SHARES[:, None]
    trie = build_trie(rng.permutation(sids), sizes, tail=tail, dense=dense)
    beams = jax.device_get(search(tables, trie, allowed, num_beams=num_beams))
    chex.assert_shape(beams.codes, (len(SHARES), num_beams, len(sizes)))
    chex.assert_type([beams.codes, beams.leaves, beams.scores], [int, int, float])
    assert_fillers_marked(beams)
    tables = jax.device_get(tables)
    for request, kept in enumerate(allowed):
        expected = plain_beam_search(tables, request, sids, kept, num_beams)
        num = beams.valid[request].sum()
        found = [tuple(codes) for codes in beams.codes[request, :num].tolist()]
        assert found == [path for _, path in expected]
        assert beams.scores[request, :num].tolist() == [score for score, _ in expected]
        leaves = beams.leaves[request, :num]
        assert [tuple(sid) for sid in sids[leaves].tolist()] == found
        assert kept[leaves].all()


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(WIDE),
    st.sampled_from(get_args(Softmax)),
    st.integers(0, 2**32 - 1),
)
def test_a_wide_beam_equals_scoring_every_sid(shape, softmax, seed):
    sizes, count, num_beams, tail, dense = shape
    rng = np.random.default_rng(seed)
    sids = random_sids(rng, sizes, count)
    assert num_beams > len(sids)
    tables = normal_tables(rng, len(SHARES), sizes)
    allowed = rng.random((len(SHARES), len(sids))) < SHARES[:, None]
    trie = build_trie(sids, sizes, tail=tail, dense=dense)
    beams = jax.device_get(
        search(tables, trie, allowed, num_beams=num_beams, softmax=softmax)
    )
    assert_fillers_marked(beams)
    tables = jax.device_get(tables)
    for request, kept in enumerate(allowed):
        expected = plain_beam_search(tables, request, sids, kept, 10**9, softmax)
        assert len(expected) == kept.sum()
        assert beams.valid[request].sum() == len(expected)
        scores = [score for score, _ in expected]
        found = beams.scores[request, : len(expected)]
        np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-5)
        codes = beams.codes[request, : len(expected)].tolist()
        assert [tuple(sid) for sid in codes] == [path for _, path in expected]
        if softmax == "allowed" and scores:
            np.testing.assert_allclose(np.exp(scores).sum(), 1.0, rtol=1e-5)


def test_no_allowance_is_all_allowed():
    rng = np.random.default_rng(0)
    sizes, count, num_beams, *_ = SHAPES[0]
    sids = random_sids(rng, sizes, count)
    tables, trie = normal_tables(rng, 2, sizes), build_trie(sids, sizes)
    free = search(tables, trie, None, num_beams=num_beams)
    everything = jnp.ones((2, len(sids)), bool)
    full = search(tables, trie, everything, num_beams=num_beams)
    chex.assert_trees_all_equal(free, full)


def test_equal_scores_come_in_the_order_of_leaves():
    # Rising and falling scores meet: only leaves tell the middle two apart.
    sizes = (2, 2)
    logits = [[[-1024.0, 0.0]], [[0.0, -1024.0], [-1024.0, 0.0]]]
    tables = [jnp.asarray([table], jnp.float32) for table in logits]
    sids = np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]])
    beams = search(tables, build_trie(sids, sizes), None, num_beams=4)
    assert beams.scores.tolist() == [[0.0, -1024.0, -1024.0, -2048.0]]
    assert beams.leaves.tolist() == [[3, 0, 2, 1]]


def test_a_code_of_probability_zero_is_never_an_answer():
    tables = [jnp.asarray([[[0.0, -jnp.inf, 1.0]]])]
    trie = build_trie(np.asarray([[0], [1]]), (3,))
    beams = search(tables, trie, None, num_beams=3)
    assert beams.leaves.tolist() == [[0, -1, -1]]
    assert_fillers_marked(beams)


def test_low_precision_logits_are_scored_in_float32():
    rng = np.random.default_rng(0)
    sizes = (5, 5)
    tables = [table.astype(jnp.bfloat16) for table in normal_tables(rng, 2, sizes)]
    trie = build_trie(random_sids(rng, sizes, 30), sizes)
    low = search(tables, trie, None, num_beams=4)
    high = search([t.astype(jnp.float32) for t in tables], trie, None, num_beams=4)
    chex.assert_trees_all_close(low, high)


def test_compiles_once_for_other_contents_of_the_same_shapes():
    rng = np.random.default_rng(0)
    sizes = (4, 8, 8)
    sids = random_sids(rng, sizes, 60)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(tables, trie, allowed):
        return search.__wrapped__(tables, trie, allowed, num_beams=5)

    answers = []
    for flip in (0, 3, 1):
        other = sids ^ flip  # the codes renamed: the same shapes, another catalog
        trie = build_trie(other, sizes)
        allowed = jnp.asarray(rng.random((2, trie.num_leaves)) < 0.5)
        beams = once(normal_tables(rng, 2, sizes), trie, allowed)
        real = {tuple(sid) for sid in other.tolist()}
        codes = np.asarray(beams.codes)[np.asarray(beams.valid)].tolist()
        assert real.issuperset(map(tuple, codes))
        answers.append(codes)
    assert answers[0] != answers[1]


def draw_many(number, num_beams, temperature, allow=True):
    """Many draws from one request's distribution, and the distribution itself."""
    rng, sizes = np.random.default_rng(3), (3, 4, 2)
    sids = random_sids(rng, sizes, 40)
    trie, one = build_trie(sids, sizes), normal_tables(rng, 1, sizes)
    allowed = np.ones(len(sids), bool)
    if allow:
        allowed[rng.choice(len(sids), len(sids) // 2, replace=False)] = False
    told = {"softmax": "allowed", "temperature": temperature}
    every = search(one, trie, allowed[None], num_beams=len(sids), **told)
    log_prob = np.full(len(sids), -np.inf)
    found = np.asarray(every.valid[0])
    log_prob[np.asarray(every.leaves[0])[found]] = np.asarray(every.scores[0])[found]
    many = [jnp.repeat(table, number, axis=0) for table in one]
    masks = np.broadcast_to(allowed, (number, len(sids)))
    key = jax.random.key(7)
    drawn = search(many, trie, masks, num_beams=num_beams, key=key, **told)
    return jax.device_get(drawn), np.exp(log_prob)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_without_replacement_follow_the_distribution(temperature):
    number = 20_000
    drawn, p = draw_many(number, 2, temperature)
    assert_fillers_marked(drawn)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    pairs = np.zeros((len(p), len(p)))
    np.add.at(pairs, tuple(drawn.leaves.T), 1 / number)
    # P(i then j) = p_i p_j / (1 - p_i); counts within 5 deviations, and 5 where rare.
    wanted = p[:, None] * p / (1 - p[:, None])
    np.fill_diagonal(wanted, 0)
    assert (np.abs(pairs - wanted) <= 5 * np.sqrt(wanted / number) + 5 / number).all()
    assert (pairs[wanted == 0] == 0).all()


def test_drawing_as_many_as_there_are_draws_each_once():
    drawn, p = draw_many(50, 24, 1.0)
    count = int((p > 0).sum())
    assert (drawn.valid.sum(axis=1) == count).all()
    for leaves in drawn.leaves:
        assert sorted(leaves[:count]) == np.flatnonzero(p).tolist()
    assert (np.diff(drawn.scores[:, :count], axis=1) <= 0).all()
    assert len({tuple(leaves) for leaves in drawn.leaves}) > 40


def test_the_raised_scores_are_gumbel_noise_beside_the_log_probabilities():
    drawn, p = draw_many(20_000, 24, 1.0, allow=False)
    noise = np.empty_like(drawn.scores[:, : len(p)])
    np.put_along_axis(
        noise, drawn.leaves[:, : len(p)], drawn.scores[:, : len(p)], axis=1
    )
    noise -= np.log(p)
    # Standard Gumbel: mean .5772, variance pi^2 / 6; independent from leaf to leaf.
    np.testing.assert_allclose(noise.mean(axis=0), 0.5772, atol=0.05)
    np.testing.assert_allclose(noise.var(axis=0), np.pi**2 / 6, rtol=0.08)
    correlation = np.corrcoef(noise.T) - np.eye(len(p))
    assert np.abs(correlation).max() < 0.04


def test_a_low_temperature_draws_what_a_search_finds():
    rng, sizes = np.random.default_rng(0), (3, 4, 2)
    sids = random_sids(rng, sizes, 40)
    tables, trie = normal_tables(rng, 4, sizes), build_trie(sids, sizes)
    told = {"num_beams": 30, "softmax": "allowed", "temperature": 1e-3}
    key = jax.random.key(0)
    best, drawn = (search(tables, trie, None, key=k, **told) for k in (None, key))
    np.testing.assert_array_equal(best.leaves[:, 0], drawn.leaves[:, 0])


@pytest.mark.parametrize("temperature", [2, 2.0, jnp.float32(2)])
def test_a_temperature_divides_the_logits(temperature):
    rng, sizes = np.random.default_rng(0), (3, 4, 2)
    tables = normal_tables(rng, 2, sizes)
    trie = build_trie(random_sids(rng, sizes, 40), sizes)
    start = {"prefix": jnp.zeros((2, 1), int), "more": jnp.zeros((2, 1, 2, 3))}
    search = partial(beam_search, partial(look_up, sizes), num_beams=5)
    told = {"temperature": temperature}
    found = jax.jit(lambda tables: search(tables, start, trie, **told))(tables)
    halved = [table / 2 for table in tables]
    wanted = jax.jit(lambda tables: search(tables, start, trie))(halved)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_refuses_shapes_that_disagree():
    rng = np.random.default_rng(0)
    sizes = (3, 3)
    tables = normal_tables(rng, 1, sizes)
    trie = build_trie(random_sids(rng, sizes, 5), sizes)
    with pytest.raises(InputError, match="num_beams"):
        search(tables, trie, None, num_beams=0)
    with pytest.raises(InputError, match='asks for softmax="allowed"'):
        search(tables, trie, None, num_beams=1, key=jax.random.key(0))
    with pytest.raises(InputError, match=f"99 leaves, the trie {trie.num_leaves}"):
        search(tables, trie, jnp.ones((1, 99), bool), num_beams=2)
    other = build_trie(random_sids(rng, (9, 9), 200), (9, 9))
    many = allow_leaves(other, jnp.ones((1, other.num_leaves), bool))
    with pytest.raises(InputError, match="make them by its own leaves"):
        search(tables, trie, many, num_beams=2)
    with pytest.raises(InputError, match="allowed is for 2 requests, and there are 1"):
        search(tables, trie, jnp.ones((2, trie.num_leaves), bool), num_beams=2)
    with pytest.raises(InputError, match="want an axis of the mesh that jax"):
        search(tables, trie, None, num_beams=2, batch_axis="data")
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    with (
        jax.set_mesh(mesh),
        pytest.raises(InputError, match="1 requests do not divide"),
    ):
        search(tables, trie, None, num_beams=2, batch_axis="data")
    wide = [tables[0], jnp.zeros((1, 3, 4))]
    with pytest.raises(InputError, match="level 1: step gave logits"):
        search(wide, trie, None, num_beams=2)
