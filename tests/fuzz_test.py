"""Hostile files: they are read, or refused by a line that names them; no third way.

Valid files are damaged byte by byte, and files are made of hostile values. A reader may
give a result or raise an InputError, in bounded time; anything else is a bug.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hostile import (
    TEXT,
    bounded,
    damaged,
    fuzz,
    hostile_arrays,
    hostile_json,
    hostile_rows,
    write_rows,
)
from hypothesis import strategies as st

from sid_jax import cli
from sid_jax.config import RetrieverExperiment, TokenizerExperiment, read_config
from sid_jax.data import bulk
from sid_jax.data.catalog import Catalog, read_catalog
from sid_jax.data.cells import CellConfig, Cells
from sid_jax.data.changes import read_item_ids
from sid_jax.data.importer import import_dataset
from sid_jax.data.pairs import read_pairs
from sid_jax.data.parsing import read_baskets, read_items, read_sequences
from sid_jax.data.pipeline import PromptConfig
from sid_jax.data.purchases import read_purchases
from sid_jax.data.texts import read_texts
from sid_jax.data.vector_files import read_vectors
from sid_jax.data.vector_rows import stream_ids, stream_vectors
from sid_jax.data.vectors import ItemVectors, VectorConfig
from sid_jax.errors import InputError
from sid_jax.flows.asking import ask
from sid_jax.flows.samples import read_samples
from sid_jax.flows.serving import load_artifact
from sid_jax.plain import to_plain
from sid_jax.sids.index import build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.sids.manifest import Manifest
from sid_jax.sids.table import SidTable, read_table, write_table
from sid_jax.sids.trie import build_trie
from sid_jax.sids.trie_file import load_trie, save_trie
from sid_jax.train.progress import read_metrics

IDS = ["p1", "p2", "7", "é"]
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
CATALOG = Catalog.from_columns(IDS, ["a", "b", "c", "d"], ["x", "y", None, "x"])
ROWS = [
    {"item_id": i, "title": f"T {i}", "brand": "b", "categories": "a > b", "price": 1.5}
    for i in IDS
]
BASKETS = [
    {"user_id": "u", "timestamp": n, "product_ids": "p1 7", "store_id": "s"}
    for n in range(4)
]
SIDS = [{"item_id": i, "sid": f"{n}_0_3"} for n, i in enumerate(IDS)]
TEXTS = [{"item_id": i, "text": i * 9} for i in IDS]
SOLD = [{"item_id": i, "purchases": 3} for i in IDS]
PAIRS = [{"left": "p1", "right": "7", "count": 3, "pmi": 0.5}]


def survey_and_stream(path: Path) -> None:
    """A folder's items, in parts."""
    found = bulk.survey([path], ["price", "brand", "x"], path.parent)
    for _ in bulk.stream_items(path, [(0, 3), (3, 99)], found.columns):
        pass


def stream(path: Path) -> None:
    """Vectors in parts."""
    ids = list(stream_ids(path))
    list(stream_vectors(path, [(0, 2), (2, len(ids))]))


def use_index(path: Path) -> None:
    """An index, and what it allows."""
    for mapped in (False, True):
        index = load_index(path, mapped=mapped)
        if index.num_retailers and len(index.leaves):
            index.leaves_at(0)


@dataclass(frozen=True)
class Target:
    """What reads a file, and a valid one."""

    read: Callable[[Path], Any]
    write: Callable[[Path], Any]


def of_rows(read: Callable[[Path], Any], rows: list[dict]) -> Target:
    return Target(read, lambda path: write_rows(path, rows))


def of_json(read: Callable[[Path], Any], plain: Any) -> Target:
    return Target(read, lambda path: path.write_text(json.dumps(plain)))


def baskets(path: Path) -> None:
    read_baskets(path, CATALOG)


