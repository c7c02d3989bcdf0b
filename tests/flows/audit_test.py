"""`sid audit` on a run, on another system's table, and what it warns of."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sid_jax.config import (
    NeighbourhoodConfig,
    RetrieverExperiment,
    TokenizerExperiment,
    VectorConfig,
)
from sid_jax.flows.audit import COLUMNS, audit_catalog, escape_cell, find_leaks


@pytest.fixture
def shop(tmp_path):
    """Another system's SIDs that say the category; i05 is mislabelled, i06 unknown."""
    rows, sids = [], ["item_id,sid"]
    for n in range(60):
        kind = n // 20
        path = ["shop", f"kind {kind}"]
        if n == 5:
            path = ["shop", "kind 2"]
        title = "=HYPERLINK(1)<b>" if n == 5 else f"thing {n}"
        rows.append(
            {
                "item_id": f"i{n:02d}",
                "title": title,
                "categories": path if n != 6 else [],
            }
        )
        sids.append(f"i{n:02d},{kind}-{n % 4}")
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sids.csv").write_text("\n".join(sids) + "\n")
    return tmp_path


def run(world, shop, *others):
    words = ("--items", shop / "items.jsonl", "--out", shop / "found.csv")
    return world.run("audit", shop / "sids.csv", *others, *words)


def test_the_planted_label_is_listed_and_shown_beside_its_neighbours(
    world, shop, capsys
):
    assert run(world, shop) == 0
    out = capsys.readouterr().out
    assert "1 of 60 items are suspect" in out
    assert "WARNING" in out and "does not say how the SIDs were made" in out
    with (shop / "found.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert row["item_id"] == "i05"
    assert (row["label"], row["suggested"]) == ("shop > kind 2", "shop > kind 0")
    assert row["title"].startswith("'=HYPERLINK")
    assert row["sid"] == "0_1" and row["prefix_levels"] == "1"
    near = row["neighbours"].split()
    assert len(near) == 8 and all(each < "i20" for each in near)
    assert "i05" not in near and "i06" not in near
    page = (shop / "found.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page.split("=HYPERLINK")[1][:8]
    assert "thing 9" in page and "audits itself" in page
    # The same table twice is the same vote.
    first = (shop / "found.csv").read_bytes()
    assert run(world, shop, shop / "sids.csv") == 0
    assert (shop / "found.csv").read_bytes() == first


def test_a_run_is_audited_with_its_own_items_and_warned_of_its_text(world, tmp_path):
    lines = []
    found = audit_catalog([world.tokenizer], tmp_path / "a.csv", lines.append)
    assert any("vectors.text has categories" in line for line in lines)
    assert any("--vectors.text title brand" in line for line in lines)
    with (tmp_path / "a.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + min(len(found), 100)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ('{"item_id": "i00"}', "item ids are not in the catalog"),
        (None, "fewer than two categories are in use"),
    ],
)
def test_items_that_do_not_fit_are_named(world, shop, capsys, items, message):
    blank = "\n".join(f'{{"item_id": "i{n:02d}"}}' for n in range(60))
    (shop / "items.jsonl").write_text(items or blank)
    assert run(world, shop) == 2
    assert message in capsys.readouterr().err
    assert not (shop / "found.csv").exists()


def test_a_table_alone_asks_for_its_items(world, shop, capsys):
    assert world.run("audit", shop / "sids.csv", "--out", shop / "a.csv") == 2
    assert "name the items with --items" in capsys.readouterr().err


def test_leaks_are_told_by_what_the_vectors_and_the_task_saw():
    plain = TokenizerExperiment(vectors=VectorConfig(text=("title", "brand")))
    assert find_leaks(plain) == []
    assert "category path" in find_leaks(TokenizerExperiment())[0]
    assert "a file" in find_leaks(replace(plain, vectors=VectorConfig(file="v.npz")))[0]
    near = NeighbourhoodConfig(k=5, cut=0.5)
    cut = replace(plain, vectors=replace(plain.vectors, neighbours=near))
    assert "cut 0.5" in find_leaks(cut)[0]
    assert "retriever" in find_leaks(RetrieverExperiment())[0]
    for taught in (0.01, SimpleNamespace(weight=0.01)):
        task = SimpleNamespace(taxonomy=taught)
        config = object.__new__(TokenizerExperiment)
        object.__setattr__(config, "vectors", plain.vectors)
        object.__setattr__(config, "task", task)
        assert "taxonomy weight 0.01" in find_leaks(config)[0]
    task.taxonomy = SimpleNamespace(weight=0.0)
    assert find_leaks(config) == []


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("@x", "'@x"),
        ("\t=1", "'=1"),
        ("-5", "-5"),
        ("-cmd", "'-cmd"),
        (0.25, "0.25"),
        ("a\nb", "a b"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(value, cell):
    assert escape_cell(value) == cell
