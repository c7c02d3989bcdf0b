"""Residual k-means on Complete Journey (92,331 products): the baseline tokenizer.

    sid train experiments/tokenizer_grocery.py --workdir runs/tokenizer_grocery

Spotify's NEO (2026) chose residual k-means over an RQ-VAE. All its Lloyd steps are the
start; the one training step changes nothing.
"""

from sid_jax.config import (
    DataConfig,
    ResidualKMeansConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)


def get_config() -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="complete_journey"),
        vectors=VectorConfig(
            text=("title", "categories"),
            num_hashes=2**15,
            dim=64,
            columns=("manufacturer", "brand_tier", "package_size", "price"),
            column_weight=0.2,
        ),
        model=ResidualKMeansConfig(codebook_sizes=(64, 128, 256, 256)),
        task=TokenizerTaskConfig(start_rows=92_160, start_iterations=20),
        batch_size=1024,
        train=TrainConfig(steps=1),
    )
