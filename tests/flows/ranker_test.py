"""Candidates of a retriever that spells, in the order of one that scores as well."""

from dataclasses import replace

import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.ranker import load_ranker, rank
from sid_jax.flows.retriever import choose_requests, load_retriever
from sid_jax.sids.index import Products
from sid_jax.train.progress import read_metrics

EXPERIMENT = """
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = smoke(RetrieverExperiment(
        tokenizer={tokenizer!r},
        data=DataConfig(name="tiny", data_dir={data!r}),
        prompts=SequenceConfig(),
        model=SASRecConfig(),
    ))
    search = SearchConfig(num_beams=60, top=60, batch_size=8)
    return replace(config, search=search, mesh=MeshConfig(data=1))
"""


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """The run of a scorer; the world's retriever reads other prompts."""
    root = tmp_path_factory.mktemp("ranker")
    told = {"tokenizer": str(world.tokenizer), "data": str(world.data)}
    (root / "scorer.py").write_text(EXPERIMENT.format(**told))
    told = ("--workdir", root / "scorer")
    assert world.run("train", root / "scorer.py", *told) == 0
    return root / "scorer"


@pytest.fixture(scope="module")
def found(world, folder):
    """A ranker, requests as it is told of them, and candidates."""
    speller = load_retriever(world.retriever)
    scorer = load_ranker(folder, speller.config)
    corpus = Corpus.load(speller.config, world.retriever / "sids.parquet")
    asked, told = (
        choose_requests(each.config, corpus.data, corpus.test, 0)
        for each in (speller, scorer)
    )
    np.testing.assert_array_equal(asked.basket, told.basket)
    answers = [vars(products).values() for products, _ in speller.retrieve(asked)]
    return scorer, told, Products(*map(np.concatenate, zip(*answers, strict=True)))


def test_both_runs_tell_tokens_a_second(world, folder):
    """Of what is learned, as many as of an example times examples."""
    for run in (world.retriever, folder):
        for row in read_metrics(run / "metrics.jsonl"):
            if "examples_per_second" in row:
                wanted = row["tokens"] * row["examples_per_second"]
                assert row["tokens"] > 0
                np.testing.assert_allclose(row["tokens_per_second"], wanted)


def test_the_order_is_of_both_models_scores(found):
    scorer, requests, products = found
    candidates, own = products.items, products.scores
    ranked = rank(scorer, requests, products, weight=0.3)
    items, scores = ranked.items, ranked.scores
    every = np.broadcast_to(np.arange(60, dtype=np.int32), (len(requests), 60))
    other = scorer.score(requests, every)
    np.testing.assert_allclose(np.exp(other).sum(axis=1), 1.0, rtol=1e-4)
    for row in range(len(requests)):
        real = candidates[row] >= 0
        mixed = 0.3 * other[row, candidates[row]] + 0.7 * own[row]
        pairs = zip(candidates[row][real].tolist(), mixed[real], strict=True)
        best = sorted(pairs, key=lambda pair: -pair[1])
        assert items[row][: len(best)].tolist() == [item for item, _ in best]
        wanted = [score for _, score in best]
        np.testing.assert_allclose(scores[row][: len(best)], wanted, atol=1e-4)
        assert (items[row][len(best) :] == -1).all()
        assert (scores[row][len(best) :] == -np.inf).all()


def test_at_either_end_one_model_ranks_alone(found):
    scorer, requests, products = found
    candidates = products.items
    items = rank(scorer, requests, products, weight=0.0).items
    np.testing.assert_array_equal(items, candidates)
    items = rank(scorer, requests, products, weight=1.0).items
    answers = [products.items for products, _ in scorer.retrieve(requests)]
    for row, order in enumerate(np.concatenate(answers)):
        kept = [item for item in order if item in set(candidates[row])]
        assert items[row][items[row] >= 0].tolist() == [i for i in kept if i >= 0]
    with pytest.raises(InputError, match=r"weight 1.5 must be in \[0, 1\]"):
        rank(scorer, requests, products, weight=1.5)


def test_evaluation_shows_what_the_ranker_adds(world, folder, tmp_path, capsys):
    run = world.copy("retriever", tmp_path / "run")
    assert world.run("evaluate", run, "--ranker", folder) == 0
    out, page = capsys.readouterr().out, (run / "report.html").read_text()
    for name in ("ranked by scorer", "scorer alone"):
        assert name in out and name in page
    assert world.run("evaluate", run) == 0
    out, page = capsys.readouterr().out, (run / "report.html").read_text()
    for name in ("ranked by scorer", "scorer alone"):
        assert name not in out and name not in page


def test_what_cannot_rank_is_refused_before_the_work(world, folder, tmp_path, capsys):
    config = load_retriever(world.retriever).config
    with pytest.raises(InputError, match="spells SIDs; name the run of a SASRec"):
        load_ranker(world.retriever, config)
    with pytest.raises(InputError, match=r"has holdout=0.0, and .* 0.1: .* same bask"):
        load_ranker(folder, replace(config, holdout=0.1))
    with pytest.raises(InputError, match=r"data.name=tiny, and what it is to rank oth"):
        load_ranker(folder, replace(config, data=replace(config.data, name="other")))
    run = world.copy("retriever", tmp_path / "run")
    text = (run / "config.json").read_text()
    hot = text.replace('"temperature": 0.0', '"temperature": 1.0')
    assert hot != text
    (run / "config.json").write_text(hot)
    for words in (("--ranker", folder), ("--oracle", 2)):
        assert world.run("evaluate", run, *words) == 2
        assert "no log-probabilities" in capsys.readouterr().err
