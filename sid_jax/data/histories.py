"""What households bought, many of them at once: ranked, and laid out in rows.

Values that stand row by row are two flat arrays: which row, and the value. A batch of
histories is a few NumPy calls, so that a step of an accelerator need not wait for it.
"""

import numpy as np

from sid_jax.typing import Int, NDArray, typed


@typed
def rank_histories(
    row: Int[NDArray, " P"],
    bought: Int[NDArray, " P"],
    baskets_ago: Int[NDArray, " P"],
    decay: float,
) -> tuple[Int[NDArray, " n"], Int[NDArray, " n"], Int[NDArray, " n"]]:
    """What each household bought, each item once, and in how many baskets.

    Args:
      row: of each purchase's household; rising.
      bought: items, a household's oldest first; none is absent (-1).
      baskets_ago: how many baskets ago each was bought.
      decay: an item weighs the sum over its purchases of decay^(baskets ago). The items
        that weigh most come last; of two that weigh the same, the one bought later.

    Returns:
      Row, item and count, row by row.
    """
    size = int(bought.max(initial=0)) + 1
    keys, last, place, counts = np.unique(
        (row.astype(np.int64) * size + bought)[::-1],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    weights = np.bincount(place, decay ** baskets_ago[::-1].astype(np.float64))
    row, items = np.divmod(keys, size)
    # `last` counts from the end: the larger, the longer ago.
    ranks = np.lexsort((-last, weights, row))
    return row[ranks], items[ranks].astype(np.int32), counts[ranks].astype(np.int32)


@typed
def lay_out(
    row: Int[NDArray, " P"],
    values: Int[NDArray, " P"],
    num_rows: int,
    *,
    fill: int = -1,
    width: int = 1,
) -> Int[NDArray, "B n"]:
    """Values that stand row by row, as an array as wide as the longest row.

    Args:
      row: of each value; rising.
      values: to be laid out.
      num_rows: B.
      fill: follows a row's values.
      width: at least so many columns.
    """
    sizes = np.bincount(row, minlength=num_rows)
    width = max(width, int(sizes.max(initial=0)))
    out = np.full((num_rows, width), fill, np.int32)
    out[np.arange(width) < sizes[:, None]] = values
    return out


@typed
def take_last(rows: Int[NDArray, "B n"], count: int) -> Int[NDArray, "B S"]:
    """The last `count` values of each row; absent ones (-1) come first in it."""
    order = np.argsort(rows >= 0, axis=1, kind="stable")[:, -count:]
    found = np.take_along_axis(rows, order, axis=1)
    missing = ((0, 0), (count - found.shape[1], 0))
    return np.pad(found, missing, constant_values=-1)
