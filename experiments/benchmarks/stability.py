"""What a retraining moves: a tenth of the items new, 2% edited, ten ways to follow.

    sid import --items items.jsonl.gz --name beauty
    sid embed --data beauty --encoder MODEL --recipe precision --out runs/beauty.parquet
    python experiments/benchmarks/stability.py --vectors runs/beauty.parquet \
        --encoder MODEL --workdir runs/stability

Whole category paths are left out of the old version and some titles are edited in the
new one (`data/perturb.py`); the edited texts are encoded anew. The old tokenizer is
trained on the old items, the new ones on all: the old codebook as it is (frozen), warm
starts, and free retrainings whose codes are renamed after the old ones. Printed: the
unchanged items' prefix match by level, and FVU of all items and of the new ones, beside
the free retraining's.
"""

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from sid_jax.config import (
    TokenizerExperiment,
    VectorConfig,
    WarmStartConfig,
    read_experiment,
)
from sid_jax.data.datasets import DataConfig, find_root, load, save
from sid_jax.data.flavours import make_texts
from sid_jax.data.perturb import ChangedCatalog, change_catalog
from sid_jax.data.vector_files import look_up
from sid_jax.evals.align import align_codes, rename
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.tokenizer import train_tokenizer
from sid_jax.models.text import load_encoder
from sid_jax.report.tables import average, format_rows
from sid_jax.typing import NDArray

FREE = "free"
EXPERIMENT = Path(__file__).parents[1] / "tokenizer_beauty.py"


def measure(
    old: TokenizerExperiment,
    new: TokenizerExperiment,
    changed: ChangedCatalog,
    folder: Path,
    log=print,
) -> dict[str, dict[str, float]]:
    """Way -> figures, of configurations that read either version's vectors."""
    old = replace(old, data=replace(old.data, name="stability_old"))
    new = replace(new, data=replace(new.data, name="stability_new"))
    root = find_root(old.data.data_dir)
    for each, catalog in ((old, changed.old), (new, changed.new)):
        save(each.data.name, (catalog, None), root)
    before = train_tokenizer(old, folder / "old", log).codes()
    row_of = {item_id: row for row, item_id in enumerate(changed.old.item_ids)}
    kept = changed.unchanged
    places = np.asarray([row_of[changed.new.item_ids[row]] for row in kept])
    file = new.vectors.file
    ways: dict[str, tuple[Tokenizer, NDArray | None]] = {
        "frozen": (Tokenizer.load(folder / "old", file), None)
    }
    all_ = new.train.steps
    few, more = max(all_ // 3, 1), all_ * 4 // 3
    for name, steps, rate, anchor, slack, frozen in (
        ("warm 1e-4", few, 1e-4, 0.0, 0.0, 0),
        ("warm 1e-4, slack .2", few, 1e-4, 0.0, 0.2, 0),
        ("warm 1e-3, slack .5", few, 1e-3, 0.0, 0.5, 0),
        ("warm 1e-3, slack .5, anchor 1", few, 1e-3, 1.0, 0.5, 0),
        ("warm 1e-3, slack .5, 2 frozen", few, 1e-3, 0.0, 0.5, 2),
        ("warm 2e-3, slack 1, 4/3 of the steps", more, 2e-3, 0.0, 1.0, 0),
        ("warm 8e-3, slack .3, 4/3 of the steps", more, 8e-3, 0.0, 0.3, 0),
    ):
        task = replace(new.task, anchor=anchor, frozen=frozen, restart_steps=steps // 2)
        start = WarmStartConfig(run=str(folder / "old"), slack=slack)
        train = replace(new.train, steps=steps)
        optimizer = replace(new.optimizer, learning_rate=rate)
        warm = replace(new, task=task, start=start, optimizer=optimizer, train=train)
        run = folder / re.sub(r"[^\w.-]+", "_", name)
        table = train_tokenizer(warm, run, log)
        ways[name] = (Tokenizer.load(run), table.codes())
    sizes = new.model.codebook_sizes
    longer = replace(
        new,
        task=replace(new.task, restart_steps=more // 2),
        train=replace(new.train, steps=more),
        optimizer=replace(new.optimizer, learning_rate=8e-3),
    )
    for name, config in ((FREE, new), ("free 8e-3, 4/3 of the steps", longer)):
        run = folder / re.sub(r"[^\w.-]+", "_", name)
        free = train_tokenizer(config, run, log).codes()
        names = align_codes(before[places], free[kept], sizes, sizes)
        ways[name] = (Tokenizer.load(run), rename(free, names))
    rows = {}
    for name, (tokenizer, codes) in ways.items():
        encoded = tokenizer.encode(changed.new, codes if "warm" in name else None, 1e9)
        codes = encoded.codes if codes is None else codes
        same = np.cumprod(codes[kept] == before[places], axis=1).mean(axis=0)
        rows[name] = {f"match@{i}": float(s) for i, s in enumerate(same, start=1)}
        for part, items in (("all", slice(None)), ("new", changed.added)):
            vectors = encoded.vectors[items]
            spread = np.square(vectors - vectors.mean(axis=0)).sum()
            rows[name][f"FVU {part}"] = float(encoded.errors[items, -1].sum() / spread)
    for row in rows.values():
        row["FVU new / free"] = row["FVU new"] / rows[FREE]["FVU new"]
    return rows


def _write_vectors(
    changed: ChangedCatalog, file: str, encoder: str, folder: Path
) -> dict[str, str]:
    """A file of each version's vectors: edited items' are those of their new text."""
    files = {name: folder / f"{name}.npz" for name in ("old", "new")}
    if not all(each.exists() for each in files.values()):
        edited = make_texts(changed.new.take(changed.edited), "precision")
        for name, catalog in (("old", changed.old), ("new", changed.new)):
            vectors = look_up(file, catalog.item_ids)
            if name == "new":
                vectors[changed.edited] = load_encoder(encoder).encode(edited)
            np.savez(files[name], ids=catalog.item_ids, vectors=vectors)
    return {name: os.fspath(each.absolute()) for name, each in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="beauty")
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--experiment", type=Path, default=EXPERIMENT)
    given = parser.parse_args()
    catalog, _ = load(DataConfig(name=given.data))
    config = read_experiment(given.experiment)
    assert isinstance(config, TokenizerExperiment)
    found = []
    for seed in given.seeds:
        folder = given.workdir / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        changed = change_catalog(catalog, seed)
        files = _write_vectors(changed, given.vectors, given.encoder, folder)
        config = replace(config, train=replace(config.train, seed=seed))
        old, new = (
            replace(config, vectors=VectorConfig(file=files[name]))
            for name in ("old", "new")
        )
        found.append(measure(old, new, changed, folder))
        print(
            f"seed {seed}: {len(changed.unchanged)} unchanged, {len(changed.edited)} "
            f"edited, {len(changed.added)} new items"
        )
        print(format_rows(found[-1]), flush=True)
    if len(found) > 1:
        print("mean")
        print(format_rows(average(found)))


if __name__ == "__main__":
    main()
