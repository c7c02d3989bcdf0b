"""Figures of an evaluation against slow ones; what they are of and where they stand."""

import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from sid_jax.data.catalog import read_catalog
from sid_jax.data.items import split_holdout
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.evaluate import (
    BASELINES,
    MODEL,
    NEAREST,
    evaluate_retriever,
    is_judged,
    shown_systems,
    shown_views,
)
from sid_jax.flows.retriever import choose_requests, load_retriever
from sid_jax.train.progress import read_metrics


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    """A run that was to go on to step 10."""
    folder = world.copy("retriever", tmp_path_factory.mktemp("judged") / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"steps": 6', '"steps": 10'))
    lines = []
    return folder, evaluate_retriever(folder, lines.append), lines


@pytest.fixture(scope="module")
def asked(judged):
    """Each request in plain Python: user, store, basket, targets, owned counts."""
    retriever = load_retriever(judged[0])
    corpus = Corpus.load(retriever.config, judged[0] / "sids.parquet")
    requests = choose_requests(retriever.config, corpus.data, corpus.test, 0)
    return retriever, requests


def slow_world(world):
    sold, own = defaultdict(Counter), defaultdict(Counter)
    groups = defaultdict(list)
    for user, _, store, items in world.make_baskets():
        groups[user].append((store, [int(i[1:]) for i in items.split()]))
    for user, rows in groups.items():
        for store, items in rows[:-2]:
            sold[store].update(items)
        for _, items in rows[:-1]:
            own[user].update(items)
    return sold, own, groups


def name_bin(count, edges):
    """`1`, `2-4` or `5+`: where a number lies among the edges."""
    place = sum(edge <= count for edge in edges)
    low = edges[place - 1]
    if place == len(edges):
        return f"{low}+"
    return str(low) if edges[place] == low + 1 else f"{low}-{edges[place] - 1}"


def recall(found, wanted, k):
    return len(set(found[:k]) & wanted) / len(wanted)


def mrr(found, wanted):
    ranks = [rank for rank, item in enumerate(found, 1) if item in wanted]
    return 1 / ranks[0] if ranks else 0.0


def ndcg(found, wanted, k):
    seen, gain = set(), 0.0
    for rank, item in enumerate(found[:k], 1):
        if item in wanted and item not in seen:
            gain += 1 / math.log2(1 + rank)
        seen.add(item)
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(k, len(wanted)) + 1))
    return gain / ideal


