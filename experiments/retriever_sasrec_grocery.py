r"""SASRec on Complete Journey: a vector for each of 92,331 products, or for each code.

    sid train experiments/retriever_sasrec_grocery.py --workdir runs/sasrec_grocery
    sid train experiments/retriever_sasrec_grocery.py --workdir runs/sasrec_sid \
        --model.items sid

after `tokenizer_grocery.py`. The second one reads and scores a product by the sum of
its codes' vectors, 704 instead of 92,331. The softmax is over 2,048 drawn products.
Results: experiments/README.md.
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
        tokenizer="runs/tokenizer_grocery",
        data=DataConfig(name="complete_journey"),
        prompts=SequenceConfig(history=127, row=128),
        model=SASRecConfig(
            transformer=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.2
            ),
        ),
        task=RetrieverTaskConfig(start="codebooks", negatives=2048),
        batch_size=16,
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=4000, log_every=100, checkpoint_every=1000, eval_every=1000
        ),
        search=SearchConfig(num_beams=50, top=50, validation_requests=1024),
    )
