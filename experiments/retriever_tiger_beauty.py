r"""TIGER on Amazon Beauty at the paper's size: an encoder reads, a decoder spells.

    sid train experiments/tokenizer_retrieval_beauty.py --workdir runs/tokenizer_tiger \
        --model.codebook-sizes 256 256 256 --dedup
    sid train experiments/retriever_tiger_beauty.py --workdir runs/tiger

The paper's shape of codes, three levels of 256 and one that tells the items of one SID
apart; four blocks each, batches of 256 sliding windows over the last 20 items. Softmax
and start are those of `retriever_hierarchical_beauty.py`; for the paper's, add
`--task.softmax codes --task.start random --task.smoothing 0`.

Hardware: one H200, 6 minutes, test and report included. Test recall@10 .085, NDCG@10
.046; with what is owned offered too (`--search.owned`) .076 and .039 (the paper: .065
and .038). On a CPU core a step takes 6 seconds, the whole run a day and a half.
"""

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    PromptConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    SearchConfig,
    T5Config,
    TigerConfig,
    TrainConfig,
)


def get_config() -> RetrieverExperiment:
    return RetrieverExperiment(
        tokenizer="runs/tokenizer_tiger",
        data=DataConfig(name="amazon_2014_beauty"),
        # One item a basket; a small decay puts the latest purchases last.
        prompts=PromptConfig(history=20, basket=1, decay=0.5),
        model=TigerConfig(
            transformer=T5Config(
                width=128,
                depth=4,
                num_heads=6,
                head_width=64,
                mlp_width=1024,
                dropout=0.2,
            )
        ),
        task=RetrieverTaskConfig(softmax="existing", start="codebooks", smoothing=0.1),
        batch_size=256,
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=1000,
            schedule="cosine",
            weight_decay=0.035,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=20_000, log_every=500, checkpoint_every=2500, eval_every=5000
        ),
        search=SearchConfig(
            num_beams=50, top=50, owned=False, validation_requests=2048
        ),
    )