def test_every_figure_equals_a_slow_one(world, judged, asked, score_all):
    retriever, requests = asked
    scores = score_all(retriever, requests)
    leaves = retriever.index.leaves
    sold, own, groups = slow_world(world)
    stores = ("east", "north", "west")
    pairs = defaultdict(list)
    number, shown = defaultdict(set), defaultdict(set)
    catalog = world.make_items()
    sales = sum(sold.values(), Counter())
    carried = []
    recipe = Tokenizer.load(world.tokenizer).recipe
    vectors = recipe.encode(read_catalog(world.retriever / "catalog.parquet"))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, user in enumerate(groups):
        store = stores[requests.retailers[row]]
        basket = {int(i) for i in requests.basket[row] if i >= 0}
        targets = {int(i) for i in requests.targets[row] if i >= 0}
        last_store, last = groups[user][-1]
        assert (store, sorted(basket | targets)) == (last_store, sorted(last))
        assert len(basket) == len(last) // 2
        counts, shop = own[user], sold[store]
        carried += [item in shop for item in targets]

        offers = []
        for leaf in range(scores.shape[1]):
            items = [item for item in shop if leaves[item] == leaf]
            total = sum(shop[item] for item in items)
            weights = {
                item: counts[item] + shop[item] / (1 + total)
                for item in items
                if item not in basket
            }
            for item, weight in weights.items():
                share = math.log(weight / sum(weights.values()))
                offers.append((-(scores[row, leaf] + share), item))
        here = [item for item in shop if item not in basket]
        popular = sorted(here, key=lambda i: (-shop[i], i))
        mine = [item for item in here if counts[item]]
        mine.sort(key=lambda i: (-counts[i], -shop[i], i))
        lists = {
            MODEL: [item for _, item in sorted(offers)],
            BASELINES[0]: popular,
            BASELINES[1]: mine,
            BASELINES[2]: mine + [item for item in popular if item not in mine],
        }
        told = [*requests.history[row], *requests.basket[row]]
        told = [item for item in told if item >= 0][:-4:-1]
        near = units @ sum(units[item] * 0.7**ago for ago, item in enumerate(told))
        lists[BASELINES[3]] = sorted(
            here, key=lambda i, near=near, shop=shop: (-round(near[i], 5), -shop[i], i)
        )
        views = {
            "item": targets,
            "repeat": {item for item in targets if counts[item]},
            "new": {item for item in targets if not counts[item]},
        }
        for name, found in lists.items():
            for k in (5, 10, 50):
                for view, wanted in views.items():
                    if wanted:
                        key = f"{view}/{name}"
                        pairs[f"{key}/recall@{k}"].append(recall(found, wanted, k))
                        pairs[f"{key}/ndcg@{k}"].append(ndcg(found, wanted, k))
            for view, wanted in views.items():
                if wanted:
                    pairs[f"{view}/{name}/mrr"].append(mrr(found, wanted))
            sids = list(dict.fromkeys(leaves[item] for item in found))[:60]
            pairs[f"sid/{name}/mrr"].append(
                mrr(sids, {leaves[item] for item in targets})
            )
            for target in targets:
                places = {
                    "history": name_bin(len(counts), (0, 1, 3, 5, 9, 17, 33)),
                    "popularity": name_bin(sales[target], (0, 1, 5, 10, 20, 50, 100)),
                    "category": catalog[target]["categories"][1],
                }
                for kind, place in places.items():
                    hit = target in found[:10]
                    pairs[f"by/{kind}/{place}/{name}"].append(hit)
                    number[f"by/{kind}/{place}/targets"].add((user, target))
            for item in found[:10]:
                shown[f"lists/{name}/coverage"].add(item)
            for k in (5, 10, 50):
                sids = list(dict.fromkeys(leaves[item] for item in found))
                wanted = {leaves[item] for item in targets}
                pairs[f"sid/{name}/recall@{k}"].append(recall(sids, wanted, k))
                pairs[f"sid/{name}/ndcg@{k}"].append(ndcg(sids, wanted, k))
    values = judged[1]
    assert values["carried"] == pytest.approx(np.mean(carried))
    lists = {key for key in values if key.startswith("lists/")}
    assert len(lists) == 2 * 5 * 7  # and those of tail categories
    for key, each in shown.items():
        assert values[key] == len(each) / 60
    for key, each in number.items():
        assert values[key] == len(each)
    others = {"carried", "beam_yield", "item/low", "item/high"}
    assert pairs.keys() == values.keys() - others - lists - number.keys()
    low, high = values["item/low"], values["item/high"]
    assert low < values[f"item/{MODEL}/recall@10"] < high
    for key, each in pairs.items():
        assert values[key] == pytest.approx(np.mean(each), abs=1e-9), key


def test_targets_never_sold_at_the_store_are_misses(judged):
    values = judged[1]
    assert values["carried"] < 1
    # With every product of the store listed, recall is what the store carries.
    for name in (MODEL, BASELINES[0], BASELINES[2]):
        assert values[f"item/{name}/recall@50"] < 1


def test_the_table_holds_every_figure_shown(judged):
    text = "\n".join(judged[2])
    assert text.count("household repeats") == 4
    assert f"{judged[1][f'item/{MODEL}/recall@10']:.4f}" in text
    assert "25 held-out baskets" in text


