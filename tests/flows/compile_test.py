"""`sid compile`: what an experiment would need, on chips that are not here."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sid_jax.config import (
    CellConfig,
    CooccurrenceTerm,
    PairConfig,
    PromptConfig,
    SamplerConfig,
    SASRecConfig,
    SequenceConfig,
    TaxonomyTerm,
    TransformerConfig,
    read_experiment,
)
from sid_jax.errors import InputError
from sid_jax.flows import compile as room
from sid_jax.flows import retriever, tokenizer

ROOT = Path(__file__).parents[2]
TINY = TransformerConfig(width=16, depth=1, num_heads=2, mlp_width=16)
SIZES = room.Sizes(items=50, retailers=3, codebooks=(4, 4, 4))


class StreamError(Exception):
    pass


def first_batch(monkeypatch, module, run, *args):
    """Shapes of the first batch that a run makes."""

    def fit(task, stream, **kwargs):
        raise StreamError(stream(0))

    monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(StreamError) as caught:
        run(*args, print)
    return jax.tree.map(
        lambda x: (np.shape(x), np.asarray(x).dtype), caught.value.args[0]
    )


def shapes(batch):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch)


@pytest.mark.parametrize("kind", ["hierarchical", "uniform"])
def test_a_tokenizers_batch_has_the_shapes_of_a_run(world, tmp_path, monkeypatch, kind):
    config = read_experiment(world.tokenizer_file)
    config = dataclasses.replace(
        config,
        task=dataclasses.replace(
            config.task,
            taxonomy=TaxonomyTerm(weight=0.1),
            cooccurrence=CooccurrenceTerm(weight=0.1),
        ),
        sampler=SamplerConfig(kind=kind, batch_size=8, group=8),
        pairs=PairConfig(batch_pairs=4, min_support=1, min_pmi=-10.0),
        cells=CellConfig(columns=("brand_tier",)),
    )
    run = tokenizer.train_tokenizer
    found = first_batch(monkeypatch, tokenizer, run, config, tmp_path)
    width = found["vectors"][0][1]
    monkeypatch.setattr(room, "_DEPTH", found["taxonomy"]["paths"][0][1])
    assert shapes(room.tokenizer_batch(config, width)) == found
    assert width <= room.recipe_width(config)


@pytest.mark.parametrize(
    "prompts", [PromptConfig(history=3, basket=2), SequenceConfig(history=5, row=9)]
)
def test_a_retrievers_batch_has_the_shapes_of_a_run(
    world, tmp_path, monkeypatch, prompts
):
    config = dataclasses.replace(read_experiment(world.retriever_file), prompts=prompts)
    run = retriever.train_retriever
    found = first_batch(monkeypatch, retriever, run, config, tmp_path)
    assert shapes(room.retriever_batch(config, 3, 0)) == found


@pytest.fixture
def here(monkeypatch):
    """The devices of this machine in place of a slice's."""
    monkeypatch.setattr(room, "find_topology", lambda name: jax.devices())


def test_what_fits_and_what_does_not_is_told(world, here, monkeypatch):
    config = read_experiment(world.retriever_file)
    config = dataclasses.replace(
        config, mesh=dataclasses.replace(config.mesh, data=-1), batch_size=12
    )
    lines, accounts = [], {}
    monkeypatch.setitem(room.MEMORY, jax.devices()[0].device_kind, 1)
    compile_program = room.compile_program

    def keep(traced):
        return accounts.setdefault(len(accounts), compile_program(traced))

    monkeypatch.setattr(room, "compile_program", keep)
    assert room.compile_experiment(config, "here", SIZES, lines.append)
    text = "\n".join(lines)
    assert "note: batch_size 12 -> 16, a multiple of 8" in text
    assert re.search(r"train step: all-reduce \d+ x, 0\.\d+", text)
    assert "answer 8: none" in text and lines[-1] == "every program fits"

    known = iter(accounts.values())
    monkeypatch.setattr(room, "compile_program", lambda traced: next(known))
    least = max(each.peak for each in accounts.values())
    monkeypatch.setitem(room.MEMORY, jax.devices()[0].device_kind, (least - 1) / 2**30)
    assert not room.compile_experiment(config, "here", SIZES, lines.append)
    assert lines[-1] == "not every program fits"


def test_a_scorers_programs_compile(world, here):
    config = dataclasses.replace(
        read_experiment(world.retriever_file),
        model=SASRecConfig(transformer=TINY, items="sid"),
        prompts=SequenceConfig(history=5, row=9),
    )
    lines = []
    assert room.compile_experiment(config, "here", SIZES, lines.append)
    assert "| answer 8 |" in "\n".join(lines)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"items": 0}, "--items 0 must be positive"),
        (
            {"items": 65, "codebooks": (4, 4, 4)},
            r"spell 64 SIDs, fewer than --items 65",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        room.draw_sids(room.Sizes(**sizes))


def test_drawn_sids_are_different_and_in_order():
    sids = room.draw_sids(room.Sizes(items=60, codebooks=(4, 4, 4)))
    assert sids.shape == (60, 3)
    assert sorted(map(tuple, sids)) == [*map(tuple, sids)]
    assert len({*map(tuple, sids)}) == 60


def sid_compile(*words):
    """`sid compile` in a process of its own: exit code, and what it printed."""
    pytest.importorskip("libtpu", reason='pip install "sid_jax[tpu]"')
    told = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, "-m", "sid_jax.cli", "compile", *map(str, words)]
    done = subprocess.run(command, env=told, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_small_slice_holds_the_tokenizer_of_the_quickstart():
    words = ("--topology", "v5e:2x2", "--items", 30_000)
    code, out, err = sid_compile("experiments/tokenizer_grocery.py", *words)
    assert code == 0, err
    assert "v5e:2x2: 4 x TPU v5 lite, 16 GiB each" in out
    assert "| train step |" in out and "every program fits" in out
    assert err == ""


def test_a_slice_that_is_none_is_named(world):
    code, _, err = sid_compile(world.tokenizer_file, "--topology", "v5e")
    assert code == 2 and "--topology v5e: " in err and "v5e:16x16" in err


SHIPPED = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "experiments").glob("*.py")
    if "def get_config" in path.read_text()
)


SMALL = {"retriever_billion": "v5e:4x8"}  # others: four chips


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["small", "v5e:16x16"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_experiment_fits_a_small_slice_and_a_pod(path, topology):
    if topology == "small":
        topology = SMALL.get(path.stem, "v5e:2x2")
    words = ("--topology", topology, "--items", 100_000)
    code, out, err = sid_compile(path, *words)
    print(out)
    assert code == 0, err
