"""Runs of `sid train`: whole, interrupted, run again, and refused."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from sid_jax.flows import retriever, runs, tokenizer
from sid_jax.sids.table import SidTable, read_table, write_table

TOKENIZER_FILES = {"vectors", "sids.parquet", "purchases.parquet"}
RETRIEVER_FILES = {
    "sids.parquet",
    "index.npz",
    "retailers.json",
    "samples.jsonl",
    "slices.png",
}
COMMON = {"config.json", "metrics.jsonl", "checkpoints", "catalog.parquet"}
COMMON |= {"report.html"}


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("kind", "files"),
    [("tokenizer", TOKENIZER_FILES), ("retriever", RETRIEVER_FILES)],
)
def test_a_run_folder_holds_what_the_design_says(world, kind, files):
    folder = getattr(world, kind)
    assert {path.name for path in folder.iterdir()} == COMMON | files
    plain = json.loads((folder / "config.json").read_text())
    assert plain["class"] == f"{kind.capitalize()}Experiment"
    assert [row["step"] for row in world.values(folder)][:3] == [2, 4, 6]


def test_a_retriever_carries_the_table_and_hash_of_its_tokenizer(world):
    own, source = (
        read_table(folder / "sids.parquet")
        for folder in (world.retriever, world.tokenizer)
    )
    assert own.manifest == source.manifest
    assert own.digest() == source.digest()
    assert own.manifest.tokenizer == tokenizer.Tokenizer.load(world.tokenizer).digest()


@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_a_finished_run_run_again_changes_nothing(world, kind, capsys, monkeypatch):
    folder = getattr(world, kind)
    before = contents(folder)
    for room, name in (
        (tokenizer, "fit"),
        (tokenizer.ItemVectors, "encode"),
        (retriever, "fit"),
        (retriever.Speller, "retrieve"),
    ):
        monkeypatch.setattr(room, name, lambda *args, **kwargs: pytest.fail("works"))
    assert world.train(kind, folder) == 0
    assert "already finished at step 6 of 6" in capsys.readouterr().out
    assert contents(folder) == before


def test_resumed_equals_uninterrupted(world, tmp_path, monkeypatch, capsys):
    # Of a retriever, in quickstart_test.py.
    with monkeypatch.context() as patch:
        world.interrupt(patch, tokenizer, "item_stream", step=4)
        assert world.train("tokenizer", tmp_path / "run") == 130
    assert "run again to go on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists()
    assert world.train("tokenizer", tmp_path / "run") == 0
    assert re.search("goes on at step [2345] of 6", capsys.readouterr().out)
    folders = (tmp_path / "run", world.tokenizer)
    last = ([row for row in world.values(each) if row["step"] == 6] for each in folders)
    assert next(last) == next(last)
    assert len({read_table(f / "sids.parquet").digest() for f in folders}) == 1
    assert len({tokenizer.Tokenizer.load(f).digest() for f in folders}) == 1


def test_a_run_that_diverges_names_the_items_of_its_batch(world, tmp_path, capsys):
    words = ("--optimizer.learning-rate", 1e30, "--optimizer.clip-norm", 0)
    assert world.train("tokenizer", tmp_path, *words) == 2
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert set(told["items"]) <= {row["item_id"] for row in world.make_items()}
    size = len(told["items"])
    words = f"the loss of a batch of {size} items ({told['items'][0]}, "
    assert words in capsys.readouterr().err


def start(world, folder):
    """A long run in a process of its own that has come to step 3."""
    words = [world.tokenizer_file, "--workdir", folder, "--train.steps", 10**6]
    words += ["--train.log-every", 1, "--train.checkpoint-every", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "sid_jax.cli", "train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(runs.__file__).parents[2],
        env=os.environ
        | {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 0),
    ],
)
def test_a_signal_saves_and_ends_the_command_in_time(world, tmp_path, number, code):
    process = start(world, tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=15)  # what a spot VM on GKE has
    assert process.returncode == code, err
    told = re.search(r"stopped at step (\d+), saved in .*; run again to go on", err)
    assert told and runs.checkpoint_step(tmp_path) == int(told[1]) >= 3
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_a_second_run_on_this_machine_compiles_nothing(world, tmp_path, kind):
    told = {name: x for name, x in os.environ.items() if not name.startswith("JAX_C")}
    told |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    file = getattr(world, f"{kind}_file")
    programs = []
    for name in ("first", "second"):
        words = ("train", file, "--workdir", tmp_path / name)
        subprocess.run(
            [sys.executable, "-m", "sid_jax.cli", *map(str, words)],
            cwd=Path(runs.__file__).parents[2],
            env=told,
            check=True,
        )
        # A program's file stays; when it was last used stands in one of its own.
        found = (tmp_path / "cache").rglob("*-cache")
        programs.append({path.name: path.stat().st_mtime_ns for path in found})
    assert programs[0] == programs[1] and len(programs[0]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.05, 0.1, 0.2])
def test_a_kill_leaves_a_run_that_goes_on(world, tmp_path, seconds):
    process = start(world, tmp_path / "run")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.communicate()
    steps = (runs.checkpoint_step(tmp_path / "run") or 0) + 3
    words = ("--train.steps", steps, "--optimizer.schedule", "constant")
    for folder in (tmp_path / "run", tmp_path / "again"):
        assert world.train("tokenizer", folder, *words) == 0
    digests = {
        read_table(tmp_path / name / "sids.parquet").digest()
        for name in ("run", "again")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("kind", "words", "field"),
    [
        ("tokenizer", ["--batch-size", "32"], "batch_size is 16 there and 32 here"),
        ("tokenizer", ["--vectors.dim", "4"], "vectors.dim is 8 there"),
        ("tokenizer", ["--model.latent", "8"], "model.latent is 4 there"),
        ("tokenizer", ["--train.seed", "1"], "train.seed is 0 there and 1 here"),
        ("retriever", ["--prompts.order", "recent"], "prompts.order"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(
    world, capsys, kind, words, field
):
    folder = getattr(world, kind)
    before = contents(folder)
    assert world.train(kind, folder, *words) == 2
    assert field in capsys.readouterr().err
    assert contents(folder) == before


def test_a_folder_of_the_other_kind_is_refused(world, capsys):
    assert world.train("retriever", world.tokenizer) == 2
    assert "TokenizerExperiment there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.name", "nothing"], "there is no data set 'nothing'"),
        (["--vectors.columns", "colour"], "no column 'colour'"),
        (["--task.start-rows", "2"], "start_rows=2"),
        (["--train.show", "joy"], "no metric 'joy'"),
    ],
)
def test_a_run_that_never_began_binds_nobody(world, tmp_path, capsys, words, message):
    assert world.train("tokenizer", tmp_path, *words, "--train.steps", "1") == 2
    assert message in capsys.readouterr().err
    assert runs.open_run(tmp_path, runs.read_config(world.tokenizer)) is None


def test_a_finished_run_goes_on_for_more_steps(world, tmp_path, capsys):
    folder = world.copy("tokenizer", tmp_path / "run")
    old = read_table(folder / "sids.parquet")
    assert world.train("tokenizer", folder, "--train.steps", "8") == 0
    assert "goes on at step 6 of 8" in capsys.readouterr().out
    new = read_table(folder / "sids.parquet")
    assert new.manifest.tokenizer != old.manifest.tokenizer
    assert new.item_ids.equals(old.item_ids)
    assert [row["step"] for row in world.values(folder)] == [2, 4, 6, 6, 8, 8]


def test_a_retriever_never_takes_other_sids_than_it_learned(world, tmp_path, capsys):
    table = read_table(world.tokenizer / "sids.parquet")
    other = SidTable.build(
        table.item_ids, table.codes()[::-1].copy(), None, table.manifest
    )
    write_table(tmp_path / "sids.parquet", other)
    before = contents(world.retriever)
    assert world.train("retriever", world.retriever, "--tokenizer", tmp_path) == 2
    assert "has other SIDs by now" in capsys.readouterr().err
    assert contents(world.retriever) == before


def test_another_search_is_judged_again_without_training(world, tmp_path, capsys):
    folder = world.copy("retriever", tmp_path / "run")
    assert world.train("retriever", folder, "--search.max-requests", "8") == 0
    out = capsys.readouterr().out
    assert "already finished" in out
    assert "8 held-out baskets" in out
    assert world.values(folder)[-1]["search/max_requests"] == 8
    assert contents(folder / "checkpoints") == contents(world.retriever / "checkpoints")


@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_a_data_set_that_changed_is_refused(world, tmp_path, capsys, kind):
    items = world.make_items()
    rows = world.make_baskets()
    if kind == "tokenizer":
        items[3]["title"] = "another title"
    else:
        rows[0][3] += " i39"
    files = (
        world.write_items(tmp_path / "items.jsonl", items),
        world.write_baskets(tmp_path / "baskets.csv", rows),
    )
    assert world.import_data(tmp_path / "data", *files) == 0
    folder = getattr(world, kind)
    assert world.train(kind, folder, "--data.data-dir", tmp_path / "data") == 2
    assert "by now than when this run began" in capsys.readouterr().err
    if kind == "retriever":
        copy = world.copy("retriever", tmp_path / "run")
        plain = json.loads((copy / "config.json").read_text())
        plain["data"]["data_dir"] = str(tmp_path / "data")
        (copy / "config.json").write_text(json.dumps(plain))
        assert world.run("evaluate", copy) == 2
        assert "by now than when this run began" in capsys.readouterr().err


def test_what_lies_elsewhere_now_is_the_same_run(world, tmp_path, capsys):
    assert world.import_data(tmp_path / "data") == 0
    words = ("--data.data-dir", tmp_path / "data", "--tokenizer", tmp_path / "gone")
    folder = world.copy("retriever", tmp_path / "run")
    assert world.train("retriever", folder, *words) == 0
    assert "already finished" in capsys.readouterr().out
