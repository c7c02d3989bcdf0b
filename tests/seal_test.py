"""A bit of an artifact flips, or it is cut: it loads as it was, or says that it cannot.

Each kind of file that is written here and read again is damaged; those of an export
stand in `flows/export_test.py`, checkpoints in `train/checkpoint_test.py`, records of
data sets in `data/records_test.py`.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog, Interactions, read_catalog, write_catalog
from sid_jax.data.cells import CellConfig, Cells
from sid_jax.data.datasets import DataConfig, load, save
from sid_jax.data.pairs import PAIRS, PairConfig, read_pairs
from sid_jax.data.parquet import read_parquet, seal_parquet
from sid_jax.data.purchases import read_purchases, write_purchases
from sid_jax.data.records import SEAL
from sid_jax.data.texts import read_texts
from sid_jax.data.vector_files import read_vectors, write_vectors
from sid_jax.data.vectors import ItemVectors, VectorConfig
from sid_jax.errors import InputError
from sid_jax.files import hash_file, write_json
from sid_jax.flows import corpus
from sid_jax.flows.preparing import prepare
from sid_jax.sids.index import build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.sids.manifest import PARTS, Manifest, Part, write_parts
from sid_jax.sids.table import SidTable, read_table, write_table
from sid_jax.sids.trie import build_trie
from sid_jax.sids.trie_file import load_trie, save_trie

IDS = [f"i{n}" for n in range(12)]
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(12, 3)).astype(np.float32)
CATALOG = Catalog.from_columns(
    IDS,
    title=[*"abcdefghij", "", None],
    brand=["x", "y", None] * 4,
    categories=[["a", "b"], ["a"], []] * 4,
    attributes={"price": VECTORS[:, 0], "sold": [*range(11), None], "new": [True] * 12},
)
TABLE = SidTable.build(
    IDS,
    RNG.integers(0, 3, (12, 3)),
    VECTORS[:, 1],
    Manifest(codebook_sizes=(3, 4, 300), tokenizer="t", cells=(("a", 1), ("b", 2))),
)
PART = "part-0-of-1.parquet"
PIECES = "sequences-00000-of-00001.parquet"
TOLD = (
    *(f"items/1.0.0/{each}.json" for each in ("dataset_info", "features", "metadata")),
    *(f"histories/1.0.0/{each}.json" for each in ("dataset_info", "features")),
    f"items/1.0.0/{SEAL}",
)


class Artifact(NamedTuple):
    """How it is written, and what it says when it is read."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def _write_index(path):
    told = np.arange(12, dtype=np.int32), np.arange(12) // 6, np.arange(12)
    save_index(path, build_index(*told, np.ones(12), 2, {"stock": np.arange(12)}))


def _write_parts(folder):
    write_table(folder / PART, TABLE)
    write_parts(folder, [Part(PART, 12, hash_file(folder / PART))], {"of": "this"})


def _save(root):
    baskets = [[n, n + 1] for n in range(11)]
    users, times = [f"u{n % 3}" for n in range(11)], list(range(11))
    save("mine", (CATALOG, Interactions.from_baskets(users, times, baskets)), root)


def _load(root):
    catalog, data = load(DataConfig(name="mine", data_dir=str(root)))
    return catalog.table.to_pydict(), data


