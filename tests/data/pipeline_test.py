from collections import Counter
from dataclasses import replace

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Interactions
from sid_jax.data.histories import rank_histories
from sid_jax.data.pipeline import (
    PromptConfig,
    make_requests,
    prompt_stream,
    prompts_of,
    split_last,
    without_items,
)
from sid_jax.errors import InputError
from sid_jax.sids.vocab import PAD, Vocab

ITEMS = 12
# An item is its code, so that prompts read back as items.
CODES = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], axis=1)
VOCAB = Vocab(codebook_sizes=(3, 4), num_retailers=3)
CONFIG = PromptConfig(history=5, basket=3)

baskets = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6)
households = st.lists(
    st.lists(st.tuples(st.integers(0, 2), baskets), min_size=1, max_size=5),
    min_size=1,
    max_size=5,
)


def make_data(households):
    rows = [
        (f"u{user}", time, basket, f"r{store}")
        for user, bought in enumerate(households)
        for time, (store, basket) in enumerate(bought)
    ]
    users, times, items, stores = zip(*rows, strict=True)
    data = Interactions.from_baskets(users, times, items, stores)
    return replace(data, retailers=("r0", "r1", "r2"), retailer=_stores(stores))


def _stores(names):
    return np.asarray([int(name[1]) for name in names], np.int32)


def several(households):
    """A household that can be trained on, whatever else was drawn."""
    return [*households, [(0, [1, 2]), (1, [2, 3, 4, 5, 6]), (2, [0])]]


def items_of(tokens):
    """Items of prompt tokens; -1 where absent."""
    codes = tokens - np.asarray(VOCAB.level_offsets)
    return np.where(tokens[..., 0] == PAD, -1, codes[..., 0] * 4 + codes[..., 1])


decays = st.sampled_from([1.0, 0.9, 0.01])


def rank_by_hand(past, decay):
    """Items of past baskets by weight, then by when they were last bought."""
    order = [item for basket in past for item in dict.fromkeys(basket)]
    last = {item: place for place, item in enumerate(order)}
    weights = dict.fromkeys(last, 0.0)
    for ago, basket in enumerate(reversed(past)):
        for item in set(basket):
            weights[item] += decay**ago
    return sorted(last, key=lambda item: (weights[item], last[item]))


def count_by_hand(past):
    return Counter(item for basket in past for item in set(basket))


@given(st.lists(baskets, max_size=8), decays)
def test_history_is_ranked_by_its_rule(past, decay):
    past = [list(dict.fromkeys(basket)) for basket in past]
    bought = np.asarray([item for basket in past for item in basket], np.int32)
    ago = np.arange(len(past))[::-1].repeat([len(basket) for basket in past])
    row = np.zeros_like(bought)
    _, items, counts = rank_histories(row, bought, ago, decay)
    assert items.tolist() == rank_by_hand(past, decay)
    assert dict(zip(items.tolist(), counts.tolist(), strict=True)) == count_by_hand(
        past
    )


def test_decay_chooses_between_how_often_and_how_lately():
    past, ago = np.asarray([7, 7, 7, 5, 5, 3]), np.asarray([5, 4, 3, 2, 1, 0])
    row = np.zeros_like(past)
    assert rank_histories(row, past, ago, 1.0)[1].tolist() == [3, 5, 7]
    assert rank_histories(row, past, ago, 0.01)[1].tolist() == [7, 5, 3]


@settings(deadline=None, max_examples=10)
@given(households.map(several), st.integers(0, 100), st.integers(0, 50))
def test_streams_are_functions_of_the_step_and_processes_share_a_batch(
    households, seed, step
):
    data = make_data(households)

    def prompts(**kwargs):
        return prompt_stream(data, CODES, VOCAB, CONFIG, 6, seed=seed, **kwargs)

    whole = prompts()
    wanted = whole(step)
    whole(step + 3)
    chex.assert_trees_all_equal(whole(step), wanted, prompts()(step))
    parts = [prompts(process=p, num_processes=3)(step) for p in range(3)]
    for found, each in zip(
        zip(*map(leaves, parts), strict=True), leaves(wanted), strict=True
    ):
        np.testing.assert_array_equal(np.concatenate(found), each)
    with pytest.raises(InputError, match="batch_size 6"):
        prompts(num_processes=4)
    other = prompt_stream(data, CODES, VOCAB, CONFIG, 6, seed=seed + 1)
    assert any(
        (items_of(other(s).basket) != items_of(prompts()(s).basket)).any()
        for s in range(5)
    )


def leaves(batch):
    return [each for each in vars(batch).values() if each is not None]


