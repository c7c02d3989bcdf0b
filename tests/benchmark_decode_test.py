"""The decoding benchmark: what it searches, and that it searches all of it."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_sids_are_sorted_and_each_stands_once(load_benchmark, kind):
    sids = load_benchmark("decode").draw_sids(500, 16, 3, kind)
    np.testing.assert_array_equal(sids, np.unique(sids, axis=0))
    assert len(sids) > 300 and sids.min() == 0 and sids.max() == 15
    share = (sids[:, 0][:, None] == np.arange(16)).mean(axis=0).max()
    assert (share > 0.12) == (kind == "zipf")


def test_a_row_tells_of_a_search_of_real_sids(load_benchmark):
    benchmark = load_benchmark("decode")
    shape = 8, 3, 2, 5
    sids = benchmark.draw_sids(60, *shape[:2], "uniform")
    tables = jnp.zeros((3, 8, 8))
    free, held = benchmark.our_sides(sids, tables, shape)
    some = {tuple(sid) for sid in np.asarray(held.run())[1].tolist()} - {(-1, -1, -1)}
    assert some < {tuple(sid) for sid in sids.tolist()}
    codes = np.asarray(free.run())
    assert codes.shape == (2, 5, 3)
    assert {tuple(sid) for sid in codes[0].tolist()} == {
        tuple(sid) for sid in sids[:5].tolist()
    }  # all are as likely: the first ones
    row = benchmark.measure({}, 60, "zipf", shape, 2)
    assert row.startswith("3x8") and len(row.split()) == 9
