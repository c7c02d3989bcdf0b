"""A trained tokenizer in use: items -> vectors -> SIDs -> a table."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax import __version__
from sid_jax.config import TokenizerExperiment
from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import Cells
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.evals.distortion import squared_errors
from sid_jax.flows import runs
from sid_jax.sids.dedup import add_dedup_level, dedup_size, extend_dedup
from sid_jax.sids.table import Manifest, SidTable
from sid_jax.train.loop import load_params
from sid_jax.train.sharding import MeshConfig, make_mesh
from sid_jax.train.tokenizer_task import TokenizerTask
from sid_jax.typing import Float, Int, NDArray, PyTree

_BLOCK = 4096  # items encoded at once


@dataclass(frozen=True)
class Encoded:
    """Items as a tokenizer sees them.

    Attributes:
      vectors: the items' vectors; where the recipe adds coordinates among neighbours
        (`data.neighbourhood`), the plain columns alone, since these are to be judged.
        Those of a file stand as they were brought, but for their scale.
      codes: their SIDs.
      distances: squared distance left in the latent after the last level.
      errors: squared error of the reconstructions of `vectors` from the first 1, 2, ..
        L levels.
    """

    vectors: Float[NDArray, "N D"]
    codes: Int[NDArray, "N L"]
    distances: Float[NDArray, " N"]
    errors: Float[NDArray, "N L"]


@dataclass(frozen=True)
class Tokenizer:
    """A trained tokenizer: new items get SIDs without any other's moving.

    Attributes:
      task: its computations.
      params: encoder and decoder.
      state: codebooks.
      recipe: item -> vector.
      cells: item -> block of first codes; None without blocks.
      dedup: whether its tables have a level that tells the items of one SID apart.
    """

    task: TokenizerTask
    params: PyTree
    state: PyTree
    recipe: ItemVectors
    cells: Cells | None = None
    dedup: bool = False

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
        cells = Cells.load(folder / runs.CELLS) if config.cells.columns else None
        blocks = cells.sizes if cells else ()
        task = TokenizerTask(config.task, config.model, blocks)
        batch = {"vectors": jax.ShapeDtypeStruct((1, recipe.width), np.float32)}
        params, state = load_params(task, batch, folder)
        return cls(task, params, state, recipe, cells, config.dedup)

    @classmethod
    def load_maker(cls, folder: Path, table: SidTable) -> "Tokenizer":
        """The tokenizer of a run, if it made a table.

        Raises:
          InputError: no tokenizer's run, a damaged one, or another one.
        """
        tokenizer = cls.load(folder)
        if tokenizer.digest() != table.manifest.tokenizer:
            raise InputError(f"the tokenizer in {folder} is not the one of these SIDs")
        return tokenizer

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads of items, beside their ids."""
        recipe = self.recipe.config
        read = () if recipe.file else (*recipe.text, *recipe.columns)
        return (*read, *(self.cells.config.columns if self.cells else ()))

    def encode(
        self,
        catalog: Catalog,
        old: Int[NDArray, "N L"] | None = None,
        slack: float = 0.0,
    ) -> Encoded:
        """SIDs of items, in blocks of one size, so that neighbours change nothing.

        Args:
          catalog: the items.
          old: SIDs of an earlier version to keep where that costs little; -1 for items
            that have none.
          slack: how much that is (`sticky.keep_codes`).
        """
        inputs = self.recipe.encode(catalog)
        vectors = inputs[:, : self.recipe.plain]
        inputs = [inputs, self.cells.of(catalog) if self.cells else None, old]
        outputs = []
        for start in range(0, len(vectors), _BLOCK):
            block = [
                None if each is None else _pad(each[start : start + _BLOCK])
                for each in inputs
            ]
            found = self._tokenize(self.params, self.state, *block, slack)
            count = len(vectors[start : start + _BLOCK])
            codes, distances, decoded = (np.asarray(each)[:count] for each in found)
            decoded = decoded[..., : self.recipe.plain]
            errors = squared_errors(vectors[start : start + _BLOCK], decoded)
            outputs.append((codes, distances, errors))
        seen = vectors + self.recipe.centre
        return Encoded(seen, *map(np.concatenate, zip(*outputs, strict=True)))

    def assign(
        self, catalog: Catalog, brought: Float[NDArray, "N D_file"] | None = None
    ) -> tuple[Int[NDArray, "N L"], Float[NDArray, " N"]]:
        """SIDs of items and their distances alone, by all devices of this process.

        Args:
          catalog: the items.
          brought: what the recipe's file of vectors holds of them; looked up if None.
        """
        vectors = self.recipe.encode(catalog, brought)
        cells = self.cells.of(catalog) if self.cells else None
        run, params, state, rows = self._assign
        found = []
        for start in range(0, len(vectors), rows):
            block = [
                None if each is None else _pad(each[start : start + rows], rows)
                for each in (vectors, cells)
            ]
            found.append(run(params, state, *block))
        codes, distances = map(np.concatenate, zip(*found, strict=True))
        return codes[: len(vectors)], distances[: len(vectors)]

    def latents(self, catalog: Catalog) -> Float[NDArray, "N D"]:
        """What the codebooks quantize."""
        vectors, encode = self.recipe.encode(catalog), jax.jit(self.task.encode)
        blocks = (
            np.asarray(encode(self.params, _pad(vectors[start : start + _BLOCK])))
            for start in range(0, len(vectors), _BLOCK)
        )
        return np.concatenate(list(blocks))[: len(vectors)]

    def table(self, catalog: Catalog, encoded: Encoded) -> SidTable:
        """The SID table of encoded items, with where it comes from."""
        codes, manifest = encoded.codes, self.manifest(catalog.digest())
        if self.dedup:
            codes = add_dedup_level(codes)
            sizes = (*manifest.codebook_sizes, dedup_size(codes))
            manifest = replace(manifest, codebook_sizes=sizes, dedup=True)
        return SidTable.build(catalog.item_ids, codes, encoded.distances, manifest)

    def manifest(self, catalog: str) -> Manifest:
        """Of a table of its SIDs, without a level that tells items of one SID apart.

        Args:
          catalog: hash of what was encoded.
        """
        cells = self.cells
        return Manifest(
            codebook_sizes=self.task.model.codebook_sizes,
            tokenizer=self.digest(),
            catalog=catalog,
            created_by=f"sid_jax {__version__}",
            cells=tuple(zip(cells.names, cells.sizes, strict=True)) if cells else (),
        )

    def place(
        self, table: SidTable, encoded: Encoded
    ) -> tuple[Int[NDArray, "n L"], tuple[int, ...]]:
        """SIDs of new items within a table of this tokenizer, and its new sizes."""
        sizes = table.manifest.codebook_sizes
        if not self.dedup:
            return encoded.codes, sizes
        codes = extend_dedup(table.codes(), encoded.codes)
        return codes, (*sizes[:-1], max(sizes[-1], dedup_size(codes)))

    @cached_property
    def _tokenize(self):
        return jax.jit(self.task.tokenize)

    @cached_property
    def _assign(self) -> tuple[Callable, PyTree, PyTree, int]:
        """`tokenize` without reconstructions, what it reads, and the rows it takes.

        Each device runs the program of `encode`, on as many rows: the codes are the
        same on any number of them.
        """
        mesh = make_mesh(MeshConfig(), jax.local_devices())
        everywhere, split = PartitionSpec(), PartitionSpec("data")

        def assign(params, state, vectors, cells):
            return self.task.tokenize(params, state, vectors, cells)[:2]

        run = jax.shard_map(
            assign,
            mesh=mesh,
            in_specs=(everywhere, everywhere, split, split),
            out_specs=split,
            check_vma=False,
        )
        held = jax.device_get((self.params, self.state))
        params, state = jax.device_put(held, NamedSharding(mesh, everywhere))
        return jax.jit(run), params, state, _BLOCK * mesh.size

    def digest(self) -> str:
        """SHA-256 (hex) of parameters, codebooks and recipe."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        arrays = (self.params, self.state, self.recipe.arrays)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            name = f"{jax.tree_util.keystr(path)} {leaf.dtype}{leaf.shape}"
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(leaf).tobytes())
        return sha.hexdigest()


def _pad(rows: NDArray, size: int = _BLOCK) -> NDArray:
    short = size - len(rows)
    return np.pad(rows, ((0, short), *((0, 0),) * (rows.ndim - 1)))
