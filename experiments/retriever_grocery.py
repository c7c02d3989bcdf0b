"""Hierarchical decoder with a repeat head on Complete Journey: the next product.

    sid train experiments/tokenizer_grocery.py --workdir runs/tokenizer_grocery
    sid train experiments/retriever_grocery.py --workdir runs/retriever_grocery

Whole histories in order, 511 products long, every position of them learned; a product
bought before is pointed at, a new one spelled. With `--search.no-owned` only what is
new to a household is retrieved. Hardware: a CPU core, 15 minutes, test and report
included. Test recall@10 .127 (the rule of repeats .120), NDCG@10 .118 (.115). Results:
experiments/README.md.
"""

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    OptimizerConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SearchConfig,
    SequenceConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_grocery",
        data=DataConfig(name="complete_journey"),
        prompts=SequenceConfig(history=511, row=512),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.2
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.2
            ),
            repeat=True,
        ),
        task=RetrieverTaskConfig(softmax="existing", start="codebooks"),
        batch_size=4,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1200,
            log_every=200,
            checkpoint_every=600,
            eval_every=600,
            show=("repeat",),
        ),
        search=SearchConfig(num_beams=50, top=50),
    )
