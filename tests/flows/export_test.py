"""An exported retriever answers as the live one, without its model's code."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.files import read_json, write_json
from sid_jax.flows.export import PLATFORMS, export_retriever
from sid_jax.flows.retrieve import retrieve
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.serving import load_artifact
from sid_jax.sids.index import Products

ASKED = {"retailer": "east", "top": 7}
MODEL_FREE = """
import json, sys
from sid_jax.flows.asking import ask
from sid_jax.flows.serving import load_artifact
artifact = load_artifact(sys.argv[1])
told = artifact.told, artifact.catalog, artifact.retailers
offers = ask(lambda: artifact, *told, **json.loads(sys.argv[2]))
print(json.dumps([[each.item_id, each.score] for each in offers]))
parts = {name.split(".")[1] for name in sys.modules if name.startswith("sid_jax.")}
print(json.dumps(sorted(parts | ({"flax"} & sys.modules.keys()))))
"""


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "served"
    lines = []
    export_retriever(world.retriever, out, batch_size=3, log=lines.append)
    assert "3 requests a call on cpu, cuda, tpu" in lines[0]
    return out


def test_answers_are_those_of_the_live_one_without_its_code(world, exported):
    names = load_artifact(exported).catalog.item_ids
    asked = ASKED | {"history": [names[n] for n in (3, 3, 17)], "basket": [names[5]]}
    wanted = retrieve(world.retriever, **asked)
    words = [sys.executable, "-c", MODEL_FREE, str(exported), json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    offers, parts = map(json.loads, done.stdout.splitlines())
    assert [item for item, _ in offers] == [each.item_id for each in wanted]
    scores = [each.score for each in wanted]
    np.testing.assert_allclose([score for _, score in offers], scores, rtol=1e-4)
    assert not {"models", "train", "config", "flax"} & set(parts)


def compare(run, exported, *, mask):
    """A batch is answered as by the live retriever; the products."""
    live, artifact = load_retriever(run), load_artifact(exported)
    rng, count, num_items = np.random.default_rng(0), 7, len(artifact.codes)
    history = rng.integers(0, num_items, (count, live.told.history), np.int32)
    history[0] = -1
    requests = Requests(
        users=np.zeros(count, np.int32),
        retailers=rng.integers(0, 3, count, np.int32),
        history=history,
        basket=rng.integers(-1, num_items, (count, 2), np.int32),
        targets=np.full((count, 1), -1, np.int32),
        owned=history,
        owned_counts=np.ones_like(history),
    )
    items = np.arange(num_items) % 2 == 0 if mask else None
    found, wanted = (
        Products(
            *(
                np.concatenate([getattr(part, name) for part, _ in answers])
                for name in ("items", "scores", "leaves", "beam_yield")
            )
        )
        for answers in (
            list(each.retrieve(requests, item_mask=items)) for each in (artifact, live)
        )
    )
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_array_equal(found.leaves, wanted.leaves)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4)
    assert (found.items >= 0).any()
    assert not mask or (found.items[found.items >= 0] % 2 == 0).all()
    return found, history


@pytest.mark.parametrize("mask", [False, True])
def test_a_batch_is_answered_as_by_the_live_one(world, exported, mask):
    found, history = compare(world.retriever, exported, mask=mask)
    assert any(
        set(row) & set(old)
        for row, old in zip(found.items.tolist(), history.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    "told", [{"owned": False}, {"likeness": 3.0, "owned": False}, {"temperature": 0.7}]
)
def test_it_searches_as_the_run_does(world, tmp_path, told):
    folder = world.copy("retriever", tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["search"] |= told
    (folder / "config.json").write_text(json.dumps(config))
    vectors = np.random.default_rng(3).normal(size=(60, 5)).astype(np.float16)
    np.save(folder / "item_vectors.npy", vectors)  # as runs before had it
    # What is drawn hangs on the batch.
    size = 8 if "temperature" in told else 2
    export_retriever(folder, tmp_path / "served", platforms=["cpu"], batch_size=size)
    found, history = compare(folder, tmp_path / "served", mask=False)
    for row, old in zip(found.items.tolist(), history.tolist(), strict=True):
        assert "owned" not in told or not set(row) & (set(old) - {-1})


def test_the_command_writes_and_answers(world, tmp_path, capsys):
    out = tmp_path / "served"
    words = ("export", world.retriever, "--out", out, "--platforms", "cpu")
    assert world.run(*words) == 0
    assert world.run(*words) == 0  # one that was exported is replaced
    capsys.readouterr()
    names = load_artifact(out).catalog.item_ids
    asked = ("--retailer", "east", "--history", f"{names[3]},{names[9]}", "--top", 3)
    answers = []
    for folder in (world.retriever, out):
        assert world.run("retrieve", folder, *asked) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == 3
    assert world.run("retrieve", out, *asked, "--temperature", 1) == 2
    assert "searches as it was exported" in capsys.readouterr().err


def test_bad_input_is_told(world, exported, tmp_path):
    filled = tmp_path / "filled"
    filled.mkdir()
    (filled / "manifest.json").write_text('{"name": "of something else"}')
    with pytest.raises(InputError, match="is there, and no export"):
        export_retriever(world.retriever, filled)
    more = tmp_path / "more"
    shutil.copytree(exported, more)
    (more / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is there, and no export"):
        export_retriever(world.retriever, more)
    assert retrieve(more, retailer="east", top=2)  # but it answers
    with pytest.raises(InputError, match=r"manifest\.json: not readable"):
        retrieve(filled, retailer="east")
    with pytest.raises(InputError, match="--platforms abacus: want some of cpu"):
        export_retriever(world.retriever, tmp_path / "a", platforms=["abacus"])
    with pytest.raises(InputError, match="--batch-size must be positive: 0"):
        export_retriever(world.retriever, tmp_path / "a", batch_size=0)
    with pytest.raises(InputError, match=r"manifest\.json: not readable"):
        load_artifact(filled)

    def damaged(name, **changes):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        if changes:
            path = folder / "manifest.json"
            write_json(path, read_json(path) | changes)
        else:
            (folder / name).write_bytes(b"nothing")
        return folder

    for name in ("search.bin", "arrays.npz", "sids.parquet", "catalog.parquet"):
        with pytest.raises(InputError, match="damaged"):
            load_artifact(damaged(name))
    (damaged("arrays.npz") / "arrays.npz").unlink()
    with pytest.raises(InputError, match=r"arrays\.npz is damaged"):
        load_artifact(tmp_path / "damaged")
    with pytest.raises(InputError, match=r"format 99, but this version .* reads 1"):
        load_artifact(damaged("", format=99))
    with pytest.raises(InputError, match="exported for tpu, and here is cpu"):
        load_artifact(damaged("", platforms=["tpu"]))
    digests = read_json(exported / "manifest.json")["sha256"]
    for change in (
        {"sha256": digests | {"../../x": ""}},
        {"sha256": {k: v for k, v in digests.items() if k != "search.bin"}},
    ):
        with pytest.raises(InputError, match=r"manifest\.json: tells of"):
            load_artifact(damaged("", **change))
    for change in ({"platforms": [None]}, {"retailers": "ab"}, {"bounds": "1"}):
        with pytest.raises(InputError, match=r"manifest\.json: not readable"):
            load_artifact(damaged("", **change))
    path = damaged("", seed=0) / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"manifest\.json: not what was written"):
        load_artifact(path.parent)
    rng = np.random.default_rng(0)
    for name in (*digests, "manifest.json"):
        data = bytearray((exported / name).read_bytes())
        data[rng.integers(len(data) - 3)] ^= 1 << rng.integers(8)
        (damaged(name) / name).write_bytes(data)
        with pytest.raises(InputError):
            load_artifact(tmp_path / "damaged")
    assert PLATFORMS == ("cpu", "cuda", "tpu")
