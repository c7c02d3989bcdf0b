"""A tokenizer encodes an item alone: others, their order and number change nothing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.cells import Cells
from sid_jax.data.copurchase import fit_copurchase
from sid_jax.data.datasets import DataConfig, load
from sid_jax.data.items import split_holdout
from sid_jax.data.parsing import read_items
from sid_jax.data.pipeline import split_last
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.flows import runs
from sid_jax.flows.tokenizer import Tokenizer, read_figures
from sid_jax.sids.table import read_table


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer.load(world.tokenizer)


@pytest.fixture(scope="module")
def catalog(world):
    return runs.read_catalog(world.tokenizer)


@settings(deadline=None, max_examples=15)
@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=70, unique=False))
def test_neighbours_change_nothing(tokenizer, catalog, world, rows):
    rows = list(dict.fromkeys(rows))
    table = read_table(world.tokenizer / "sids.parquet")
    encoded = tokenizer.encode(catalog.take(rows))
    assert np.array_equal(encoded.codes, table.codes()[rows])
    assert np.array_equal(encoded.distances, table.distances[rows])


def test_the_table_says_where_it_comes_from(tokenizer, catalog, world):
    manifest = read_table(world.tokenizer / "sids.parquet").manifest
    assert manifest.tokenizer == tokenizer.digest()
    assert manifest.catalog == catalog.digest()
    assert manifest.codebook_sizes == (4, 4, 3)


def test_the_figures_are_those_of_the_codes(world):
    figures = read_figures(world.tokenizer)
    codes = read_table(world.tokenizer / "sids.parquet").codes()
    unique = {tuple(row) for row in codes.tolist()}
    assert figures["unique"] == pytest.approx(len(unique) / len(codes))
    assert figures["usage@1"] == len(set(codes[:, 0])) / 4
    with pytest.raises(InputError, match="has no figures"):
        read_figures(world.retriever)


def test_vectors_of_another_file_serve_new_items(world, tmp_path, capsys):
    """Trained from a file; new items' vectors come in a file that lacks the old."""
    rng = np.random.default_rng(0)
    ids = [each["item_id"] for each in world.make_items()]
    vectors = rng.normal(size=(62, 8)).astype(np.float32)
    np.savez(tmp_path / "old.npz", ids=ids, vectors=vectors[:60])
    np.savez(tmp_path / "new.npz", ids=["n1", "n2"], vectors=vectors[60:])
    (tmp_path / "kmeans.py").write_text(
        "from sid_jax.config import *\n"
        "def get_config():\n"
        "    return TokenizerExperiment(\n"
        f"        data=DataConfig(name='tiny', data_dir={str(world.data)!r}),\n"
        f"        vectors=VectorConfig(file={str(tmp_path / 'old.npz')!r}),\n"
        "        model=ResidualKMeansConfig(codebook_sizes=(4, 4)), batch_size=16,\n"
        "        task=TokenizerTaskConfig(start_rows=64, start_iterations=2),\n"
        "        train=TrainConfig(steps=1), mesh=MeshConfig(data=1))\n"
    )
    run = tmp_path / "run"
    assert world.run("train", tmp_path / "kmeans.py", "--workdir", run) == 0
    items = world.write_items(tmp_path / "i.jsonl", [{"item_id": "n2"}])
    encode = ("encode", "--tokenizer", run, "--items", items)
    (tmp_path / "old.npz").unlink()
    out = tmp_path / "out.parquet"
    assert world.run(*encode, "--out", out, "--vectors", tmp_path / "new.npz") == 0
    # k-means by hand: the nearest codeword of each level's residual.
    model = Tokenizer.load(run, str(tmp_path / "new.npz"))
    left = model.recipe.encode(read_items(items)[0])[0]
    codes = []
    for size, codebook in zip((4, 4), np.asarray(model.state.vectors), strict=True):
        distances = np.square(codebook[:size] - left).sum(axis=1)
        codes.append(int(distances.argmin()))
        left = left - codebook[codes[-1]]
    assert read_table(out).codes().tolist() == [codes]
    capsys.readouterr()
    assert world.run(*encode, "--out", out) == 2
    assert "old.npz: no such file" in capsys.readouterr().err
    words = ("--tokenizer", world.tokenizer, "--items", world.items, "--out", out)
    assert world.run("encode", *words, "--vectors", tmp_path / "new.npz") == 2
    assert "leave --vectors out" in capsys.readouterr().err


def test_the_configuration_is_readable(world):
    plain = json.loads((world.tokenizer / "config.json").read_text())
    assert plain["model"]["class"] == "RQVAEConfig"
    assert plain["train"]["steps"] == 6


EVERYTHING = """
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = TokenizerExperiment(
        data=DataConfig(name="tiny", data_dir={data!r}),
        vectors=VectorConfig(columns=("price", "brand_tier", "stock")),
        model=RQVAEConfig(codebook_sizes=(4, 4, 3)),
        task=TokenizerTaskConfig(
            taxonomy=TaxonomyTerm(weight=0.1),
            cooccurrence=CooccurrenceTerm(weight=0.1),
        ),
        cells=CellConfig(columns=("brand_tier",), min_items=1),
        holdout=0.2,
        dedup=True,
    )
    return replace(smoke(config), mesh=MeshConfig(data=1))
"""


