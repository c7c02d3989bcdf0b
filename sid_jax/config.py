"""Run configurations: what `get_config()` of an experiment returns; `config.json`."""

import dataclasses
import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sid_jax.data.cells import CellConfig
from sid_jax.data.copurchase import CopurchaseConfig
from sid_jax.data.datasets import DataConfig
from sid_jax.data.neighbourhood import NeighbourhoodConfig
from sid_jax.data.pairs import PairConfig
from sid_jax.data.pipeline import PromptConfig
from sid_jax.data.sampler import SamplerConfig
from sid_jax.data.sequences import SequenceConfig
from sid_jax.data.vectors import VectorConfig
from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.models.flat import FlatConfig
from sid_jax.models.hierarchical import HierarchicalConfig
from sid_jax.models.rqvae import ResidualKMeansConfig, RQVAEConfig, TokenizerConfig
from sid_jax.models.sasrec import SASRecConfig
from sid_jax.models.t5 import T5Config
from sid_jax.models.tiger import TigerConfig
from sid_jax.models.transformer import TransformerConfig
from sid_jax.plain import from_plain, to_plain
from sid_jax.sids.search import SearchConfig
from sid_jax.train.loop import TrainConfig
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.retriever_task import RetrieverConfig, RetrieverTaskConfig
from sid_jax.train.sharding import MeshConfig
from sid_jax.train.tokenizer_config import (
    CooccurrenceTerm,
    TaxonomyTerm,
    TokenizerTaskConfig,
)


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """A tokenizer to go on from, so that SIDs move little.

    Attributes:
      run: its run folder; none if empty. Its item-vector recipe is used, so that
        vectors mean the same.
      slack: an item of its SID table keeps its SID, or the longest prefix of it, while
        the squared distance is at most (1 + slack) times the least, in training and
        after it; 0 keeps ties.
    """

    run: str = ""
    slack: float = 0.05

    def __post_init__(self):
        if not self.slack >= 0:
            raise InputError(f"start.slack={self.slack} must be at least 0")


@dataclass(frozen=True, kw_only=True)
class TokenizerExperiment:
    """Items -> Semantic IDs.

    Attributes:
      data: where the catalog comes from.
      vectors: how items become vectors.
      model: the tokenizer.
      task: what it learns from.
      sampler: related items, where `task.taxonomy` has a weight.
      pairs: items bought together, where `task.cooccurrence` has a weight.
      cells: attributes that own blocks of first codes.
      start: a tokenizer to go on from.
      holdout: share of the items that nothing is learned from; they are judged apart.
      dedup: add a level that tells the items of one SID apart.
      optimizer: how parameters move.
      train: how long.
      mesh: over which devices.
    """

    data: DataConfig = field(default_factory=DataConfig)
    vectors: VectorConfig = field(default_factory=VectorConfig)
    model: TokenizerConfig = field(default_factory=RQVAEConfig)
    task: TokenizerTaskConfig = field(default_factory=TokenizerTaskConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    cells: CellConfig = field(default_factory=CellConfig)
    start: WarmStartConfig = field(default_factory=WarmStartConfig)
    holdout: float = 0.0
    dedup: bool = False
    batch_size: int = 1024
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000))
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        _check_batch(self.batch_size)
        _check_holdout(self.holdout)
        whole = {
            "task.taxonomy": self.task.taxonomy.weight,
            "task.cooccurrence": self.task.cooccurrence.weight,
            "task.even": self.task.even,
        }
        for name, value in whole.items():
            if value and self.train.accumulate > 1:
                raise InputError(
                    f"train.accumulate={self.train.accumulate} computes a batch in "
                    f"parts, but {name} is of the whole batch; set one of them to none"
                )
        if self.task.anchor and not self.start.run:
            raise InputError(
                f"task.anchor={self.task.anchor} needs a tokenizer to stay near to;"
                " name its run folder as start.run"
            )


