"""Vectors of prefixes: read and scored alike, and nothing before they have learned."""

from functools import partial
from itertools import product

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.models.hierarchical import HierarchicalConfig, HierarchicalDecoder
from sid_jax.models.prefixes import PrefixEmbedding
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.beam import beam_search
from sid_jax.sids.scoring import code_gains, score_sids
from sid_jax.sids.trie import build_trie
from sid_jax.sids.vocab import Vocab

SIZES = (3, 4, 2)
VOCAB = Vocab(codebook_sizes=SIZES)
EVERY = np.asarray(list(product(*map(range, SIZES))), np.int32)
SIDS = EVERY[np.random.default_rng(0).permutation(len(EVERY))[:14]]
TRUNK = TransformerConfig(width=8, depth=1, num_heads=2, mlp_width=8)
ROWS = 64


def hash_of(codes):
    """A prefix's hash in plain integers."""
    value = 0
    for code in codes:
        value = (value + code + 1) * 0x9E3779B9 % 2**32
    return value


def row_of(codes):
    return (hash_of(codes) >> 7) % ROWS + (len(codes) - 2) * ROWS


def build(prefixes):
    config = HierarchicalConfig(trunk=TRUNK, spell=TRUNK, prefixes=prefixes)
    return HierarchicalDecoder(config, VOCAB)


def make_prompts(basket):
    """Five households, one of a single product, with a basket each."""
    history = SIDS[np.random.default_rng(1).integers(0, len(SIDS), (5, 4))]
    history[0, :3] = -1
    return VOCAB.prompts(np.zeros(5, int), history, basket)


@pytest.fixture(scope="module")
def prompts():
    return make_prompts(np.full((5, 1, 3), -1))


@pytest.fixture(scope="module")
def decoder(prompts):
    """A decoder whose every parameter matters."""
    module, rng = build(ROWS), np.random.default_rng(2)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), prompts))["params"]
    return module, jax.tree.map(
        lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape).astype(np.float32), params
    )


def test_items_are_read_by_the_vectors_of_their_prefixes():
    module = PrefixEmbedding(VOCAB, width=5, rows=ROWS)
    table = np.random.default_rng(0).normal(size=(2 * ROWS, 5)).astype(np.float32)
    tokens = VOCAB.code_tokens(np.concatenate([SIDS, [[-1, -1, -1]]]))
    told = {"params": {"embedding": table}}
    found = module.apply(told, jnp.asarray(tokens), method="sum")
    wanted = [table[row_of(sid[:2])] + table[row_of(sid)] for sid in SIDS.tolist()]
    np.testing.assert_allclose(found, [*wanted, np.zeros(5)], rtol=1e-6)


def test_spelling_scores_what_was_taught(decoder, prompts):
    """Code by code, and with the whole item at hand; beams find the best of all."""
    module, params = decoder
    trie = build_trie(SIDS, SIZES)
    apply = partial(module.apply, {"params": params})

    @jax.jit
    def spell(prompts):
        context = apply(prompts, method="context").replace(trie=trie)
        state = apply(context, method="start")
        step = partial(apply, method="step")
        codes = jnp.asarray(np.tile(SIDS, (5, 1, 1)))
        beams = beam_search(
            step, context, state, trie, num_beams=14, softmax="existing"
        )
        return score_sids(step, context, state, codes, trie), beams

    @jax.jit
    def teach(prompts):
        outputs = module.apply({"params": params}, prompts, trie=trie)
        codes = outputs.targets - jnp.asarray(VOCAB.level_offsets)
        return code_gains(outputs.logits, jnp.maximum(codes, 0), trie)[0].sum(axis=-1)

    scores, beams = spell(prompts)
    for column, sid in enumerate(SIDS):
        found = teach(make_prompts(np.tile(sid, (5, 1, 1))))
        np.testing.assert_allclose(found[:, 0], scores[:, column], rtol=1e-4)
    order = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(beams.codes, SIDS[order])
    np.testing.assert_allclose(
        beams.scores, np.take_along_axis(np.asarray(scores), order, 1), rtol=1e-4
    )
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)


def test_before_they_learn_prefixes_change_nothing(decoder):
    module, params = decoder
    trie = build_trie(SIDS, SIZES)
    blank = jax.tree.map(jnp.zeros_like, params["prefixes"])
    without = {k: v for k, v in params.items() if k != "prefixes"}
    batch = make_prompts(np.tile(SIDS[:2], (5, 1, 1)))
    found = module.apply({"params": without | {"prefixes": blank}}, batch, trie=trie)
    wanted = build(0).apply({"params": without}, batch)
    chex.assert_trees_all_close(found.logits, wanted.logits, rtol=1e-5)
