"""What a retriever finds by codes of many kinds, on Amazon Beauty.

    sid sweep experiments/codes_retriever.py --workdir runs/by_codes

after `codes_tokenizer.py`. The retriever is the `recipe` of `ablation_retriever.py`;
`from_random` starts its code embeddings at random, which is all that `random` and `lsh`
can. Half of the recipe's steps: codes are compared here. All are judged on validation
baskets. Hardware: a CPU core, 6 minutes a variant. Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax import config as c

SIZES = c.TransformerConfig(width=128, depth=2, num_heads=4, mlp_width=256)
BLIND = c.RetrieverTaskConfig(softmax="existing")
TOLD = replace(BLIND, start="codebooks")


def retriever(codes: str, task: c.RetrieverTaskConfig = TOLD) -> c.RetrieverExperiment:
    return c.RetrieverExperiment(
        tokenizer=f"runs/codes/{codes}-0",
        data=c.DataConfig(name="amazon_2014_beauty"),
        prompts=c.SequenceConfig(history=50, row=64),
        model=c.HierarchicalConfig(
            trunk=replace(SIZES, dropout=0.2),
            spell=replace(SIZES, depth=1, dropout=0.1),
        ),
        task=task,
        batch_size=32,
        optimizer=c.OptimizerConfig(
            learning_rate=4e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=c.TrainConfig(steps=645, log_every=215, eval_every=645),
        search=c.SearchConfig(owned=False, validation_requests=4096),
    )


def get_variants() -> dict[str, c.RetrieverExperiment]:
    told = ("text", "kmeans", "4x256", "dedup", "flat_vq")
    told += ("rqvae", "rqvae_taxonomy", "rqvae_cooccurrence")
    blind = ("random", "lsh", "text", "kmeans", "flat_vq")
    return {
        **{f"{codes}-from_random": retriever(codes, BLIND) for codes in blind},
        **{codes: retriever(codes) for codes in told},
    }
