"""The run folder: what lies where, and that one folder holds one run."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sid_jax.config import (
    Experiment,
    RetrieverExperiment,
    TokenizerExperiment,
)
from sid_jax.config import read_config as _read_config
from sid_jax.data.catalog import Catalog, write_catalog
from sid_jax.data.catalog import read_catalog as _read_catalog
from sid_jax.errors import InputError
from sid_jax.sids.manifest import PARTS
from sid_jax.sids.table import SidTable, read_table
from sid_jax.train.loop import checkpoint_step
from sid_jax.train.progress import read_metrics

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CATALOG = "catalog.parquet"
VECTORS = "vectors"
SIDS = "sids.parquet"
PURCHASES = "purchases.parquet"
CELLS = "cells.json"
INDEX = "index.npz"
ITEM_VECTORS = "item_vectors.npz"
RETAILERS = "retailers.json"
SAMPLES = "samples.jsonl"
SLICES = "slices.png"
REPORT = "report.html"
STORY = "story.png"

ANEW = (
    "If it is damaged, delete it; the same `sid train` then writes it anew, and no "
    "training is lost"
)
"""The fix for files that a run makes of its data."""

Log = Callable[[str], None]

_MAY_CHANGE = ("train", "mesh", "search", "data.data_dir", "data.source", "tokenizer")
"""How long, where and how widely to search, and where things lie: a resumed run may
have others, and compute more anew (`remat`). (That what lies there is the same is
checked by its content.)"""

_KINDS = {TokenizerExperiment: "tokenizer", RetrieverExperiment: "retriever"}


def open_run(folder: Path, config: Experiment) -> int | None:
    """Makes a run's folder, or finds the one that is there to go on.

    A folder without a checkpoint has nothing to lose and takes any configuration. The
    caller writes `config.json` once its inputs are found good.

    Returns:
      The step of the run's last checkpoint; None if there is none.

    Raises:
      InputError: the folder cannot be written to, or holds a run of another
        configuration.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--workdir {folder}: no folder can be made there ({error.strerror})"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--workdir {folder}: may not be written to; choose another")
    if not (folder / CONFIG).exists():
        if checkpoint_step(folder) is not None:
            raise InputError(
                f"{folder} has checkpoints, but no {CONFIG} that says of what; choose "
                "another --workdir"
            )
        return None
    step = checkpoint_step(folder)
    if step is None:
        return None
    for name, old, new in _differences(read_config(folder), config):
        raise InputError(
            f"{folder} holds another run: {name} is {old} there and {new} here; "
            "choose another --workdir, or delete it to start afresh"
        )
    return step


def open_finished(folder: Path, kind: type) -> Any:
    """The configuration of a run of one kind.

    Raises:
      InputError: the folder holds no run, or one of another kind.
    """
    config = read_config(folder)
    if not isinstance(config, kind):
        wanted = _KINDS[kind]
        raise InputError(
            f"{folder} is the run of a {_KINDS[type(config)]}, not of a {wanted}; name "
            f"one that was trained from experiments/{wanted}_....py"
        )
    return config


def read_config(folder: Path) -> Experiment:
    """The configuration of a run.

    Raises:
      InputError: the folder holds no run, or a damaged one.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} is no run folder: it has no {CONFIG}")
    try:
        return _read_config(folder / CONFIG)
    except InputError as error:
        raise InputError(
            f"{error}. If the file is damaged or of another version of sid_jax, train "
            "in a new --workdir"
        ) from None


def find_sids(path: Path) -> Path:
    """The SID table that a path names: a file, a folder of parts, or a run's folder.

    Raises:
      InputError: there is none.
    """
    found = path
    if path.is_dir() and not (path / PARTS).exists():
        found = path / SIDS
    if not found.exists():
        raise InputError(
            f"{found}: no such file; name the folder of a finished run, the {SIDS} in "
            "it, a folder of parts that `sid encode` has finished, or a CSV file with "
            "columns item_id,sid"
        )
    return found


def read_sids(path: Path) -> SidTable:
    """The SID table of a run.

    Raises:
      InputError: it is not there, or damaged.
    """
    if not path.exists():
        raise InputError(
            f"{path}: not there; a tokenizer's run ends with it (run the same "
            "`sid train` again), a retriever's has a copy of it"
        )
    try:
        return read_table(path)
    except InputError as error:
        raise InputError(
            f"{error}. In a tokenizer's run, delete it and run `sid train` again, "
            "which writes it anew; in a retriever's, copy it from its tokenizer's run"
        ) from None


def read_catalog(folder: Path) -> Catalog:
    """The catalog of a run.

    Raises:
      InputError: it is not there, or damaged.
    """
    try:
        return _read_catalog(folder / CATALOG)
    except InputError as error:
        raise InputError(f"{error}. {ANEW}") from None


def keep_catalog(folder: Path, catalog: Catalog) -> None:
    """Writes the catalog of a run, if it is not there already.

    Raises:
      InputError: another one is there.
    """
    path = folder / CATALOG
    if not path.exists():
        write_catalog(path, catalog)
    elif read_catalog(folder).digest() != catalog.digest():
        raise InputError(
            f"{path}: the data set has other items by now than when this run began; "
            "train in a new --workdir"
        )


def read_latest(folder: Path) -> dict[str, float]:
    """The last value of every metric of a run; NaN where it was not finite.

    Raises:
      InputError: the metrics are not there, or damaged.
    """
    values: dict[str, Any] = {}
    for row in read_rows(folder):
        values |= {k: float("nan") if v is None else v for k, v in row.items()}
    return values


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; none if there is no file.

    Raises:
      InputError: they are damaged.
    """
    path = folder / METRICS
    return read_metrics(path) if path.exists() else []


def is_current(path: Path, *sources: Path) -> bool:
    """Whether a file is there and none of its sources was written after it."""
    written = [each.stat().st_mtime_ns for each in (*sources, path) if each.exists()]
    return path.exists() and max(written) == written[-1]


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, old, new) of the fields that may not change and do."""
    if old == new or name in _MAY_CHANGE or name.endswith(".remat"):
        # Every draw comes from the seed: with another one, it is another run.
        if name == "train" and old.seed != new.seed:
            yield "train.seed", old.seed, new.seed
        return
    if type(old) is type(new) and dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            path = f"{name}.{field.name}" if name else field.name
            yield from _differences(
                getattr(old, field.name), getattr(new, field.name), path
            )
        return
    yield name or "the experiment", _show(old), _show(new)


def _show(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"a {type(value).__name__}"
    return json.dumps(value)
