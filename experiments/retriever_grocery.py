"""Decoder with a repeat head on Complete Journey: the next product of a basket.

sid train experiments/tokenizer_grocery.py --workdir runs/tokenizer_grocery
sid train experiments/retriever_grocery.py --workdir runs/retriever_grocery
"""

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    OptimizerConfig,
    PromptConfig,
    RetrieverExperiment,
    SearchConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_grocery",
        data=DataConfig(name="complete_journey"),
        prompts=PromptConfig(history=64, basket=8),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=3, num_heads=4, mlp_width=256, dropout=0.1
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.1
            ),
            repeat=True,
        ),
        batch_size=64,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=10_000,
            log_every=200,
            checkpoint_every=1000,
            eval_every=2000,
            show=("repeat",),
        ),
        search=SearchConfig(num_beams=50, top=50),
    )
