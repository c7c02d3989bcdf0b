"""Levels x codes: what a codebook's shape decides, by residual k-means on Beauty.

    sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
    sid embed --data beauty --encoder MODEL --recipe precision --out runs/beauty.parquet
    sid sweep experiments/shapes_tokenizer.py --workdir runs/shapes

A shape is named by its codes a level, 2,048 in all at most; `runs/beauty.parquet` is
made as in ablation_tokenizer.py. Results: experiments/README.md.
"""

from sid_jax.config import (
    DataConfig,
    ResidualKMeansConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)

SHAPES = (
    (256, 256),
    (256, 256, 256),
    (256, 256, 256, 256),
    (512, 512, 512, 512),
    (1024, 1024),
    (1024, 512, 256, 128),
    (128, 256, 512, 1024),
    (32, 128, 256, 512),
    (16, 64, 256, 1024),
    (8, 64, 256, 1024),
    (4, 16, 64, 256, 1024),
    (8, 32, 128, 512, 1024),
    (8, 16, 32, 64, 128, 256, 512, 1024),
)


def get_variants() -> dict[str, TokenizerExperiment]:
    return {
        "-".join(map(str, sizes)): TokenizerExperiment(
            data=DataConfig(name="beauty"),
            vectors=VectorConfig(file="runs/beauty.parquet"),
            model=ResidualKMeansConfig(codebook_sizes=sizes),
            task=TokenizerTaskConfig(start_iterations=30),
            train=TrainConfig(steps=1),
        )
        for sizes in SHAPES
    }
