"""A made-up shop, and small experiments on it, for scripts that need no more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    RetrieverExperiment,
    RQVAEConfig,
    SearchConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    VectorConfig,
    smoke,
)
from sid_jax.data.catalog import Catalog, Interactions

ITEMS, STORES, HOUSEHOLDS = 400, 12, 80
TOP = 10


def make_shop(seed: int = 0) -> tuple[Catalog, Interactions]:
    """Items of five kinds, and households that buy six times among twenty of them."""
    rng = np.random.default_rng(seed)
    rows = np.arange(ITEMS)
    catalog = Catalog.from_columns(
        [f"i{row:03d}" for row in rows],
        title=[f"kind {row % 5} size {row % 17} number {row // 40}" for row in rows],
        brand=[f"brand {row % 7}" for row in rows],
        categories=[["shop", f"kind {row % 5}"] for row in rows],
    )
    count = 6 * HOUSEHOLDS
    liked = np.argsort(rng.random((HOUSEHOLDS, ITEMS)), axis=1)[:, :20]
    user = np.repeat(np.arange(HOUSEHOLDS, dtype=np.int32), 6)
    chosen = np.argsort(rng.random((count, 20)), axis=1)[:, :4]
    data = Interactions(
        users=tuple(f"u{row:02d}" for row in range(HOUSEHOLDS)),
        retailers=tuple(f"store {row:02d}" for row in range(STORES)),
        user=user,
        retailer=rng.integers(0, STORES, count, np.int32),
        time=np.tile(np.arange(6), HOUSEHOLDS),
        offsets=4 * np.arange(count + 1),
        items=liked[user[:, None], chosen].ravel().astype(np.int32),
    )
    return catalog, data


def make_configs(root: Path) -> tuple[TokenizerExperiment, RetrieverExperiment]:
    """The two experiments, on the shop that lies under `root`."""
    data = DataConfig(name="shop", data_dir=str(root / "data"))
    tokenizer = TokenizerExperiment(
        data=data,
        model=RQVAEConfig(codebook_sizes=(16, 8, 8)),
        task=TokenizerTaskConfig(),
        vectors=VectorConfig(text=("title", "brand")),
    )
    retriever = RetrieverExperiment(
        data=data,
        tokenizer=str(root / "tokenizer"),
        search=SearchConfig(num_beams=16, top=TOP, batch_size=4),
        # A rate that is the same whatever the number of steps.
        optimizer=OptimizerConfig(schedule="constant", learning_rate=1e-3),
    )
    small: Any = smoke(tokenizer), smoke(retriever)
    return small[0], replace(
        small[1], search=retriever.search, optimizer=retriever.optimizer
    )
