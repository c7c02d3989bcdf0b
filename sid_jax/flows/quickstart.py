"""`sid quickstart`: the whole path once, on a real grocery catalog."""

import dataclasses
import json
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sid_jax.config import (
    DataConfig,
    HierarchicalConfig,
    OptimizerConfig,
    PromptConfig,
    RetrieverExperiment,
    RQVAEConfig,
    SearchConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    TransformerConfig,
    VectorConfig,
)
from sid_jax.flows import runs
from sid_jax.flows.evaluate import evaluate_retriever, is_judged
from sid_jax.flows.report import report_run
from sid_jax.flows.retriever import train_retriever
from sid_jax.flows.runs import Log
from sid_jax.flows.story import draw_story
from sid_jax.flows.train import train


def _tokenizer() -> TokenizerExperiment:
    return TokenizerExperiment(
        data=DataConfig(name="complete_journey"),
        vectors=VectorConfig(
            text=("title", "categories"),
            num_hashes=2**15,
            dim=64,
            columns=("manufacturer", "brand_tier", "package_size", "price"),
            column_weight=0.2,
        ),
        model=RQVAEConfig(
            hidden=(256, 128), latent=32, codebook_sizes=(64, 128, 256, 256)
        ),
        task=TokenizerTaskConfig(restart_steps=600),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=50, schedule="cosine"
        ),
        train=TrainConfig(
            steps=800, log_every=100, checkpoint_every=200, show=("reconstruction",)
        ),
    )


def _retriever() -> RetrieverExperiment:
    return RetrieverExperiment(
        data=DataConfig(name="complete_journey"),
        prompts=PromptConfig(history=32, basket=8),
        model=HierarchicalConfig(
            trunk=TransformerConfig(
                width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.0
            ),
            spell=TransformerConfig(
                width=128, depth=1, num_heads=4, mlp_width=256, dropout=0.0
            ),
            repeat=True,
        ),
        batch_size=64,
        optimizer=OptimizerConfig(
            learning_rate=4e-3, warmup_steps=100, schedule="cosine", clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1000,
            log_every=50,
            checkpoint_every=250,
            eval_every=500,
            show=("repeat",),
        ),
        search=SearchConfig(num_beams=50, top=50),
    )


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """The two experiments; their data and the tokenizer's run lie in the workdir.

    Attributes:
      tokenizer: products -> Semantic IDs.
      retriever: shopping histories -> products.
    """

    tokenizer: TokenizerExperiment = field(default_factory=_tokenizer)
    retriever: RetrieverExperiment = field(default_factory=_retriever)


def quickstart(config: QuickstartConfig, workdir: Path, log: Log) -> None:
    """Catalog, Semantic IDs, retriever, judgement, report; goes on where it stopped."""
    started = time.monotonic()
    folders = workdir / "tokenizer", workdir / "retriever"

    def stage(text: str) -> None:
        log(f"\n[{time.monotonic() - started:4.0f} s] {text}")

    stage("1/4  products become Semantic IDs")
    train(_place_data(config.tokenizer, workdir), folders[0], log)

    stage("2/4  a retriever learns to spell them")
    retriever = dataclasses.replace(config.retriever, tokenizer=str(folders[0]))
    train_retriever(_place_data(retriever, workdir), folders[1], log)

    stage("3/4  every household's last basket is the test")
    if is_judged(folders[1]):
        log("already judged")
    else:
        evaluate_retriever(folders[1], log)

    stage("4/4  the report")
    report = workdir / runs.REPORT
    sources = (folder / runs.METRICS for folder in folders)
    if not runs.is_current(report, folders[1] / runs.SAMPLES, *sources):
        draw_story(folders[1], workdir / runs.STORY)
        report_run(folders[1], report, folders[0])
    log(f"open {report} in a browser, or ask for products:")
    log(f"  {_example(folders[1])}")
    log(f"\ndone in {time.monotonic() - started:.0f} s")


def _place_data(config: Any, workdir: Path) -> Any:
    """An experiment whose data set lies in the workdir, unless it says where."""
    data_dir = config.data.data_dir or str(workdir / "data")
    data = dataclasses.replace(config.data, data_dir=data_dir)
    return dataclasses.replace(config, data=data)


def _example(folder: Path) -> str:
    """A request that can be pasted, made of the first sample."""
    sample = json.loads((folder / runs.SAMPLES).read_text().splitlines()[0])
    words = ["sid", "retrieve", str(folder), "--retailer", sample["retailer"]]
    if sample["history"]:
        bought = (each["item_id"] for each in sample["history"][-5:])
        words += ["--history", ",".join(bought)]
    if "brand_tier" in runs.read_catalog(folder).attributes:
        words += ["--where", "brand_tier=Private"]
    return shlex.join(words)
