"""Every experiment file runs in its smoke form, from data to report."""

import ast
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from sid_jax.config import (
    ControlExperiment,
    MeshConfig,
    RetrieverExperiment,
    TokenizerExperiment,
    read_experiment,
    read_variants,
    smoke,
)
from sid_jax.data.importer import import_dataset
from sid_jax.flows.sweep import sweep
from sid_jax.flows.train import train
from sid_jax.sids.table import read_table

ALL = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
SWEEPS = [file for file in ALL if "def get_variants" in file.read_text()]
FILES = [file for file in ALL if file not in SWEEPS]
TOKENIZERS, RETRIEVERS = (
    [file for file in FILES if isinstance(read_experiment(file), kind)]
    for kind in (TokenizerExperiment, RetrieverExperiment)
)
# Few in the fast tests, which have the quickstart's; CI runs the others beside them.
LONG = {
    "ablation_retriever",
    "ablation_tokenizer",
    "codes_retriever",
    "retriever_billion",
    "retriever_grocery",
    "retriever_hierarchical_beauty",
    "retriever_sasrec_beauty",
    "retriever_sasrec_grocery",
    "retriever_tiger_beauty",
    "sampler_tokenizer",
}
SIZES = ("10 OZ", "20 OZ", "1 LB")


def each(files):
    """A test for each file; those that take long are slow ones."""
    marked = [
        pytest.param(file, marks=[pytest.mark.slow] * (file.stem in LONG))
        for file in files
    ]
    return pytest.mark.parametrize("file", marked, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the data set `tiny`, with every column that an experiment asks for."""
    folder = tmp_path_factory.mktemp("experiments")
    items = [
        {
            "item_id": f"p{n}",
            "title": f"product {n // 5} {SIZES[n % 3]}",
            "brand": f"b{n % 4}",
            "categories": [f"department {n // 20}", f"kind {n // 5}"],
            "manufacturer": f"m{n % 7}",
            "brand_tier": ("National", "Private")[n % 2],
            "package_size": SIZES[n % 3],
            "price": 0.5 + n / 10,
        }
        for n in range(60)
    ]
    baskets = [
        {
            "user_id": f"h{user}",
            "order": order,
            "retailer_id": f"s{user % 3}",
            "product_ids": [
                f"p{(7 * user + 11 * k + order % 3) % 60}" for k in range(4)
            ],
        }
        for user in range(25)
        for order in range(4 + user % 5)
    ]
    files = folder / "items.jsonl", folder / "baskets.jsonl"
    for file, rows in zip(files, (items, baskets), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_dataset(files[0], None, files[1], name="tiny", data_dir=str(folder))
    return folder


def test_finds_both_kinds():
    assert TOKENIZERS and RETRIEVERS
    assert len(TOKENIZERS) + len(RETRIEVERS) == len(FILES)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_is_one_short_file_that_says_how_to_run_it(file):
    text = file.read_text()
    assert len(text.splitlines()) < 100
    tree = ast.parse(text)
    said = ast.get_docstring(tree) or ""
    verb = "sweep" if file in SWEEPS else "train"
    assert f"sid {verb} experiments/{file.name} --workdir" in said
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Import)
        if isinstance(node, ast.ImportFrom):
            top = str(node.module).split(".")[0]
            assert top in ("sid_jax", "dataclasses")


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_page_of_results_has_it(file):
    assert f"`{file.name}`" in (file.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def cheap_compiling():
    """Compiling is nearly all that a smoke run does."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def run(folder, cheap_compiling):
    """Runs an experiment in its smoke form, once; returns its run folder and lines."""
    done, brought = {}, folder / "vectors.npz"
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    np.savez(brought, ids=[f"p{n}" for n in range(60)], vectors=vectors)

    def run_once(file: Path, **changes) -> tuple[Path, list[str]]:
        if file not in done:
            workdir, lines = folder / file.stem, []
            config = smoke(read_experiment(file))
            data = dataclasses.replace(config.data, name="tiny", data_dir=str(folder))
            mesh = MeshConfig(data=1, model=1)  # one of the eight compiles faster
            config = dataclasses.replace(config, data=data, mesh=mesh, **changes)
            if isinstance(config, TokenizerExperiment) and config.vectors.file:
                vectors = dataclasses.replace(config.vectors, file=str(brought))
                config = dataclasses.replace(config, vectors=vectors)
            train(config, workdir, lines.append)
            done[file] = workdir, lines
        return done[file]

    return run_once


@each(TOKENIZERS)
def test_tokenizer_ends_in_a_table_and_a_report(file, run):
    workdir, lines = run(file)
    assert {"sids.parquet", "report.html", "metrics.jsonl"} <= _names(workdir)
    assert "60 items" in "\n".join(lines)


@each(RETRIEVERS)
def test_retriever_ends_in_judged_answers_and_a_report(file, run):
    tokenizer, _ = run(TOKENIZERS[0])
    workdir, lines = run(file, tokenizer=str(tokenizer))
    assert {"index.npz", "samples.jsonl", "report.html"} <= _names(workdir)
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert 0 <= json.loads(rows[-1])["item/sid_jax/recall@10"] <= 1
    assert "held-out baskets" in "\n".join(lines)


@each(SWEEPS)
def test_variants_of_a_sweep_train_into_one_table(
    file, folder, run, tmp_path, monkeypatch, cheap_compiling
):
    variants = read_variants(file)
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    np.savez(tmp_path / "v.npz", ids=[f"p{n}" for n in range(60)], vectors=vectors)

    def shrink(config):
        control = isinstance(config, ControlExperiment)
        config = config if control else smoke(config)
        data = dataclasses.replace(config.data, name="tiny", data_dir=str(folder))
        if isinstance(config, RetrieverExperiment):
            codes, mesh = str(run(TOKENIZERS[0])[0]), MeshConfig(data=1, model=1)
            return dataclasses.replace(config, data=data, tokenizer=codes, mesh=mesh)
        recipe = dataclasses.replace(config.vectors, file=str(tmp_path / "v.npz"))
        config = dataclasses.replace(config, data=data, vectors=recipe)
        if control:
            return config
        return dataclasses.replace(config, mesh=MeshConfig(data=1, model=1))

    small = {name: shrink(config) for name, config in variants.items()}
    assert len({str(config) for config in small.values()}) > 1
    # One of each kind of model, and the one with all the streams.
    kept = ("lsh", "flat_vq", "tree-taxonomy", "growing+cooccurrence")
    few = {name: small[name] for name in kept if name in small}
    few = few or dict([next(iter(small.items()))])
    monkeypatch.setattr("sid_jax.flows.sweep.read_variants", lambda path: few)
    lines = []
    found = sweep(file, tmp_path / "sweep", lines.append)
    assert found.keys() == few.keys()
    table = (tmp_path / "sweep" / "sweep.md").read_text()
    retrieves = isinstance(next(iter(few.values())), RetrieverExperiment)
    assert ("Validation baskets" in table) == retrieves
    held = any(getattr(config, "holdout", 0) for config in few.values())
    assert ("Held-out items" in table) == held
    assert all(f"| {name} |" in table for name in few)
    assert f"{list(few)[-1]} seed 0" in "\n".join(lines)
    for name, config in few.items():
        if isinstance(config, ControlExperiment):  # to retrieve by
            sids = read_table(tmp_path / "sweep" / f"{name}-0" / "sids.parquet")
            assert len(sids.item_ids) == 60
            assert sids.manifest.codebook_sizes == config.codebook_sizes


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}
