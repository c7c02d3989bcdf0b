"""Attribute columns as labels: text, true/false, and quantile bands of numbers."""

from itertools import pairwise

import numpy as np
import pyarrow as pa

from sid_jax.data.catalog import Catalog
from sid_jax.errors import InputError

Edges = tuple[float, ...] | None
"""Inner bounds of a column's bands; None for a column that is not of numbers."""


def find_edges(catalog: Catalog, name: str, num_bands: int) -> Edges:
    """The inner bounds of a column of numbers, at its quantiles.

    A band holds its lower bound and not its upper one. There are fewer bands where many
    items share a number.

    Raises:
      InputError: no attribute of that name.
    """
    if name not in (*catalog.attributes, "brand"):
        raise InputError(
            f"no attribute {name!r}; the catalog has brand"
            + "".join(f", {each}" for each in catalog.attributes)
        )
    if not _is_number(catalog, name):
        return None
    known = np.asarray([v for v in catalog.column(name) if v is not None], float)
    if not len(known):
        return ()
    shares = np.arange(1, num_bands) / num_bands
    edges = np.unique(np.quantile(known, shares, method="higher"))
    return tuple(edges[edges > known.min()].tolist())


def read_labels(catalog: Catalog, name: str, edges: Edges) -> list[str | None]:
    """A column's label for each item; None where the value is unknown.

    Raises:
      InputError: the column is absent, or of numbers where `edges` say text (or the
        other way round).
    """
    values = catalog.column(name)
    if _is_number(catalog, name) != (edges is not None):
        raise InputError(
            f"column {name!r} is of type {catalog.table.schema.field(name).type}, but"
            f" was {'text or true/false' if edges is None else 'of numbers'} before"
        )
    if edges is None:
        return [str(v).lower() if isinstance(v, bool) else v for v in values]
    bands = name_bands(edges)
    places = np.searchsorted(
        edges, [0.0 if v is None else float(v) for v in values], side="right"
    )
    return [
        None if v is None else bands[at] for v, at in zip(values, places, strict=True)
    ]


def name_bands(edges: tuple[float, ...]) -> list[str]:
    """Names of the bands in order, such as `..2.5`, `2.5..4` and `4..`."""
    bounds = ["", *map(_format, edges), ""]
    return [f"{low}..{high}" for low, high in pairwise(bounds)]


def _format(edge: float) -> str:
    short = f"{edge:g}"
    return short if float(short) == edge else repr(edge)


def _is_number(catalog: Catalog, name: str) -> bool:
    kind = catalog.table.schema.field(name).type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
