"""Candidates of a retriever that spells, in the order of one that scores as well."""

import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.ranker import Ranked
from sid_jax.flows.retriever import choose_requests, load_retriever

EXPERIMENT = """
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = smoke(RetrieverExperiment(
        tokenizer={tokenizer!r},
        data=DataConfig(name="tiny", data_dir={data!r}),
        prompts=SequenceConfig(),
        model={model}(),
    ))
    search = SearchConfig(num_beams=60, top=60, batch_size=8)
    return replace(config, search=search, mesh=MeshConfig(data=1))
"""


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Run folders of a speller and a scorer that read the same histories."""
    root, folders = tmp_path_factory.mktemp("ranker"), []
    for name, model in (("speller", "HierarchicalConfig"), ("scorer", "SASRecConfig")):
        file = root / f"{name}.py"
        told = {"tokenizer": str(world.tokenizer), "data": str(world.data)}
        file.write_text(EXPERIMENT.format(model=model, **told))
        assert world.run("train", file, "--workdir", root / name) == 0
        folders.append(root / name)
    return folders


@pytest.fixture(scope="module")
def requests(runs):
    config = load_retriever(runs[0]).config
    corpus = Corpus.load(config, runs[0] / "sids.parquet")
    return choose_requests(config, corpus.data, corpus.test, 0)


def collect(retriever, requests, **told):
    answers = [products for products, _ in retriever.retrieve(requests, **told)]
    return (
        np.concatenate([getattr(each, name) for each in answers])
        for name in ("items", "scores", "leaves")
    )


def test_the_order_is_of_both_models_scores(runs, requests):
    ranked = Ranked.load(*runs, weight=0.3)
    items, scores, leaves = collect(ranked, requests)
    own_items, own, _ = collect(ranked.speller, requests)
    every = np.broadcast_to(np.arange(60, dtype=np.int32), (len(requests), 60))
    other = ranked.scorer.score(requests, every)
    np.testing.assert_allclose(np.exp(other).sum(axis=1), 1.0, rtol=1e-4)
    for row in range(len(requests)):
        found = own_items[row] >= 0
        mixed = dict(
            zip(
                own_items[row][found].tolist(),
                0.3 * other[row, own_items[row][found]] + 0.7 * own[row][found],
                strict=True,
            )
        )
        best = sorted(mixed, key=lambda item: -mixed[item])
        assert items[row][: len(best)].tolist() == best
        wanted = [mixed[item] for item in best]
        np.testing.assert_allclose(scores[row][: len(best)], wanted, atol=1e-4)
        assert (items[row][len(best) :] == -1).all()
    real = items >= 0
    assert (leaves[real] == ranked.speller.index.leaves[items[real]]).all()


def test_at_either_end_one_model_ranks_alone(runs, requests):
    own, _, _ = collect(load_retriever(runs[0]), requests)
    items, _, _ = collect(Ranked.load(*runs, weight=0.0), requests)
    np.testing.assert_array_equal(items, own)
    # All that is carried is a candidate here, so that nothing of the scorer's is lost.
    wanted, _, _ = collect(load_retriever(runs[1]), requests)
    items, _, _ = collect(Ranked.load(*runs, weight=1.0), requests)
    np.testing.assert_array_equal(items, wanted)


def test_evaluation_shows_what_the_ranker_adds(runs, world, capsys):
    assert world.run("evaluate", runs[0], "--ranker", runs[1]) == 0
    told = capsys.readouterr().out
    for name in ("sid_jax, then ranked", "the ranker alone"):
        assert name in told
    page = (runs[0] / "report.html").read_text()
    assert "then ranked" in page


def test_what_cannot_rank_is_refused(runs, world):
    speller, scorer = runs
    for pair, message in (
        ((scorer, scorer), "scores items; --ranker is for one that spells"),
        ((speller, speller), "--ranker .* spells SIDs; name the run of a SASRec"),
        ((world.retriever, scorer), "other prompts"),
    ):
        with pytest.raises(InputError, match=message):
            Ranked.load(*pair)
    with pytest.raises(InputError, match=r"weight 1.5 must be in \[0, 1\]"):
        Ranked.load(*runs, weight=1.5)