TABLES = {
    "items": of_rows(read_items, ROWS),
    "stream": of_rows(survey_and_stream, ROWS),
    "baskets": of_rows(baskets, BASKETS),
    "texts": of_rows(read_texts, TEXTS),
    "purchases": of_rows(lambda path: read_purchases(path, IDS), SOLD),
    "ids": of_rows(read_item_ids, SIDS),
}
FORMS = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".parquet.gz")
TARGETS = {f"{name}{form}": each for name, each in TABLES.items() for form in FORMS}
TARGETS |= {
    "sids.csv": of_rows(read_table, SIDS),
    "sids.csv.gz": of_rows(read_table, SIDS),
    "foreign.parquet": of_rows(read_table, SIDS),
    "pairs.parquet": of_rows(lambda path: read_pairs(path, CATALOG), PAIRS),
    "catalog.parquet": Target(
        read_catalog, lambda path: pq.write_table(CATALOG.table, path)
    ),
    "sids.parquet": Target(
        read_table, lambda path: write_table(path, _table((4, 1, 4)))
    ),
    "vectors.parquet": Target(
        lambda path: (read_vectors(path), stream(path)),
        lambda path: write_rows(
            path,
            [
                {"item_id": i, "vector": v.tolist()}
                for i, v in zip(IDS, VECTORS, strict=True)
            ],
        ),
    ),
    "vectors.npz": Target(
        lambda path: (read_vectors(path), stream(path)),
        lambda path: np.savez(path, ids=np.asarray(IDS), vectors=VECTORS),
    ),
    "vectors.npy": Target(
        lambda path: (read_vectors(path), stream(path)),
        lambda path: (
            np.save(path, VECTORS),
            path.with_name("vectors.ids.txt").write_text("\n".join(IDS)),
        ),
    ),
    "sequences.txt": Target(
        lambda path: read_sequences(path, CATALOG),
        lambda path: path.write_text("u p1 7\nv p2 p2\n"),
    ),
    "ids.txt": Target(read_item_ids, lambda path: path.write_text("p1\n7\n")),
    "index.npz": Target(
        use_index,
        lambda path: save_index(
            path,
            build_index(
                np.arange(4, dtype=np.int32),
                np.arange(4) // 2,
                np.arange(4),
                np.ones(4),
                2,
            ),
        ),
    ),
    "trie.npz": Target(
        load_trie,
        lambda path: save_trie(
            path, build_trie(np.asarray([[0, 1], [2, 2], [2, 3]]), (3, 4), tail=1)
        ),
    ),
}
JSON = {
    "tokenizer/config.json": of_json(read_config, to_plain(TokenizerExperiment())),
    "retriever/config.json": of_json(read_config, to_plain(RetrieverExperiment())),
    "cells.json": of_json(
        Cells.load,
        asdict(Cells.fit(CellConfig(columns=("brand",), min_items=1), CATALOG, 4))
        | {"schema_version": 1},
    ),
    "recipe/recipe.json": of_json(
        lambda path: ItemVectors.load(path.parent),
        {"schema_version": 3, "config": asdict(VectorConfig()), "values": [["a"]]},
    ),
    "parts/_manifest.json": of_json(
        lambda path: read_table(path.parent),
        {
            "schema_version": 1,
            "parts": [{"name": "part-0-of-1.parquet", "rows": 4, "sha256": "0"}],
        },
    ),
    "export/manifest.json": of_json(
        lambda path: load_artifact(path.parent),
        {
            "format": 1,
            "platforms": ["cpu"],
            "sizes": [3, 4],
            "max_slots": [3, 4],
            "bounds": 1,
            "dense": 0,
            "prompts": to_plain(PromptConfig()),
            "search": {},
            "seed": 0,
            "retailers": ["a"],
            "vectors": False,
            "sha256": {"index.npz": "0", "search.bin": "0"},
        },
    ),
    "run/samples.jsonl": of_json(
        lambda path: read_samples(path.parent),
        {
            "user": "u",
            "retailer": "r",
            **{name: [] for name in ("history", "basket", "held_out", "retrieved")},
        },
    ),
    "run/metrics.jsonl": of_json(read_metrics, {"step": 1, "time": 0.5, "loss": 2}),
}
TARGETS |= JSON


