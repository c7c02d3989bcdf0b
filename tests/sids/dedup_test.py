import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.dedup import (
    add_dedup_level,
    dedup_size,
    drop_dedup_level,
    extend_dedup,
)
from sid_jax.sids.table import Manifest, SidTable

rows = st.tuples(st.integers(0, 2), st.integers(0, 1))


def _codes(drawn):
    return np.asarray(drawn, np.int32).reshape(-1, 2)


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, max_size=30), st.data())
def test_digits_are_places_by_priority_then_row(drawn, data):
    codes = _codes(drawn)
    some = st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes))
    priority = np.asarray(data.draw(some), np.int32)
    for given_, kept in ((priority, priority), (None, np.zeros(len(codes)))):
        longer = add_dedup_level(codes, given_)
        assert longer.dtype == np.int32 and longer.shape == (len(codes), 3)
        np.testing.assert_array_equal(longer[:, :-1], codes)
        assert len(np.unique(longer, axis=0)) == len(codes)
        for i, digit in enumerate(longer[:, -1]):
            mates = np.flatnonzero((codes == codes[i]).all(axis=1))
            assert digit == sorted(mates, key=lambda j: (-kept[j], j)).index(i)
    largest = max((drawn.count(row) for row in drawn), default=0)
    assert dedup_size(longer) == largest
    assert dedup_size(longer, spare=2) == largest + 2


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, max_size=20), st.lists(rows, max_size=20), st.data())
def test_new_items_take_the_next_digits(drawn, more, data):
    old = add_dedup_level(_codes(drawn))
    gone = data.draw(st.sets(st.integers(0, max(len(old) - 1, 0)), max_size=5))
    kept = np.delete(old, [row for row in gone if row < len(old)], axis=0)
    new = extend_dedup(kept, _codes(more))
    whole = np.concatenate([kept, new])
    assert len(np.unique(whole, axis=0)) == len(whole)
    for row in new:
        mates = kept[(kept[:, :-1] == row[:-1]).all(axis=1), -1]
        assert row[-1] > mates.max(initial=-1)
    if not gone:
        together = add_dedup_level(np.concatenate([_codes(drawn), _codes(more)]))
        np.testing.assert_array_equal(whole, together)


def test_new_items_have_a_priority_among_themselves():
    old, new = np.asarray([[1, 1, 0]]), np.asarray([[1, 1], [1, 1], [2, 0]])
    longer = extend_dedup(old, new, np.asarray([0.5, 2.0, 9.0]))
    assert longer[:, -1].tolist() == [2, 1, 0]


def test_refuses_other_levels():
    with pytest.raises(InputError, match="new SIDs of 2 levels after old ones of 2"):
        extend_dedup(np.zeros((1, 2), int), np.zeros((1, 2), int))


def test_the_learned_levels_of_a_table():
    codes = np.asarray([[0, 1], [0, 1], [1, 0]])
    whole = add_dedup_level(codes)
    manifest = Manifest(codebook_sizes=(2, 2, 2), dedup=True)
    table = SidTable.build(["a", "b", "c"], whole, None, manifest)
    learned = drop_dedup_level(table)
    np.testing.assert_array_equal(learned.codes(), codes)
    assert learned.manifest.codebook_sizes == (2, 2) and len(learned.sids) == 2
    assert drop_dedup_level(learned) is learned
