"""`sid sweep`: variants of an experiment, each with several seeds, in one table."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sid_jax.config import (
    ControlExperiment,
    RetrieverExperiment,
    TokenizerExperiment,
    read_variants,
)
from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.flows.control import judge_control
from sid_jax.flows.retriever import VALIDATION, train_retriever
from sid_jax.flows.runs import Log, read_rows
from sid_jax.flows.tokenizer import read_figures, train_tokenizer

TABLE, FIGURES = "sweep.md", "sweep.json"

COLUMNS = (
    ("rho near", "rho_near"),
    ("rho uniform", "rho_uniform"),
    ("rho half", "rho_half"),
    ("share@1", "share@1"),
    ("@2", "share@2"),
    ("@4", "share@4"),
    ("AMI c1~d1", "ami_d1@1"),
    ("AMI c12~d2", "ami_d2@2"),
    ("split", "fragmentation@1"),
    ("unique", "unique"),
    ("FVU", "fvu"),
    ("usage", "usage"),
)
"""Heading -> figure; the category tree's depths count below what all items share."""
RETRIEVAL = (
    ("R@5", "recall@5"),
    ("N@5", "ndcg@5"),
    ("R@10", "recall@10"),
    ("N@10", "ndcg@10"),
    ("R@50", "recall@50"),
    ("MRR", "mrr"),
    ("loss", "loss"),
)
"""Of retrievers, at the last step, on validation baskets: test baskets are not read."""


def sweep(
    path: Path, folder: Path, log: Log, *, seeds: Sequence[int] = (0,), only: str = ""
) -> dict[str, dict[str, float]]:
    """Trains every variant of an experiment file with every seed, and tells them apart.

    A run that is finished is not done again, so that a sweep goes on where it stopped.
    Controls learn nothing and leave no run but their SIDs: they are made anew, in
    seconds.

    Args:
      path: file with `get_variants()`.
      folder: a run folder NAME-SEED each, `sweep.md` and `sweep.json`.
      log: where lines go.
      seeds: of `train.seed`.
      only: variants whose name has this in it.

    Returns:
      Variant -> figure -> mean over seeds, and `figure±`, the standard deviation.

    Raises:
      InputError: a bad file, none of that name, or retrievers without validation.
    """
    variants = {
        name: config for name, config in read_variants(path).items() if only in name
    }
    if not variants:
        raise InputError(f"{path}: no variant has {only!r} in its name")
    if len(set(seeds)) < len(seeds) or not seeds:
        raise InputError(f"--seeds {seeds}: give each seed once, and one at least")
    total, done, began = len(variants) * len(seeds), 0, time.monotonic()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for seed in seeds:
        for name, config in variants.items():
            if isinstance(config, ControlExperiment):
                values = judge_control(config, seed, folder / f"{name}-{seed}")
            else:
                train = dataclasses.replace(config.train, seed=seed)
                config = dataclasses.replace(config, train=train)
                values = _train(config, folder / f"{name}-{seed}")
            found[name].append(_figures(values))
            done += 1
            spent = time.monotonic() - began
            told = "recall@10" if "recall@10" in values else "rho_half"
            log(
                f"{done}/{total}  {name} seed {seed}: {told} {values[told]:.3f}"
                f"  ({spent:.0f} s, {spent / done * (total - done):.0f} s to go)"
            )
            _write(folder, path, found, seeds)
    log(f"table: {folder / TABLE}")
    return {name: _merge(rows) for name, rows in found.items()}


def _train(
    config: TokenizerExperiment | RetrieverExperiment, run: Path
) -> dict[str, float]:
    """Trains a variant unless that is done; its figures."""
    if isinstance(config, TokenizerExperiment):
        train_tokenizer(config, run, lambda line: None)
        return read_figures(run)
    train_retriever(config, run, lambda line: None)
    rows = [row for row in read_rows(run) if f"{VALIDATION}/recall@10" in row]
    if not rows:
        raise InputError(f"{run}: no household has a basket to validate on")
    last = {k: v for k, v in rows[-1].items() if k.startswith(f"{VALIDATION}/")}
    return {name.removeprefix(f"{VALIDATION}/"): value for name, value in last.items()}


def _figures(values: Mapping[str, float]) -> dict[str, float]:
    """A run's figures, with the least used level for all of them."""
    figures = dict(values)
    for part in ("", "train/", "heldout/"):
        levels = [v for k, v in values.items() if k.startswith(f"{part}usage@")]
        if levels:
            figures[f"{part}usage"] = min(levels)
    return figures


def _merge(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    merged = {}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        merged[name] = float(np.mean(values))
        merged[f"{name}±"] = float(np.std(values))
    return merged


def _write(
    folder: Path,
    path: Path,
    found: Mapping[str, Sequence[Mapping[str, float]]],
    seeds: Sequence[int],
) -> None:
    """The table so far: a section for all items, and one for those held out."""
    merged = {name: _merge(rows) for name, rows in found.items() if rows}
    lines = [f"`{path.name}`, seeds {', '.join(map(str, seeds))}: mean ± deviation", ""]
    sections = (
        (COLUMNS, "", "All items"),
        (COLUMNS, "heldout/", "Held-out items"),
        (RETRIEVAL, "", "Validation baskets"),
    )
    for figures, part, told in sections:
        columns = [(head, part + name) for head, name in figures]
        if not any(name in row for row in merged.values() for _, name in columns):
            continue
        lines += [
            f"{told}:",
            "",
            "| variant | " + " | ".join(head for head, _ in columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        for variant, row in merged.items():
            cells = " | ".join(_cell(row, name) for _, name in columns)
            lines.append(f"| {variant} | {cells} |")
        lines.append("")
    for name, text in ((TABLE, "\n".join(lines)), (FIGURES, json.dumps(merged))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text)


def _cell(row: Mapping[str, float], name: str) -> str:
    if name not in row or not np.isfinite(row[name]):
        return "–"
    spread = row[f"{name}±"]
    return f"{row[name]:.3f}" + (f" ±{spread:.3f}" if spread else "")
