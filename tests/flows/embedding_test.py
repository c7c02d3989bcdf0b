import json

import numpy as np
import pytest

from sid_jax import cli
from sid_jax.data.vector_files import look_up, read_vectors
from sid_jax.errors import InputError
from sid_jax.flows import embedding
from sid_jax.flows.embedding import embed
from sid_jax.models.text import TextEncoder, load_encoder

ITEMS = [
    {"item_id": "a", "title": "whole milk", "brand": "whole", "categories": ["tea"]},
    {"item_id": "b", "title": "green tea", "categories": ["milk", "tea"]},
    {"item_id": "c", "title": "milk", "categories": ["tea"]},
    {"item_id": "d"},
]


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, ITEMS)))
    return path


@pytest.mark.parametrize(
    ("recipe", "texts"),
    [
        (
            "precision",
            ["whole milk | whole | tea", "green tea | milk > tea", "milk | tea", ""],
        ),
        ("discovery", ["milk | tea", "green tea | milk > tea", "milk | tea", ""]),
    ],
)
def test_the_verb_writes_what_training_reads(
    items, tiny_encoder, tmp_path, recipe, texts, capsys
):
    out = tmp_path / "v.parquet"
    words = f"embed --items {items} --encoder {tiny_encoder} --recipe {recipe}"
    assert cli.main([*words.split(), "--out", str(out)]) == 0
    ids, vectors = read_vectors(out)
    assert ids == ["a", "b", "c", "d"]
    wanted = load_encoder(str(tiny_encoder)).encode(texts)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    assert "1 items have no text" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["items.jsonl", "v.parquet"]
    before = out.read_bytes()
    assert cli.main([*words.split(), "--out", str(out)]) == 2
    assert out.read_bytes() == before


def test_texts_that_the_user_brings_go_first(items, tiny_encoder, tmp_path):
    texts, out = tmp_path / "t.csv", tmp_path / "v.parquet"
    texts.write_text("item_id,text\nd,tea\nc,milk\nb,green\na,whole\n")
    given = {"encoder": str(tiny_encoder), "texts": texts}
    embed(out, print, items=items, **given)
    assert read_vectors(out)[0] == ["a", "b", "c", "d"]
    embed(tmp_path / "w.parquet", print, **given)
    found = look_up(tmp_path / "w.parquet", ["a", "b", "c", "d"])
    np.testing.assert_allclose(read_vectors(out)[1], found, atol=1e-6)
    texts.write_text("item_id,text\nd,tea\n")
    with pytest.raises(InputError, match="no text for 3 of 4 items"):
        embed(tmp_path / "x.parquet", print, items=items, **given)


def test_an_interrupted_run_goes_on(items, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_PART", 2)
    encode, calls = TextEncoder.encode, []

    def stop_at(number):
        def wrapped(self, texts, **kwargs):
            calls.append(list(texts))
            if len(calls) == number:
                raise KeyboardInterrupt
            return encode(self, texts, **kwargs)

        monkeypatch.setattr(TextEncoder, "encode", wrapped)

    out, given = tmp_path / "v.parquet", {"items": items, "encoder": str(tiny_encoder)}
    stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        embed(out, print, **given)
    (part,) = (tmp_path / ".v.parquet.parts").iterdir()
    lines = []
    stop_at(0)
    embed(out, lines.append, **given)
    assert calls[1:] == [calls[1]] * 2  # the first part is not encoded again
    assert any("before the last run was stopped" in line for line in lines)
    assert not part.parent.exists()
    texts = [text for call in (calls[0], calls[1]) for text in call]
    wanted = encode(load_encoder(str(tiny_encoder)), texts)
    np.testing.assert_allclose(read_vectors(out)[1], wanted, atol=1e-5)
    # A part of another recipe, or a damaged one, is not taken for this one.
    part.parent.mkdir()
    part.write_bytes(b"\x93NUMPY")
    out.unlink()
    calls.clear()
    embed(out, print, **given)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no items"),
        ({"data": "x", "items": "i"}, "not both"),
        ({"texts": "t", "out": "v.npz"}, r"\.parquet"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message, tmp_path):
    out = tmp_path / given.pop("out", "v.parquet")
    with pytest.raises(InputError, match=message):
        embed(out, print, encoder="x", **given)
