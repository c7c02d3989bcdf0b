"""What a store offers, against every SID scored and the index's rule, both slowly."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from sid_jax.data.pipeline import Requests
from sid_jax.flows.retrieve import retrieve
from sid_jax.flows.retriever import load_retriever

HISTORY = ["i03", "i10", "i03", "i22", "i41", "i22", "i22", "i57", "i02"]


def sales_at(world, store):
    """Of the training baskets: all but each household's last two."""
    rows = defaultdict(list)
    for user, _, shop, items in world.make_baskets():
        rows[user].append((shop, items.split()))
    kept = [each for group in rows.values() for each in group[:-2]]
    return Counter(i for shop, items in kept if shop == store for i in items)


def one_request(history, basket, store):
    """The most frequent come last, then the most recent; four places."""
    place = {item: at for at, item in enumerate(history)}
    counts = Counter(history)
    ranked = sorted(counts, key=lambda item: (counts[item], place[item]))[-4:]
    rows = [-1] * (4 - len(ranked)) + [int(item[1:]) for item in ranked]
    none = np.full((1, 1), -1, np.int32)
    return Requests(
        users=np.zeros(1, np.int32),
        retailers=np.asarray([("east", "north", "west").index(store)], np.int32),
        history=np.asarray([rows], np.int32),
        basket=np.asarray([[int(i[1:]) for i in basket] or [-1]], np.int32),
        targets=none,
        owned=none,
        owned_counts=none,
    )


def brute_force(world, retriever, scores, history, basket, store, meets):
    """[(item, score)] best first: every SID, shared out among its products."""
    sold, own = sales_at(world, store), Counter(history)
    by_sid = defaultdict(list)
    for item in world.make_items():
        if item["item_id"] in sold:
            leaf = retriever.index.leaves[int(item["item_id"][1:])]
            by_sid[leaf].append(item)
    offers = []
    for leaf, items in by_sid.items():
        total = sum(sold[item["item_id"]] for item in items)
        weights = {
            item["item_id"]: own[item["item_id"]] + sold[item["item_id"]] / (1 + total)
            for item in items
            if meets(item) and item["item_id"] not in basket
        }
        for item_id, weight in weights.items():
            share = math.log(weight / sum(weights.values()))
            offers.append((item_id, scores[leaf] + share))
    return sorted(offers, key=lambda offer: (-round(offer[1], 3), offer[0]))


@pytest.mark.parametrize(
    ("history", "basket", "store", "where", "meets"),
    [
        ([], [], "east", {}, lambda item: True),
        (HISTORY, ["i05", "i22", "i07"], "west", {}, lambda item: True),
        (
            HISTORY,
            ["i10"],
            "north",
            {"brand_tier": "Private", "category": "food"},
            lambda item: (
                item["brand_tier"] == "Private" and "food" in item["categories"]
            ),
        ),
    ],
)
def test_offers_are_those_of_brute_force(
    world, score_all, history, basket, store, where, meets
):
    retriever = load_retriever(world.retriever)
    scores = score_all(retriever, one_request(history, basket, store))[0]
    wanted = brute_force(world, retriever, scores, history, basket, store, meets)
    found = retrieve(
        world.retriever,
        history=history,
        basket=basket,
        retailer=store,
        where=where,
        top=100,
    )
    known = {item["item_id"]: item for item in world.make_items()}
    assert found
    for offer in found:
        item = known[offer.item_id]
        assert meets(item)
        assert sales_at(world, store)[offer.item_id]
        assert offer.item_id not in basket
        assert offer.title == item["title"]
        assert offer.category == " > ".join(item["categories"])
    assert {offer.item_id for offer in found} == {item_id for item_id, _ in wanted}
    wanted_scores = dict(wanted)
    np.testing.assert_allclose(
        [offer.score for offer in found],
        [wanted_scores[offer.item_id] for offer in found],
        rtol=1e-3,
        atol=1e-3,
    )
    scores = [offer.score for offer in found]
    assert scores == sorted(scores, reverse=True)


def test_the_command_prints_what_the_function_finds(world, capsys):
    words = ("--history", "i03,i10", "--basket", "i05", "--retailer", "north")
    words += ("--where", "brand_tier=Private", "--where", "category=soap")
    assert world.run("retrieve", world.retriever, *words, "--top", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    where = {"brand_tier": "Private", "category": "soap"}
    offers = retrieve(
        world.retriever,
        history=["i03", "i10"],
        basket=["i05"],
        retailer="north",
        where=where,
        top=3,
    )
    assert len(lines) == len(offers) == 3
    for rank, (line, offer) in enumerate(zip(lines, offers, strict=True), 1):
        assert line.split()[:4] == [
            str(rank),
            f"{offer.score:.3f}",
            offer.sid,
            offer.item_id,
        ]
        assert offer.title in line
        assert "[shop > home > soap]" in line


def test_the_command_draws_others_with_another_seed(world, capsys):
    words = ("retrieve", world.retriever, "--retailer", "east", "--top", 60)

    def answer(*more):
        assert world.run(*words, *more) == 0
        return capsys.readouterr().out

    hot = [answer("--temperature", 2, "--seed", seed) for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]
    assert answer() == answer("--seed", 1)
    assert world.run(*words, "--temperature", 1e-9) == 2
    assert "must be 0, or at least 1e-6" in capsys.readouterr().err


def test_no_product_is_said_so(world, capsys):
    words = ("--retailer", "north", "--where", "stock=1", "--where", "category=soap")
    words += ("--where", "price=9.5")
    assert world.run("retrieve", world.retriever, *words) == 2
    assert "price" in capsys.readouterr().err
    words = ("--retailer", "north", "--where", "stock=1", "--where", "category=soap")
    basket = ("--basket", ",".join(f"i{row:02d}" for row in range(60)))
    assert world.run("retrieve", world.retriever, *words, *basket) == 0
    assert capsys.readouterr().out.startswith("nothing: the store carries no other")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], ["--retailer: name one of the 3", "east, north, west"]),
        (["--retailer", "nort"], ["'nort' is not among the 3", "such as north"]),
        (["--history", "i01,zzz"], ["--history: ", "'zzz'", "catalog of 60 items"]),
        (["--basket", "zzz"], ["--basket: ", "'zzz'"]),
        (["--where", "color=red"], ["'color'", "brand_tier, price, stock"]),
        (["--where", "brand_tier=Privat"], ["brand_tier=Privat", "'Private'"]),
        (["--where", "stock=red"], ["stock is a number, not 'red'"]),
        (["--where", "stock"], ["--where 'stock': want attribute=value"]),
        (["--where", "=3"], ["--where '=3': want attribute=value"]),
        (
            ["--where", "stock=1", "--where", "stock=2"],
            ["stock is given twice (1 and 2)"],
        ),
        (["--top", "0"], ["--top must be positive: 0"]),
        (["--top", "many"], ["--top", "many"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_bad_input_is_named(world, capsys, words, messages):
    store = [] if not words or words[0] == "--retailer" else ["--retailer", "north"]
    assert world.run("retrieve", world.retriever, *store, *words) == 2
    err = capsys.readouterr().err
    for message in messages:
        assert message in err
