"""The cells' benchmark: blocks answer exactly, and cost what it says."""

import numpy as np
import pytest

from sid_jax.config import (
    DataConfig,
    ResidualKMeansConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)
from sid_jax.data.catalog import Catalog
from sid_jax.data.datasets import save


@pytest.mark.slow
def test_blocks_are_never_wrong_and_codes_without_cells_are(tmp_path, load_benchmark):
    benchmark = load_benchmark("cells")
    count = 240
    rng = np.random.default_rng(0)
    catalog = Catalog.from_columns(
        [f"i{n}" for n in range(count)],
        title=[f"thing {n % 12} of {n % 7}" for n in range(count)],
        categories=[[f"d{n % 3}", f"a{n % 12}"] for n in range(count)],
        attributes={"tier": rng.choice(["low", "high"], count).tolist()},
    )
    save("tiny", (catalog, None), tmp_path)
    base = TokenizerExperiment(
        data=DataConfig(name="tiny", data_dir=str(tmp_path)),
        vectors=VectorConfig(text=("title", "categories"), dim=8, num_hashes=2**10),
        model=ResidualKMeansConfig(codebook_sizes=(8, 8)),
        task=TokenizerTaskConfig(start_rows=240, start_iterations=5),
        train=TrainConfig(steps=1),
        batch_size=120,
    )
    found = benchmark.measure(
        base, catalog, ["tier"], tmp_path / "runs", log=lambda line: None
    )
    assert set(found) == {"none", "blocks", "token"}
    for name, row in found.items():
        assert (row["tier wrong"] == 0) == (name != "none")
        assert row["tier missed"] == 0
        assert 0 < row["FVU"] < 1
    # The token is a level more than the blocks have, and cannot reconstruct worse.
    assert found["token"]["FVU"] < found["blocks"]["FVU"]
    assert benchmark.format_rows(found).count("|---") == len(found["none"]) + 1
