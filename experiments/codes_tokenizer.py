"""Codes of many kinds, on Amazon Beauty: to retrieve by, and to score by.

    sid sweep experiments/codes_tokenizer.py --workdir runs/codes

after `sid embed` (see `tokenizer_retrieval_beauty.py`), for `codes_retriever.py` and
`rows_retriever.py`. `kmeans` is of that recipe, of text and co-purchases; `text`, `lsh`
and `random` know no purchases, the last one nothing; `rows_97` has 97 codewords in all.
Hardware: a CPU, in about twelve minutes. Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax import config as c

SIZES = (256, 1024, 2048)
FEWER = ((512,) * 4, (338,) * 4, (151, 151, 151, 152), (24, 24, 24, 25))
TEXT = c.VectorConfig(file="runs/beauty.parquet")
BOUGHT = replace(TEXT, copurchase=c.CopurchaseConfig(dim=128, weight=0.8))


def kmeans(
    vectors: c.VectorConfig, sizes: tuple[int, ...] = SIZES
) -> c.TokenizerExperiment:
    return c.TokenizerExperiment(
        data=c.DataConfig(name="amazon_2014_beauty"),
        vectors=vectors,
        model=c.ResidualKMeansConfig(codebook_sizes=sizes),
        task=c.TokenizerTaskConfig(start_iterations=30),
        batch_size=512,
        train=c.TrainConfig(steps=1),
    )


def rqvae(task: c.TokenizerTaskConfig) -> c.TokenizerExperiment:
    return replace(
        kmeans(BOUGHT),
        model=c.RQVAEConfig(
            hidden=(512,), latent=256, codebook_sizes=SIZES, principal=True
        ),
        task=replace(task, restart_steps=700),
        pairs=c.PairConfig(window=2, min_support=5),
        optimizer=c.OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=c.TrainConfig(steps=1000, log_every=500),
    )


def get_variants() -> dict[str, c.TokenizerExperiment | c.ControlExperiment]:
    recipe = kmeans(BOUGHT)
    control = c.ControlExperiment(data=recipe.data, vectors=TEXT, codebook_sizes=SIZES)
    taxonomy = c.TokenizerTaskConfig(taxonomy=c.TaxonomyTerm(weight=0.01))
    together = c.TokenizerTaskConfig(cooccurrence=c.CooccurrenceTerm(weight=0.01))
    return {
        "random": replace(control, kind="random"),
        "lsh": replace(control, kind="lsh"),
        "text": kmeans(TEXT),
        "kmeans": recipe,
        "4x256": kmeans(BOUGHT, (256,) * 4),
        "dedup": replace(recipe, dedup=True),
        "flat_vq": replace(kmeans(BOUGHT, (sum(SIZES),)), dedup=True),
        "rqvae": rqvae(c.TokenizerTaskConfig()),
        "rqvae_taxonomy": rqvae(taxonomy),
        "rqvae_cooccurrence": rqvae(together),
        **{f"rows_{sum(sizes)}": kmeans(BOUGHT, sizes) for sizes in FEWER},
    }
