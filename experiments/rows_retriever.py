"""What Semantic IDs give a recommender that goes on scoring, by the rows of its table.

    sid sweep experiments/rows_retriever.py --workdir runs/by_rows

after `codes_tokenizer.py`. SASRec as in `retriever_sasrec_beauty.py`: a row for each of
12,101 products (`atomic`), for each codeword (`sid`), or for hashed prefixes
(`prefix`), as many rows as codewords: 2,048, 1,352, 605 and 97, the last 125 times
fewer than products, as at Instacart (prefixes at the ends of that curve alone). All are
judged on validation baskets. Hardware: a CPU core, 11 minutes a variant. Results:
experiments/README.md.
"""

from sid_jax import config as c

SMALL = c.TransformerConfig(width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.5)
TOLD = c.RetrieverTaskConfig(start="codebooks")
BLIND = c.RetrieverTaskConfig()


def scorer(
    codebook: str, model: c.SASRecConfig, task: c.RetrieverTaskConfig
) -> c.RetrieverExperiment:
    return c.RetrieverExperiment(
        tokenizer=f"runs/codes/rows_{codebook}-0",
        data=c.DataConfig(name="amazon_2014_beauty"),
        prompts=c.SequenceConfig(history=50, row=64),
        model=model,
        task=task,
        batch_size=32,
        optimizer=c.OptimizerConfig(
            learning_rate=4e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=c.TrainConfig(steps=1290, log_every=430, eval_every=1290),
        search=c.SearchConfig(top=50, owned=False, validation_requests=4096),
    )


def get_variants() -> dict[str, c.RetrieverExperiment]:
    atomic = c.SASRecConfig(transformer=SMALL)
    variants = {
        "atomic": scorer("2048", atomic, TOLD),
        "atomic-from_random": scorer("2048", atomic, BLIND),
    }
    for rows in (2048, 1352, 605, 97):
        sid = c.SASRecConfig(transformer=SMALL, items="sid")
        variants[f"sid_{rows}"] = scorer(str(rows), sid, TOLD)
    for rows in (2048, 97):
        prefix = c.SASRecConfig(transformer=SMALL, items="prefix", rows=rows // 4)
        variants[f"prefix_{rows}"] = scorer(str(rows), prefix, BLIND)
    return variants
