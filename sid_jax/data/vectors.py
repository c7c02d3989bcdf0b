"""Item -> vector recipes that need no network and no weights.

Text: counts c of hashed word and character n-grams (each node of a category path also
counts as one word), weighted (1 + ln c) * (1 + ln((1 + T) / (1 + T_f))) for T distinct
texts of which T_f hold feature f, each of the two blocks to unit length, then projected
on the first right singular vectors of the distinct texts (latent semantic analysis,
Deerwester et al. 1990). Columns: one-hot, or quantile bins. Or a file of vectors. The
result is centred and of total variance 1 over the items of the fit. Coordinates among
the neighbours (`data.neighbourhood`) and of what is bought together (`data.copurchase`)
may stand beside it, as last columns.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from sid_jax.data.catalog import Catalog
from sid_jax.data.columns import column_codes, fit_column
from sid_jax.data.copurchase import CopurchaseConfig
from sid_jax.data.neighbourhood import NeighbourhoodConfig, coordinates, fit_coordinates
from sid_jax.data.ngrams import Text, count_ngrams, distinct_texts
from sid_jax.data.vector_files import UNREADABLE, look_up
from sid_jax.errors import InputError
from sid_jax.files import read_json, replacing, write_json
from sid_jax.sids.mapped import load_npz
from sid_jax.typing import Float, NDArray, typed

_SCHEMA_VERSION = 3  # 1 had no neighbours, 2 no copurchase
_CHUNK = 1 << 14  # distinct texts whose n-grams are held at once
_POWER_ITERATIONS = 3  # of the randomized SVD
_NO_VARIANCE = 1e-9  # what rounding leaves between equal texts


@dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """The recipe.

    Attributes:
      file: vectors brought in a file (`.npy`, `.npz` or `.parquet`, as `read_vectors`
        has it); everything below but `neighbours` and `copurchase` is then unused.
      text: columns read as text.
      word_ngrams: shortest and longest run of words.
      char_ngrams: shortest and longest run of characters within a word.
      num_hashes: hash buckets of each of the two blocks.
      dim: width of the text part, at most; fewer where the texts span fewer.
      columns: columns added beside the text.
      max_values: values of a column with a place of their own, the most frequent; all
        others share one. A missing value has its own.
      num_bins: quantile bins of a column of numbers.
      column_weight: share of the total variance that the columns carry, in equal parts.
      neighbours: coordinates among the neighbours, beside the vectors; off by default.
      copurchase: coordinates of what is bought together, beside those; off by default.
      seed: of the SVD.
    """

    file: str = ""
    text: tuple[str, ...] = ("title", "brand", "categories")
    word_ngrams: tuple[int, int] = (1, 2)
    char_ngrams: tuple[int, int] = (3, 5)
    num_hashes: int = 2**16
    dim: int = 96
    columns: tuple[str, ...] = ()
    max_values: int = 64
    num_bins: int = 16
    column_weight: float = 0.5
    neighbours: NeighbourhoodConfig = field(default_factory=NeighbourhoodConfig)
    copurchase: CopurchaseConfig = field(default_factory=CopurchaseConfig)
    seed: int = 0

    def __post_init__(self):
        for name in ("word_ngrams", "char_ngrams"):
            shortest, longest = getattr(self, name)
            if not 1 <= shortest <= longest:
                raise InputError(f"{name}: want 1 <= shortest <= longest")
        for name in ("num_hashes", "dim", "max_values", "num_bins"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.column_weight <= 1:
            raise InputError(f"column_weight is a share, not {self.column_weight}")
        if "categories" in self.columns:
            raise InputError("categories are lists: name them in text, not in columns")
        if not (self.file or self.text or self.columns):
            raise InputError("nothing to encode: give text, columns or file")


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """A fitted recipe: plain arrays that give an item the same vector for ever.

    Attributes:
      config: the recipe.
      arrays: `{block}_features`, `_idf`, `_components` for the blocks `words` and
        `chars` (features = the hash buckets seen in the fit; others count nothing) and
        `text_mean`; `column{i}_table`, a row for each value of column i, and
        `column{i}_edges` if it is of numbers; or `file_mean` and `file_scale`; beside
        these, those of `fit_coordinates`, and `copurchase_ids` with the
        `copurchase_vectors` of those items.
      values: of each column, the values of the first rows of its table; none for
        numbers.
    """

    config: VectorConfig
    arrays: Mapping[str, NDArray]
    values: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def fit(
        cls,
        config: VectorConfig,
        catalog: Catalog,
        copurchase: Float[NDArray, "N dim"] | None = None,
    ) -> "ItemVectors":
        """Fits the recipe. For IDF and SVD, items of equal text count once.

        Args:
          config: the recipe.
          catalog: the items of the fit.
          copurchase: their coordinates by `fit_copurchase`, where the recipe has them.

        Raises:
          InputError: an unknown column, a bad file, nothing tells the items apart, or
            no purchases for `copurchase`.
        """
        if not len(catalog):
            raise InputError("cannot fit item vectors on a catalog without items")
        if config.file:
            path = Path(config.file).absolute()
            arrays, values = _fit_file(path, catalog), ()
            config = dataclasses.replace(config, file=str(path))
        else:
            arrays, spread = _fit_text(config, catalog) if config.text else ({}, 0.0)
            spreads, values = [spread], ()
            for i, name in enumerate(config.columns):
                table, edges, found, spread = fit_column(
                    catalog, name, config.max_values, config.num_bins
                )
                arrays[f"column{i}_table"] = table
                if edges is not None:
                    arrays[f"column{i}_edges"] = edges
                spreads.append(spread)
                values = (*values, found)
            arrays = _share_variance(config, arrays, spreads)
        if config.neighbours.k:
            vectors = cls(config, arrays, values).encode_plain(catalog)
            arrays |= fit_coordinates(config.neighbours, vectors, catalog.categories)
        if config.copurchase.dim:
            if copurchase is None:
                raise InputError(
                    f"vectors.copurchase.dim={config.copurchase.dim} needs histories, "
                    "which this data set has not; import some, or set it to 0"
                )
            known = copurchase.any(axis=1)
            ids = np.asarray(catalog.item_ids, dtype=str)
            arrays["copurchase_ids"] = ids[known]
            arrays["copurchase_vectors"] = copurchase[known]
        return cls(config, arrays, values)

    @property
    def plain(self) -> int:
        """Leading columns that are the vectors themselves: what is to be judged."""
        means = (self.arrays.get(name, ()) for name in ("file_mean", "text_mean"))
        tables = (self.arrays[name] for name in self.arrays if name.endswith("_table"))
        return sum(map(len, means)) + sum(table.shape[1] for table in tables)

    @property
    def width(self) -> int:
        """All columns D: the plain ones, then the coordinates beside them."""
        return self.plain + self.config.neighbours.width + self.config.copurchase.dim

    @property
    def centre(self) -> Float[NDArray, " D"] | float:
        """What centring took from a file's vectors, in their scale; else 0.

        Its vectors mean something as they are: cosines are judged with this put back.
        """
        if not self.config.file:
            return 0.0
        return (self.arrays["file_mean"] * self.arrays["file_scale"]).astype(np.float32)

    @typed
    def encode(
        self, catalog: Catalog, brought: Float[NDArray, "N D_file"] | None = None
    ) -> Float[NDArray, "N D"]:
        """Vectors of items, float32; a row depends on its item alone, to the bit.

        What the recipe's file holds of them may be brought, if it was read already.

        Raises:
          InputError: the catalog lacks a column, or the file lacks an item.
        """
        vectors, near = self.encode_plain(catalog, brought), self.config.neighbours
        found = [coordinates(near, self.arrays, vectors)] if near.k else []
        if self.config.copurchase.dim:
            found.append(self._copurchase(catalog.item_ids))
        return np.concatenate([vectors, *found], axis=1)

    def _copurchase(self, item_ids: list[str]) -> Float[NDArray, "N dim"]:
        """Coordinates of items by id; 0 for those that the fit did not see bought."""
        known, points = (self.arrays[f"copurchase_{x}"] for x in ("ids", "vectors"))
        row_of = {item_id: row for row, item_id in enumerate(known.tolist())}
        rows = np.asarray([row_of.get(item_id, len(known)) for item_id in item_ids])
        return np.pad(points, ((0, 1), (0, 0)))[rows]

    @typed
    def encode_plain(
        self, catalog: Catalog, brought: Float[NDArray, "N D_file"] | None = None
    ) -> Float[NDArray, "N D"]:
        """`encode` without the coordinates beside the vectors."""
        arrays = self.arrays
        if self.config.file:
            if brought is None:
                brought = look_up(self.config.file, catalog.item_ids)
            if brought.shape[1] != len(arrays["file_mean"]):
                raise InputError(
                    f"{self.config.file}: vectors of width {brought.shape[1]}, but the "
                    f"recipe was fitted on width {len(arrays['file_mean'])}"
                )
            scaled = (brought - arrays["file_mean"]) * arrays["file_scale"]
            return scaled.astype(np.float32)
        parts = []
        if "text_mean" in arrays:
            texts, text_of = distinct_texts(catalog, self.config.text)
            parts.append(_project(self.config, arrays, texts)[text_of])
        for i, name in enumerate(self.config.columns):
            edges = arrays.get(f"column{i}_edges")
            codes = column_codes(catalog, name, self.values[i], edges)
            parts.append(arrays[f"column{i}_table"][codes])
        return np.concatenate(parts, axis=1)

    def save(self, folder: str | Path) -> None:
        """Writes `arrays.npz` and `recipe.json`; the folder is whole or absent."""
        arrays: Any = self.arrays
        recipe = {
            "schema_version": _SCHEMA_VERSION,
            "config": dataclasses.asdict(self.config),
            "values": self.values,
        }
        with replacing(folder) as temporary:
            temporary.mkdir()
            np.savez(temporary / "arrays.npz", **arrays)
            write_json(temporary / "recipe.json", recipe)

    @classmethod
    def load(cls, folder: str | Path, file: str = "") -> "ItemVectors":
        """Reads what `save` wrote.

        Args:
          folder: that of `save`.
          file: read vectors from this file from now on: it has moved, or another one
            holds the new items.

        Raises:
          InputError: the folder holds no recipe that this version reads.
        """
        folder = Path(folder)
        try:
            recipe = read_json(folder / "recipe.json")
            if recipe["schema_version"] not in (1, 2, _SCHEMA_VERSION):
                raise ValueError(f"schema version {recipe['schema_version']}")
            fields: dict[str, Any] = recipe["config"]
            near = NeighbourhoodConfig.from_plain(fields.pop("neighbours", {}))
            bought = CopurchaseConfig(**fields.pop("copurchase", {}))
            for name, value in fields.items():
                fields[name] = tuple(value) if isinstance(value, list) else value
            config = VectorConfig(**fields, neighbours=near, copurchase=bought)
            arrays = load_npz(folder / "arrays.npz")
            values = tuple(tuple(column) for column in recipe["values"])
        except (*UNREADABLE, KeyError, AttributeError) as error:
            raise InputError(
                f"{folder}: no recipe for item vectors ({error}); fit it again"
            ) from None
        if file:
            config = dataclasses.replace(config, file=str(Path(file).absolute()))
        return cls(config, arrays, values)


def _fit_file(path: Path, catalog: Catalog) -> dict[str, NDArray]:
    found = look_up(path, catalog.item_ids).astype(np.float64)
    mean = found.mean(axis=0)
    spread = np.square(found - mean).sum(axis=1).mean()
    if not spread > 0:
        raise InputError(f"{path}: the vectors of all {len(found)} items are equal")
    return {"file_mean": mean, "file_scale": 1 / np.sqrt(spread)}


def _fit_text(
    config: VectorConfig, catalog: Catalog
) -> tuple[dict[str, NDArray], float]:
    """Arrays of the text part before scaling, and its variance over the items."""
    texts, text_of = distinct_texts(catalog, config.text)
    arrays, blocks = {}, []
    for name, counts in _count(config, texts).items():
        held = np.bincount(counts.indices, minlength=counts.shape[1])
        arrays[f"{name}_features"] = np.flatnonzero(held)
        idf = 1 + np.log((1 + len(texts)) / (1 + held[held > 0]))
        arrays[f"{name}_idf"] = idf.astype(np.float32)
        blocks.append(_weigh(counts, arrays, name))
    matrix: Any = sparse.hstack(blocks, format="csr")
    if not matrix.nnz:
        return {}, 0.0
    options: dict[str, Any] = {
        "n_components": min(config.dim, *matrix.shape),
        "n_iter": _POWER_ITERATIONS,
        "random_state": config.seed,
    }
    _, strengths, components = randomized_svd(matrix, **options)
    components = components[strengths > 1e-5 * strengths[0]].T
    split = blocks[0].shape[1]
    arrays["words_components"] = components[:split]
    arrays["chars_components"] = components[split:]
    points = (matrix @ components).astype(np.float64)
    weights = np.bincount(text_of) / len(text_of)
    arrays["text_mean"] = weights @ points
    spread = float(weights @ np.square(points - arrays["text_mean"]).sum(axis=1))
    return (arrays, spread) if spread > _NO_VARIANCE else ({}, 0.0)


def _share_variance(
    config: VectorConfig,
    arrays: dict[str, NDArray],
    spreads: list[float],
) -> dict[str, NDArray]:
    """Scales text and tables to their shares of a total variance of 1.

    What is the same for all items has no variance to scale: its share goes to the rest.
    """
    if not any(spreads):
        raise InputError(
            "nothing tells the items apart: all have the same "
            + ", ".join((*config.text, *config.columns))
        )
    num_columns = np.count_nonzero(spreads[1:])
    share = config.column_weight if spreads[0] and num_columns else bool(num_columns)
    shares = [1 - share] + [share / max(num_columns, 1)] * (len(spreads) - 1)
    scales = [
        np.sqrt(part / spread) if spread else 0.0
        for part, spread in zip(shares, spreads, strict=True)
    ]
    scaled = {}
    for name, array in arrays.items():
        if name.endswith(("_components", "_mean")):
            array = (array * scales[0]).astype(np.float32)
        elif name.endswith("_table"):
            column = int(name.removeprefix("column").removesuffix("_table"))
            array = (array * scales[column + 1]).astype(np.float32)
        scaled[name] = array
    return scaled


def _count(config: VectorConfig, texts: list[Text]) -> dict[str, Any]:
    return count_ngrams(
        texts, config.word_ngrams, config.char_ngrams, config.num_hashes
    )


def _weigh(counts: Any, arrays: Mapping[str, NDArray], name: str) -> Any:
    """TF-IDF rows of unit length over the features of the fit."""
    column = np.full(counts.shape[1], -1)
    column[arrays[f"{name}_features"]] = np.arange(len(arrays[f"{name}_features"]))
    columns = column[counts.indices]
    kept = columns >= 0
    columns = columns[kept]
    ends = np.append(0, np.cumsum(kept))[counts.indptr]
    times = counts.data[kept].astype(np.int64)
    # From a table of scalars: vectorised logarithms may round by place in the array.
    damped = [0.0] + [1 + math.log(n) for n in range(1, times.max(initial=0) + 1)]
    data = np.asarray(damped, np.float32)[times] * arrays[f"{name}_idf"][columns]
    shape = (counts.shape[0], len(arrays[f"{name}_features"]))
    weighed: Any = sparse.csr_matrix((data, columns, ends), shape=shape)
    norms = np.sqrt(weighed.multiply(weighed) @ np.ones(shape[1], np.float32))
    weighed.data /= np.repeat(norms, np.diff(ends))
    return weighed


def _project(
    config: VectorConfig, arrays: Mapping[str, NDArray], texts: list[Text]
) -> NDArray:
    """Centred text part of texts."""
    chunks = []
    for start in range(0, len(texts), _CHUNK):
        counts = _count(config, texts[start : start + _CHUNK])
        chunks.append(
            sum(
                _weigh(block, arrays, name) @ arrays[f"{name}_components"]
                for name, block in counts.items()
            )
            - arrays["text_mean"]
        )
    width = len(arrays["text_mean"])
    return np.concatenate([np.zeros((0, width), np.float32), *chunks])
