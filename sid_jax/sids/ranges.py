"""Many ranges of sorted rows at once: what lies in each, and where a value stands."""

from collections.abc import Callable

import numpy as np

from sid_jax.typing import Int, NDArray, typed


@typed
def in_ranges(
    starts: Int[NDArray, " B"], ends: Int[NDArray, " B"]
) -> tuple[Int[NDArray, " P"], Int[NDArray, " P"]]:
    """All whole numbers from each start to before its end: of which row, and which."""
    sizes = ends - starts
    row = np.repeat(np.arange(len(sizes)), sizes)
    return row, np.arange(len(row)) + (ends - np.cumsum(sizes))[row]


@typed
def bisect_ranges(
    value_at: Callable[[NDArray], NDArray],
    starts: Int[NDArray, "*b"],
    ends: Int[NDArray, "*b"],
    wanted: Int[NDArray, "*b"],
) -> Int[NDArray, "*b"]:
    """The first place of each range whose value is at least what is wanted; or its end.

    Args:
      value_at: values at places; within a range they rise.
      starts: of the ranges.
      ends: of the ranges.
      wanted: a value a range.
    """
    first, end = starts.astype(np.int64), ends.astype(np.int64)
    while (active := first < end).any():
        middle = (first + end) // 2
        below = np.zeros(active.shape, bool)
        below[active] = value_at(middle[active]) < wanted[active]
        end = np.where(active & ~below, middle, end)
        first = np.where(below, middle + 1, first)
    return first
