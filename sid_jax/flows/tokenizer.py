"""A tokenizer's run: catalog -> vectors -> codebooks -> SID table."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from sid_jax import __version__
from sid_jax.config import TokenizerExperiment, write_config
from sid_jax.data.catalog import Catalog
from sid_jax.data.datasets import load
from sid_jax.data.items import item_stream
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.evals.distortion import squared_errors
from sid_jax.evals.intrinsic import intrinsic_metrics
from sid_jax.flows import runs
from sid_jax.flows.runs import Log
from sid_jax.sids.table import Manifest, SidTable, write_table
from sid_jax.train.loop import checkpoint_step, fit, load_params
from sid_jax.train.progress import MetricsLog
from sid_jax.train.tokenizer_task import TokenizerTask
from sid_jax.typing import Float, Int, NDArray, PyTree

CODES = "codes/"
"""Before the names of the codes' figures in `metrics.jsonl`."""

_BLOCK = 4096  # items encoded at once


@dataclass(frozen=True)
class Encoded:
    """Items as a tokenizer sees them.

    Attributes:
      vectors: the items' vectors.
      codes: their SIDs.
      distances: squared distance left in the latent after the last level.
      reconstructions: of the vectors, from all levels.
      errors: squared error of the reconstructions from the first 1, 2, .. L levels.
    """

    vectors: Float[NDArray, "N D"]
    codes: Int[NDArray, "N L"]
    distances: Float[NDArray, " N"]
    reconstructions: Float[NDArray, "N D"]
    errors: Float[NDArray, "N L"]


@dataclass(frozen=True)
class Tokenizer:
    """A trained tokenizer: new items get SIDs without any other's moving.

    Attributes:
      task: its computations.
      params: encoder and decoder.
      state: codebooks.
      recipe: item -> vector.
    """

    task: TokenizerTask
    params: PyTree
    state: PyTree
    recipe: ItemVectors

    @classmethod
    def load(cls, folder: Path, vectors_file: str = "") -> "Tokenizer":
        """The tokenizer of a run; nothing but its folder is read.

        Args:
          folder: its run folder.
          vectors_file: where items' vectors were brought in a file, the file to look
            them up in; the one of training if empty.

        Raises:
          InputError: no tokenizer's run, a damaged one, or one that reads no file.
        """
        config = runs.open_finished(folder, TokenizerExperiment)
        recipe = ItemVectors.load(folder / runs.VECTORS, vectors_file)
        if vectors_file and "file_mean" not in recipe.arrays:
            raise InputError(
                f"{vectors_file}: the tokenizer in {folder} makes its vectors from the "
                "items' columns, not from a file; leave --vectors out"
            )
        task = TokenizerTask(config.task, config.model)
        batch = {"vectors": jax.ShapeDtypeStruct((1, _width(recipe)), np.float32)}
        params, state = load_params(task, batch, folder)
        return cls(task, params, state, recipe)

    def encode(self, catalog: Catalog) -> Encoded:
        """SIDs of items, in blocks of one size, so that neighbours change nothing."""
        vectors = self.recipe.encode(catalog)
        blocks = []
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            padded = np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
            outputs = self._tokenize(self.params, self.state, padded)
            outputs = (np.asarray(each)[: len(block)] for each in outputs)
            codes, distances, decoded = outputs
            errors = squared_errors(block, decoded)
            blocks.append((codes, distances, decoded[:, -1], errors))
        return Encoded(vectors, *map(np.concatenate, zip(*blocks, strict=True)))

    @cached_property
    def _tokenize(self):
        return jax.jit(self.task.tokenize)

    def digest(self) -> str:
        """SHA-256 (hex) of parameters, codebooks and recipe."""
        sha = hashlib.sha256()
        arrays = (self.params, self.state, self.recipe.arrays)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            name = f"{jax.tree_util.keystr(path)} {leaf.dtype}{leaf.shape}"
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(leaf).tobytes())
        return sha.hexdigest()


