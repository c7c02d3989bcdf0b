"""Hierarchical retriever on Amazon Beauty: a trunk reads items, a small one spells.

    sid train experiments/retriever_hierarchical_beauty.py --workdir runs/hierarchical
    sid evaluate runs/hierarchical --oracle 256

after `tokenizer_retrieval_beauty.py`. Each softmax is over the codes that exist after
their prefix, and code embeddings start from the codebooks: `ablation_retriever.py`
takes each of them away. Label smoothing and dropout go with the many codewords. What a
household owns is not retrieved: nobody here buys a product twice; what is found is
ranked by its likeness to the last products too. Results: experiments/README.md.
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
        tokenizer="runs/tokenizer_retrieval",
        data=DataConfig(name="amazon_2014_beauty"),
        prompts=SequenceConfig(history=50, row=64),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.3
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.2
            ),
        ),
        task=RetrieverTaskConfig(softmax="existing", start="codebooks", smoothing=0.1),
        batch_size=32,
        optimizer=OptimizerConfig(
            learning_rate=4e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1290, log_every=100, checkpoint_every=430, eval_every=430
        ),
        search=SearchConfig(
            num_beams=50,
            top=50,
            owned=False,
            likeness=4.0,
            validation_requests=4096,
        ),
    )
