"""`sid inspect` on a run's table, on another system's, and on what is no table."""

import gzip
import json
import shutil

import numpy as np
import pytest

from sid_jax.data.purchases import write_purchases
from sid_jax.flows.inspect import inspect_table, make_curves
from sid_jax.flows.tokenizer import read_figures
from sid_jax.sids.table import read_table


def inspect(path, **words):
    lines = []
    return inspect_table(path, lines.append, **words), "\n".join(lines)


def test_a_runs_table_is_judged_as_in_training(world, tmp_path):
    values, text = inspect(world.tokenizer, out=tmp_path / "page.html")
    figures = read_figures(world.tokenizer)
    assert values.keys() >= figures.keys()
    found = {name: values[name] for name in figures}
    assert found == pytest.approx(figures, rel=1e-5, nan_ok=True)
    assert "60 items" in text
    assert f"{values['unique']:.4f}" in text
    assert "page.html" in text
    page = (tmp_path / "page.html").read_text()
    assert "green tea 0" in page  # the tree holds products
    # Of its own codes it knows the reconstructions; its catalog is a tree.
    assert values["fvu@3"] == values["fvu"] != values["fvu@1"]
    assert {"ami_d1@1", "fragmentation@1", "rho_lca_half", "fvu[food]"} <= set(values)
    assert "AMI of prefix and category" in page and "Pairs that share" in page


def test_the_figures_are_written_as_they_were_found(world, tmp_path):
    values, _ = inspect(world.tokenizer, out=tmp_path / "page.html")
    told = json.loads((tmp_path / "page_figures.json").read_text())
    assert told["items"] == 60 and told["codebook_sizes"] == [4, 4, 3]
    assert set(told["figures"]) == set(values)
    for name, value in told["figures"].items():
        assert np.isnan(values[name]) if value is None else values[name] == value


def test_purchases_of_a_run_or_of_a_file(world, tmp_path):
    folder = world.copy("tokenizer", tmp_path / "run")
    table = read_table(folder / "sids.parquet")
    ids = table.item_ids.to_pylist()
    assert "gini_by_purchase@1" in inspect(folder)[0]  # of its data set
    (folder / "purchases.parquet").unlink()
    assert "gini_by_purchase@1" not in inspect(folder)[0]
    write_purchases(folder / "purchases.parquet", ids, np.arange(60) + 1)
    values, text = inspect(folder)
    code = table.codes()[:, 0]
    shares = np.bincount(code, np.arange(60) + 1.0) / (60 * 61 / 2)
    assert values["top1_by_purchase@1"] == pytest.approx(shares.max())
    assert "Codebooks by purchase" in text
    (tmp_path / "s.txt").write_text(f"u {ids[3]} {ids[3]} unknown\n")
    values, text = inspect(folder, purchases=tmp_path / "s.txt")
    assert values["top1_by_purchase@2"] == 1
    assert "not in the catalog" in text


def test_items_that_files_lack_are_refused_or_left_out(world, tmp_path, capsys):
    table = read_table(world.tokenizer / "sids.parquet")
    ids = table.item_ids.to_pylist()
    rows = zip(ids, table.codes().tolist(), strict=True)
    lines = [f"{i},{'_'.join(map(str, sid))}" for i, sid in rows]
    (tmp_path / "t.csv").write_text("\n".join(["item_id,sid", *lines]))
    items = world.write_items(tmp_path / "items.jsonl", world.make_items()[:50])
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(57, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", ids=ids[::-1][:57], vectors=vectors)
    words = ("inspect", tmp_path / "t.csv", "--vectors", tmp_path / "v.npz")
    assert world.run(*words) == 2
    told = capsys.readouterr().err
    assert "v.npz: no vector for 3 of 60 items of the SID table: 'i00'" in told
    assert "or judge the others: --partial" in told
    assert world.run(*words, "--items", items, "--partial") == 0
    told = capsys.readouterr().out
    assert "judged: 47 of 60 items" in told and "for 10 of 60 items" in told
    page = tmp_path / "t_report.html"
    assert "Icicle of 47 items" in page.read_text()
    # What is left is judged as if there were no other items.
    (tmp_path / "part.csv").write_text("\n".join(["item_id,sid", *lines[3:50]]))
    np.savez(tmp_path / "w.npz", ids=ids[3:50], vectors=vectors[::-1][:47])
    alone, _ = inspect(
        tmp_path / "part.csv", vectors=str(tmp_path / "w.npz"), items=items
    )
    told = json.loads((tmp_path / "t_report_figures.json").read_text())["figures"]
    for name, value in alone.items():
        if np.isfinite(value) and not name.startswith(("usage", "entropy", "gini")):
            assert told[name] == pytest.approx(value), name
    np.savez(tmp_path / "v.npz", ids=["x"], vectors=vectors[:1])
    assert world.run(*words, "--partial") == 2
    assert "no vector for 60 of 60 items" in capsys.readouterr().err


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