def train_tokenizer(config: TokenizerExperiment, folder: Path, log: Log) -> SidTable:
    """Trains a tokenizer and encodes its catalog; goes on where it was stopped.

    Nothing is written before data, recipe and configuration are found good.

    Returns:
      The SID table, as in `sids.parquet`.

    Raises:
      InputError: bad data or configuration, or the folder holds another run.
    """
    done = runs.open_run(folder, config)
    catalog, _ = load(config.data)
    largest = max(config.model.codebook_sizes)
    if len(catalog) < largest:
        raise InputError(
            f"the catalog has {len(catalog)} items, fewer than the {largest} codes of "
            "the largest level; set --model.codebook-sizes, such as 8 8 8"
        )
    if done is None:
        log(f"item vectors of {len(catalog):,} items")
        recipe = ItemVectors.fit(config.vectors, catalog)
        (folder / runs.CATALOG).unlink(missing_ok=True)  # of a run that never began
        recipe.save(folder / runs.VECTORS)
    else:
        recipe = ItemVectors.load(folder / runs.VECTORS)
    runs.keep_catalog(folder, catalog)
    write_config(folder / runs.CONFIG, config)
    if done is None or done < config.train.steps:
        _fit(config, recipe.encode(catalog), folder, log)
    else:
        log(f"{folder}: already finished at step {done} of {config.train.steps}")
    tokenizer = Tokenizer.load(folder)
    if (folder / runs.SIDS).exists() and _find_figures(folder):
        table = runs.read_sids(folder / runs.SIDS)
        made_of = (table.manifest.tokenizer, table.manifest.catalog)
        if made_of == (tokenizer.digest(), catalog.digest()):
            return table
    encoded = tokenizer.encode(catalog)
    table = make_table(tokenizer, catalog, encoded)
    values = intrinsic_metrics(
        encoded.codes,
        config.model.codebook_sizes,
        encoded.vectors,
        encoded.reconstructions,
    )
    metrics = MetricsLog(folder / runs.METRICS, None)
    step = checkpoint_step(folder) or 0
    metrics.write(step, {f"{CODES}{name}": each for name, each in values.items()})
    metrics.close()
    write_table(folder / runs.SIDS, table)
    return table


def make_table(tokenizer: Tokenizer, catalog: Catalog, encoded: Encoded) -> SidTable:
    """The SID table of encoded items, with where it comes from."""
    manifest = Manifest(
        codebook_sizes=tokenizer.task.model.codebook_sizes,
        tokenizer=tokenizer.digest(),
        catalog=catalog.digest(),
        created_by=f"sid_jax {__version__}",
    )
    return SidTable.build(catalog.item_ids, encoded.codes, encoded.distances, manifest)


def read_figures(folder: Path) -> dict[str, float]:
    """What `train_tokenizer` found of the codes, by the names of `intrinsic_metrics`.

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


def _fit(
    config: TokenizerExperiment,
    vectors: Float[NDArray, "N D"],
    folder: Path,
    log: Log,
) -> None:
    sizes = config.model.codebook_sizes
    log(
        f"tokenizer on vectors of width {vectors.shape[1]}, codebooks "
        + " x ".join(map(str, sizes))
    )
    fit(
        TokenizerTask(config.task, config.model),
        item_stream(vectors, config.batch_size, seed=config.train.seed),
        config=config.train,
        optimizer=config.optimizer,
        mesh=config.mesh,
        folder=folder,
        log=log,
    )


def _find_figures(folder: Path) -> dict[str, float]:
    latest = runs.read_latest(folder).items()
    return {k.removeprefix(CODES): v for k, v in latest if k.startswith(CODES)}


def _width(recipe: ItemVectors) -> int:
    arrays = recipe.arrays
    means = (arrays[name] for name in ("file_mean", "text_mean") if name in arrays)
    tables = (array for name, array in arrays.items() if name.endswith("_table"))
    return sum(map(len, means)) + sum(table.shape[1] for table in tables)
