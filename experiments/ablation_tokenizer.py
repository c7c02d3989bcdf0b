"""What each part of a tokenizer adds, on Amazon Beauty with MiniLM vectors.

    sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
    sid embed --data beauty --encoder MODEL --recipe precision --out runs/beauty.parquet
    sid sweep experiments/ablation_tokenizer.py --workdir runs/ablation --seeds 0 1 2

MODEL is a folder of all-MiniLM-L6-v2, or its hub name. A fifth of the items is held
out: nothing is learned from them, k-means included. `near_`: coordinates among
neighbours beside the vectors, with lambda = 0.03 and uniform batches. `growing+..`: one
option each beside `growing-taxonomy`. Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax import config as c
from sid_jax.models.rqvae import GROWING, TREE, UNIFORM

SHAPES = {"uniform": UNIFORM, "growing": GROWING, "tree": TREE}
NEAR = {  # coordinates among neighbours: few where first codes are few
    "uniform": ((24, 0.8), (96, 0.5)),
    "growing": ((24, 0.8), (96, 0.5)),
    "tree": ((6, 2.0), (24, 1.0)),
}
TAXONOMY = c.TaxonomyTerm(weight=0.01)
STRONG = c.TaxonomyTerm(weight=0.03)


def rqvae(sizes: tuple[int, ...]) -> c.TokenizerExperiment:
    return c.TokenizerExperiment(
        data=c.DataConfig(name="beauty"),
        vectors=c.VectorConfig(file="runs/beauty.parquet"),
        model=c.RQVAEConfig(
            hidden=(512,), latent=256, codebook_sizes=sizes, principal=True
        ),
        task=c.TokenizerTaskConfig(restart_steps=700),
        batch_size=512,
        optimizer=c.OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=c.TrainConfig(steps=1000, log_every=500),
        holdout=0.2,
    )


def kmeans(sizes: tuple[int, ...]) -> c.TokenizerExperiment:
    return replace(
        rqvae(sizes),
        model=c.ResidualKMeansConfig(codebook_sizes=sizes),
        task=c.TokenizerTaskConfig(start_iterations=30),
        train=c.TrainConfig(steps=1),
    )


def get_variants() -> dict[str, c.TokenizerExperiment | c.ControlExperiment]:
    flat = kmeans((1024,))
    control = c.ControlExperiment(data=flat.data, vectors=flat.vectors, holdout=0.2)
    variants: dict[str, c.TokenizerExperiment | c.ControlExperiment] = {
        "random": replace(control, kind="random"),
        "lsh": replace(control, kind="lsh"),
        "flat_vq": flat,
    }
    for name, sizes in SHAPES.items():
        plain = rqvae(sizes)
        follows = replace(plain, task=replace(plain.task, taxonomy=TAXONOMY))
        uniform = replace(follows, sampler=c.SamplerConfig(kind="uniform"))
        near = c.NeighbourhoodConfig(k=20, blocks=NEAR[name], cut=0.5)
        vectors = replace(plain.vectors, neighbours=near)
        variants |= {
            f"{name}-kmeans": kmeans(sizes),
            f"{name}-rqvae": plain,
            f"{name}-taxonomy": follows,
            f"{name}-taxonomy_uniform": uniform,
            f"{name}-near_kmeans": replace(kmeans(sizes), vectors=vectors),
            f"{name}-near_taxonomy": replace(
                uniform,
                vectors=vectors,
                model=replace(plain.model, latent=288),
                task=replace(uniform.task, taxonomy=STRONG),
            ),
        }
    base = rqvae(GROWING)
    task = replace(base.task, taxonomy=TAXONOMY)
    options = {
        "progressive": replace(task, progressive=True),
        "gradient_codebooks": replace(task, codebooks="gradient"),
        "sinkhorn": replace(task, even=0.003),
        "beams_5": replace(task, beams=5),
        "cooccurrence": replace(task, cooccurrence=c.CooccurrenceTerm(weight=0.01)),
        "lambda_0.03": replace(task, taxonomy=STRONG),
        "no_cousins": replace(task, taxonomy=replace(TAXONOMY, cousin=0.0)),
    }
    narrow = c.RQVAEConfig(codebook_sizes=GROWING)  # TIGER's, without the axes
    pairs = c.PairConfig(window=2, min_support=5)
    changed = {k: replace(base, task=each, pairs=pairs) for k, each in options.items()}
    changed["narrow"] = replace(base, task=task, model=narrow)
    return variants | {f"growing+{k}": each for k, each in changed.items()}