@cache
def _prepare():
    """What `sid prepare` writes, by name; where there is no Beam, what it seals."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        if find_spec("apache_beam"):
            _save(folder / "data")
            data = DataConfig(name="mine", data_dir=str(folder / "data"))
            pairs = PairConfig(window=1, min_support=1, min_pmi=-9)
            given = {"texts": "precision", "sequences": 3, "held_out": 0}
            prepare(data, folder, print, pairs=pairs, **given)
        else:
            pairs = {"left": IDS[:-1], "right": IDS[1:]}
            pairs |= {"count": [3] * 11, "pmi": [0.5] * 11}
            for name, table in (
                ("pairs.parquet", pa.table(pairs, PAIRS)),
                ("texts.parquet", pa.table({"item_id": IDS, "text": IDS[::-1]})),
                (PIECES, pa.table({"row": [0, 1], "item_ids": [IDS[:3], IDS[3:]]})),
            ):
                pq.write_table(table, folder / name, row_group_size=7)
                seal_parquet(folder / name)
        return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def _write_prepared(path):
    path.write_bytes(_prepare()[path.name])


def _write_recipe(folder):
    config = VectorConfig(dim=3, num_hashes=64, columns=("brand",))
    ItemVectors.fit(config, CATALOG).save(folder / "recipe")


def _read_recipe(folder):
    recipe = ItemVectors.load(folder / "recipe")
    return recipe.config, dict(recipe.arrays), recipe.values


def _write_cells(path):
    Cells.fit(CellConfig(columns=("brand",), min_items=2), CATALOG, 8).save(path)


ARTIFACTS = {
    "catalog.parquet": Artifact(
        lambda path: write_catalog(path, CATALOG),
        lambda path: read_catalog(path).table.to_pydict(),
    ),
    "vectors.parquet": Artifact(
        lambda path: write_vectors(path, IDS, VECTORS), read_vectors
    ),
    "purchases.parquet": Artifact(
        lambda path: write_purchases(path, IDS, np.arange(12)),
        lambda path: read_purchases(path, IDS),
    ),
    "pairs.parquet": Artifact(_write_prepared, lambda path: read_pairs(path, CATALOG)),
    "texts.parquet": Artifact(_write_prepared, read_texts),
    PIECES: Artifact(_write_prepared, lambda path: read_parquet(path).to_pylist()),
    "sids.parquet": Artifact(lambda path: write_table(path, TABLE), read_table),
    PARTS: Artifact(
        lambda path: _write_parts(path.parent), lambda path: read_table(path.parent)
    ),
    PART: Artifact(
        lambda path: _write_parts(path.parent), lambda path: read_table(path.parent)
    ),
    "index.npz": Artifact(_write_index, load_index),
    "mapped.npz": Artifact(_write_index, lambda path: load_index(path, mapped=True)),
    "trie.npz": Artifact(
        lambda path: save_trie(
            path, build_trie(TABLE.sids, (3, 4, 300), tail=2, dense=1)
        ),
        load_trie,
    ),
    "recipe/recipe.json": Artifact(
        lambda path: _write_recipe(path.parents[1]),
        lambda path: _read_recipe(path.parents[1]),
    ),
    "recipe/arrays.npz": Artifact(
        lambda path: _write_recipe(path.parents[1]),
        lambda path: _read_recipe(path.parents[1]),
    ),
    "cells.json": Artifact(_write_cells, Cells.load),
    "item_vectors.npz": Artifact(
        lambda path: corpus.keep_vectors(path.parent, VECTORS.astype(np.float16)),
        lambda path: corpus.read_vectors(path.parent, 12),
    ),
    "retailers.json": Artifact(
        lambda path: write_json(path, {"retailers": ["east", "west"]}),
        lambda path: corpus.read_retailers(path.parent),
    ),
}
ARTIFACTS |= {
    f"mine/{name}": Artifact(
        lambda path: _save(path.parents[3]), lambda path: _load(path.parents[3])
    )
    for name in TOLD
}


def tell(value: Any) -> Any:
    """What a value says, for `==`; NaN is what it is."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, np.ascontiguousarray(value).tobytes()
    if isinstance(value, pa.Array):
        return value.to_pylist()
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
        return [(name, tell(getattr(value, name))) for name in names]
    if isinstance(value, dict):
        return [(key, tell(each)) for key, each in sorted(value.items())]
    if isinstance(value, (list, tuple)):
        return [tell(each) for each in value]
    return repr(value)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name -> its path, its bytes and what it says."""

    @cache
    def write(name):
        path = tmp_path_factory.mktemp("sealed") / name
        artifact = ARTIFACTS[name]
        artifact.write(path)
        return path, path.read_bytes(), tell(artifact.read(path))

    return write


def check(name, written, damaged: bytes) -> bool:
    """Whether damage is refused; else what is read must be what was written."""
    path, good, told = written(name)
    # A file of its own each time: what is mapped must not be written over.
    path.unlink()
    path.write_bytes(damaged)
    try:
        found = tell(ARTIFACTS[name].read(path))
    except InputError as error:
        # A folder is told by its name, and the file within it.
        assert path.name in str(error) or str(path.parent) in str(error)
        return True
    finally:
        path.unlink()
        path.write_bytes(good)
    assert found == told
    return False


def flip(data: bytes, bit: int) -> bytes:
    place = bit // 8
    return data[:place] + bytes([data[place] ^ 1 << bit % 8]) + data[place + 1 :]


@pytest.mark.parametrize("name", ARTIFACTS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_bit_flips(name, written, data):
    good = written(name)[1]
    check(name, written, flip(good, data.draw(st.integers(0, 8 * len(good) - 1))))


@pytest.mark.parametrize("name", ARTIFACTS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_it_is_cut(name, written, data):
    good = written(name)[1]
    end = data.draw(st.integers(0, len(good.rstrip()) - 1))
    assert check(name, written, good[:end])


@pytest.mark.slow
@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_bit_and_every_cut(name, written):
    good = written(name)[1]
    bits = range(8 * len(good))
    refused = sum(check(name, written, flip(good, bit)) for bit in bits)
    print(f"{name}: {len(bits):,} bits, of which {refused:,} are refused", flush=True)
    for end in range(len(good.rstrip())):
        assert check(name, written, good[:end])
