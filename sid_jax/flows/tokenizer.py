"""A tokenizer's run: catalog -> vectors -> codebooks -> SID table."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sid_jax.config import TokenizerExperiment, write_config
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.cells import Cells
from sid_jax.data.copurchase import fit_copurchase
from sid_jax.data.datasets import load
from sid_jax.data.items import ItemArrays, item_stream, rows_of, split_holdout
from sid_jax.data.pairs import Pairs, mine_pairs, pair_stream, read_pairs
from sid_jax.data.pipeline import split_last
from sid_jax.data.purchases import count_purchases, write_purchases
from sid_jax.data.sampler import category_paths, hierarchical_stream
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import intrinsic_metrics, judge_subsets
from sid_jax.flows import runs
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.runs import Log
from sid_jax.sids.table import SidTable, write_table
from sid_jax.train import hosts
from sid_jax.train.loop import checkpoint_step, fit
from sid_jax.train.progress import MetricsLog
from sid_jax.train.sharding import input_share, make_mesh
from sid_jax.train.tokenizer_task import TokenizerStart, TokenizerTask
from sid_jax.typing import Float, Int, NDArray

__all__ = ["Tokenizer", "judge_codes", "read_figures", "train_tokenizer"]

CODES = "codes/"
"""Before the names of the codes' figures in `metrics.jsonl`."""


def train_tokenizer(config: TokenizerExperiment, folder: Path, log: Log) -> SidTable:
    """Trains a tokenizer and encodes its catalog; goes on where it was stopped.

    Nothing is written before data, recipe and configuration are found good.

    Returns:
      The SID table, as in `sids.parquet`.

    Raises:
      InputError: bad data or configuration, or the folder holds another run.
    """
    done = runs.open_run(folder, config)
    catalog, data = load(config.data)
    rows, held = split_holdout(len(catalog), config.holdout)
    largest = max(config.model.codebook_sizes)
    if len(rows) < largest:
        raise InputError(
            f"the catalog has {len(rows)} items to learn from, fewer than the {largest}"
            " codes of the largest level; set --model.codebook-sizes, such as 8 8 8"
        )
    bought = count_purchases(data, len(catalog))
    before = _load_start(config)

    def begin() -> None:
        if done is None:
            log(f"item vectors of {len(catalog):,} items")
            recipe, cells = _fit_recipe(config, catalog, data, rows, before)
            (folder / runs.CATALOG).unlink(missing_ok=True)  # of a run that never began
            recipe.save(folder / runs.VECTORS)
            if cells is not None:
                cells.save(folder / runs.CELLS)
        runs.keep_catalog(folder, catalog)
        if bought is not None and not (folder / runs.PURCHASES).exists():
            write_purchases(folder / runs.PURCHASES, catalog.item_ids, bought)
        write_config(folder / runs.CONFIG, config)

    hosts.first(begin)
    recipe = ItemVectors.load(folder / runs.VECTORS)
    cells = Cells.load(folder / runs.CELLS) if config.cells.columns else None
    if done is None or done < config.train.steps:
        stream = _make_stream(config, catalog, data, recipe, cells, rows, before)
        sizes = " x ".join(map(str, config.model.codebook_sizes))
        width = stream(0)["vectors"].shape[1]
        log(f"tokenizer on vectors of width {width}, codebooks {sizes}")
        fit(
            TokenizerTask(
                config.task,
                config.model,
                cells.sizes if cells else (),
                _start_of(before, config.start.slack),
            ),
            stream,
            config=config.train,
            optimizer=config.optimizer,
            mesh=config.mesh,
            folder=folder,
            describe=lambda batch: [
                catalog.item_ids[rows[each]] for each in rows_of(batch)
            ],
            log=log,
        )
    else:
        log(f"{folder}: already finished at step {done} of {config.train.steps}")
    tokenizer = Tokenizer.load(folder)
    if hosts.agree(_is_encoded(folder, tokenizer, catalog)):
        return runs.read_sids(folder / runs.SIDS)
    old = _old_codes(config, catalog, before)
    encoded = tokenizer.encode(catalog, old, config.start.slack)
    step = checkpoint_step(folder) or 0

    def finish() -> None:
        values = judge_codes(
            encoded.codes,
            config.model.codebook_sizes,
            encoded.vectors,
            catalog,
            bought,
            (rows, held),
            encoded.errors,
        )
        write_table(folder / runs.SIDS, tokenizer.table(catalog, encoded))
        # The line comes last: who is killed before it does all again, and writes one.
        metrics = MetricsLog(folder / runs.METRICS, None)
        metrics.write(step, {f"{CODES}{name}": each for name, each in values.items()})
        metrics.close()

    hosts.first(finish)
    return runs.read_sids(folder / runs.SIDS)


