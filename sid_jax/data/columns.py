"""Columns of a catalog as vectors: one-hot values, or quantile bins of numbers."""

from collections import Counter

import numpy as np
import pyarrow as pa

from sid_jax.data.catalog import Catalog
from sid_jax.errors import InputError
from sid_jax.typing import NDArray


def fit_column(
    catalog: Catalog, name: str, max_values: int, num_bins: int
) -> tuple[NDArray, NDArray | None, tuple[str, ...], float]:
    """A column's table before scaling, bin edges, values, and variance.

    See `VectorConfig` for `max_values` and `num_bins`.
    """
    present = [v for v in catalog.column(name) if v is not None]
    edges, values = None, ()
    if _is_number(catalog, name):
        inner = np.linspace(0, 1, num_bins + 1)[1:-1]
        edges = np.unique(np.quantile(present, inner)) if present else np.zeros(0)
        # Bin b is b ones, then zeros: squared distance is the number of bins between.
        bins = np.tri(len(edges) + 1, len(edges), -1)
    else:
        counts = Counter(map(str, present))
        values = sorted(counts, key=lambda value: (-counts[value], value))
        values = tuple(values[:max_values])
        bins = np.eye(len(values) + 1)
    codes = column_codes(catalog, name, values, edges)
    weights = np.bincount(codes, minlength=len(bins) + 1) / len(codes)
    known = weights[:-1].sum()
    # A missing value stands in the middle of the others, and on an axis of its own.
    middle = weights[:-1] @ bins / known if known else np.zeros(bins.shape[1])
    table = np.zeros((len(bins) + 1, bins.shape[1] + 1))
    table[:-1, :-1], table[-1, :-1], table[-1, -1] = bins, middle, 1
    table -= weights @ table
    return table, edges, values, float(weights @ np.square(table).sum(axis=1))


def column_codes(
    catalog: Catalog, name: str, values: tuple[str, ...], edges: NDArray | None
) -> NDArray:
    """The row of each item in a column's table; the last is for a missing value."""
    column = catalog.column(name)
    missing = np.asarray([v is None for v in column], bool)
    if edges is None:
        places = {value: place for place, value in enumerate(values)}
        found = [places.get(str(v), len(values)) for v in column]
        return np.where(missing, len(values) + 1, np.asarray(found, np.int64))
    if not (_is_number(catalog, name) or missing.all()):
        raise InputError(
            f"column {name!r} holds text, but numbers when the recipe was fitted; "
            "write it as numbers, or fit the recipe again"
        )
    numbers = np.asarray([0.0 if v is None else v for v in column], np.float64)
    return np.where(missing, len(edges) + 1, np.searchsorted(edges, numbers))


def _is_number(catalog: Catalog, name: str) -> bool:
    kind = catalog.table.schema.field(name).type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