@dataclass(frozen=True, kw_only=True)
class RetrieverExperiment:
    """Shopping histories -> the next product's Semantic ID.

    Attributes:
      tokenizer: run folder of the tokenizer, whose SID table is used.
      data: where the baskets come from.
      prompts: what the model is told.
      model: the decoder.
      task: what it learns from.
      start: run folder of a retriever of the same shape whose parameters to go on from,
        such as one that has learned the version of the SIDs before; none if empty.
      holdout: share of the items that no training basket shows; they are judged apart,
        as new ones. Those that a tokenizer of the same `holdout` did not learn from.
      batch_size: baskets, or packed rows of histories, a step.
      optimizer: how parameters move.
      train: how long.
      search: how products are retrieved.
      mesh: over which devices.
    """

    tokenizer: str = "runs/tokenizer"
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptConfig | SequenceConfig = field(default_factory=PromptConfig)
    model: RetrieverConfig | SASRecConfig = field(default_factory=FlatConfig)
    task: RetrieverTaskConfig = field(default_factory=RetrieverTaskConfig)
    start: str = ""
    holdout: float = 0.0
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000))
    search: SearchConfig = field(default_factory=SearchConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        _check_batch(self.batch_size)
        _check_holdout(self.holdout)
        packed, model = isinstance(self.prompts, SequenceConfig), self.model
        if packed and isinstance(model, TigerConfig):
            raise InputError("a TigerConfig reads prompts, not sequences: PromptConfig")
        if not packed and isinstance(model, SASRecConfig):
            raise InputError("a SASRecConfig reads sequences: SequenceConfig")
        for name in ("temperature", "likeness"):
            if getattr(self.search, name) and isinstance(model, SASRecConfig):
                raise InputError(f"search.{name}: set it to 0; a SASRec spells nothing")


Experiment = TokenizerExperiment | RetrieverExperiment


@dataclass(frozen=True, kw_only=True)
class ControlExperiment:
    """Codes that learn nothing (`models.controls`), as a variant of a sweep.

    Attributes:
      data: where the catalog comes from.
      vectors: what LSH reads, and what all are judged by.
      kind: `random`, or `lsh`, signs of random projections.
      codebook_sizes: codes a level; powers of two for `lsh`.
      holdout: share of the items that are judged apart.
    """

    data: DataConfig = field(default_factory=DataConfig)
    vectors: VectorConfig = field(default_factory=VectorConfig)
    kind: Literal["random", "lsh"] = "lsh"
    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)
    holdout: float = 0.0


def smoke(config: Experiment) -> Experiment:
    """Any experiment, shrunk to run in seconds: its tests and notebooks use this."""
    train = dataclasses.replace(
        config.train, steps=4, log_every=2, checkpoint_every=0, eval_every=0, show=()
    )
    changes: dict[str, Any] = {
        "train": train,
        "batch_size": 16,
        "mesh": MeshConfig(rules=config.mesh.rules),  # whatever devices there are
    }
    if isinstance(config, RetrieverExperiment):
        parts = {
            name: dataclasses.replace(
                part, width=16, depth=1, num_heads=2, mlp_width=16
            )
            for name, part in vars(config.model).items()
            if isinstance(part, TransformerConfig | T5Config)
        }
        changes["model"] = dataclasses.replace(config.model, **parts)
        packed = isinstance(config.prompts, SequenceConfig)
        few = {"row": 8} if packed else {"basket": 2}
        changes["prompts"] = dataclasses.replace(config.prompts, history=4, **few)
        changes["search"] = SearchConfig(
            num_beams=4, top=5, batch_size=8, max_requests=16
        )
        return dataclasses.replace(config, **changes)
    sizes = tuple(min(size, 4) for size in config.model.codebook_sizes)
    model = dataclasses.replace(config.model, codebook_sizes=sizes)
    if isinstance(model, RQVAEConfig):
        model = dataclasses.replace(model, hidden=(16,), latent=4)
    changes["model"] = model
    changes["task"] = dataclasses.replace(
        config.task, start_rows=64, start_iterations=2
    )
    changes["sampler"] = dataclasses.replace(config.sampler, batch_size=16, group=16)
    changes["pairs"] = dataclasses.replace(
        config.pairs, batch_pairs=8, min_support=1, min_pmi=-10.0
    )
    near = config.vectors.neighbours
    near = dataclasses.replace(near, k=min(near.k, 3), blocks=((2, 1.0),))
    bought = config.vectors.copurchase
    bought = dataclasses.replace(bought, dim=min(bought.dim, 4))
    changes["vectors"] = dataclasses.replace(
        config.vectors, dim=8, num_hashes=2**10, neighbours=near, copurchase=bought
    )
    return dataclasses.replace(config, **changes)


