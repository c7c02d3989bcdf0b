"""Hierarchical retriever on Amazon Beauty: a trunk reads items, a small one spells.

sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
sid train experiments/tokenizer_beauty.py --workdir runs/tokenizer_beauty
sid train experiments/retriever_hierarchical_beauty.py --workdir runs/hierarchical
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
        tokenizer="runs/tokenizer_beauty",
        data=DataConfig(name="beauty"),
        prompts=SequenceConfig(history=50, row=64),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.3
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.3
            ),
        ),
        task=RetrieverTaskConfig(),
        batch_size=32,
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=6000, log_every=100, checkpoint_every=1000, eval_every=1000
        ),
        search=SearchConfig(num_beams=50, top=50, validation_requests=2048),
    )
