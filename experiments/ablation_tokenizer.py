"""What each part of a tokenizer adds, on Amazon Beauty with MiniLM vectors.

    sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
    sid embed --data beauty --encoder MODEL --recipe precision --out runs/beauty.parquet
    sid sweep experiments/ablation_tokenizer.py --workdir runs/ablation --seeds 0 1 2

MODEL is a folder of all-MiniLM-L6-v2, or its hub name. A fifth of the items is held
out: nothing is learned from them, k-means included. `--only growing+` takes the options
alone. `near_`: coordinates among neighbours beside the vectors, with lambda = 0.03 and
uniform batches. Results: experiments/README.md.
"""

from dataclasses import replace
from typing import Any, Literal

from sid_jax.config import (
    ControlExperiment,
    CooccurrenceTerm,
    DataConfig,
    NeighbourhoodConfig,
    OptimizerConfig,
    PairConfig,
    ResidualKMeansConfig,
    RQVAEConfig,
    SamplerConfig,
    TaxonomyTerm,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)
from sid_jax.models.rqvae import GROWING, TREE, UNIFORM

SHAPES = {"uniform": UNIFORM, "growing": GROWING, "tree": TREE}
TAXONOMY = TaxonomyTerm(weight=0.01)
NEAR = {  # coordinates among neighbours: few where first codes are few
    "uniform": ((24, 0.8), (96, 0.5)),
    "growing": ((24, 0.8), (96, 0.5)),
    "tree": ((6, 2.0), (24, 1.0)),
}


def rqvae(sizes: tuple[int, ...]) -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="beauty"),
        vectors=VectorConfig(file="runs/beauty.parquet"),
        model=RQVAEConfig(
            hidden=(512,), latent=128, codebook_sizes=sizes, principal=True
        ),
        task=TokenizerTaskConfig(restart_steps=700),
        batch_size=512,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=TrainConfig(steps=1000, log_every=500),
        holdout=0.2,
    )


def kmeans(sizes: tuple[int, ...]) -> TokenizerExperiment:
    config = rqvae(sizes)
    return replace(
        config,
        model=ResidualKMeansConfig(codebook_sizes=sizes),
        task=TokenizerTaskConfig(start_iterations=30),
        train=TrainConfig(steps=1),
    )


def with_neighbours(
    config: TokenizerExperiment, blocks: tuple[tuple[int, float], ...]
) -> TokenizerExperiment:
    near = NeighbourhoodConfig(k=20, blocks=blocks, cut=0.5)
    return replace(config, vectors=replace(config.vectors, neighbours=near))


def control(kind: Literal["random", "lsh"]) -> ControlExperiment:
    plain = kmeans(UNIFORM)
    return ControlExperiment(
        data=plain.data,
        vectors=plain.vectors,
        kind=kind,
        codebook_sizes=UNIFORM,
        holdout=plain.holdout,
    )


def get_variants() -> dict[str, TokenizerExperiment | ControlExperiment]:
    variants: dict[str, Any] = {
        "random": control("random"),
        "lsh": control("lsh"),
        "flat_vq": kmeans((1024,)),
    }
    for name, sizes in SHAPES.items():
        plain = rqvae(sizes)
        follows = replace(plain, task=replace(plain.task, taxonomy=TAXONOMY))
        uniform = replace(follows, sampler=SamplerConfig(kind="uniform"))
        strong = replace(TAXONOMY, weight=0.03)
        near = replace(uniform, task=replace(uniform.task, taxonomy=strong))
        near = replace(near, model=replace(near.model, latent=160))
        variants |= {
            f"{name}-kmeans": kmeans(sizes),
            f"{name}-rqvae": plain,
            f"{name}-taxonomy": follows,
            f"{name}-taxonomy_uniform": uniform,
            f"{name}-near_kmeans": with_neighbours(kmeans(sizes), NEAR[name]),
            f"{name}-near_taxonomy": with_neighbours(near, NEAR[name]),
        }
    base = replace(rqvae(GROWING), task=variants["growing-taxonomy"].task)
    narrow = RQVAEConfig(codebook_sizes=GROWING)  # TIGER's encoder, without the axes
    terms = {
        "lambda_0.03": replace(TAXONOMY, weight=0.03),
        "no_cousins": replace(TAXONOMY, cousin=0.0),
    }
    options = {
        "progressive": replace(base.task, progressive=True),
        "gradient_codebooks": replace(base.task, codebooks="gradient"),
        "sinkhorn": replace(base.task, even=0.003),
        "beams_5": replace(base.task, beams=5),
        "cooccurrence": replace(base.task, cooccurrence=CooccurrenceTerm(weight=0.01)),
        **{name: replace(base.task, taxonomy=term) for name, term in terms.items()},
    }
    pairs = PairConfig(window=2, min_support=5)
    for name, task in options.items():
        variants[f"growing+{name}"] = replace(base, task=task, pairs=pairs)
    turned = replace(rqvae(GROWING).model, gradient="rotation")
    variants["growing+rotation"] = replace(base, model=turned)
    variants["growing+narrow"] = replace(base, model=narrow)
    return variants
