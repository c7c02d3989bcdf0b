import numpy as np
import pytest

from sid_jax.data.catalog import read_catalog, write_catalog
from sid_jax.data.datasets import DataConfig, load
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.evals.neighbours import neighbour_metrics
from sid_jax.flows.flavours import compare_flavours
from sid_jax.sids.table import SidTable, read_table, write_table


@pytest.fixture
def other(world, tmp_path):
    """The tokenizer's run with its SIDs handed round among the items."""
    folder = world.copy("tokenizer", tmp_path / "other")
    table = read_table(folder / "sids.parquet")
    ids = table.item_ids.to_pylist()
    moved = SidTable.build(
        ids, np.roll(table.codes(), 7, axis=0), np.zeros(len(ids)), table.manifest
    )
    write_table(folder / "sids.parquet", moved)
    return folder


def test_both_tables_are_judged_and_shown(world, other, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["--item", "i07", "--item", "i00", "--out", page]
    assert world.run("flavours", world.tokenizer, other, *words) == 0
    html, printed = page.read_text(), capsys.readouterr().out
    assert "lift_across@1" in printed and str(page) in printed
    titles = [each["title"] for each in world.make_items()]
    assert html.index(f"<h3><bdi>{titles[7]}") < html.index(f"<h3><bdi>{titles[0]}")
    assert html.count("Neighbours in precision") <= 2 and "same leaf" in html
    folders = (world.tokenizer, other)
    figures = compare_flavours(folders, page, lambda line: None)
    catalog, data = load(DataConfig(name="tiny", data_dir=str(world.data)))
    leaf = Taxonomy.from_paths(catalog.categories).leaf
    for folder, found in zip(folders, figures.values(), strict=True):
        table = read_table(folder / "sids.parquet")
        codes = table.codes()[table.rows(catalog.item_ids)]
        np.testing.assert_equal(found, neighbour_metrics(codes, leaf, data))
    assert figures["precision"] != figures["discovery"]


def test_what_cannot_be_compared_is_refused(world, other, capsys):
    assert world.run("flavours", world.tokenizer, other, "--item", "zz") == 2
    assert "'zz'" in capsys.readouterr().err
    assert world.run("flavours", world.tokenizer, world.retriever) == 2
    assert "of a retriever" in capsys.readouterr().err
    table = read_table(other / "sids.parquet")
    ids = [f"x{each}" for each in table.item_ids.to_pylist()]
    renamed = SidTable.build(ids, table.codes(), np.zeros(len(ids)), table.manifest)
    write_table(other / "sids.parquet", renamed)
    assert world.run("flavours", world.tokenizer, other) == 2
    assert "its items are not those of" in capsys.readouterr().err


def test_without_the_data_set_the_lifts_are_left_out_and_said_so(
    world, other, tmp_path
):
    folder = world.copy("tokenizer", tmp_path / "moved")
    catalog = read_catalog(folder / "catalog.parquet")
    write_catalog(folder / "catalog.parquet", catalog.take(range(len(catalog))[::-1]))
    lines = []
    figures = compare_flavours((folder, other), tmp_path / "p.html", lines.append)
    assert not any(name.startswith("lift") for name in figures["precision"])
    assert any("has other items by now" in line for line in lines)
