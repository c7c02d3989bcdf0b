"""RQ-VAE on Amazon Beauty (12,101 items, He and McAuley 2016) from TF-IDF vectors.

    sid import --items items.jsonl.gz --sequences sequences.txt.gz --name beauty
    sid train experiments/tokenizer_beauty.py --workdir runs/tokenizer_beauty

73 s on 2 CPU cores: 10,976 SIDs, every codebook in use, 6.3% of the variance
unexplained (residual k-means: 6.4%). Any imported catalog takes its place with
`--data.name`.
"""

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    RQVAEConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)


def get_config() -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="beauty"),
        vectors=VectorConfig(text=("title", "brand", "categories"), dim=128),
        # A latent nearly as wide as the vectors: through one of 32, encoder and decoder
        # alone lost 9% of the variance, more than the codes of residual k-means do.
        model=RQVAEConfig(
            hidden=(512,), latent=96, codebook_sizes=(256, 256, 256, 256)
        ),
        task=TokenizerTaskConfig(restart_steps=2000),
        batch_size=512,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=100, schedule="cosine"
        ),
        train=TrainConfig(
            steps=3000, log_every=300, checkpoint_every=1000, show=("reconstruction",)
        ),
    )
