"""The benchmark of version skew, whole, on a tiny catalog."""

from dataclasses import replace

import numpy as np
import pytest

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    OptimizerConfig,
    ResidualKMeansConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SequenceConfig,
    TokenizerExperiment,
    VectorConfig,
    smoke,
)
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import save
from sid_jax.sids.table import read_table


@pytest.mark.slow
def test_ways_differ_in_what_they_keep(tmp_path, load_benchmark):
    benchmark = load_benchmark("skew")
    rng = np.random.default_rng(0)
    catalog = Catalog.from_columns(
        [f"i{n}" for n in range(120)],
        title=[f"thing {n % 12} of {n % 7}" for n in range(120)],
        categories=[[f"d{n % 3}", f"a{n % 24}"] for n in range(120)],
    )
    bought = [rng.permutation(120)[:8] for _ in range(40)]
    data = Interactions.from_baskets(
        user=[f"u{user}" for user in range(40) for _ in range(8)],
        time=list(range(8)) * 40,
        baskets=[[int(item)] for items in bought for item in items],
    )
    save("tiny", (catalog, data), tmp_path)
    told = DataConfig(name="tiny", data_dir=str(tmp_path))
    tokenizer = smoke(
        TokenizerExperiment(
            data=told,
            vectors=VectorConfig(text=("title", "categories")),
            model=ResidualKMeansConfig(codebook_sizes=(4, 4)),
        )
    )
    retriever = smoke(
        RetrieverExperiment(
            data=told,
            prompts=SequenceConfig(),
            model=HierarchicalConfig(),
            task=RetrieverTaskConfig(start="codebooks"),
            optimizer=OptimizerConfig(learning_rate=1e-2),
        )
    )
    search = replace(retriever.search, max_requests=0)
    retriever = replace(retriever, search=search)
    folder = tmp_path / "runs"
    rows = benchmark.measure(tokenizer, retriever, folder, 2, 0, lambda line: None)
    assert list(rows) == ["stale", "stale, tuned", "naive", "aligned", "warm", "anew"]
    assert rows["stale"]["kept"] == rows["stale, tuned"]["kept"] == 1
    assert rows["naive"]["kept"] == rows["anew"]["kept"] < rows["aligned"]["kept"] < 1
    assert rows["warm"]["kept"] > rows["naive"]["kept"]
    assert [row["steps"] for row in rows.values()] == [0, 2, 2, 2, 2, 4]
    sids = {
        name: read_table(folder / f"{name}_sids" / "sids.parquet")
        for name in ("new", "aligned")
    }
    # A renaming joins and parts no items.
    new, aligned = (each.codes() for each in sids.values())
    for level in range(2):
        pairs = set(
            zip(new[:, level].tolist(), aligned[:, level].tolist(), strict=True)
        )
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    for row in rows.values():
        for part in ("all", "old", "new"):
            assert 0 <= row[f"{part} R@10"] <= 1
    assert benchmark.average([rows, rows]) == rows
