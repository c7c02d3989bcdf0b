"""Texts, pairs and sequences made on Beam are those of one machine."""

import logging
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from sid_jax import config
from sid_jax.cli import main
from sid_jax.data import datasets
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import DataConfig
from sid_jax.data.flavours import make_texts
from sid_jax.data.pairs import PairConfig, mine_pairs, read_pairs
from sid_jax.data.pipeline import split_last
from sid_jax.data.sequences import cut_histories
from sid_jax.data.texts import match_texts, read_texts
from sid_jax.errors import InputError
from sid_jax.flows.preparing import prepare

pytest.importorskip("apache_beam", reason="pip install sid_jax[beam]")
# Beam wants an older protobuf, at which TFDS is warned.
pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")


def make_contents(seed, num_items=40, num_users=15):
    """Item ids do not stand in the order of their text, and some items are unsold."""
    rng = np.random.default_rng(seed)
    ids = [f"p{n}" for n in rng.permutation(num_items)]
    catalog = Catalog.from_columns(
        ids,
        title=rng.choice(["Acme Tea 12 oz", "Best Milk", "", None], num_items).tolist(),
        brand=rng.choice(["Acme", None], num_items).tolist(),
        categories=[["Food", "Drinks"][: rng.integers(3)] for _ in ids],
        attributes={"size": rng.choice(["1 L", None], num_items).tolist()},
    )
    number = 12 * num_users
    sizes = rng.integers(1, 7, number)
    sold = np.arange(num_items - 5)
    weights = 1 / (1 + sold) / np.sum(1 / (1 + sold))
    baskets = [rng.choice(sold, size, replace=False, p=weights) for size in sizes]
    users = [f"u{n}" for n in rng.integers(0, num_users, number)]
    stores = [f"s{n}" for n in rng.integers(0, 3, number)]
    times = rng.integers(0, 1000, number)
    return catalog, Interactions.from_baskets(
        [*users, "one", "two", "two"],
        [*times, 0, 0, 1],
        [*map(list, baskets), [0], [1], [2, 3]],
        [*stores, "s0", "s0", "s1"],
    )


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Saves contents in two shards a configuration."""
    config = partial(tfds.download.DownloadConfig, num_shards=2)
    monkeypatch.setattr(datasets.tfds.download, "DownloadConfig", config)
    monkeypatch.setattr("sid_jax.data.builders.BLOCK", 9)
    return lambda contents: datasets.save("mine", contents, tmp_path / "tfds")


def assert_same(tmp_path, contents, pairs, recipe, title_words, length, held_out):
    catalog, data = contents
    out = tmp_path / "out"
    lines = []
    prepare(
        DataConfig(name="mine", data_dir=str(tmp_path / "tfds")),
        out,
        lines.append,
        texts=recipe,
        title_words=title_words,
        pairs=pairs,
        sequences=length,
        held_out=held_out,
    )
    assert [line.split("/")[-1] for line in lines] == [
        "texts.parquet",
        "pairs.parquet",
        "sequences-00000-of-00001.parquet",
    ]
    texts, _ = read_texts(out / "texts.parquet")
    assert match_texts(out, texts, catalog.item_ids) == make_texts(
        catalog, recipe, title_words=title_words
    )

    for _ in range(held_out):
        data = split_last(data)[0]
    found = read_pairs(out / "pairs.parquet", catalog)
    wanted = mine_pairs(
        data,
        len(catalog),
        min_support=pairs.min_support,
        min_pmi=pairs.min_pmi,
        window=pairs.window,
        max_basket=pairs.max_basket,
    )
    for name, value in vars(wanted).items():
        again = vars(found)[name]
        assert again.dtype == value.dtype, name
        np.testing.assert_array_equal(again, value, name)

    rows = [row for path in out.glob("seq*") for row in pq.read_table(path).to_pylist()]
    rows.sort(key=lambda row: (row["row"], row["piece"]))
    starts, ends = cut_histories(data, length)
    basket_of = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    pieces = [
        (
            data.users[data.user[basket_of[start]]],
            data.retailers[data.retailer[basket_of[end - 1]]],
            [catalog.item_ids[item] for item in data.items[start:end]],
        )
        for start, end in zip(starts, ends, strict=True)
        if end - start > 1
    ]
    assert [
        (data.users[row["row"]], row["retailer"], row["item_ids"]) for row in rows
    ] == pieces
    return len(wanted), len(pieces)


def test_what_training_reads_is_that_of_one_machine(tmp_path, save):
    contents = make_contents(0)
    save(contents)
    pairs = PairConfig(min_support=3, min_pmi=0.1, window=1, max_basket=5)
    number, pieces = assert_same(tmp_path, contents, pairs, "discovery", 2, 4, 2)
    assert number > 20 and pieces > len(contents[1].users)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_any_data_set(tmp_path, save, seed):
    rng = np.random.default_rng(seed)
    contents = make_contents(seed)
    save(contents)
    pairs = PairConfig(
        min_support=int(rng.integers(1, 6)),
        min_pmi=float(rng.choice([-9.0, 0.0, 0.4])),
        window=int(rng.integers(0, 4)),
        max_basket=int(rng.integers(1, 8)),
    )
    recipe = str(rng.choice(["precision", "discovery"]))
    length, held_out = int(rng.integers(1, 9)), int(rng.integers(0, 4))
    assert_same(tmp_path, contents, pairs, recipe, 0, length, held_out)


def test_items_alone_have_neither_pairs_nor_sequences(tmp_path, save):
    save((make_contents(0)[0], None))
    data = DataConfig(name="mine", data_dir=str(tmp_path / "tfds"))
    with pytest.raises(InputError, match="'mine' has items alone"):
        prepare(data, tmp_path / "out", print, pairs=PairConfig())
    with pytest.raises(InputError, match="nothing to prepare"):
        prepare(data, tmp_path / "out", print)
    assert not (tmp_path / "out").exists()
    (tmp_path / "sequences-00001-of-00003.parquet").touch()
    with pytest.raises(InputError, match=r"00003\.parquet exists"):
        prepare(data, tmp_path, print, sequences=5)


def run_prepare(tmp_path, *words):
    """`sid prepare` into `in/out`: its exit code, and what is there then."""
    root, out = tmp_path / "tfds", tmp_path / "in" / "out"
    words = ("--texts", "precision", "--pairs", "--sequences", 5, *words)
    words = ("prepare", "--data", "mine", "--data-dir", root, "--out", out, *words)
    code = main([*map(str, words)])
    return code, sorted(path.name for path in out.rglob("*")) if out.is_dir() else []


@pytest.mark.parametrize(
    "size", [600, *(pytest.param(size, marks=pytest.mark.slow) for size in (0, 1500))]
)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, save, capsys, caplog, size):
    save(make_contents(0))
    assert config, "imported before the disk is full"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        code, there = run_prepare(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert (code, there) == (2, []), err
    assert f"sid prepare: {tmp_path / 'in' / 'out'}: cannot be written (" in err
    assert "Traceback" not in err and "make room there" in err
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


def test_a_file_in_place_of_the_folder_is_told(tmp_path, save, capsys):
    save(make_contents(0))
    (tmp_path / "in").write_text("mine")
    assert run_prepare(tmp_path) == (2, [])
    assert f"{tmp_path / 'in' / 'out'}: cannot be written (" in capsys.readouterr().err
    assert (tmp_path / "in").read_text() == "mine"


def test_a_damaged_data_set_is_told(tmp_path, save, capsys):
    save(make_contents(0))
    folder = tmp_path / "tfds" / "mine" / "histories" / "1.0.0"
    path = sorted(folder.glob("*array_record*"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run_prepare(tmp_path) == (2, [])
    err = capsys.readouterr().err
    assert f"sid prepare: data set {folder} is damaged (" in err, err
    assert "import it again" in err and "Traceback" not in err


def test_beam_says_nothing_of_what_nobody_asked_for(tmp_path):
    words = ("prepare", "--data", "none", "--data-dir", tmp_path, "--out", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "sid_jax.cli", *map(str, words), "--pairs"],
        cwd=Path(config.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    told = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert len(told) == 1 and "there is no data set 'none'" in told[0], done.stderr