@settings(deadline=None, max_examples=25)
@given(households.map(several), st.integers(0, 100))
def test_a_households_vector_is_the_mean_of_its_purchases(households, seed):
    data = make_data(households)
    vectors = np.random.default_rng(seed).normal(size=(len(CODES), 3))
    vectors = vectors.astype(np.float16)
    config = replace(CONFIG, user=True, history=1)
    stream = prompt_stream(data, CODES, VOCAB, config, 1, seed=seed, vectors=vectors)
    means = [
        vectors[[item for _, basket in bought[:place] for item in set(basket)]]
        .astype(np.float32)
        .mean(axis=0)
        for bought in households
        for place in range(1, len(bought))
    ]
    for step in range(len(means)):
        user = stream(step).user
        assert user.shape == (1, 3) and user.dtype == np.float32
        assert np.isclose(user, means, atol=1e-4).all(axis=1).any()

    requests = make_requests(data, split_last(data)[1], config, seed=0)
    found = prompts_of(requests, CODES, VOCAB, config, vectors).user
    wanted = [
        vectors[[item for _, basket in bought[:-1] for item in set(basket)]]
        .astype(np.float32)
        .mean(axis=0)
        for bought in households
        if len(bought) > 1
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    none = replace(
        requests, owned=-np.ones_like(requests.owned), owned_counts=0 * requests.owned
    )
    assert (prompts_of(none, CODES, VOCAB, config, vectors).user == 0).all()
    with pytest.raises(InputError, match=r"prompts\.user"):
        prompts_of(requests, CODES, VOCAB, config)


@settings(deadline=None, max_examples=25)
@given(
    households.map(several),
    st.integers(0, 100),
    decays,
    st.integers(0, 2),
)
def test_prompts_hold_the_past_and_a_part_of_one_basket(
    households, seed, decay, min_history
):
    data = make_data(households)
    config = replace(CONFIG, decay=decay, min_history=min_history)
    stream = prompt_stream(data, CODES, VOCAB, config, 1, seed=seed)
    eligible = [
        (basket, [each for _, each in bought[:place]])
        for bought in households
        for place, basket in enumerate(bought)
        if place >= min_history
    ]
    for step in range(len(eligible)):
        prompts = stream(step)
        store = int(prompts.retailers[0] - VOCAB.retailer_tokens(np.zeros(1, int))[0])
        history, basket = (
            items_of(each)[0] for each in (prompts.history, prompts.basket)
        )
        shown = basket[basket >= 0].tolist()
        assert len(set(shown)) == len(shown)
        assert (basket[len(shown) :] == -1).all()  # absent items come last
        assert any(
            where == store
            and set(shown) <= set(items)
            and len(shown) == min(len(set(items)), config.basket)
            and history[history >= 0].tolist() == rank_by_hand(past, decay)[-5:]
            for (where, items), past in eligible
        )


def test_every_basket_that_has_a_past_comes_once_an_epoch():
    # Each basket is one item of its own.
    data = make_data([[(0, [0]), (1, [1]), (2, [2])], [(0, [3])], [(0, [4]), (1, [5])]])
    stream = prompt_stream(data, CODES, VOCAB, CONFIG, 1, seed=3)
    shown = [int(items_of(stream(step).basket)[0, 0]) for step in range(12)]
    epochs = [shown[start : start + 3] for start in range(0, 12, 3)]
    assert [sorted(epoch) for epoch in epochs] == [[1, 2, 5]] * 4
    assert len(set(map(tuple, epochs))) > 1


def test_a_long_basket_shows_other_items_in_each_epoch():
    data = make_data([[(0, [0]), (0, [1, 2, 3, 4, 5, 6])]])
    stream = prompt_stream(data, CODES, VOCAB, CONFIG, 1, seed=0)
    shown = {tuple(items_of(stream(step).basket)[0]) for step in range(40)}
    assert len(shown) > 20
    assert {item for basket in shown for item in basket} == {1, 2, 3, 4, 5, 6}


@settings(deadline=None, max_examples=40)
@given(households)
def test_the_last_basket_of_each_household_is_held_out(households):
    data = make_data(households)
    kept, held = split_last(data)
    flat = [(u, each) for u, bought in enumerate(households) for each in bought]
    last = [
        sum(map(len, households[: u + 1])) - 1
        for u, bought in enumerate(households)
        if len(bought) > 1
    ]
    assert held.tolist() == last
    rest = [each for place, each in enumerate(flat) if place not in last]
    assert len(kept) == len(rest) and kept.users == data.users
    for e, (user, (store, basket)) in enumerate(rest):
        assert (kept.user[e], kept.retailer[e]) == (user, store)
        assert kept.basket(e).tolist() == list(dict.fromkeys(basket))


@settings(deadline=None, max_examples=40)
@given(households, st.integers(0, 100), decays)
def test_requests_split_the_basket_and_know_the_past_alone(households, seed, decay):
    data = make_data(households)
    config = replace(CONFIG, decay=decay)
    _, held = split_last(data)
    requests = make_requests(data, held, config, seed=seed)
    chex.assert_trees_all_equal(
        vars(requests), vars(make_requests(data, held, config, seed=seed))
    )
    asked = [(u, bought) for u, bought in enumerate(households) if len(bought) > 1]
    assert len(requests) == len(asked)
    for row, (user, bought) in enumerate(asked):
        store, basket = bought[-1]
        past = [each for _, each in bought[:-1]]
        assert (requests.users[row], requests.retailers[row]) == (user, store)
        first, rest = (
            [item for item in each[row] if item >= 0]
            for each in (requests.basket, requests.targets)
        )
        assert sorted(first + rest) == sorted(set(basket))
        assert len(first) == len(set(basket)) // 2
        ranked = rank_by_hand(past, decay)
        assert [i for i in requests.history[row] if i >= 0] == ranked[-config.history :]
        absent = max(config.history - len(ranked), 0)
        assert (requests.history[row, :absent] == -1).all()
        owned = {
            int(item): int(number)
            for item, number in zip(
                requests.owned[row], requests.owned_counts[row], strict=True
            )
            if item >= 0
        }
        assert owned == count_by_hand(past)
        assert (requests.owned_counts[row][requests.owned[row] < 0] == 0).all()
    order = np.arange(len(requests))[::-1]
    for name, each in vars(requests.take(order)).items():
        np.testing.assert_array_equal(each, getattr(requests, name)[::-1])


@settings(deadline=None, max_examples=40)
@given(households, st.integers(1, 8), st.integers(1, 7))
def test_a_prompt_shows_what_came_last(households, basket, history):
    data = make_data([*households, [(0, [0]), (1, list(range(10)))]])
    requests = make_requests(data, split_last(data)[1], CONFIG, seed=0)
    config = replace(CONFIG, basket=basket, history=min(history, CONFIG.history))
    prompts = prompts_of(requests, CODES, VOCAB, config)
    assert prompts.basket.shape == (len(requests), basket, 2)
    np.testing.assert_array_equal(
        prompts.retailers, VOCAB.retailer_tokens(requests.retailers)
    )
    for row in range(len(requests)):
        carried = [item for item in requests.basket[row] if item >= 0]
        shown = items_of(prompts.basket)[row].tolist()
        carried = carried[-basket:]
        assert shown == carried + [-1] * (basket - len(carried))
    np.testing.assert_array_equal(
        items_of(prompts.history), requests.history[:, -config.history :]
    )


def test_without_anything_to_train_on_or_to_ask():
    data = make_data([[(0, [1, 2])], [(1, [3])]])
    with pytest.raises(InputError, match=r"2 baskets.*min_history"):
        prompt_stream(data, CODES, VOCAB, CONFIG, 1, seed=0)
    kept, held = split_last(data)
    assert len(kept) == 2 and len(held) == 0
    requests = make_requests(data, held, CONFIG, seed=0)
    assert len(requests) == 0 and requests.history.shape == (0, CONFIG.history)
    assert prompts_of(requests, CODES, VOCAB, CONFIG).basket.shape == (0, 3, 2)


@pytest.mark.parametrize("name", ["history", "basket", "min_history", "decay"])
def test_numbers_that_are_too_small_are_named(name):
    with pytest.raises(InputError, match=f"prompts.{name}"):
        replace(CONFIG, **{name: -1})


@settings(deadline=None, max_examples=60)
@given(households, st.sets(st.integers(0, ITEMS - 1)))
def test_baskets_without_some_items_are_those_that_never_had_them(bought, hidden):
    mask = np.isin(np.arange(ITEMS), list(hidden))
    data = make_data(bought)
    found = without_items(data, mask)
    rows = [
        (user, (time, store, [x for x in dict.fromkeys(items) if x not in hidden]))
        for user, baskets in enumerate(bought)
        for time, (store, items) in enumerate(baskets)
    ]
    rows = [(user, basket) for user, basket in rows if basket[2]]
    told = [
        (
            int(found.users[found.user[e]][1:]),
            (int(found.time[e]), int(found.retailer[e]), found.basket(e).tolist()),
        )
        for e in range(len(found))
    ]
    assert told == rows


@settings(deadline=None, max_examples=30)
@given(households, st.booleans())
def test_what_may_be_answered_is_neither_in_the_basket_nor_known(bought, owned):
    data = make_data(several(bought))
    requests = make_requests(data, split_last(data)[1], CONFIG, seed=0)
    mask = requests.answerable(ITEMS, owned=owned)
    for row in range(len(requests)):
        hidden = set(requests.basket[row]) | (
            set() if owned else set(requests.owned[row])
        )
        assert set(np.flatnonzero(~mask[row])) == hidden - {-1}


def test_baskets_that_are_all_shorter_than_the_prompts_are_learned():
    data = make_data([[(0, [1, 2]), (1, [3]), (2, [4, 5])]])
    config = replace(CONFIG, basket=6)
    stream = prompt_stream(data, CODES, VOCAB, config, 2, seed=0)
    shown = {
        tuple(sorted(basket[basket >= 0].tolist()))
        for step in range(4)
        for basket in items_of(stream(step).basket)
    }
    assert shown == {(3,), (4, 5)} and stream(0).basket.shape == (2, 6, 2)
