"""Streams of prompts through grain, and the requests that a retriever is judged by.

A stream is a function of the step alone (grain's random access): a resumed run reads on
where it stopped, and each of P processes reads its slice of the global batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from sid_jax.data.catalog import Interactions
from sid_jax.data.histories import lay_out, rank_histories, take_last
from sid_jax.data.sequences import SequenceConfig
from sid_jax.errors import InputError
from sid_jax.sids.ranges import in_ranges
from sid_jax.sids.vocab import Prompts, Vocab
from sid_jax.typing import Bool, Float, Int, NDArray, typed


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What a retriever is told.

    Attributes:
      history: items of the household's history S.
      basket: items of the basket so far S_b; in training, the items of a basket that
        are predicted, each from the ones before it.
      decay: the history's items stand each once, the ones that matter most last. An
        item weighs the sum over its purchases of decay^(baskets ago): 1 orders by how
        often, a small number by how lately (compare TIFU-KNN, Hu et al. 2020).
      min_history: baskets a household has made before one that is trained on.
      user: add a vector of the household to the retailer's: the mean of the vectors of
        all that it has bought, however long ago (compare GLIDE's soft prompt).
    """

    history: int = 32
    basket: int = 8
    decay: float = 0.97
    min_history: int = 1
    user: bool = False

    def __post_init__(self):
        for name in ("history", "basket", "min_history"):
            if getattr(self, name) < (name != "min_history"):
                raise InputError(f"prompts.{name} is too small: {getattr(self, name)}")
        if not 0 < self.decay <= 1:
            raise InputError(f"prompts.decay must be in (0, 1]: {self.decay}")


