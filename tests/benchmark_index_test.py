"""The index benchmark: what it asks, and that it is answered."""

import numpy as np


def test_retailers_carry_their_share_and_are_asked_for_it(load_benchmark):
    benchmark = load_benchmark("index")
    index = benchmark.make_index(2000, 3)
    assert np.diff(index.starts).tolist() == [20, 20, 20]
    retailers, leaves, scores = benchmark.make_beams(index)
    assert leaves.shape == scores.shape == (benchmark.BATCH, benchmark.BEAMS)
    assert (np.diff(scores, axis=1) <= 0).all()
    for retailer, asked in zip(retailers, leaves, strict=True):
        assert set(asked) <= set(index.leaves_at(int(retailer)))
    assert benchmark.index_bytes(index) == 4 * 2000 + 8 * 4 + 60 * (4 + 4 + 1)


def test_a_row_tells_of_a_size(load_benchmark):
    row = load_benchmark("index").measure(2000, 3, 1)
    assert row["entries"] == 60 and row["MB"] == 0.008572
    assert row["answer ms"] > 0 and row["leaves ms"] > 0
