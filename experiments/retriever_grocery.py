"""Decoder with a repeat head on Complete Journey: the next product of a basket.

    sid train experiments/tokenizer_grocery.py --workdir runs/tokenizer_grocery
    sid train experiments/retriever_grocery.py --workdir runs/retriever_grocery

A prompt tells of 64 products of the household, those that matter most last, of the mean
vector of all that it has bought, and of the basket so far. Hardware: a CPU core, 11
minutes, test and report included. Test recall@10 .127 (the rule of repeats .120).
Results, and what finds more new products: experiments/README.md.
"""

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    OptimizerConfig,
    PromptConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SearchConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_grocery",
        data=DataConfig(name="complete_journey"),
        prompts=PromptConfig(history=64, basket=8, user=True),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=3, num_heads=4, mlp_width=256, dropout=0.1
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.1
            ),
            repeat=True,
        ),
        task=RetrieverTaskConfig(softmax="existing", start="codebooks"),
        batch_size=64,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1000,
            log_every=200,
            checkpoint_every=500,
            eval_every=500,
            show=("repeat",),
        ),
        search=SearchConfig(num_beams=50, top=50),
    )
