"""The audit's benchmark finds planted flips where the vectors say the category."""

import importlib.util
from pathlib import Path

import numpy as np

from sid_jax.data.catalog import Catalog

FILE = Path(__file__).parents[1] / "experiments" / "benchmarks" / "audit.py"


def test_clear_vectors_give_every_far_flip_away():
    spec = importlib.util.spec_from_file_location("audit_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
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