def test_figures_and_samples_are_written(world, judged):
    folder, values, _ = judged
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6, 6, 6, 6]
    for key, value in values.items():
        if math.isfinite(value):
            assert rows[-1][key] == rows[-2][key] == value
    known = {item["item_id"]: item for item in world.make_items()}
    lines = (folder / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 8
    last = {row[0]: row for row in world.make_baskets()}
    for sample in samples:
        _, _, store, items = last[sample["user"]]
        assert sample["retailer"] == store
        halves = sample["basket"] + sample["held_out"]
        assert sorted(each["item_id"] for each in halves) == sorted(items.split())
        held = {each["item_id"] for each in sample["held_out"]}
        for each in sample["retrieved"]:
            assert each["hit"] == (each["item_id"] in held)
            assert each["title"] == known[each["item_id"]]["title"]
        scores = [each["score"] for each in sample["retrieved"]]
        assert scores == sorted(scores, reverse=True)


def test_judged_means_of_this_checkpoint_and_this_search(world, tmp_path):
    folder = world.copy("retriever", tmp_path / "run")
    assert is_judged(folder)
    config = folder / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"num_beams": 48', '"num_beams": 4'))
    assert not is_judged(folder)
    config.write_text(text)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    for cut in (lines[:-1], [line.replace('"step": 6', '"step": 4') for line in lines]):
        metrics.write_text("".join(cut))
        assert not is_judged(folder)
    older = [json.loads(line) for line in lines]
    changed = ("temperature", "likeness")
    for name, counts in (
        *((f"search/{k}", True) for k in changed),
        ("search/owned", 0),
    ):
        rest = [{k: v for k, v in row.items() if k != name} for row in older]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in rest))
        assert is_judged(folder) == counts  # there was no temperature, and it was 0
    metrics.write_text("".join(lines))
    (folder / "samples.jsonl").unlink()
    assert not is_judged(folder)


def test_an_unfinished_run_is_judged_as_what_it_is(judged):
    assert judged[2][0].endswith("stands at step 6 of 10")
    assert read_metrics(judged[0] / "metrics.jsonl")[-1]["step"] == 6


@pytest.mark.parametrize("kind", ["tokenizer", "nothing"])
def test_other_folders_are_refused(world, tmp_path, capsys, kind):
    folder = world.tokenizer if kind == "tokenizer" else tmp_path
    assert world.run("evaluate", folder) == 2
    err = capsys.readouterr().err
    assert "run of a tokenizer" in err or "is no run folder" in err


def test_the_oracle_tells_what_beams_lose(world, tmp_path):
    """Beams for every SID lose nothing; a single one is a part of the best list."""
    folder = world.copy("retriever", tmp_path / "run")
    values = evaluate_retriever(folder, print, oracle=12)
    assert values["oracle/requests"] == 12 and values["oracle/shared@10"] == 1
    for key in ("recall@10", "ndcg@50", "mrr"):
        assert values[f"oracle/beam/{key}"] == values[f"oracle/exact/{key}"]
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace('"num_beams": 48', '"num_beams": 1')
    )
    lines = []
    values = evaluate_retriever(folder, lines.append, oracle=99)
    assert values["oracle/requests"] == 25
    assert 0 < values["oracle/shared@10"] <= 1
    assert any("of all SIDs' best 10 the beams find" in line for line in lines)


def test_requests_of_the_oracle_are_not_negative(world, capsys):
    assert world.run("evaluate", world.retriever, "--oracle", -3) == 2
    assert "--oracle must not be negative: -3" in capsys.readouterr().err


