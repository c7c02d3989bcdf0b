"""The search against a plain scoring of every SID; what `load_retriever` refuses."""

import dataclasses
import shutil
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from sid_jax.config import MeshConfig, SearchConfig
from sid_jax.errors import InputError
from sid_jax.evals.ranking import mean, ranking_metrics
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.export import export_retriever
from sid_jax.flows.retriever import choose_requests, load_retriever
from sid_jax.flows.serving import load_artifact
from sid_jax.sids.beam import Beams
from sid_jax.sids.mapped import load_npz, save_npz
from sid_jax.sids.table import read_table, write_table


@pytest.fixture(scope="module")
def retriever(world):
    return load_retriever(world.retriever)


@pytest.fixture(scope="module")
def requests(world, retriever):
    corpus = Corpus.load(retriever.config, world.retriever / "sids.parquet")
    return choose_requests(retriever.config, corpus.data, corpus.test, 0)


def test_beams_are_all_the_stores_sids_by_the_models_likelihood(
    retriever, requests, score_all
):
    scores = score_all(retriever, requests)
    row = 0
    for products, beams in retriever.retrieve(requests):
        for b in range(len(beams.valid)):
            store = requests.retailers[row]
            start, stop = retriever.index.starts[store : store + 2]
            carried = np.unique(
                retriever.index.leaves[retriever.index.items[start:stop]]
            )
            order = carried[np.argsort(-scores[row, carried], kind="stable")]
            assert beams.leaves[b][beams.valid[b]].tolist() == order.tolist()
            np.testing.assert_allclose(
                beams.scores[b][: len(order)], scores[row, order], rtol=1e-4, atol=1e-4
            )
            assert products.items[b].max() < 60
            row += 1
    assert row == len(requests)


@pytest.mark.parametrize("owned", [True, False])
def test_scoring_all_finds_what_a_wide_search_finds(
    monkeypatch, retriever, requests, owned
):
    monkeypatch.setattr("sid_jax.flows.speller._SCORED_AT_ONCE", 8 * 7)
    search = dataclasses.replace(retriever.config.search, owned=owned)
    wide = dataclasses.replace(
        retriever, config=dataclasses.replace(retriever.config, search=search)
    )
    for (found, beams), (wanted, best) in zip(
        wide.retrieve(requests), wide.exact(requests), strict=True
    ):
        np.testing.assert_array_equal(found.items, wanted.items)
        number = best.leaves.shape[1]
        np.testing.assert_array_equal(beams.leaves[:, :number], best.leaves)
        np.testing.assert_array_equal(beams.codes[:, :number], best.codes)
        np.testing.assert_allclose(
            beams.scores[:, :number], best.scores, rtol=1e-4, atol=1e-4
        )
        assert not beams.valid[:, number:].any()


def test_items_are_scored_as_their_sids_are(retriever, requests, score_all):
    wanted = score_all(retriever, requests)
    items = np.stack([np.arange(25), np.full(25, -1), np.full(25, 7)], axis=1)
    found = retriever.score(requests, items)
    assert np.isnan(found[:, 1]).all()
    for column in (0, 2):
        leaves = retriever.index.leaves[items[:, column]]
        np.testing.assert_allclose(
            found[:, column], wanted[np.arange(25), leaves], rtol=1e-4, atol=1e-4
        )


def test_likelihoods_of_all_sids_are_those_of_a_distribution(
    retriever, requests, score_all
):
    # Over the catalog's SIDs they add up to at most one: others have a share too.
    total = np.exp(score_all(retriever, requests)).sum(axis=1)
    assert (total > 0).all()
    assert (total <= 1 + 1e-5).all()


