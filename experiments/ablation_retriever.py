"""What each part of the retriever's recipe adds, on Amazon Beauty.

    sid sweep experiments/ablation_retriever.py --workdir runs/retrieval --seeds 0 1 2

after `sid train experiments/tokenizer_retrieval_beauty.py` with
`--model.codebook-sizes 256 1024 2048`. `recipe` is where
`retriever_hierarchical_beauty.py` came from: dropout .2, no smoothing, no likeness;
each other variant differs from it in what its name says. All are judged on validation
baskets. Results: experiments/README.md.
"""

from dataclasses import replace

from sid_jax import config as c

SIZES = c.TransformerConfig(width=128, depth=2, num_heads=4, mlp_width=256)
TRUNK = replace(SIZES, dropout=0.2)
MODEL = c.HierarchicalConfig(trunk=TRUNK, spell=replace(SIZES, depth=1, dropout=0.1))
TASK = c.RetrieverTaskConfig(softmax="existing", start="codebooks")


def base() -> c.RetrieverExperiment:
    return c.RetrieverExperiment(
        tokenizer="runs/tokenizer_retrieval",
        data=c.DataConfig(name="amazon_2014_beauty"),
        prompts=c.SequenceConfig(history=50, row=64),
        model=MODEL,
        task=TASK,
        batch_size=32,
        optimizer=c.OptimizerConfig(
            learning_rate=4e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0
        ),
        train=c.TrainConfig(steps=1290, log_every=430, eval_every=1290),
        search=c.SearchConfig(owned=False, validation_requests=4096),
    )


def get_variants() -> dict[str, c.RetrieverExperiment]:
    recipe = base()
    tasks = {
        "all_codes": replace(TASK, softmax="codes"),
        "random_start": replace(TASK, start="random"),
        "neither": c.RetrieverTaskConfig(),
        "smoothing": replace(TASK, smoothing=0.1),
        "first_level_twice": replace(TASK, level_weights=(2.0, 1.0, 1.0)),
    }
    models = {
        "untied": replace(MODEL, tied=False),
        "dropout_0": replace(MODEL, trunk=replace(TRUNK, dropout=0.0)),
        "dropout_0.5": replace(MODEL, trunk=replace(TRUNK, dropout=0.5)),
        "depth_1": replace(MODEL, trunk=replace(TRUNK, depth=1)),
        "depth_4": replace(MODEL, trunk=replace(TRUNK, depth=4)),
    }
    lengths = {"history_10": c.SequenceConfig(history=10, row=64)}
    lengths["history_20"] = c.SequenceConfig(history=20, row=64)
    # One item learned a row: 64 a step rather than about 1,800, at over half the cost.
    # A small decay puts the latest purchases last.
    windows = c.PromptConfig(history=50, basket=1, decay=0.5)
    return {
        "recipe": recipe,
        **{name: replace(recipe, task=each) for name, each in tasks.items()},
        **{name: replace(recipe, model=each) for name, each in models.items()},
        **{name: replace(recipe, prompts=each) for name, each in lengths.items()},
        "windows": replace(recipe, prompts=windows, batch_size=64),
    }
