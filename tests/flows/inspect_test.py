"""`sid inspect` on a run's table, on another system's, and on what is no table."""

import gzip
import shutil

import numpy as np
import pytest

from sid_jax.flows.inspect import inspect_table, make_curves
from sid_jax.flows.tokenizer import read_figures
from sid_jax.sids.table import read_table


def inspect(path, **words):
    lines = []
    return inspect_table(path, lines.append, **words), "\n".join(lines)


def test_a_runs_table_is_judged_as_in_training(world, tmp_path):
    values, text = inspect(world.tokenizer, out=tmp_path / "page.html")
    figures = read_figures(world.tokenizer)
    assert values.keys() == figures.keys()
    assert values == pytest.approx(figures, rel=1e-5, nan_ok=True)
    assert "60 items" in text
    assert f"{values['unique']:.4g}" in text
    assert "page.html" in text
    page = (tmp_path / "page.html").read_text()
    assert "green tea 0" in page  # the tree holds products


def test_another_systems_csv_is_judged_by_itself(world, tmp_path):
    table = read_table(world.tokenizer / "sids.parquet")
    sids = ["-".join(map(str, sid)) for sid in table.codes()]
    rows = zip(table.item_ids.to_pylist(), sids, strict=True)
    text = "item_id,sid\n" + "".join(f"{i},{sid}\n" for i, sid in rows)
    (tmp_path / "theirs.csv.gz").write_bytes(gzip.compress(text.encode()))
    values, _ = inspect(tmp_path / "theirs.csv.gz")
    figures = read_figures(world.tokenizer)
    assert (tmp_path / "theirs_report.html").exists()
    for name in ("unique", "largest_group", "usage@1", "perplexity@3"):
        assert values[name] == figures[name]
    assert "rho_half" not in values
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    ids = table.item_ids.to_pylist()
    np.savez(tmp_path / "v.npz", ids=ids, vectors=vectors)
    values, _ = inspect(tmp_path / "theirs.csv.gz", vectors=str(tmp_path / "v.npz"))
    assert np.isfinite(values["rho_uniform"])
    assert "fvu" not in values


def test_other_codes_beside_a_tokenizer_are_not_its_own(world, tmp_path):
    """Judged against the run's vectors, but not by what its decoder makes of them."""
    folder = world.copy("tokenizer", tmp_path / "run")
    (folder / "theirs.csv").write_text("item_id,sid\ni01,0_0\ni02,0_1\ni03,1_1\n")
    values, _ = inspect(folder / "theirs.csv")
    assert "fvu" not in values
    assert "rho_uniform" in values


def test_a_table_with_items_of_no_catalog_is_judged_by_itself(world, tmp_path):
    new = world.write_items(
        tmp_path / "new.jsonl", [{**world.make_items()[0], "item_id": "n"}]
    )
    folder = world.copy("tokenizer", tmp_path / "run")
    words = ("--tokenizer", folder, "--items", new, "--out", folder / "grown.parquet")
    assert world.run("encode", *words, "--extend", folder / "sids.parquet") == 0
    values, text = inspect(folder / "grown.parquet")
    assert "61 items" in text
    assert "rho_half" not in values


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.parquet", "none.parquet: no such file; name the folder of a finished"),
        (".", "sids.parquet: no such file"),
        ("config.json", "not a .parquet, .csv or .csv.gz file"),
        ("catalog.parquet", "no SID manifest"),
        ("cut.parquet", "cannot be read as a SID table"),
    ],
)
def test_what_is_no_table_is_named(world, tmp_path, capsys, name, message):
    for each in ("config.json", "catalog.parquet"):
        shutil.copy(world.tokenizer / each, tmp_path)
    table = (world.tokenizer / "sids.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(table[: len(table) // 2])
    assert world.run("inspect", tmp_path / name) == 2
    assert message in capsys.readouterr().err
    table = world.tokenizer / "sids.parquet"
    assert world.run("inspect", table, "--vectors", tmp_path / "no.npy") == 2
    assert "no.npy: no such file" in capsys.readouterr().err


def test_curves_are_read_off_the_metrics():
    rows = [
        {"step": 1, "loss": 3.0, "loss_1": 9.0},
        {"step": 2, "loss": None},
        {"step": 2, "validation/recall@5": 0.5, "validation/ndcg@5": 0.1},
        {"step": 3, "loss": 2.0, "codes/loss": 7.0},
    ]
    assert make_curves(rows, "loss") == {"loss": ([1, 3], [3.0, 2.0])}
    assert make_curves(rows, "validation") == {"recall@5": ([2], [0.5])}
    assert make_curves(rows, "nothing") == {}
