"""A changed catalog is what it says: whole categories new, other texts as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.changes import find_edited
from sid_jax.data.perturb import change_catalog
from sid_jax.errors import InputError


def make(rows=200, num_paths=25):
    rng = np.random.default_rng(3)
    paths = [["top", f"c{n}"] for n in range(num_paths)] + [[]]
    return Catalog.from_columns(
        [f"i{row}" for row in range(rows)],
        [f"w{row % 7} w{row % 5}"[: 5 if row % 3 else 2] for row in range(rows)],
        categories=[paths[int(rng.integers(len(paths)))] for _ in range(rows)],
        attributes={"price": list(range(rows))},
    )


CATALOG = make()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.3]))
def test_what_changed_is_what_is_told(seed, added):
    changed = change_catalog(CATALOG, seed, added=added, edited=0.1)
    old, new = changed.old, changed.new
    rows = np.concatenate([changed.unchanged, changed.edited, changed.added])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(CATALOG)))
    assert new.item_ids == CATALOG.item_ids
    ids = np.asarray(new.item_ids)
    assert set(old.item_ids) == set(ids) - set(ids[changed.added])
    # By no other way than the catalogs themselves, the same items are told as edited.
    edited, _ = find_edited(old, new, old.item_ids)
    assert set(np.asarray(old.item_ids)[edited]) == set(ids[changed.edited])
    assert len(changed.edited) == 20
    assert old.digest() == CATALOG.take(CATALOG.rows(old.item_ids)).digest()
    fresh = {new.categories[row] for row in changed.added}
    assert () not in fresh
    assert fresh.isdisjoint(old.categories)  # whole categories
    assert len(changed.added) <= added * 200
    left = [path for path in old.categories if path]
    smallest = min(left.count(path) for path in set(left))
    assert len(changed.added) + smallest > added * 200  # no other would have fit
    for row in changed.edited:
        before = CATALOG.titles[row].split()
        after = new.titles[row].split()
        if len(after) == len(before):
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        else:
            assert len(after) == len(before) - 1 > 0


def test_a_seed_tells_all():
    a, b, c = (change_catalog(CATALOG, seed) for seed in (1, 1, 2))
    assert a.new.digest() == b.new.digest() and a.old.digest() == b.old.digest()
    assert a.new.digest() != c.new.digest() and a.old.digest() != c.old.digest()


def test_items_without_titles_are_never_edited():
    blank = Catalog.from_columns(["a", "b", "c"], [None, "", "one"])
    changed = change_catalog(blank, 0, added=0, edited=0.9)
    assert len(changed.edited) == 0  # there is no other word
    words = Catalog.from_columns(["a", "b", "c"], [None, "two", "one"])
    changed = change_catalog(words, 0, added=0, edited=0.9)
    assert changed.new.titles == ["", "one", "two"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"added": 1.0}, "added must be from 0 to below 1"),
        ({"edited": -0.1}, "edited must be from 0 to below 1"),
        ({"added": 0.004}, "no category path has at most"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        change_catalog(CATALOG, 0, **words)
