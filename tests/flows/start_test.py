"""A retriever that goes on from another run's parameters."""

import dataclasses

import chex
import pytest

from sid_jax.flows.retriever import load_retriever
from sid_jax.sids.table import SidTable, read_table, write_table


def test_a_run_goes_on_from_another(world, tmp_path):
    """At step 0 it is the other: a rate of 0 keeps every parameter."""
    still = ("--optimizer.learning_rate", 1e-30)
    told = ("--start", world.retriever, *still)
    assert world.train("retriever", tmp_path / "run", *told) == 0
    before, after = map(load_retriever, (world.retriever, tmp_path / "run"))
    chex.assert_trees_all_close(after.params, before.params)
    assert world.train("retriever", tmp_path / "fresh", *still) == 0
    with pytest.raises(AssertionError):
        fresh = load_retriever(tmp_path / "fresh")
        chex.assert_trees_all_close(fresh.params, before.params)


@pytest.mark.slow
def test_a_stopped_run_does_not_need_what_it_went_on_from(world, tmp_path):
    before = world.copy("retriever", tmp_path / "before")
    told = ("--start", before, "--train.steps", 2)
    assert world.train("retriever", tmp_path / "run", *told) == 0
    before.rename(tmp_path / "gone")
    told = ("--start", before, "--train.steps", 4)
    assert world.train("retriever", tmp_path / "run", *told) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--model.transformer.depth", 2), "has model="),
        (("--prompts.user",), "has prompts.user=False, and this run True"),
        (("--tokenizer", "OTHER"), "has codebooks=(4, 4, 3), and this run (4, 4, 4)"),
    ],
)
def test_another_shape_is_refused(world, tmp_path, capsys, change, words):
    table = read_table(world.tokenizer / "sids.parquet")
    wider = SidTable.build(
        table.item_ids.to_pylist(),
        table.codes(),
        table.distances,
        dataclasses.replace(table.manifest, codebook_sizes=(4, 4, 4)),
    )
    (tmp_path / "other").mkdir()
    write_table(tmp_path / "other" / "sids.parquet", wider)
    change = [str(tmp_path / "other") if word == "OTHER" else word for word in change]
    told = ("--start", world.retriever, *change)
    assert world.train("retriever", tmp_path / "run", *told) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