def judge_codes(
    codes: Int[NDArray, "N L"],
    sizes: tuple[int, ...],
    vectors: Float[NDArray, "N D"],
    catalog: Catalog,
    bought: Int[NDArray, " N"] | None,
    parts: tuple[Int[NDArray, " n"], Int[NDArray, " h"] | None],
    errors: Float[NDArray, "N L"] | None = None,
) -> dict[str, float]:
    """Figures of a catalog's codes: all items; of a holdout also `train/`, `heldout/`.

    Args:
      codes: SID of each item.
      sizes: codes a level.
      vectors: what was tokenized.
      catalog: the items.
      bought: how often each was bought, so far as that is known.
      parts: rows that codes were learned from, and those held out.
      errors: squared error by depth, of a tokenizer that reconstructs.
    """
    taxonomy = Taxonomy.from_paths(catalog.categories)
    told = {
        "errors": errors,
        "purchases": None if bought is None else bought.astype(float),
        "taxonomy": taxonomy if any(catalog.categories) else None,
    }
    values = intrinsic_metrics(codes, sizes, vectors, **told)
    known, held = parts
    if held is not None:
        subsets = {"train": known, "heldout": held}
        values |= judge_subsets(codes, sizes, subsets, vectors, **told)
    return values


def read_figures(folder: Path) -> dict[str, float]:
    """What `train_tokenizer` found of the codes, by the names of `intrinsic_metrics`.

    With a holdout, also of the two parts of the catalog: `train/..`, `heldout/..`.

    Raises:
      InputError: the run has not come so far.
    """
    found = _find_figures(folder)
    if not found:
        raise InputError(
            f"{folder / runs.METRICS} has no figures of the codes; run the same "
            "`sid train` again"
        )
    return found


def _is_encoded(folder: Path, tokenizer: Tokenizer, catalog: Catalog) -> bool:
    """Whether a run has the SIDs of its tokenizer and catalog, and has judged them."""
    judged = [row["step"] for row in runs.read_rows(folder) if _is_figures(row)]
    now = checkpoint_step(folder)
    if not (folder / runs.SIDS).exists() or not judged or judged[-1] != now:
        return False
    manifest = runs.read_sids(folder / runs.SIDS).manifest
    made_of = (manifest.tokenizer, manifest.catalog)
    return made_of == (tokenizer.digest(), catalog.digest())


def _start_of(before: Tokenizer | None, slack: float) -> TokenizerStart | None:
    """Its arrays, on the host: the new run may lie on other devices."""
    if before is None:
        return None
    params, codebooks = jax.device_get((before.params, before.state))
    return TokenizerStart(params=params, codebooks=codebooks, slack=slack)


def _load_start(config: TokenizerExperiment) -> Tokenizer | None:
    if not config.start.run:
        return None
    folder = Path(config.start.run)
    before = runs.open_finished(folder, TokenizerExperiment)
    for name in ("vectors", "model", "cells"):
        was, now = getattr(before, name), getattr(config, name)
        if name == "vectors" and was.file and now.file:
            was = dataclasses.replace(was, file=now.file)  # it may have moved, or grown
        if was != now:
            raise InputError(
                f"start.run {folder} has {name}={was}, and this run {now}: SIDs can "
                "only stay where vectors and codebooks mean the same; give both the "
                "same settings"
            )
    return Tokenizer.load(folder, config.vectors.file)


def _fit_recipe(
    config: TokenizerExperiment,
    catalog: Catalog,
    data: Interactions | None,
    rows: Int[NDArray, " n"],
    before: Tokenizer | None,
) -> tuple[ItemVectors, Cells | None]:
    """How items become vectors, and cells; those of the start, if there is one.

    Learned from the items `rows` and, of what is bought together, training baskets.
    """
    if before is not None:
        return before.recipe, before.cells
    known, bought = catalog.take(rows), None
    if config.vectors.copurchase.dim and data is not None:
        train, size = _training_baskets(data), len(catalog)
        bought = fit_copurchase(config.vectors.copurchase, train, size, rows)[rows]
    recipe = ItemVectors.fit(config.vectors, known, bought)
    if not config.cells.columns:
        return recipe, None
    return recipe, Cells.fit(config.cells, known, config.model.codebook_sizes[0])


