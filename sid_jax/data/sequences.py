"""Histories in order, packed into rows, so that every position of them is trained.

Rows are packed once, best fit by falling length, and shuffled anew in each epoch: a
stream is a function of (seed, step), and next to no position is padding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import grain
import numpy as np

from sid_jax.data.catalog import Interactions
from sid_jax.errors import InputError
from sid_jax.sids.vocab import Sequences, Vocab
from sid_jax.typing import Int, NDArray, typed


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """What a retriever is told: the household's items in the order they were bought.

    Attributes:
      history: latest items that are read S. Longer histories are cut into pieces of so
        many items to learn from.
      row: positions of a packed row; a piece takes one more than it has items.
    """

    history: int = 50
    row: int = 128

    def __post_init__(self):
        if self.history < 1 or self.row <= self.history:
            raise InputError(
                f"prompts.history={self.history} must be positive, and prompts.row="
                f"{self.row} larger: a piece of a history takes one position more"
            )


def sequence_stream(
    data: Interactions,
    codes: Int[NDArray, "N L"],
    vocab: Vocab,
    config: SequenceConfig,
    batch_size: int,
    *,
    seed: int,
    process: int = 0,
    num_processes: int = 1,
) -> Callable[[int], Sequences]:
    """Packed histories to learn from. `codes` are those of the catalog's rows.

    Returns:
      `stream(step)` -> `Sequences` of `batch_size / num_processes` rows.

    Raises:
      InputError: nobody bought two items, or `batch_size` does not divide.
    """
    if batch_size % num_processes:
        raise InputError(
            f"batch_size {batch_size} does not divide among {num_processes} processes"
        )
    starts, ends = cut_histories(data, config.history)
    kept = ends - starts > 1
    starts, ends = starts[kept], ends[kept]
    if not len(starts):
        raise InputError("no household has bought two items: nothing to train on")
    rows = pack_rows(ends - starts + 1, config.row)
    basket_of = np.repeat(np.arange(len(data)), np.diff(data.offsets))

    def make(row: int):
        items = np.full(config.row, -1, np.int32)
        retailers, segments = items.copy(), np.zeros(config.row, np.int32)
        at = 0
        for number, piece in enumerate(rows[row], start=1):
            start, end = starts[piece], ends[piece]
            after = at + 1 + end - start
            retailers[at] = data.retailer[basket_of[end - 1]]
            items[at + 1 : after] = data.items[start:end]
            segments[at:after] = number
            at = after
        return retailers, items, segments

    order = grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat()
    batches = order.map(make).batch(batch_size // num_processes)

    def stream(step: int) -> Sequences:
        read = batches[step * num_processes + process]
        assert read is not None  # nothing is filtered out
        retailers, items, segments = read
        spelled = np.where((items >= 0)[..., None], codes[items], -1)
        return vocab.sequences(retailers, spelled.astype(np.int32), items, segments)

    return stream


@typed
def cut_histories(
    data: Interactions, length: int
) -> tuple[Int[NDArray, " n"], Int[NDArray, " n"]]:
    """Pieces of at most `length` items, as ranges of `data.items`.

    A household's last piece is a full one; the one before it ends where that begins.
    """
    bounds = data.offsets[data.user_offsets]
    return cut_ranges(bounds[:-1], bounds[1:], length)


@typed
def cut_ranges(
    first: Int[NDArray, " u"], last: Int[NDArray, " u"], length: int
) -> tuple[Int[NDArray, " n"], Int[NDArray, " n"]]:
    """`cut_histories`, of where each household's items begin and end."""
    counts = -(-(last - first) // length)
    user = np.repeat(np.arange(len(counts)), counts)
    from_end = np.cumsum(counts)[user] - 1 - np.arange(len(user))
    ends = last[user] - from_end * length
    return np.maximum(ends - length, first[user]), ends


@typed
def pack_rows(lengths: Int[NDArray, " n"], width: int) -> list[list[int]]:
    """Rows of pieces whose lengths add up to at most `width`: best fit, longest first.

    Raises:
      InputError: a piece is longer than a row.
    """
    if len(lengths) and lengths.max() > width:
        raise InputError(f"a piece of {lengths.max()} does not fit a row of {width}")
    open_rows: dict[int, list[list[int]]] = {}  # by room left
    rows: list[list[int]] = []
    for piece in np.argsort(-lengths, kind="stable"):
        need = int(lengths[piece])
        room = min((r for r in open_rows if r >= need), default=None)
        if room is None:
            row: list[int] = []
            rows.append(row)
            room = width
        else:
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
        row.append(int(piece))
        open_rows.setdefault(room - need, []).append(row)
    return rows
