"""What hierarchical batches add to the taxonomy term, on Complete Journey.

    sid sweep experiments/sampler_tokenizer.py --workdir runs/sampler --seeds 0 1 2

3,828 leaf categories: an anchor of a uniform batch of 512 hardly ever meets one of its
own leaf. A fifth of the 92,331 products is held out. The same comparison on Amazon
Beauty (225 leaves) is in ablation_tokenizer.py. Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax.config import (
    DataConfig,
    OptimizerConfig,
    RQVAEConfig,
    SamplerConfig,
    TaxonomyTerm,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)
from sid_jax.models.rqvae import GROWING


def get_variants() -> dict[str, TokenizerExperiment]:
    plain = TokenizerExperiment(
        data=DataConfig(name="complete_journey"),
        # Without the categories: what the term is told, the vectors are not.
        vectors=VectorConfig(text=("title",), num_hashes=2**15, dim=96),
        model=RQVAEConfig(
            hidden=(512,), latent=96, codebook_sizes=GROWING, principal=True
        ),
        task=TokenizerTaskConfig(restart_steps=1000),
        batch_size=512,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, schedule="cosine"
        ),
        train=TrainConfig(steps=1500, log_every=500),
        holdout=0.2,
    )
    term = replace(plain.task, taxonomy=TaxonomyTerm(weight=0.01))
    uniform = replace(plain, task=term, sampler=SamplerConfig(kind="uniform"))
    return {
        "without": plain,
        "uniform": uniform,
        "hierarchical": replace(uniform, sampler=SamplerConfig()),
    }