@pytest.mark.parametrize(
    ("number", "batch_size", "devices", "sizes"),
    [
        (25, 8, 1, [8, 8, 8, 8]),  # the last batch is filled up
        (1, 128, 1, [1]),  # one request is not asked 128 times
        (25, 9, 8, [16, 16]),  # nine do not divide among eight devices
        (3, 128, 8, [8]),
        (16, 16, 8, [16]),
    ],
)
def test_batches_are_as_large_as_needed_and_divide_among_devices(
    monkeypatch, retriever, requests, number, batch_size, devices, sizes
):
    search = SearchConfig(batch_size=batch_size, top=3)
    mesh = MeshConfig(data=devices)
    config = dataclasses.replace(retriever.config, search=search, mesh=mesh)
    asked = []

    def answer(self, part, item_mask, params, key):
        asked.append(part.users)
        shape = (len(part), 1)
        nothing = np.full(shape, -1, np.int32)
        scores = np.full(shape, -np.inf, np.float32)
        return Beams(nothing[..., None], scores, nothing, np.zeros(shape, bool))

    monkeypatch.setattr(type(retriever), "_find", answer)
    other = dataclasses.replace(retriever, config=config)
    found = [len(p.items) for p, _ in other.retrieve(requests.take(np.arange(number)))]
    assert [len(users) for users in asked] == sizes
    assert sum(found) == number
    assert np.concatenate(asked)[:number].tolist() == list(range(number))


def test_beams_are_spent_on_what_meets_the_conditions(retriever, requests, score_all):
    """With a single beam, the one item that is asked for is still found."""
    one = requests.take(np.arange(1))
    config = dataclasses.replace(retriever.config, search=SearchConfig(num_beams=1))
    other = dataclasses.replace(retriever, config=config)
    start, stop = retriever.index.starts[one.retailers[0] :][:2]
    carried = np.setdiff1d(retriever.index.items[start:stop], one.basket)
    scores = score_all(retriever, one)[0][retriever.index.leaves[carried]]
    worst = carried[scores.argmin()]
    products, beams = next(other.retrieve(one, item_mask=np.arange(60) == worst))
    assert products.items[0, 0] == worst
    assert (products.items[0, 1:] == -1).all()
    assert beams.leaves.tolist() == [[retriever.index.leaves[worst]]]


def test_what_is_owned_is_not_searched_for(retriever, requests):
    """Every beam left has something new; the order of what is new stays."""
    search = dataclasses.replace(retriever.config.search, owned=False)
    config = dataclasses.replace(retriever.config, search=search)
    other = dataclasses.replace(retriever, config=config)
    row = 0
    for (every, _), (new, beams) in zip(
        retriever.retrieve(requests), other.retrieve(requests), strict=True
    ):
        assert (new.beam_yield == 1).all()
        for b in range(len(new.items)):
            owned = requests.owned[row]
            assert not np.isin(new.items[b], owned[owned >= 0]).any()
            wanted = np.setdiff1d(every.items[b], [*owned, -1])
            assert set(wanted) == set(new.items[b]) - {-1}
            leaves = beams.leaves[b][beams.valid[b]]
            assert set(leaves) == set(new.leaves[b][new.items[b] >= 0])
            row += 1
    assert row == len(requests)


