"""What attribute cells in the first codeword cost, and what they answer.

    sid import --items ITEMS --name groceries [--dietary]
    python experiments/benchmarks/cells.py --data groceries --columns gluten_free vegan

Residual k-means from TF-IDF vectors, three ways: no cells; cells that own blocks of the
first level's codes; and the baseline, an attribute token before the levels of the first
way (a level of as many codes as cells, one each). Printed, mean over seeds: FVU; pairs
of one leaf category whose first codes differ (`split`; in the third way, whose tokens
or first codes do); unique SIDs; AMI with the top category; of each column the share of
the items under a value's first codes that do not have it (`wrong`), and of those that
have it under none (`missed`). Without cells, a value's codes are all that its items
have.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sid_jax.config import (
    CellConfig,
    DataConfig,
    ResidualKMeansConfig,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    VectorConfig,
)
from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import Cells
from sid_jax.data.datasets import load
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.constraints import constraint_metrics
from sid_jax.evals.hierarchy import fragmentation
from sid_jax.flows.tokenizer import read_figures, train_tokenizer
from sid_jax.report.tables import format_rows


def measure(
    base: TokenizerExperiment,
    catalog: Catalog,
    columns: Sequence[str],
    folder: Path,
    seeds: Sequence[int] = (0,),
    log=print,
) -> dict[str, dict[str, float]]:
    """Way -> mean figures. `base` has no cells."""
    cells, sizes = CellConfig(columns=tuple(columns)), base.model.codebook_sizes
    fitted = Cells.fit(cells, catalog, sizes[0])
    ways = {
        "none": base,
        "blocks": dataclasses.replace(base, cells=cells),
        "token": dataclasses.replace(
            base,
            cells=cells,
            model=dataclasses.replace(base.model, codebook_sizes=(len(fitted), *sizes)),
        ),
    }
    log(f"{len(fitted)} cells: " + "; ".join(fitted.names))
    labels, tree = fitted.labels(catalog), Taxonomy.from_paths(catalog.categories)
    rows = {}
    for name, config in ways.items():
        found = []
        for seed in seeds:
            train = dataclasses.replace(config.train, seed=seed)
            run = folder / f"{name}-{seed}"
            config = dataclasses.replace(config, train=train)
            table = train_tokenizer(config, run, lambda line: None)
            values, codes = read_figures(run), table.codes()[:, : len(sizes) + 1]
            told = {
                "FVU": values["fvu"],
                "split": fragmentation(codes, tree)[
                    f"fragmentation@{1 + (name == 'token')}"
                ],
                "unique": values["unique"],
                "AMI": values["ami_d1@1"],
            }
            masked = Cells.load(run / "cells.json") if name != "none" else None
            for column in columns:
                masks = masked.masks(column) if masked else None
                limits = constraint_metrics(codes, labels[column], masks)
                told |= {
                    f"{column} wrong": limits["violation_rate"],
                    f"{column} missed": limits["missed"],
                }
            found.append(told)
            log(f"{name} seed {seed}: FVU {told['FVU']:.3f}")
        rows[name] = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--columns", nargs="+", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workdir", type=Path, default=Path("runs/cells"))
    given = parser.parse_args()
    base = TokenizerExperiment(
        data=DataConfig(name=given.data),
        vectors=VectorConfig(text=("title", "categories")),
        model=ResidualKMeansConfig(codebook_sizes=tuple(given.sizes)),
        task=TokenizerTaskConfig(start_rows=49_152, start_iterations=20),
        train=TrainConfig(steps=1),
    )
    try:
        catalog, _ = load(base.data)
        print(
            format_rows(
                measure(base, catalog, given.columns, given.workdir, given.seeds)
            )
        )
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