def test_what_is_owned_is_offered_by_nobody(world, tmp_path):
    folder = world.copy("retriever", tmp_path / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"owned": true', '"owned": false'))
    values = evaluate_retriever(folder, print)
    for name in (MODEL, *BASELINES):
        assert values[f"repeat/{name}/recall@50"] == 0
    assert values[f"new/{MODEL}/recall@50"] > 0
    every = {
        key: value for key, value in values.items() if not key.startswith("repeat")
    }
    assert list(shown_views(values)) == ["item", "sid", "repeat", "new"]
    assert list(shown_views(every)) == ["item", "sid", "new"]
    assert list(shown_views(values | {f"sid/{MODEL}/recall@10": math.nan})) == [
        "item",
        "repeat",
        "new",
    ]


def test_without_the_tokenizer_its_baseline_is_left_out(world, tmp_path):
    folder = world.copy("retriever", tmp_path / "run")
    text = (folder / "config.json").read_text()
    gone = text.replace(str(world.tokenizer), str(tmp_path / "gone"))
    (folder / "config.json").write_text(gone)
    lines = []
    values = evaluate_retriever(folder, lines.append)
    assert not any(BASELINES[3] in key for key in values)
    assert any("is left out, since it needs the tokenizer" in line for line in lines)
    assert shown_systems(values) == [MODEL, *BASELINES[:3]]


def test_without_the_file_of_the_vectors_too(world, tmp_path, monkeypatch):
    def gone(recipe, catalog):
        raise InputError("vectors.parquet: not there")

    monkeypatch.setattr(ItemVectors, "encode", gone)
    lines = []
    folder = world.copy("retriever", tmp_path / "run")
    values = evaluate_retriever(folder, lines.append)
    assert shown_systems(values) == [MODEL, *BASELINES[:3]]
    assert any("vectors.parquet: not there" in line for line in lines)


def test_items_held_out_are_judged_apart(world, tmp_path):
    """Trained without them, retrieved among them, and mixed in at each share."""
    folder, tokenizer = tmp_path / "run", tmp_path / "tokenizer"
    told = ("--holdout", 0.3)
    assert world.train("tokenizer", tokenizer, *told) == 0
    assert world.train("retriever", folder, "--tokenizer", tokenizer, *told) == 0
    retriever = load_retriever(folder)
    corpus = Corpus.load(retriever.config, folder / "sids.parquet")
    held = set(np.flatnonzero(corpus.held))
    assert held == set(split_holdout(60, 0.3)[1])
    assert held.isdisjoint(corpus.train.items) and held & set(corpus.sold.items)
    assert len(corpus.train.items) == np.sum(~corpus.held[corpus.sold.items])
    # Stores offer them where they were sold, behind all that has sales.
    index = corpus.index()
    sales = index.sales[corpus.held[index.items]]
    assert len(sales) and not sales.any()
    values = read_metrics(folder / "metrics.jsonl")[-1]
    requests = choose_requests(retriever.config, corpus.data, corpus.test, 0)
    alone = np.concatenate(
        [p.items for p, _ in retriever.retrieve(requests, item_mask=corpus.held)]
    )
    lists = np.concatenate([p.items for p, _ in retriever.retrieve(requests, top=200)])
    hits = defaultdict(list)
    for row, wanted in enumerate(requests.targets):
        parts = {"all": {int(i) for i in wanted if i >= 0}}
        parts |= {"new": parts["all"] & held, "seen": parts["all"] - held}
        known = [item for item in lists[row] if item >= 0 and item not in held]
        fresh = [item for item in alone[row] if item >= 0]
        assert set(fresh) <= held
        for share in (0, 0.1, 0.2, 0.3, 0.5, 1):
            few = round(10 * share)
            mixed = known[: 10 - few] + fresh[:few]
            for part, each in parts.items():
                if each:
                    key = f"unseen/share/{share:g}/{MODEL}/{part}"
                    hits[key].append(recall(mixed, each, 10))
        if parts["new"]:
            key = f"unseen/alone/{MODEL}"
            hits[f"{key}/recall@5"].append(recall(fresh, parts["new"], 5))
            hits[f"{key}/mrr"].append(mrr(fresh, parts["new"]))
    for key, each in hits.items():
        assert values[key] == pytest.approx(np.mean(each), abs=1e-9), key
    assert values[f"unseen/alone/{NEAREST}/recall@50"] > 0.5  # of a few, most are found
    page = (folder / "report.html").read_text()
    assert "New products, ranked among themselves" in page
