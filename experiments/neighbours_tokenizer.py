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
from sid_jax.models.rqvae import DEEP as SIZES

NEAR = NeighbourhoodConfig(k=20, blocks=((6, 2.0), (24, 1.0)))
CUTS = ((20, 0.5), (20, 0.8), (20, 0.9), (20, 0.95), (20, 0.99), (40, 0.8), (40, 0.95))


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
            hidden=(512,), latent=288, codebook_sizes=SIZES, principal=True
        ),
        task=TokenizerTaskConfig(restart_steps=700, taxonomy=TaxonomyTerm(weight=0.03)),
        sampler=SamplerConfig(kind="uniform"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=TrainConfig(steps=1000, log_every=500),
    )
    variants = {
        "vectors": kmeans(NeighbourhoodConfig(), SIZES),
        "near": plain,
        "near-taxonomy": learned,
    }
    for k, cut in CUTS:
        near = replace(NEAR, k=k, cut=cut)
        variants[f"k{k}_cut_{cut}"] = kmeans(near, SIZES)
        if (k, cut) in ((20, 0.5), (40, 0.95)):
            vectors = replace(plain.vectors, neighbours=near)
            variants[f"k{k}_cut_{cut}-taxonomy"] = replace(learned, vectors=vectors)
    return variants
