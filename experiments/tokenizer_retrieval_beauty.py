r"""Semantic IDs to retrieve by: text and co-purchases, residual k-means, Beauty.

sid embed --data amazon_2014_beauty --source FOLDER --encoder MODEL \
    --out runs/beauty.parquet
sid train experiments/tokenizer_retrieval_beauty.py --workdir runs/tokenizer_retrieval

FOLDER holds the published files (the first line says which if it does not); MODEL is a
folder of all-MiniLM-L6-v2, or its hub name. Beside the text's vector stand an item's
co-purchase coordinates, of training baskets alone, so that what is bought in a row
shares codes. Results: experiments/README.md.
"""

from sid_jax.config import (
    CopurchaseConfig,
    DataConfig,
    ResidualKMeansConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)


def get_config() -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="amazon_2014_beauty"),
        vectors=VectorConfig(
            file="runs/beauty.parquet",
            copurchase=CopurchaseConfig(dim=128, weight=0.8),
        ),
        model=ResidualKMeansConfig(codebook_sizes=(512, 2048, 4096)),
        task=TokenizerTaskConfig(start_iterations=30),
        batch_size=512,
        train=TrainConfig(steps=1),
    )
