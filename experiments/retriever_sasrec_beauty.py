"""SASRec on Amazon Beauty: the scoring baseline, with a vector an item.

    sid train experiments/retriever_sasrec_beauty.py --workdir runs/sasrec

after `tokenizer_retrieval_beauty.py`. It is told as much as the retrievers that spell:
an item's vector starts as the sum of its codewords, and what a household owns is left
out. `--task.start random` is SASRec as published, which knows nothing but purchases;
`--model.items sid` reads and scores items by the sums of their codes' vectors. Results:
experiments/README.md.
"""

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SASRecConfig,
    SearchConfig,
    SequenceConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_retrieval",
        data=DataConfig(name="amazon_2014_beauty"),
        prompts=SequenceConfig(history=50, row=64),
        model=SASRecConfig(
            transformer=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.5
            ),
        ),
        task=RetrieverTaskConfig(start="codebooks"),
        batch_size=32,
        optimizer=OptimizerConfig(
            learning_rate=4e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1290, log_every=100, checkpoint_every=430, eval_every=430
        ),
        search=SearchConfig(top=50, owned=False, validation_requests=4096),
    )
