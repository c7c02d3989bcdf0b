"""New items get SIDs; those of old items stay what they are."""

import json

import numpy as np
import pytest

from sid_jax.sids.table import read_table


def encode(world, items, out, *words):
    return world.run(
        "encode", "--tokenizer", world.tokenizer, "--items", items, "--out", out, *words
    )


def new_items(world):
    """Items that differ from all old ones, and one whose columns are of other types."""
    return [
        {**item, "item_id": f"n{row}", "title": f"{item['title']} {row}", "price": 3}
        for row, item in enumerate(world.make_items()[:7])
    ]


def codes_of(path):
    table = read_table(path)
    return dict(zip(table.item_ids.to_pylist(), map(tuple, table.codes()), strict=True))


def test_the_catalogs_own_file_gives_the_runs_table(world, tmp_path):
    assert encode(world, world.items, tmp_path / "all.parquet") == 0
    own = read_table(world.tokenizer / "sids.parquet")
    again = read_table(tmp_path / "all.parquet")
    assert again.digest() == own.digest()
    assert np.array_equal(again.distances, own.distances)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_order_number_and_format_change_no_code(world, tmp_path, suffix):
    items = world.make_items()[::-3]
    path = tmp_path / f"some.{suffix}"
    if suffix == "jsonl":
        world.write_items(path, items)
    else:
        rows = [
            {**each, "categories": " > ".join(each["categories"])} for each in items
        ]
        lines = [",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]
        path.write_text("\n".join(lines) + "\n")
    assert encode(world, path, tmp_path / "out.parquet") == 0
    own = codes_of(world.tokenizer / "sids.parquet")
    found = codes_of(tmp_path / "out.parquet")
    assert found == {each["item_id"]: own[each["item_id"]] for each in items}


def test_extend_moves_no_old_sid(world, tmp_path, capsys):
    own = world.tokenizer / "sids.parquet"
    items = world.write_items(tmp_path / "new.jsonl", new_items(world))
    both = world.write_items(
        tmp_path / "both.jsonl", new_items(world)[::-1] + world.make_items()[:5]
    )
    assert encode(world, items, tmp_path / "alone.parquet") == 0
    assert encode(world, both, tmp_path / "grown.parquet", "--extend", own) == 0
    assert "67 items (7 encoded)" in capsys.readouterr().out
    grown, alone = (
        codes_of(tmp_path / "grown.parquet"),
        codes_of(tmp_path / "alone.parquet"),
    )
    assert grown == codes_of(own) | alone
    assert list(grown)[:60] == list(codes_of(own))
    # Again: all are known, nothing changes.
    again = ("--extend", tmp_path / "grown.parquet")
    assert encode(world, both, tmp_path / "again.parquet", *again) == 0
    tables = [read_table(tmp_path / f"{n}.parquet") for n in ("grown", "again")]
    assert tables[0].digest() == tables[1].digest()


def test_another_tokenizers_table_is_not_extended(world, tmp_path, capsys):
    (tmp_path / "other.csv").write_text("item_id,sid\na,1_2_0\nb,0_0_0\n")
    out = tmp_path / "out.parquet"
    assert encode(world, world.items, out, "--extend", tmp_path / "other.csv") == 2
    assert "made by another tokenizer" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tokenizer": "nowhere"}, "nowhere is no run folder"),
        ({"--items": "nothing.jsonl"}, "nothing.jsonl: cannot be read"),
        ({"--out": "sids.csv"}, "sids.csv: a SID table is a .parquet file"),
        ({"--extend": "nothing.parquet"}, "nothing.parquet cannot be read"),
    ],
)
def test_bad_input_is_named(world, tmp_path, capsys, change, message):
    words = {"--tokenizer": world.tokenizer, "--items": world.items}
    words |= {"--out": tmp_path / "out.parquet"} | change
    assert world.run("encode", *(each for pair in words.items() for each in pair)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_retrievers_run_encodes_nothing(world, tmp_path, capsys):
    words = ("--items", world.items, "--out", tmp_path / "out.parquet")
    assert world.run("encode", "--tokenizer", world.retriever, *words) == 2
    assert "is the run of a retriever" in capsys.readouterr().err


def test_a_text_column_that_was_of_numbers_is_named(world, tmp_path, capsys):
    item = {"item_id": "n", "title": "x", "price": "cheap", "brand_tier": "Private"}
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(item | {"stock": 1}) + "\n")
    assert encode(world, path, tmp_path / "out.parquet") == 2
    assert "'price' holds text" in capsys.readouterr().err
    del item["price"]
    path.write_text(json.dumps(item | {"stock": 1}) + "\n")
    assert encode(world, path, tmp_path / "out.parquet") == 2
    assert "no column 'price'" in capsys.readouterr().err