@dataclass(frozen=True)
class Requests:
    """B requests and what was bought; absent items are -1.

    Attributes:
      users: int32 [B], indices of households.
      retailers: int32 [B], indices of the stores.
      history: int32 [B, S], items for the prompt, the most telling last.
      basket: int32 [B, Z], items in the basket so far, all of them.
      targets: int32 [B, t], items bought after that.
      owned: int32 [B, X], every item that the household has bought before.
      owned_counts: int32 [B, X], in how many baskets; 0 where absent.
    """

    users: Int[NDArray, " B"]
    retailers: Int[NDArray, " B"]
    history: Int[NDArray, "B S"]
    basket: Int[NDArray, "B Z"]
    targets: Int[NDArray, "B t"]
    owned: Int[NDArray, "B X"]
    owned_counts: Int[NDArray, "B X"]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray) -> "Requests":
        """The requests of these rows, in this order."""
        return Requests(**{name: each[rows] for name, each in vars(self).items()})

    def answerable(self, num_items: int, *, owned: bool) -> Bool[NDArray, "B N"]:
        """Items that may be answered: none of the basket, and without `owned` none that
        the household has bought before.
        """
        mask = np.ones((len(self), num_items), bool)
        for items in (self.basket, *([] if owned else [self.owned])):
            row, column = np.nonzero(items >= 0)
            mask[row, items[row, column]] = False
        return mask

    def batches(self, size: int, shares: int) -> Iterator[tuple["Requests", int]]:
        """Batches of one size, for one compiled program, and how many of each count.

        The size is at most `size`, raised until it divides among `shares` devices; the
        last batch is filled up with the last request.
        """
        size = max(-(-min(size, len(self)) // shares), 1) * shares
        for start in range(0, len(self), size):
            rows = np.minimum(np.arange(start, start + size), len(self) - 1)
            yield self.take(rows), min(size, len(self) - start)


def prompt_stream(
    data: Interactions,
    codes: Int[NDArray, "N L"],
    vocab: Vocab,
    config: PromptConfig,
    batch_size: int,
    *,
    seed: int,
    vectors: Float[NDArray, "N E"] | None = None,
    process: int = 0,
    num_processes: int = 1,
) -> Callable[[int], Prompts]:
    """Training prompts: a basket in random order, after the history it followed.

    A basket longer than `config.basket` shows as many of its items, drawn anew in each
    epoch. `codes` are those of the catalog's rows, and `vectors` what `config.user` is
    the mean of.

    Returns:
      `stream(step)` -> `Prompts` of `batch_size / num_processes` rows.
    """
    eligible = np.flatnonzero(_rank_of_basket(data) >= config.min_history)
    if not len(eligible):
        raise InputError(
            f"no household has made {config.min_history + 1} baskets: nothing to train"
            " on; lower prompts.min_history"
        )

    share = _share(batch_size, num_processes)
    order = grain.MapDataset.range(len(eligible)).seed(seed).shuffle().repeat()
    batches = order.batch(share)
    most = max(int(np.diff(data.offsets).max()), config.basket)

    def stream(step: int) -> Prompts:
        place = step * num_processes + process
        chosen = eligible[_read(batches, place)]
        row, bought = in_ranges(data.offsets[chosen], data.offsets[chosen + 1])
        baskets = lay_out(row, data.items[bought], share, width=config.basket)
        keys = _draw(seed, place * share, share, most)[:, : baskets.shape[1]]
        drawn = np.argsort(np.where(baskets >= 0, keys, 2), axis=1)[:, : config.basket]
        history, owned, counts = _tell(data, chosen, config)
        return vocab.prompts(
            data.retailer[chosen],
            _codes_of(codes, history),
            _codes_of(codes, np.take_along_axis(baskets, drawn, axis=1)),
            _mean(owned, counts, vectors) if config.user else None,
        )

    return stream


def prompts_of(
    requests: Requests,
    codes: Int[NDArray, "N L"],
    vocab: Vocab,
    config: PromptConfig | SequenceConfig,
    vectors: Float[NDArray, "N E"] | None = None,
) -> Prompts:
    """Prompts that ask for the product after the basket so far.

    A basket longer than `config.basket` shows the items that came last. Where histories
    are sequences, the basket is the end of the history.
    """
    if isinstance(config, SequenceConfig):
        told = last_items(requests, config.history)
        none = np.zeros((len(told), 0), np.int32)
        return vocab.prompts(
            requests.retailers, _codes_of(codes, told), _codes_of(codes, none)
        )
    start = np.sum(requests.basket >= 0, axis=1) - config.basket
    columns = np.maximum(start, 0)[:, None] + np.arange(config.basket)
    padded = np.pad(requests.basket, ((0, 0), (0, config.basket)), constant_values=-1)
    basket = np.take_along_axis(padded, columns, axis=1)
    bought = requests.owned, requests.owned_counts
    return vocab.prompts(
        requests.retailers,
        _codes_of(codes, take_last(requests.history, config.history)),
        _codes_of(codes, basket),
        _mean(*bought, vectors) if config.user else None,
    )


@typed
def last_items(requests: Requests, count: int) -> Int[NDArray, "B n"]:
    """The last items of history and basket in order; -1 before them where few."""
    return take_last(np.concatenate([requests.history, requests.basket], axis=1), count)


def split_last(data: Interactions) -> tuple[Interactions, Int[NDArray, " B"]]:
    """Leave-one-out: the training baskets, and each household's last one, held out.

    A household with a single basket gives it to training.

    Returns:
      The interactions without the held-out baskets, and the held-out baskets' indices
      in `data`, one a household that has two or more.
    """
    last = data.user_offsets[1:] - 1
    last = last[np.diff(data.user_offsets) > 1]
    keep = np.ones(len(data), bool)
    keep[last] = False
    sizes = np.diff(data.offsets)
    kept = Interactions(
        users=data.users,
        retailers=data.retailers,
        user=data.user[keep],
        retailer=data.retailer[keep],
        time=data.time[keep],
        offsets=np.concatenate([[0], np.cumsum(sizes[keep])]).astype(np.int64),
        items=data.items[np.repeat(keep, sizes)],
    )
    return kept, last


@typed
def without_items(data: Interactions, hidden: Bool[NDArray, " N"]) -> Interactions:
    """The baskets without some items; what is empty then, a household too, is gone."""
    kept = ~hidden[data.items]
    basket = np.repeat(np.arange(len(data)), np.diff(data.offsets))[kept]
    baskets, sizes = np.unique(basket, return_counts=True)
    users, user = np.unique(data.user[baskets], return_inverse=True)
    return Interactions(
        users=tuple(data.users[each] for each in users),
        retailers=data.retailers,
        user=user.astype(np.int32),
        retailer=data.retailer[baskets],
        time=data.time[baskets],
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        items=data.items[kept],
    )


def make_requests(
    data: Interactions,
    baskets: Int[NDArray, " B"],
    config: PromptConfig | SequenceConfig,
    *,
    seed: int,
) -> Requests:
    """One request a basket: a random half of it is in the basket, the rest is to come.

    The half is rounded down, so that a basket of one item is asked for as a whole.
    """
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(data.basket(int(e))) for e in baskets]
    history, owned, counts = _tell(data, baskets, config)
    return Requests(
        users=data.user[baskets],
        retailers=data.retailer[baskets],
        history=history,
        basket=_stack([each[: len(each) // 2] for each in shuffled]),
        targets=_stack([each[len(each) // 2 :] for each in shuffled]),
        owned=owned,
        owned_counts=counts,
    )


@typed
def tell_histories(
    row: Int[NDArray, " P"],
    bought: Int[NDArray, " P"],
    baskets_ago: Int[NDArray, " P"],
    num_rows: int,
    config: PromptConfig | SequenceConfig,
) -> tuple[Int[NDArray, "B S"], Int[NDArray, "B X"], Int[NDArray, "B X"]]:
    """What prompts may tell of B households, the most telling last; what each bought,
    every item once; and in how many baskets. Arguments as in `rank_histories`.
    """
    in_order = isinstance(config, SequenceConfig)
    decay = 1.0 if in_order else config.decay
    ranked, items, counts = rank_histories(row, bought, baskets_ago, decay)
    owned = lay_out(ranked, items, num_rows)
    told = lay_out(row, bought, num_rows) if in_order else owned
    counts = lay_out(ranked, counts, num_rows, fill=0)
    return take_last(told, config.history), owned, counts


def _tell(
    data: Interactions,
    baskets: Int[NDArray, " B"],
    config: PromptConfig | SequenceConfig,
) -> tuple[NDArray, NDArray, NDArray]:
    """`tell_histories` of what was bought before each of these baskets."""
    first = data.user_offsets[data.user[baskets]]
    row, before = in_ranges(first, baskets)
    ago = baskets[row] - 1 - before
    sizes = data.offsets[before + 1] - data.offsets[before]
    _, bought = in_ranges(data.offsets[before], data.offsets[before + 1])
    row, ago = np.repeat(row, sizes), np.repeat(ago, sizes)
    return tell_histories(row, data.items[bought], ago, len(baskets), config)


def _rank_of_basket(data: Interactions) -> Int[NDArray, " E"]:
    """How many baskets the household made before each."""
    return np.arange(len(data)) - data.user_offsets[data.user]


def _mean(
    items: NDArray, counts: NDArray, vectors: NDArray | None
) -> Float[NDArray, "B E"]:
    """Mean vector of the purchases of each row; 0 of none."""
    if vectors is None:
        raise InputError("prompts.user is the mean of item vectors: give `vectors`")
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = np.zeros((len(items), vectors.shape[1]), np.float32)
    # A household at a time: those of all at once would be a large array.
    for row, bought, weight in zip(found, items, weights, strict=True):
        there = bought >= 0
        row += weight[there] @ vectors[bought[there]].astype(np.float32)
    return found


@typed
def _codes_of(
    codes: Int[NDArray, "N L"], rows: Int[NDArray, "*b"]
) -> Int[NDArray, "*b L"]:
    return np.where((rows >= 0)[..., None], codes[rows], -1).astype(np.int32)


def _read(batches: grain.MapDataset, position: int) -> Any:
    # Grain's type allows for elements filtered out, of which there are none.
    return batches[position]


def _share(batch_size: int, num_processes: int) -> int:
    if batch_size % num_processes:
        raise InputError(
            f"batch_size {batch_size} does not divide among {num_processes} processes"
        )
    return batch_size // num_processes


def _stack(rows: list[NDArray]) -> Int[NDArray, "B n"]:
    row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    return lay_out(row, np.concatenate([*rows, np.zeros(0, np.int32)]), len(rows))


def _draw(seed: int, start: int, count: int, width: int) -> Float[NDArray, "B n"]:
    """Uniform numbers for the examples from `start` on, the same in any batch."""
    blocks = -(-width // 4)  # a Philox counter stands for four numbers
    bits = np.random.Philox(key=seed, counter=start * blocks)
    return np.random.Generator(bits).random((count, 4 * blocks))[:, :width]
