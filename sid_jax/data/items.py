"""Batches of items for a tokenizer: uniform ones, and beside them related items.

Reconstruction and codebook statistics want every item alike; a contrastive term wants
items that are related. So a batch has streams of its own for each: uniform rows, rows
of the hierarchical sampler, and rows of co-occurring pairs. All are functions of the
step alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray

Rows = Callable[[int], Int[NDArray, " b"]]
"""Step -> item rows."""


@dataclass(frozen=True, eq=False)
class ItemArrays:
    """What a tokenizer is told of each item.

    Attributes:
      vectors: item vectors.
      cells: the cell of each item, where first codes come in blocks.
      paths: ancestors of each item, as `sampler.category_paths` has them.
      anchor: latents of the tokenizer that training starts from.
      old: SIDs that it gave; -1 for items without one.
    """

    vectors: Float[NDArray, "N D"]
    cells: Int[NDArray, " N"] | None = None
    paths: Int[NDArray, "N depth"] | None = None
    anchor: Float[NDArray, "N D_latent"] | None = None
    old: Int[NDArray, "N L"] | None = None

    def take(self, rows: Int[NDArray, " b"], *names: str) -> dict[str, NDArray]:
        """The rows as `items`, and these arrays of them, so far as they are known."""
        arrays = {name: getattr(self, name) for name in names}
        found = {k: array[rows] for k, array in arrays.items() if array is not None}
        return {"items": rows.astype(np.int32)} | found


def item_stream(
    items: ItemArrays,
    batch_size: int,
    *,
    seed: int,
    related: Rows | None = None,
    pairs: Callable[[int], dict[str, NDArray]] | None = None,
    process: int = 0,
    num_processes: int = 1,
) -> Callable[[int], dict[str, Any]]:
    """Batches as `TokenizerTask` takes them.

    Args:
      items: rows to draw from, each epoch in a fresh permutation.
      batch_size: rows of the global batch; a multiple of `num_processes`.
      seed: of the order.
      related: rows of a step for the taxonomy term, of this process alone; the batch's
        own rows if None, where paths are known.
      pairs: `pairs.pair_stream`, of this process.
      process: index of this process.
      num_processes: processes P; each gets `batch_size / P` rows of a step.

    Returns:
      `stream(step)` -> `{"items": [batch_size / P], "vectors": [batch_size / P, D],
      ...}`; `items` are rows, here and in what a term has of its own.

    Raises:
      InputError: the batch does not divide among the processes.
    """
    if batch_size % num_processes:
        raise InputError(
            f"batch_size {batch_size} does not divide among {num_processes} processes"
        )
    order = grain.MapDataset.range(len(items.vectors)).seed(seed).shuffle().repeat()
    batches = order.batch(batch_size // num_processes)

    def stream(step: int) -> dict[str, Any]:
        # Grain's type allows for elements filtered out, of which there are none.
        rows: Any = batches[step * num_processes + process]
        batch: dict[str, Any] = items.take(rows, "vectors", "cells", "anchor", "old")
        if related is not None:
            batch["taxonomy"] = items.take(related(step), "vectors", "cells", "paths")
        elif items.paths is not None:
            batch["taxonomy"] = items.take(rows, "paths")
        if pairs is not None:
            drawn = pairs(step)
            batch["pairs"] = drawn | items.take(drawn["items"], "vectors", "cells")
        return batch

    return stream


def rows_of(batch: dict[str, Any]) -> Int[NDArray, " n"]:
    """Rows of all items in a batch of `item_stream`, each once."""
    parts = (batch, batch.get("taxonomy", batch), batch.get("pairs", batch))
    return np.unique(np.concatenate([part["items"] for part in parts]))


def split_holdout(num_items: int, share: float) -> tuple[NDArray, NDArray | None]:
    """Rows to train on, and rows held out: the same ones in every run.

    A share of 0 holds nothing out: all rows, and None.

    Raises:
      InputError: one of the two is empty.
    """
    if not share:
        return np.arange(num_items), None
    count = round(num_items * share)
    if not 0 < count < num_items:
        raise InputError(
            f"holdout={share} of {num_items} items leaves {num_items - count} to train"
            f" on and {count} held out; both must be some"
        )
    order = np.random.default_rng(0).permutation(num_items)
    return np.sort(order[count:]), np.sort(order[:count])
