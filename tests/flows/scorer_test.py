"""A scoring retriever's answers against a plain ranking of the catalog."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.config import (
    MeshConfig,
    SASRecConfig,
    SearchConfig,
    SequenceConfig,
    TransformerConfig,
)
from sid_jax.errors import InputError
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.retriever import choose_requests, load_retriever
from sid_jax.flows.scorer import Scorer, scorer_task

HISTORY = 4


@pytest.fixture(scope="module")
def corpus(world):
    config = dataclasses.replace(
        load_retriever(world.retriever).config,
        prompts=SequenceConfig(history=HISTORY, row=HISTORY + 1),
        model=SASRecConfig(
            transformer=TransformerConfig(
                width=8, depth=1, num_heads=2, mlp_width=8, dropout=0.0
            )
        ),
        search=SearchConfig(batch_size=8, top=7),
    )
    return Corpus.load(config, world.retriever / "sids.parquet"), config


@pytest.fixture(scope="module")
def scorer(corpus):
    corpus, config = corpus
    task = scorer_task(config, corpus.vocab, corpus.codes)
    blank = np.zeros((1, 3), np.int32)
    batch = corpus.vocab.sequences(blank, corpus.codes[blank], blank, blank + 1)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch)[0])
    told = corpus.codes, corpus.table, corpus.index()
    return Scorer(config, corpus.vocab, params, *told)


def rank(scorer, requests, row):
    """The catalog's items by score, of one request alone and without padding."""
    task = scorer_task(scorer.config, scorer.vocab, scorer.codes)
    told = [*requests.history[row], *requests.basket[row]]
    told = [item for item in told if item >= 0][-HISTORY:]
    items = np.asarray([[-1, *told]])
    retailers = np.full(items.shape, -1)
    retailers[0, 0] = requests.retailers[row]
    codes = np.where((items >= 0)[..., None], scorer.codes[items], -1)
    batch = scorer.vocab.sequences(retailers, codes, items, np.ones_like(items))
    rows, params = jnp.asarray(task.rows), {"params": scorer.params}
    last = task.module.apply(params, batch, rows)[:, -1]
    scores = np.asarray(task.module.apply(params, last, rows, method="scores"))[0]
    return np.argsort(-scores, kind="stable"), scores


def test_answers_are_the_stores_best_scores_without_the_basket(corpus, scorer):
    corpus, config = corpus
    requests = choose_requests(config, corpus.data, corpus.test, 0)
    mask = np.arange(len(corpus.catalog)) % 3 > 0
    for item_mask in (None, mask):
        row = 0
        for products, _ in scorer.retrieve(requests, item_mask=item_mask):
            for found, scores in zip(products.items, products.scores, strict=True):
                order, wanted = rank(scorer, requests, row)
                store = requests.retailers[row]
                start, stop = scorer.index.starts[store : store + 2]
                carried = set(scorer.index.items[start:stop])
                carried -= set(requests.basket[row])
                if item_mask is not None:
                    carried &= set(np.flatnonzero(item_mask))
                best = [item for item in order if item in carried][:7]
                assert found[found >= 0].tolist() == best
                np.testing.assert_allclose(scores[: len(best)], wanted[best], atol=1e-4)
                row += 1
            np.testing.assert_array_equal(
                products.leaves[products.items >= 0],
                scorer.index.leaves[products.items[products.items >= 0]],
            )
        assert row == len(requests)


def test_what_is_owned_is_left_out(corpus, scorer):
    corpus, config = corpus
    requests = choose_requests(config, corpus.data, corpus.test, 0)
    search = dataclasses.replace(config.search, owned=False, top=60)
    other = dataclasses.replace(
        scorer, config=dataclasses.replace(config, search=search)
    )
    (every,), (new,) = (
        [np.concatenate([p.items for p, _ in each.retrieve(requests, top=60)])]
        for each in (scorer, other)
    )
    for row, owned in enumerate(requests.owned):
        kept = [i for i in every[row] if i >= 0 and i not in set(owned)]
        assert kept == [i for i in new[row] if i >= 0]


@pytest.mark.parametrize("kind", ["sid", "prefix"])
def test_items_of_one_sid_are_told_apart_by_the_index(corpus, kind):
    """A SID has the scores of all its items that may be answered, and the rule shares
    them out: were the shares equal, each item would have its own score.
    """
    corpus, config = corpus
    model = dataclasses.replace(config.model, items=kind, rows=64)
    search = dataclasses.replace(config.search, num_beams=60, top=60)
    config = dataclasses.replace(config, model=model, search=search)
    task = scorer_task(config, corpus.vocab, corpus.codes)
    blank = np.zeros((1, 3), np.int32)
    batch = corpus.vocab.sequences(blank, corpus.codes[blank], blank, blank + 1)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch)[0])
    scorer = Scorer(
        config, corpus.vocab, params, corpus.codes, corpus.table, corpus.index()
    )
    requests = choose_requests(config, corpus.data, corpus.test, 0)
    leaves = scorer.index.leaves
    assert np.bincount(leaves).max() > 1
    row = 0
    for products, _ in scorer.retrieve(requests):
        for found, scores in zip(products.items, products.scores, strict=True):
            wanted = rank(scorer, requests, row)[1]
            items, scores = found[found >= 0], scores[found >= 0]
            store = requests.retailers[row]
            start, stop = scorer.index.starts[store : store + 2]
            carried = set(scorer.index.items[start:stop]) - set(requests.basket[row])
            assert set(items) == carried
            for leaf in np.unique(leaves[items]):
                same = leaves[items] == leaf
                total = wanted[items[same][0]] + np.log(same.sum())
                np.testing.assert_allclose(
                    np.logaddexp.reduce(scores[same]), total, atol=1e-4
                )
                owned = dict(
                    zip(requests.owned[row], requests.owned_counts[row], strict=True)
                )
                times = [owned.get(item, 0) for item in items[same]]
                assert times == sorted(times, reverse=True)
            row += 1
    assert row == len(requests)


def test_more_devices_answer_the_same(corpus, scorer):
    corpus, config = corpus
    requests = choose_requests(config, corpus.data, corpus.test, 0)
    wide = dataclasses.replace(config, mesh=MeshConfig(data=8))
    other = dataclasses.replace(scorer, config=wide)
    for one, eight in zip(
        scorer.retrieve(requests), other.retrieve(requests), strict=True
    ):
        np.testing.assert_array_equal(one[0].items, eight[0].items)


def test_atomic_and_sid_items_start_at_the_same_vectors(corpus):
    """An item's is the sum of its codewords, whether it has a row or its codes have."""
    corpus, config = corpus
    rng = np.random.default_rng(0)
    sizes = corpus.vocab.codebook_sizes
    words = tuple(rng.normal(size=(size, 3)) for size in sizes[:-1])
    atomic, sid = (
        scorer_task(
            dataclasses.replace(config, model=SASRecConfig(items=kind)),
            corpus.vocab,
            corpus.codes,
            codewords=words,
        )
        for kind in ("atomic", "sid")
    )
    table = np.concatenate([*words, np.zeros((sizes[-1], 3))])
    sums = table[sid.rows].sum(axis=1)
    np.testing.assert_allclose(sums, atomic.vectors[atomic.rows[:, 0]], atol=1e-6)
    np.testing.assert_array_equal(sid.vectors, np.concatenate(words))
    with pytest.raises(InputError, match="prefixes are hashed"):
        scorer_task(
            dataclasses.replace(config, model=SASRecConfig(items="prefix")),
            corpus.vocab,
            corpus.codes,
            codewords=words,
        )
