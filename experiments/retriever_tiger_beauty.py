"""TIGER on Amazon Beauty, in the recipe of its best audited reproduction.

    sid train experiments/retriever_tiger_beauty.py --workdir runs/tiger

after `tokenizer_retrieval_beauty.py`. With the paper's codes, three levels of 256 and
one that tells the items of one SID apart, give that run `--model.codebook-sizes 256 256
256 --dedup --workdir runs/tokenizer_tiger`, and this one `--tokenizer
runs/tokenizer_tiger`.

Six blocks each, dropout 0.2, AdamW 3e-4 with 10,000 steps of warm-up and cosine decay,
weight decay 0.035, batches of 256 sliding windows over the last 20 items. On a CPU a
step takes seconds: the whole run is for an accelerator.
"""

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    PromptConfig,
    RetrieverExperiment,
    SearchConfig,
    T5Config,
    TigerConfig,
    TrainConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_retrieval",
        data=DataConfig(name="amazon_2014_beauty"),
        # One item a basket; a small decay puts the latest purchases last.
        prompts=PromptConfig(history=20, basket=1, decay=0.5),
        model=TigerConfig(
            transformer=T5Config(
                width=128,
                depth=6,
                num_heads=6,
                head_width=64,
                mlp_width=1024,
                dropout=0.2,
            )
        ),
        batch_size=256,
        optimizer=OptimizerConfig(
            learning_rate=3e-4,
            warmup_steps=10_000,
            schedule="cosine",
            weight_decay=0.035,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=100_000, log_every=500, checkpoint_every=5000, eval_every=10_000
        ),
        search=SearchConfig(
            num_beams=50, top=50, owned=False, validation_requests=2048
        ),
    )
