import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.sids.vocab import BASKET, PAD, Vocab, format_sid, parse_sid

vocabs = st.builds(
    Vocab,
    codebook_sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    num_retailers=st.integers(1, 5),
)


@given(vocabs)
def test_every_meaning_has_one_token_and_every_token_one_meaning(vocab):
    tokens = [PAD, BASKET, *vocab.retailer_tokens(np.arange(vocab.num_retailers))]
    for level, size in enumerate(vocab.codebook_sizes):
        codes = np.zeros((size, vocab.num_levels), int)
        codes[:, level] = np.arange(size)
        tokens += vocab.code_tokens(codes)[:, level].tolist()
        assert tokens[-size] == vocab.level_offsets[level]
    assert tokens == list(range(vocab.size))


@given(vocabs, st.integers(0, 4), st.integers(0, 3), st.integers(0, 2), st.randoms())
def test_a_prompt_can_be_read_back(vocab, batch, history_size, basket_size, random):
    rng = np.random.default_rng(random.randrange(2**32))

    def items(count):
        shape = (batch, count, vocab.num_levels)
        codes = rng.integers(0, vocab.codebook_sizes, shape)
        return np.where(rng.random((batch, count, 1)) < 0.4, -1, codes)

    def read(tokens):
        absent = tokens == PAD
        assert tokens.dtype == np.int32
        assert (absent.all(axis=2) == absent.any(axis=2)).all()
        return np.where(absent, -1, tokens - np.asarray(vocab.level_offsets))

    retailers = rng.integers(0, vocab.num_retailers, batch)
    history, basket = items(history_size), items(basket_size)
    prompts = vocab.prompts(retailers, history, basket)
    np.testing.assert_array_equal(prompts.retailers, vocab.retailer_tokens(retailers))
    np.testing.assert_array_equal(read(prompts.history), history)
    np.testing.assert_array_equal(read(prompts.basket), basket)
    assert len(jax.tree.leaves(prompts)) == 3, "a batch that jit takes"


@given(st.lists(st.integers(0, 999_999_999), min_size=1))
def test_a_written_sid_can_be_read_back(codes):
    text = format_sid(codes)
    assert parse_sid(text) == tuple(codes) == parse_sid(text.replace("_", "-"))


@given(st.text(alphabet="0123456789_- .٣x\n", max_size=12))
def test_what_is_no_sid_is_refused(text):
    parts = text.replace("-", "_").split("_")
    if all(p.isascii() and p.isdigit() and len(p) <= 9 for p in parts):
        assert parse_sid(text) == tuple(int(part) for part in parts)
    else:
        with pytest.raises(InputError, match="not a SID"):
            parse_sid(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"codebook_sizes": ()},
        {"codebook_sizes": (4, 0)},
        {"codebook_sizes": (4,), "num_retailers": 0},
    ],
)
def test_refuses_an_impossible_layout(fields):
    with pytest.raises(InputError):
        Vocab(**fields)
