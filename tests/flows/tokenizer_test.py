"""A tokenizer encodes an item alone: others, their order and number change nothing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.importer import read_items
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
