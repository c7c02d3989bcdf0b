"""`sid quickstart`'s flow, on the tiny shop."""

import dataclasses
import re
import shlex

import pytest

from sid_jax.config import DataConfig, read_config, read_experiment
from sid_jax.flows import retriever as room
from sid_jax.flows.quickstart import QuickstartConfig, quickstart
from sid_jax.flows.train import Interrupted
from sid_jax.sids.table import read_table


def test_the_whole_path_interrupted_and_again(world, tmp_path, monkeypatch, capsys):
    data = DataConfig(name="tiny")
    tokenizer, retriever = (
        dataclasses.replace(read_experiment(path), data=data)
        for path in (world.tokenizer_file, world.retriever_file)
    )
    config = QuickstartConfig(tokenizer=tokenizer, retriever=retriever)
    work = tmp_path / "work dir"
    assert world.import_data(work / "data") == 0
    lines = []
    with monkeypatch.context() as patch:
        world.interrupt(patch, room, "prompt_stream", step=4)
        with pytest.raises(Interrupted, match="run again to go on"):
            quickstart(config, work, lines.append)
    quickstart(config, work, lines.append)
    text = "\n".join(lines)
    for stage in ("1/4", "2/4", "3/4", "4/4", "done in"):
        assert stage in text
    assert {path.name for path in work.iterdir()} == {
        "data",
        "tokenizer",
        "retriever",
        "report.html",
        "story.png",
    }
    assert read_config(work / "retriever" / "config.json").tokenizer == str(
        work / "tokenizer"
    )
    tables = (
        read_table(f / "sids.parquet") for f in (work / "tokenizer", world.tokenizer)
    )
    assert len({table.digest() for table in tables}) == 1
    assert "Spearman" in (work / "report.html").read_text()

    assert re.search("goes on at step [2345] of 6", text)
    runs = (work / "retriever", world.retriever)
    rows = ([row for row in world.values(f) if row["step"] == 6] for f in runs)
    assert next(rows) == next(rows)

    # The command that it ends with can be pasted.
    command = next(line for line in lines if line.startswith("  sid retrieve"))
    assert "--where brand_tier=Private" in command
    capsys.readouterr()
    assert world.run(*shlex.split(command)[1:]) == 0
    assert "  1  " in capsys.readouterr().out

    again = []
    written = (work / "report.html").stat().st_mtime_ns
    quickstart(config, work, again.append)
    text = "\n".join(again)
    assert text.count("already finished at step 6 of 6") == 2
    assert "already judged" in text
    assert "first step" not in text
    assert (work / "report.html").stat().st_mtime_ns == written


def test_data_that_lie_elsewhere_are_used_there(world, tmp_path, capsys):
    work = tmp_path / "run"
    words = ("--tokenizer.data.name", "nothing", "--tokenizer.data.data-dir")
    assert world.run("quickstart", "--workdir", work, *words, world.data) == 2
    err = capsys.readouterr().err
    assert f"there is no data set 'nothing' in {world.data}; it has tiny" in err
    assert world.run("quickstart", "--workdir", work, *words[:2]) == 2
    assert str(work / "data") in capsys.readouterr().err
