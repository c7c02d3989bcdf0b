"""The benchmarks that ask a retriever: what they compare, on a small run."""

import numpy as np


def test_a_filtered_search_loses_what_a_held_one_finds(world, load_benchmark):
    rows = load_benchmark("allowances").measure(world.retriever, [2, 48], 0, 1)
    assert list(rows) == [
        f"{beams} beams, {side}" for beams in (2, 48) for side in ("held", "filtered")
    ]
    for beams in (2, 48):
        held, filtered = (rows[f"{beams} beams, {x}"] for x in ("held", "filtered"))
        assert held["time"] == 1
        assert held["yield"] > filtered["yield"]  # stores carry a part of the catalog
        assert held["short"] <= filtered["short"]
    # Beams for every SID: what is carried is found by either.
    for figure in ("R@10", "R@50", "N@10"):
        assert held[figure] == filtered[figure]


def test_lists_are_described_at_each_temperature(world, load_benchmark):
    measure = load_benchmark("temperature").measure
    rows = measure(world.retriever, [0, 1], 0)
    assert list(rows) == ["search", "drawn at 1"]
    again = measure(world.retriever, [1], 0)
    assert again["drawn at 1"] == rows["drawn at 1"] != rows["search"]
    assert all(np.isfinite(list(row.values())).all() for row in rows.values())
