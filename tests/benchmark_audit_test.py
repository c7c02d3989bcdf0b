"""The audit's benchmark finds planted flips where the vectors say the category."""

import numpy as np

from sid_jax.data.catalog import Catalog


def test_clear_vectors_give_every_far_flip_away(load_benchmark):
    benchmark = load_benchmark("audit")
    place = np.arange(240) % 6
    catalog = Catalog.from_columns(
        [f"i{n}" for n in range(240)],
        title=[f"thing {n}" for n in range(240)],
        categories=[[f"d{p // 2}", f"a{p}"] for p in place],
    )
    noise = np.random.default_rng(0).normal(0, 0.02, (240, 6))
    vectors = (np.eye(6)[place] + noise).astype(np.float32)
    found = benchmark.measure(
        catalog, vectors, sizes=(6, 6), voters=2, k=10, seeds=(0,)
    )
    assert {kind for kind, _ in found} == {"sibling", "far"}  # no cousins at depth 2
    for (kind, _), figures in found.items():
        assert figures["precision@k"] == 1, kind
        assert figures["average_precision"] == 1