def _training_baskets(data: Interactions) -> Interactions:
    """The last two baskets of each household are for a retriever's judges."""
    return split_last(split_last(data)[0])[0]


def _make_stream(
    config: TokenizerExperiment,
    catalog: Catalog,
    data: Interactions | None,
    recipe: ItemVectors,
    cells: Cells | None,
    rows: Int[NDArray, " n"],
    before: Tokenizer | None,
) -> Callable[[int], dict[str, Any]]:
    """Batches of the items to learn from, and what its terms need beside them."""
    known = catalog if len(rows) == len(catalog) else catalog.take(rows)
    paths, related, pairs, seed = None, None, None, config.train.seed
    index, count = input_share(make_mesh(config.mesh))
    share: dict[str, Any] = {"process": index, "num_processes": count}
    if config.task.taxonomy.weight:
        tree = Taxonomy.from_paths(known.categories)
        paths, sampler = category_paths(tree), config.sampler
        if not (paths >= 0).any():
            raise InputError(
                f"task.taxonomy.weight={config.task.taxonomy.weight}, but no item has "
                "a category beside those that all share; set it to 0"
            )
        if sampler.kind == "hierarchical":
            related = hierarchical_stream(
                tree,
                sampler.batch_size,
                seed=seed,
                group=sampler.group,
                items_per_leaf=sampler.items_per_leaf,
                sibling_share=sampler.sibling_share,
                power=sampler.power,
                **share,
            )
    if config.task.cooccurrence.weight:
        found = _mine_pairs(config, data, catalog, rows)
        pairs = pair_stream(
            found,
            len(rows),
            config.pairs.batch_pairs,
            seed=seed,
            power=config.pairs.power,
            **share,
        )
    items = ItemArrays(
        vectors=recipe.encode(known),
        cells=cells.of(known) if cells else None,
        paths=paths,
        anchor=before.latents(known) if before and config.task.anchor else None,
        old=_old_codes(config, known, before),
    )
    return item_stream(
        items, config.batch_size, seed=seed, related=related, pairs=pairs, **share
    )


def _mine_pairs(
    config: TokenizerExperiment,
    data: Interactions | None,
    catalog: Catalog,
    rows: Int[NDArray, " n"],
) -> Pairs:
    """Pairs of the items to learn from, in training baskets alone."""
    num_items = len(catalog)
    if data is None:
        raise InputError(
            f"task.cooccurrence.weight={config.task.cooccurrence.weight}, but data set "
            f"{config.data.name!r} has no histories; import some, or set it to 0"
        )
    if config.pairs.file:
        mined = read_pairs(config.pairs.file, catalog)
    else:
        mined = mine_pairs(
            _training_baskets(data),
            num_items,
            min_support=config.pairs.min_support,
            min_pmi=config.pairs.min_pmi,
            window=config.pairs.window,
            max_basket=config.pairs.max_basket,
        )
    place = np.full(num_items, -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    kept = (place[mined.left] >= 0) & (place[mined.right] >= 0)
    return Pairs(
        left=place[mined.left[kept]],
        right=place[mined.right[kept]],
        count=mined.count[kept],
        pmi=mined.pmi[kept],
    )


def _old_codes(
    config: TokenizerExperiment, catalog: Catalog, before: Tokenizer | None
) -> Int[NDArray, "N L"] | None:
    """The items' SIDs in the table of the start; -1 where they have none there."""
    if before is None:
        return None
    table = runs.read_sids(Path(config.start.run) / runs.SIDS)
    num_levels = len(config.model.codebook_sizes)
    row_of = {each: row for row, each in enumerate(table.item_ids.to_pylist())}
    rows = np.asarray([row_of.get(each, -1) for each in catalog.item_ids])
    codes = table.codes()[rows, :num_levels]
    return np.where(rows[:, None] < 0, -1, codes).astype(np.int32)


def _is_figures(row: dict[str, Any]) -> bool:
    return any(name.startswith(CODES) for name in row)


def _find_figures(folder: Path) -> dict[str, float]:
    latest = runs.read_latest(folder).items()
    return {k.removeprefix(CODES): v for k, v in latest if k.startswith(CODES)}
