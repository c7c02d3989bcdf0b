"""Codes that keep neighbours together: coordinates among neighbours, on Amazon Beauty.

    sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
    sid embed --data beauty --encoder MODEL --recipe precision --out runs/beauty.parquet
    sid sweep experiments/neighbours_tokenizer.py --workdir runs/near --seeds 0 1 2

k-means cells cut through dense neighbourhoods; cells of a cut of the neighbours' graph
do not. Beside each vector stand its spectral coordinates in that graph
(`sid_jax/data/neighbourhood.py`); the quantizer reads both. 1,878 codewords. A fifth
of the items is held out. `cut` weakens edges between top categories: codes then follow
the tree and hold fewer near products together (`benchmarks/frontier.py` draws that).
Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax.config import (
    DataConfig,
    NeighbourhoodConfig,
    OptimizerConfig,
    ResidualKMeansConfig,
    RQVAEConfig,
    SamplerConfig,
    TaxonomyTerm,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)

SIZES = (6, 16, 64, 256, 512, 1024)
NEAR = NeighbourhoodConfig(k=20, blocks=((6, 2.0), (24, 1.0)))
CUTS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.99)


def kmeans(near: NeighbourhoodConfig, sizes: tuple[int, ...]) -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="beauty"),
        vectors=VectorConfig(file="runs/beauty.parquet", neighbours=near),
        model=ResidualKMeansConfig(codebook_sizes=sizes),
        task=TokenizerTaskConfig(start_iterations=30),
        train=TrainConfig(steps=1),
        batch_size=512,
        holdout=0.2,
    )


def get_variants() -> dict[str, TokenizerExperiment]:
    plain = kmeans(NEAR, SIZES)
    learned = replace(
        plain,
        model=RQVAEConfig(
            hidden=(512,), latent=160, codebook_sizes=SIZES, principal=True
        ),
        task=TokenizerTaskConfig(restart_steps=700, taxonomy=TaxonomyTerm(weight=0.03)),
        sampler=SamplerConfig(kind="uniform"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=TrainConfig(steps=1000, log_every=500),
    )
    variants = {"vectors": kmeans(NeighbourhoodConfig(), SIZES), "near": plain}
    for cut in CUTS:
        variants[f"cut_{cut}"] = kmeans(replace(NEAR, cut=cut), SIZES)
    wide = replace(NEAR, blocks=((8, 2.0), (24, 1.0)), cut=0.97)
    half = replace(plain.vectors, neighbours=replace(NEAR, cut=0.5))
    return variants | {
        "cut_0.97_8": kmeans(wide, (8, *SIZES[1:])),
        "taxonomy": learned,
        "taxonomy_cut_0.5": replace(learned, vectors=half),
    }