def read_experiment(path: str | Path) -> Experiment:
    """The configuration that an experiment file's `get_config()` returns.

    Raises:
      InputError: no such file, it fails, or it returns something else.
    """
    config = _call(path, "get_config")
    if not isinstance(config, Experiment):
        raise InputError(
            f"{path}: get_config() must return a TokenizerExperiment or a "
            f"RetrieverExperiment, not {type(config).__name__}"
        )
    return config


def read_variants(path: str | Path) -> dict[str, Experiment | ControlExperiment]:
    """The configurations that a sweep's `get_variants()` returns, by name.

    Raises:
      InputError: no such file, it fails, or it returns something else.
    """
    variants = _call(path, "get_variants")
    if not isinstance(variants, dict) or not variants:
        raise InputError(
            f"{path}: get_variants() must return a dictionary of configurations by "
            f"name, not {type(variants).__name__}"
        )
    for name, config in variants.items():
        if not isinstance(config, Experiment | ControlExperiment):
            raise InputError(
                f"{path}: variant {name!r} is no experiment, but "
                f"{type(config).__name__}"
            )
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
            raise InputError(
                f"{path}: a variant's name becomes a folder: {name!r} may have letters,"
                " digits, and _ . + - only"
            )
    return variants


def _call(path: str | Path, function: str) -> Any:
    path = Path(path)
    spec = importlib.util.spec_from_file_location("experiment", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"{path}: no experiment file (want a .py with {function}())")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if hasattr(module, function):
            return getattr(module, function)()
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    verbs = {"get_config": "train", "get_variants": "sweep"}
    other = next((name for name in verbs if hasattr(module, name)), "")
    hint = f", but {other}(): `sid {verbs[other]}` takes it" if other else ""
    raise InputError(f"{path}: has no {function}(){hint}")


def write_config(path: str | Path, config: Experiment) -> None:
    """Writes `config.json`; each dataclass carries its class, so unions read back."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_plain(config), indent=2) + "\n")


def read_config(path: str | Path) -> Experiment:
    """Reads what `write_config` wrote.

    Raises:
      InputError: no such file, or a field that this version lacks or types otherwise.
    """
    path = Path(path)
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not there; is {path.parent} a run folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    try:
        return from_plain(Experiment, plain, "config")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def digest_config(config: Experiment) -> str:
    """SHA-256 (hex) of a configuration."""
    return hashlib.sha256(json.dumps(to_plain(config)).encode()).hexdigest()


def _check_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size must be positive: {batch_size}")


def _check_holdout(holdout: float) -> None:
    if not 0 <= holdout < 1:
        raise InputError(f"holdout={holdout} must be a share below 1")


__all__ = [
    "CellConfig",
    "ControlExperiment",
    "CooccurrenceTerm",
    "CopurchaseConfig",
    "DataConfig",
    "Experiment",
    "FlatConfig",
    "HierarchicalConfig",
    "MeshConfig",
    "NeighbourhoodConfig",
    "OptimizerConfig",
    "PairConfig",
    "PromptConfig",
    "RQVAEConfig",
    "ResidualKMeansConfig",
    "RetrieverConfig",
    "RetrieverExperiment",
    "RetrieverTaskConfig",
    "SASRecConfig",
    "SamplerConfig",
    "SearchConfig",
    "SequenceConfig",
    "T5Config",
    "TaxonomyTerm",
    "TigerConfig",
    "TokenizerConfig",
    "TokenizerExperiment",
    "TokenizerTaskConfig",
    "TrainConfig",
    "TransformerConfig",
    "VectorConfig",
    "WarmStartConfig",
    "digest_config",
    "read_config",
    "read_experiment",
    "read_variants",
    "smoke",
    "write_config",
]