def _table(sizes) -> SidTable:
    codes = np.asarray([[n, 0, 3 - n] for n in range(4)])
    return SidTable.build(IDS, codes, None, Manifest(codebook_sizes=sizes))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Name -> a path in a folder of its own, and the bytes of a valid file there."""

    @cache
    def make(name):
        path = tmp_path_factory.mktemp("fuzz") / name
        path.parent.mkdir(exist_ok=True)
        if name.startswith("recipe"):
            ItemVectors.fit(VectorConfig(dim=2), CATALOG).save(path.parent)
        TARGETS[name].write(path)
        with bounded():  # the rest of some folders is not there
            TARGETS[name].read(path)
        return path, path.read_bytes()

    return make


def run_cases(few: int, many: int):
    """Few cases in the fast tests, many in the slow ones."""
    return pytest.mark.parametrize(
        "cases", [few, pytest.param(many, marks=pytest.mark.slow)]
    )


@pytest.mark.parametrize("name", TARGETS)
@run_cases(4, 120)
def test_damaged_bytes(name, cases, place):
    path, good = place(name)

    def check(data):
        path.write_bytes(data)
        TARGETS[name].read(path)

    fuzz(cases, damaged(good), check)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", FORMS[:3])
@run_cases(6, 120)
def test_hostile_rows(name, form, cases, place, tmp_path):
    def check(rows):
        write_rows(tmp_path / f"a{form}", rows)
        TABLES[name].read(tmp_path / f"a{form}")

    seeds = {"items": ROWS, "stream": ROWS, "baskets": BASKETS, "texts": TEXTS}
    rows = seeds.get(name, SOLD if name == "purchases" else SIDS)
    fuzz(cases, hostile_rows(rows), check)


@pytest.mark.parametrize("form", [".csv", ".parquet"])
@run_cases(10, 120)
def test_hostile_sids(form, cases, tmp_path):
    def check(rows):
        write_rows(tmp_path / f"a{form}", rows)
        read_table(tmp_path / f"a{form}")

    fuzz(cases, hostile_rows(SIDS), check)


@pytest.mark.parametrize("name", JSON)
@run_cases(12, 150)
def test_hostile_json(name, cases, place):
    path, good = place(name)

    def check(plain):
        path.write_text(json.dumps(plain))
        TARGETS[name].read(path)

    fuzz(cases, hostile_json(json.loads(good)), check)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("vectors.npz", ("ids", "vectors")),
        ("index.npz", ("leaves", "starts", "items", "sales", "column.x")),
        ("trie.npz", ("codebook_sizes", "max_slots", "tail", "dense", "tokens.0")),
    ],
)
@run_cases(12, 200)
def test_hostile_arrays(name, held, cases, place):
    path, good = place(name)
    path.write_bytes(good)
    with np.load(path) as file:
        valid = dict(file)

    def check(arrays):
        np.savez(path, **{**valid, **arrays})
        TARGETS[name].read(path)

    fuzz(cases, hostile_arrays(held), check)


@run_cases(25, 400)
def test_hostile_requests(cases):
    words = st.lists(TEXT | st.sampled_from(IDS), max_size=3)
    told = st.fixed_dictionaries(
        {
            "history": words,
            "basket": words,
            "retailer": TEXT,
            "where": st.dictionaries(
                TEXT | st.sampled_from(("brand", "category")), TEXT
            ),
            "top": st.integers(),
        }
    )

    def load():
        raise InputError("reached")

    fuzz(
        cases,
        told,
        lambda words: ask(load, PromptConfig(), CATALOG, ["s", "t"], **words),
    )


@run_cases(6, 150)
def test_hostile_overrides(cases, tmp_path, monkeypatch, capsys):
    file = tmp_path / "experiment.py"
    file.write_text("from sid_jax.config import RetrieverExperiment as get_config\n")
    monkeypatch.setattr("sid_jax.flows.train.train", lambda *_: None)
    monkeypatch.setattr("sid_jax.flows.train.join", lambda: None)
    fields = (
        "train.steps",
        "data.name",
        "search.top",
        "optimizer.schedule",
        "tokenizer",
    )
    fields += ("model", "prompts.history", "mesh.rules", "x", "train.seed", "holdout")
    flags = st.lists(st.tuples(st.sampled_from(fields), TEXT), min_size=1, max_size=3)

    def check(flags):
        words = [word for name, value in flags for word in (f"--{name}", value)]
        assert cli.main(["train", str(file), "--workdir", "x", *words]) in (0, 2)
        assert "fault of sid_jax" not in capsys.readouterr().err

    fuzz(cases, flags, check)


@run_cases(4, 60)
def test_hostile_imports(cases, tmp_path):
    """What is read can be written as a data set, too."""

    def check(rows):
        items, baskets = tmp_path / "items.jsonl", tmp_path / "baskets.jsonl"
        write_rows(items, rows)
        write_rows(baskets, BASKETS)
        import_dataset(items, baskets=baskets, name="mine", data_dir=str(tmp_path))

    fuzz(cases, hostile_rows(ROWS), check)
