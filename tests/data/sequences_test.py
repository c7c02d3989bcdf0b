import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Interactions
from sid_jax.data.pipeline import make_requests, prompts_of
from sid_jax.data.sequences import (
    SequenceConfig,
    cut_histories,
    pack_rows,
    sequence_stream,
)
from sid_jax.errors import InputError
from sid_jax.sids.vocab import PAD, Vocab

ITEMS = 12
CODES = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], axis=1).astype(np.int32)
VOCAB = Vocab(codebook_sizes=(3, 4), num_retailers=2)
CONFIG = SequenceConfig(history=4, row=9)

histories = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=11),
    min_size=1,
    max_size=6,
)


def make_data(histories):
    """One item a basket; a household buys at its own one of two stores."""
    rows = [
        (f"u{user}", time, [item], f"r{user % 2}")
        for user, bought in enumerate(histories)
        for time, item in enumerate(bought)
    ]
    users, times, items, stores = zip(*rows, strict=True)
    return Interactions.from_baskets(users, times, items, stores)


def several(histories):
    return [*histories, [1, 2, 3, 4, 5, 6], [3, 2]]


def read(batch):
    """(retailer token, items) of each segment; checks that the rest is padding."""
    found = []
    for tokens, items, segments in zip(
        batch.tokens, batch.items, batch.segments, strict=True
    ):
        end = np.count_nonzero(segments)
        assert (segments[:end] > 0).all() and (np.diff(segments[:end]) >= 0).all()
        assert (tokens[end:] == PAD).all() and (items[end:] == -1).all()
        for number in range(1, segments.max() + 1):
            (at,) = np.nonzero(segments == number)
            opening, rest = at[0], at[1:]
            assert items[opening] == -1 and (tokens[opening, :-1] == PAD).all()
            np.testing.assert_array_equal(
                tokens[rest], VOCAB.code_tokens(CODES[items[rest]])
            )
            found.append((int(tokens[opening, -1]), tuple(items[rest])))
    return found


def epoch(data, config=CONFIG, batch_size=1, first=0, **share):
    stream = sequence_stream(data, CODES, VOCAB, config, batch_size, seed=3, **share)
    starts, ends = cut_histories(data, config.history)
    lengths = (ends - starts)[ends - starts > 1] + 1
    rows = len(pack_rows(lengths, config.row))
    return [stream(step) for step in range(first, first + rows)]


@settings(deadline=None, max_examples=40)
@given(drawn=histories)
def test_an_epoch_holds_every_piece_once(drawn):
    data = make_data(several(drawn))
    wanted = []
    for user, bought in enumerate(several(drawn)):
        for end in range(len(bought), 0, -CONFIG.history):
            piece = tuple(bought[max(end - CONFIG.history, 0) : end])
            if len(piece) > 1:
                wanted.append(
                    (2 + user % 2, piece)
                )  # retailers come after PAD and mark
    found = [each for batch in epoch(data) for each in read(batch)]
    assert sorted(found) == sorted(wanted)


def test_epochs_differ_in_order_and_the_stream_is_a_function_of_the_step():
    data = make_data([list(range(n % 9 + 2)) for n in range(40)])
    config = SequenceConfig(history=11, row=12)
    one, again = epoch(data, config), epoch(data, config)
    chex.assert_trees_all_equal(one, again)
    other = epoch(data, config, first=len(one))
    pieces = [[each for batch in e for each in read(batch)] for e in (one, other)]
    assert pieces[0] != pieces[1] and sorted(pieces[0]) == sorted(pieces[1])


def test_processes_read_their_slices_of_the_global_batch():
    data = make_data([list(range(n % 9 + 2)) for n in range(40)])
    whole = sequence_stream(data, CODES, VOCAB, CONFIG, 6, seed=0)(4)
    parts = [
        sequence_stream(
            data, CODES, VOCAB, CONFIG, 6, seed=0, process=p, num_processes=3
        )(4)
        for p in range(3)
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    chex.assert_trees_all_equal(joined, whole)
    with pytest.raises(InputError, match="batch_size 6"):
        sequence_stream(data, CODES, VOCAB, CONFIG, 6, seed=0, num_processes=4)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10), max_size=40))
def test_rows_hold_every_piece_once_and_no_two_would_fit_one(lengths):
    rows = pack_rows(np.asarray(lengths, int), 10)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    used = sorted(sum(lengths[piece] for piece in row) for row in rows)
    assert not used or used[-1] <= 10
    assert sum(used[:2]) > 10 or len(used) < 2


def test_a_piece_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="11 does not fit a row of 10"):
        pack_rows(np.asarray([3, 11]), 10)
    with pytest.raises(InputError, match=r"prompts\.row=4"):
        SequenceConfig(history=4, row=4)


def test_nobody_with_two_items_is_an_error():
    with pytest.raises(InputError, match="two items"):
        sequence_stream(make_data([[1], [2]]), CODES, VOCAB, CONFIG, 2, seed=0)


def test_a_request_tells_the_latest_items_in_order_and_then_the_basket():
    data = make_data([[1, 5, 1, 2, 3, 9], [7, 8]])
    last = data.user_offsets[1:] - 1
    requests = make_requests(data, last, CONFIG, seed=0)
    np.testing.assert_array_equal(requests.history, [[5, 1, 2, 3], [-1, -1, -1, 7]])
    np.testing.assert_array_equal(requests.targets, [[9], [8]])
    assert {*requests.owned[0]} - {-1} == {1, 2, 3, 5}
    prompts = prompts_of(requests, CODES, VOCAB, CONFIG)
    assert prompts.basket.shape == (2, 0, 2)
    wanted = np.where(
        requests.history[..., None] < 0, PAD, VOCAB.code_tokens(CODES[requests.history])
    )
    np.testing.assert_array_equal(prompts.history, wanted)
    holds = requests.take(np.asarray([1, 0]))
    holds.basket[:, :1] = [[4], [-1]]
    prompts = prompts_of(holds, CODES, VOCAB, CONFIG)
    last_two = prompts.history[:, -2:]
    np.testing.assert_array_equal(last_two[0], VOCAB.code_tokens(CODES[[7, 4]]))
    np.testing.assert_array_equal(last_two[1], VOCAB.code_tokens(CODES[[2, 3]]))
