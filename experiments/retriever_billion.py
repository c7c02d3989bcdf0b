"""A retriever of 1.03 billion parameters, for a pod: FSDP, bfloat16, blocks anew.

    sid train experiments/retriever_billion.py --workdir runs/retriever_billion \
        --data.name shop --tokenizer runs/tokenizer_shop

on histories of your own: `sid import --name shop`, then a tokenizer. What it needs,

    sid compile experiments/retriever_billion.py --topology v5e:16x16

says without a pod. Eighteen blocks read items, two spell them; every position of
histories of up to 511 products is learned, half a million positions a step. Nobody has
trained it yet: the scaling page of experiments/README.md is from the compiler.
"""

from dataclasses import replace

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    MeshConfig,
    OptimizerConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SearchConfig,
    SequenceConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RetrieverExperiment:
    trunk = TransformerConfig(
        width=2048, depth=18, num_heads=16, mlp_width=5632, dropout=0.0, remat="full"
    )
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_shop",
        data=DataConfig(name="shop"),
        prompts=SequenceConfig(history=511, row=512),
        model=HierarchicalConfig(trunk=trunk, spell=replace(trunk, depth=2), scan=True),
        task=RetrieverTaskConfig(dtype="bfloat16"),
        batch_size=1024,
        mesh=MeshConfig(rules="fsdp"),
        optimizer=OptimizerConfig(
            learning_rate=3e-4, warmup_steps=2000, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=100_000, log_every=100, checkpoint_every=1000, eval_every=10_000
        ),
        search=SearchConfig(num_beams=50, top=50, batch_size=256),
    )