def test_cells_terms_holdout_and_dedup_together(world, tmp_path, capsys):
    file, run = tmp_path / "all.py", tmp_path / "run"
    file.write_text(EVERYTHING.format(data=str(world.data)))
    assert world.run("train", file, "--workdir", run) == 0
    catalog, table = runs.read_catalog(run), read_table(run / "sids.parquet")
    codes = table.codes()
    # The first code implies the brand tier, in the manifest as in the cells' file.
    cells = Cells.load(run / "cells.json")
    assert table.manifest.cells == tuple(zip(cells.names, cells.sizes, strict=True))
    for tier in ("Private", "National"):
        allowed = cells.allow({"brand_tier": tier})
        own = [each == tier for each in catalog.column("brand_tier")]
        assert allowed.exact
        np.testing.assert_array_equal(allowed.codes[codes[:, 0]], own)
    # The last level tells all items apart.
    assert codes.shape == (60, 4) and len(np.unique(codes, axis=0)) == 60
    figures = read_figures(run)
    assert figures["train/items"] == 48 and figures["heldout/items"] == 12
    assert {"heldout/fvu", "heldout/unique", "train/ami_d1@1"} <= set(figures)
    last = [row for row in world.values(run) if "taxonomy" in row][-1]
    assert last["taxonomy"] > 0 and last["cooccurrence"] > 0
    assert "heldout" in capsys.readouterr().out
    # New items go after the old ones of their SID.
    new = [{**each, "item_id": f"n{each['item_id']}"} for each in world.make_items()]
    items, out = world.write_items(tmp_path / "n.jsonl", new), tmp_path / "o.parquet"
    words = ("--tokenizer", run, "--items", items, "--out", out)
    assert world.run("encode", *words, "--extend", run / "sids.parquet") == 0
    grown = read_table(out)
    np.testing.assert_array_equal(grown.codes()[:60], codes)
    np.testing.assert_array_equal(grown.codes()[60:, :3], codes[:, :3])
    assert len(np.unique(grown.codes(), axis=0)) == 120
    # And the run, run again, has nothing to do.
    before = (run / "sids.parquet").read_bytes()
    assert world.run("train", file, "--workdir", run) == 0
    assert (run / "sids.parquet").read_bytes() == before


def test_copurchases_are_of_training_baskets_and_known_items(world, tmp_path):
    words = ("--vectors.copurchase.dim", 3, "--vectors.copurchase.window", 1)
    folder = tmp_path / "run"
    assert world.train("tokenizer", folder, *words, "--holdout", 0.2) == 0
    recipe = ItemVectors.load(folder / "vectors")
    catalog, data = load(DataConfig(name="tiny", data_dir=str(world.data)))
    rows, held = split_holdout(60, 0.2)
    train, _ = split_last(split_last(data)[0])
    wanted = fit_copurchase(recipe.config.copurchase, train, 60, rows)
    np.testing.assert_array_equal(recipe.encode(catalog)[:, recipe.plain :], wanted)
    assert wanted[rows].any() and not wanted[held].any()


@pytest.mark.parametrize("slack", [0.0, 1e9])
def test_a_warm_start_keeps_sids_as_far_as_it_may(world, tmp_path, slack):
    run = tmp_path / "run"
    words = ("--start.run", world.tokenizer, "--start.slack", slack)
    words += ("--task.anchor", 1.0, "--task.frozen", 1, "--optimizer.learning-rate")
    assert world.train("tokenizer", run, *words, 1e-3) == 0
    old, new = (
        read_table(world.tokenizer / "sids.parquet"),
        read_table(run / "sids.parquet"),
    )
    before, after = Tokenizer.load(world.tokenizer), Tokenizer.load(run)
    np.testing.assert_array_equal(before.state.vectors[0], after.state.vectors[0])
    assert np.abs(before.state.vectors[1] - after.state.vectors[1]).max() > 0
    if slack:
        np.testing.assert_array_equal(new.codes(), old.codes())
    assert old.manifest.tokenizer != new.manifest.tokenizer
    codes = new.codes()
    latents = after.latents(runs.read_catalog(run))
    total = np.asarray(after.state.vectors)[np.arange(3), codes].sum(axis=1)
    left = np.square(latents - total).sum(axis=1)
    np.testing.assert_allclose(new.distances, left, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start.run", "nowhere"], "nowhere is no run folder"),
        (["--task.anchor", "1"], "start.run"),
        (["--holdout", "1"], "holdout=1"),
        (["--holdout", "0.999"], "both must be some"),
        (["--cells.columns", "colour"], "colour"),
        (["--task.cooccurrence.weight", "1", "--pairs.min-support", "99"], "min_supp"),
        (["--task.cooccurrence.weight", "1", "--pairs.file", "none"], "no file of pai"),
    ],
)
def test_settings_that_cannot_work_are_named(world, tmp_path, capsys, words, message):
    assert world.train("tokenizer", tmp_path / "run", *words) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "run" / "sids.parquet").exists()


def test_a_start_of_other_vectors_is_refused(world, tmp_path, capsys):
    words = ("--start.run", world.tokenizer, "--vectors.dim", 5)
    assert world.train("tokenizer", tmp_path / "run", *words) == 2
    assert "has vectors=" in capsys.readouterr().err
