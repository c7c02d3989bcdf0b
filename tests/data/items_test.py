import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.items import ItemArrays, item_stream, rows_of, split_holdout
from sid_jax.errors import InputError

ITEMS = 12
# An item is its number, so that batches read back as items.
PLAIN = ItemArrays(vectors=np.arange(ITEMS, dtype=np.float32)[:, None])
FULL = ItemArrays(
    vectors=PLAIN.vectors,
    cells=np.arange(ITEMS) % 3,
    paths=np.arange(ITEMS)[:, None] // 4,
    anchor=-PLAIN.vectors,
)


@settings(deadline=None, max_examples=20)
@given(st.integers(5, 20), st.integers(0, 100))
def test_every_item_comes_once_an_epoch_in_a_new_order(num_items, seed):
    vectors = np.arange(num_items, dtype=np.float32)[:, None]
    stream = item_stream(ItemArrays(vectors=vectors), 4, seed=seed)
    rows = np.concatenate([stream(step)["vectors"][:, 0] for step in range(num_items)])
    epochs = rows.reshape(4, num_items)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(vectors.T, (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def related(step):
    return np.random.default_rng(step).integers(ITEMS, size=6)


def pairs(step):
    rng = np.random.default_rng(step)
    return {"items": rng.integers(ITEMS, size=6), "excluded": rng.random((6, 6)) < 0.5}


def test_each_stream_tells_of_its_own_items():
    stream = item_stream(FULL, 6, seed=3, related=related, pairs=pairs)
    batch = stream(5)
    rows = batch["vectors"][:, 0].astype(int)
    parts = {"taxonomy", "pairs"}
    assert batch.keys() == {"items", "vectors", "cells", "anchor", *parts}
    np.testing.assert_array_equal(batch["items"], rows)
    np.testing.assert_array_equal(batch["cells"], rows % 3)
    np.testing.assert_array_equal(batch["anchor"][:, 0], -rows)
    near = batch["taxonomy"]
    np.testing.assert_array_equal(near["vectors"][:, 0], related(5))
    np.testing.assert_array_equal(near["paths"][:, 0], related(5) // 4)
    np.testing.assert_array_equal(near["cells"], related(5) % 3)
    np.testing.assert_array_equal(batch["pairs"]["vectors"][:, 0], pairs(5)["items"])
    np.testing.assert_array_equal(batch["pairs"]["excluded"], pairs(5)["excluded"])
    named = {*rows, *related(5), *pairs(5)["items"]}
    assert rows_of(batch).tolist() == sorted(named)


def test_without_a_sampler_the_batch_itself_is_contrasted():
    batch = item_stream(FULL, 6, seed=3)(5)
    assert batch["taxonomy"].keys() == {"items", "paths"}
    rows = batch["vectors"][:, 0].astype(int)
    np.testing.assert_array_equal(batch["taxonomy"]["paths"][:, 0], rows // 4)
    plain = item_stream(PLAIN, 6, seed=3)(0)
    assert plain.keys() == {"items", "vectors"}
    assert rows_of(plain).tolist() == sorted(plain["vectors"][:, 0].astype(int))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 100), st.integers(0, 50))
def test_a_stream_is_a_function_of_the_step_and_processes_share_a_batch(seed, step):
    def make(**kwargs):
        return item_stream(FULL, 6, seed=seed, **kwargs)

    whole = make()
    wanted = whole(step)
    whole(step + 3)
    chex.assert_trees_all_equal(whole(step), wanted, make()(step))
    parts = [make(process=p, num_processes=3)(step) for p in range(3)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    chex.assert_trees_all_equal(joined, wanted)
    with pytest.raises(InputError, match="batch_size 6"):
        make(num_processes=4)


def test_the_held_out_items_are_the_same_in_every_run():
    rows, held = split_holdout(10, 0.2)
    assert held is not None and len(held) == 2
    everything, none = split_holdout(10, 0)
    assert none is None and len(everything) == 10
    np.testing.assert_array_equal(np.sort(np.append(rows, held)), np.arange(10))
    again = split_holdout(10, 0.2)
    np.testing.assert_array_equal(held, again[1])
    for count, share in ((3, 0.01), (3, 0.99)):
        with pytest.raises(InputError, match="both must be some"):
            split_holdout(count, share)
