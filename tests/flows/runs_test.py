"""Damaged run folders are named, with what to do; a run's configuration is compared."""

import dataclasses
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.config import (
    FlatConfig,
    PromptConfig,
    ResidualKMeansConfig,
    RetrieverExperiment,
    SearchConfig,
    TokenizerExperiment,
    TrainConfig,
    write_config,
)
from sid_jax.errors import InputError
from sid_jax.flows import runs

ANEW = "the same `sid train` then writes it anew"


def junk(path):
    path.write_bytes(b"\x00\xffjunk{\nmore")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("damage", [junk, cut, drop])
@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("config.json", ""),
        ("sids.parquet", "`sid train`"),
        ("index.npz", ANEW),
        ("catalog.parquet", ANEW),
        ("retailers.json", ANEW),
    ],
)
def test_a_damaged_file_of_a_retriever_is_named(
    world, tmp_path, capsys, damage, name, fix
):
    folder = world.copy("retriever", tmp_path / "run")
    damage(folder / name)
    words = ("--retailer", "north", "--history", "i01")
    assert world.run("retrieve", folder, *words) == 2
    err = capsys.readouterr().err
    assert name in err
    assert fix in err
    assert err.startswith("sid retrieve: ")


@pytest.mark.parametrize("name", ["index.npz", "catalog.parquet", "retailers.json"])
def test_what_is_made_of_the_data_is_made_anew(world, tmp_path, name):
    folder = world.copy("retriever", tmp_path / "run")
    drop(folder / name)
    assert world.train("retriever", folder) == 0
    old, new = (each / name for each in (world.retriever, folder))
    assert new.read_bytes() == old.read_bytes()


@pytest.mark.parametrize("damage", [junk, drop])
def test_a_tokenizers_table_is_made_anew(world, tmp_path, capsys, damage):
    folder = world.copy("tokenizer", tmp_path / "run")
    damage(folder / "sids.parquet")
    code = world.train("tokenizer", folder)
    if damage is junk:
        assert code == 2
        assert "delete it and run `sid train` again" in capsys.readouterr().err
        drop(folder / "sids.parquet")
        code = world.train("tokenizer", folder)
    assert code == 0
    tables = (runs.read_sids(f / runs.SIDS) for f in (folder, world.tokenizer))
    assert len({table.digest() for table in tables}) == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_damaged_lines_are_named(world, tmp_path, capsys, name):
    folder = world.copy("retriever", tmp_path / "run")
    text = (folder / name).read_text()
    (folder / name).write_text("{" + text)
    drop(folder / "report.html")
    assert world.train("retriever", folder) == 2
    err = capsys.readouterr().err
    assert name in err
    assert "delete it" in err or "writes it anew" in err


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("retriever", ["retrieve", "--retailer", "north"]),
        ("retriever", ["evaluate"]),
        ("tokenizer", ["encode", "--items", "ITEMS", "--out", "OUT", "--tokenizer"]),
    ],
)
def test_missing_checkpoints_are_named(world, tmp_path, capsys, kind, words):
    folder = world.copy(kind, tmp_path / "run")
    drop(folder / "checkpoints")
    names = {"ITEMS": world.items, "OUT": tmp_path / "out.parquet"}
    words = [names.get(word, word) for word in words]
    words = [*words, folder] if kind == "tokenizer" else [words[0], folder, *words[1:]]
    assert world.run(*words) == 2
    assert "no checkpoint (there is none); train first" in capsys.readouterr().err


def test_checkpoints_without_a_configuration_are_not_taken_over(
    world, tmp_path, capsys
):
    folder = world.copy("tokenizer", tmp_path / "run")
    drop(folder / "config.json")
    assert world.train("tokenizer", folder) == 2
    assert "has checkpoints, but no config.json" in capsys.readouterr().err


OLD = RetrieverExperiment()
SAME = [
    {"train": TrainConfig(steps=5, log_every=3)},
    {"search": SearchConfig(num_beams=3)},
    {"tokenizer": "elsewhere"},
    {"data": dataclasses.replace(OLD.data, data_dir="elsewhere")},
]
OTHER = {
    "train.seed": {"train": TrainConfig(steps=2000, seed=1)},
    "prompts.history": {"prompts": PromptConfig(history=3)},
    "model.repeat": {"model": FlatConfig(repeat=True)},
    "batch_size": {"batch_size": 3},
    "data.name": {"data": dataclasses.replace(OLD.data, name="other")},
}


@settings(deadline=None, max_examples=30)
@given(
    same=st.lists(st.sampled_from(SAME)),
    other=st.lists(st.sampled_from(sorted(OTHER)), max_size=2),
)
def test_a_run_is_the_same_but_for_where_and_how_long(tmp_path_factory, same, other):
    folder = tmp_path_factory.mktemp("run")
    write_config(folder / runs.CONFIG, OLD)
    new = OLD
    for changes in (*same, *(OTHER[name] for name in other)):
        new = dataclasses.replace(new, **changes)
    assert runs.open_run(folder, new) is None  # nothing was saved yet
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("{}")
    assert runs.checkpoint_step(folder) == 4
    different = [name for name in other if not _undone(name, new)]
    if different:
        with pytest.raises(InputError) as error:
            runs.open_run(folder, new)
        assert any(name in str(error.value) for name in different)
    else:
        assert runs.open_run(folder, new) == 4


def _undone(name, new):
    """Whether a later change took a change back."""
    field = name.split(".")[0]
    wanted = OTHER[name][field]
    found = getattr(new, field)
    if name == "data.name":
        return found.name == OLD.data.name
    if name == "train.seed":
        return found.seed == OLD.train.seed
    return found != wanted


def test_another_class_of_a_union_is_named(tmp_path):
    write_config(tmp_path / runs.CONFIG, TokenizerExperiment())
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(InputError, match="model is a RQVAEConfig there and a Residual"):
        runs.open_run(tmp_path, TokenizerExperiment(model=ResidualKMeansConfig()))


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=f"--workdir {path}: no folder"):
            runs.open_run(path, OLD)


@settings(deadline=None, max_examples=25)
@given(times=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_file_is_current_if_no_source_is_newer(tmp_path_factory, times):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / str(at) for at in range(len(times))]
    for path, time in zip(paths, times, strict=True):
        path.write_text("")
        os.utime(path, (time, time))
    assert runs.is_current(*paths) == (times[0] >= max(times))
    assert not runs.is_current(folder / "none", *paths)