def test_a_run_of_more_devices_is_read_on_fewer(world, tmp_path):
    folder = world.copy("retriever", tmp_path / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"data": 1,', '"data": 64,'))
    assert load_retriever(folder).config.mesh.data == -1


def test_an_index_of_other_sids_is_refused(world, tmp_path):
    folder = world.copy("retriever", tmp_path / "run")
    out = tmp_path / "sids.parquet"
    items = world.write_items(tmp_path / "i.jsonl", world.make_items()[::-1])
    words = ("--tokenizer", world.tokenizer, "--items", items, "--out", out)
    assert world.run("encode", *words) == 0
    shutil.copy(out, folder / "sids.parquet")
    load_retriever(folder)  # rows are found by id
    table = read_table(out)
    moved = dataclasses.replace(table, items=np.roll(table.items, 9))
    write_table(folder / "sids.parquet", moved)
    with pytest.raises(InputError, match="was not made for"):
        load_retriever(folder)


def test_likeness_ranks_what_was_found(world, retriever, requests, tmp_path):
    """Score: log p + b cos(v, u), u the last products at weights 1, .7, .49."""
    run = world.copy("retriever", tmp_path / "run")
    told = ("--search.likeness", 3.0, "--search.num-beams", 60)
    assert world.train("retriever", run, *told) == 0  # finished: judged again alone
    near = load_retriever(run)
    search = replace(near.config.search, likeness=0.0)
    plain = replace(near, config=replace(near.config, search=search))
    vectors = near.vectors.astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = zip(
        near.retrieve(requests, top=60), plain.retrieve(requests, top=60), strict=True
    )
    row = 0
    for (found, _), (own, _) in pairs:
        for items, scores, mine, log_prob in zip(
            found.items, found.scores, own.items, own.scores, strict=True
        ):
            last = [
                i for i in [*requests.history[row], *requests.basket[row]] if i >= 0
            ]
            weights = 0.7 ** np.arange(len(last[-3:]))[::-1]
            wanted = (weights[:, None] * units[last[-3:]]).sum(axis=0)
            wanted /= max(np.linalg.norm(wanted), 1e-12)
            real = mine >= 0
            raised = log_prob[real] + 3 * units[mine[real]] @ wanted
            order = np.argsort(-raised, kind="stable")
            np.testing.assert_allclose(scores[items >= 0], raised[order], atol=1e-4)
            assert set(items[items >= 0]) == set(mine[real])
            row += 1
    assert row == len(requests)
    few = next(near.retrieve(requests, top=2))[0].items
    every = next(near.retrieve(requests, top=60))[0].items
    np.testing.assert_array_equal(few, every[:, :2])
    assert (run / "item_vectors.npz").exists()


def test_draws_are_of_what_is_carried_and_repeat_with_the_seed(retriever, requests):
    search = replace(retriever.config.search, temperature=1, num_beams=60, top=60)
    hot = replace(retriever, config=replace(retriever.config, search=search))
    cold = replace(search, temperature=1e-4)
    cold = replace(retriever, config=replace(retriever.config, search=cold))

    def answer(each):
        return np.concatenate(
            [products.items for products, _ in each.retrieve(requests)]
        )

    drawn = answer(hot)
    np.testing.assert_array_equal(drawn, answer(hot))
    found = answer(cold)
    assert (drawn != found).any()
    for row in range(len(requests)):  # all that is carried, in other orders
        assert set(drawn[row]) == set(found[row])
    other = replace(hot.config, train=replace(hot.config.train, seed=1))
    assert (answer(replace(hot, config=other)) != drawn).any()
    eight = replace(hot.config, mesh=MeshConfig(data=8))
    anywhere = replace(hot, config=eight, params=jax.device_get(hot.params))
    np.testing.assert_array_equal(answer(anywhere), drawn)


def test_variety_is_measured_at_each_temperature(world, load_benchmark):
    benchmark = load_benchmark("temperature")
    rows = benchmark.measure(world.retriever, (0.0, 1e-4, 100.0), limit=0)
    assert list(rows) == ["search", "drawn at 0.0001", "drawn at 100"]
    kept = load_retriever(world.retriever)
    corpus = Corpus.load(kept.config, world.retriever / "sids.parquet")
    requests = choose_requests(kept.config, corpus.data, corpus.test, 0)
    found = np.concatenate([products.items for products, _ in kept.retrieve(requests)])
    wanted = mean(ranking_metrics(found, requests.targets, (10,)))["recall@10"]
    assert rows["search"]["R@10"] == wanted
    assert rows["drawn at 100"]["entropy"] != rows["search"]["entropy"]
    assert all(0 < row["coverage"] <= 1 for row in rows.values())


@pytest.mark.slow
def test_what_a_household_bought_is_told_by_a_vector(world, tmp_path, capsys):
    file, folder = tmp_path / "experiment.py", tmp_path / "run"
    file.write_text(
        f"""
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = smoke(RetrieverExperiment(
        tokenizer={str(world.tokenizer)!r},
        data=DataConfig(name="tiny", data_dir={str(world.data)!r}),
        prompts=PromptConfig(user=True),
        model=HierarchicalConfig(),
    ))
    return replace(config, mesh=MeshConfig(data=1))
"""
    )
    # As without an interruption; and what was kept serves, the tokenizer being gone.
    assert world.run("train", file, "--workdir", folder, "--train.steps", 2) == 0
    gone = ("--tokenizer", tmp_path / "gone")
    assert world.run("train", file, "--workdir", folder, *gone) == 0
    assert world.run("train", file, "--workdir", tmp_path / "whole") == 0
    retriever = load_retriever(folder)
    whole = load_retriever(tmp_path / "whole")
    chex.assert_trees_all_equal(retriever.params, whole.params)
    corpus = Corpus.load(retriever.config, folder / "sids.parquet")
    requests = choose_requests(retriever.config, corpus.data, corpus.test, 8)
    items = np.zeros((len(requests), 1), np.int32)
    told = retriever.score(requests, items)
    nothing = replace(requests, owned_counts=0 * requests.owned_counts)
    assert (np.abs(told - retriever.score(nothing, items)) > 1e-5).all()
    # The vector is made and told where it is served, too.
    export_retriever(folder, tmp_path / "served", platforms=["cpu"], batch_size=8)
    pairs = zip(
        load_artifact(tmp_path / "served").retrieve(requests),
        retriever.retrieve(requests),
        strict=True,
    )
    for (found, _), (products, _) in pairs:
        np.testing.assert_array_equal(found.items, products.items)
        np.testing.assert_allclose(found.scores, products.scores, rtol=1e-4)
    kept = load_npz(folder / "item_vectors.npz")["vectors"]
    wanted = Tokenizer.load(world.tokenizer).recipe.encode(corpus.catalog)
    np.testing.assert_allclose(kept, wanted, atol=2e-3)
    save_npz(folder / "item_vectors.npz", {"vectors": kept[:-1]})
    with pytest.raises(InputError, match=r"item_vectors\.npz.*vectors of 60 items"):
        load_retriever(folder)
    other = world.copy("tokenizer", tmp_path / "other")
    sids = read_table(other / "sids.parquet")
    manifest = replace(sids.manifest, tokenizer="another")
    write_table(other / "sids.parquet", replace(sids, manifest=manifest))
    told = ("--tokenizer", other, "--workdir", tmp_path / "refused")
    assert world.run("train", file, *told) == 2
    assert "is not the one of these SIDs" in capsys.readouterr().err
    assert not list((tmp_path / "refused").iterdir())
    (folder / "item_vectors.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"item_vectors\.npz: not readable"):
        load_retriever(folder)


def test_sids_that_exist_share_all_probability_in_training_and_search(world, tmp_path):
    """Packed histories, codebook starts, the softmax over what exists: end to end."""
    file, folder = tmp_path / "experiment.py", tmp_path / "run"
    file.write_text(
        f"""
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = smoke(RetrieverExperiment(
        tokenizer={str(world.tokenizer)!r},
        data=DataConfig(name="tiny", data_dir={str(world.data)!r}),
        prompts=SequenceConfig(history=4, row=8),
        model=HierarchicalConfig(),
        task=RetrieverTaskConfig(softmax="existing", start="codebooks"),
    ))
    search = SearchConfig(num_beams=60, top=60, batch_size=8)
    return replace(config, search=search, mesh=MeshConfig(data=1))
"""
    )
    assert world.run("train", file, "--workdir", folder) == 0
    retriever = load_retriever(folder)
    corpus = Corpus.load(retriever.config, folder / "sids.parquet")
    requests = choose_requests(retriever.config, corpus.data, corpus.test, 0)
    leaves = retriever.index.leaves
    one_each = np.unique(leaves, return_index=True)[1]
    items = np.broadcast_to(one_each, (len(requests), len(one_each)))
    scores = retriever.score(requests, items.astype(np.int32))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, rtol=1e-4)
    row = 0
    for _, beams in retriever.retrieve(requests):
        for found, told, valid in zip(
            beams.leaves, beams.scores, beams.valid, strict=True
        ):
            wanted = scores[row][np.searchsorted(leaves[one_each], found[valid])]
            np.testing.assert_allclose(told[valid], wanted, rtol=1e-4, atol=1e-4)
            row += 1
