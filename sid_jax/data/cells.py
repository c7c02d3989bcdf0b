"""Attribute cells: combinations of attribute values that own blocks of level 1.

Items of one cell (such as `brand_tier=Private, vegan=true`) get first codes from one
run of n_a consecutive codes and no others do, so that the first code implies the cell
and a predicate is a mask over first codes. The runs grow with the square root of the
items in them,

    n_a ~ sqrt(items_a),   1 <= n_a <= items_a,   sum of n_a = K_1.

No published method (ours). Take attributes that do not change: an item whose value
moves gets another SID.

Unknown is a value of its own and satisfies nothing. Combinations of few items are
merged into one cell, `other`; it may hold anything, so a predicate always lets it in
and what it returns has then to be checked against the items themselves.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.labels import Edges, find_edges, name_bands, read_labels
from sid_jax.errors import InputError
from sid_jax.files import read_json, write_json
from sid_jax.typing import Bool, Int, NDArray, typed

OTHER = "other"
"""The name of the cell of merged combinations."""

_SCHEMA_VERSION = 1

Combination = tuple[str | None, ...]
"""A value for each column; None where it is unknown."""


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Which attributes cut the catalog into cells.

    Attributes:
      columns: attributes, or `brand`; the first varies slowest over the codes. None
        for no cells.
      price_bands: quantile bands that a column of numbers is cut into, at most; fewer
        where many items share a number.
      min_items: combinations of fewer items are merged.
      max_cells: cells at most, the merged one included; the rarest combinations are
        merged until that is so.
      reserve_other: keep a code for the merged cell even if nothing is merged, so that
        a combination first seen later has a place.
    """

    columns: tuple[str, ...] = ()
    price_bands: int = 4
    min_items: int = 10
    max_cells: int = 32
    reserve_other: bool = False

    def __post_init__(self):
        if len(set(self.columns)) < len(self.columns):
            raise InputError(f"columns: {', '.join(self.columns)} names one twice")
        for name in ("price_bands", "min_items", "max_cells"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} must be at least 1, not {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Allowed:
    """A predicate as a mask over first codes.

    Attributes:
      codes: bool `[K_1]`, the first codes that satisfying items have.
      exact: whether every item of such a first code satisfies the predicate; if not,
        the items themselves have to be checked.
    """

    codes: Bool[NDArray, " K"]
    exact: bool


@dataclass(frozen=True)
class Cells:
    """Fitted cells, in the order of their codes.

    Attributes:
      config: the recipe.
      combinations: the values of each cell; None for the merged cell, which is last.
      sizes: consecutive first codes of each cell; the sum is K_1.
      items: items of each cell in the fit.
      edges: of each column, the inner bounds of its bands; None unless it is of
        numbers. A band holds its lower bound and not its upper one.
    """

    config: CellConfig
    combinations: tuple[Combination | None, ...]
    sizes: tuple[int, ...]
    items: tuple[int, ...]
    edges: tuple[Edges, ...]

    @classmethod
    def fit(cls, config: CellConfig, catalog: Catalog, num_codes: int) -> "Cells":
        """Cuts a catalog into cells and shares out the first codes among them.

        Args:
          config: the recipe.
          catalog: at least as many items as codes.
          num_codes: K_1.

        Raises:
          InputError: an unknown column, fewer items than codes, or fewer codes than
            cells.
        """
        if not config.columns:
            raise InputError("columns: name at least one attribute to make cells of")
        if len(catalog) < num_codes:
            raise InputError(
                f"{len(catalog)} items for {num_codes} first codes; set a smaller first"
                " level"
            )
        edges = tuple(
            find_edges(catalog, name, config.price_bands) for name in config.columns
        )
        counts = Counter(_combine(config, edges, catalog))
        # The most frequent first; equal ones in the order of their values.
        ranked = sorted(counts, key=lambda each: (-counts[each], _sort_key(each)))
        kept = [each for each in ranked if counts[each] >= config.min_items]
        has_other = len(kept) < len(ranked) or config.reserve_other
        if len(kept) + has_other > config.max_cells:
            kept, has_other = kept[: config.max_cells - 1], True
        cells: list[Combination | None] = [*sorted(kept, key=_sort_key)]
        items = [counts[each] for each in sorted(kept, key=_sort_key)]
        if has_other:
            cells.append(None)
            items.append(len(catalog) - sum(items))
        if len(cells) > num_codes:
            raise InputError(
                f"{len(cells)} cells of {', '.join(config.columns)} for {num_codes}"
                " first codes; set max_cells to fewer, raise min_items, or make the"
                " first level larger"
            )
        sizes = share_codes(np.asarray(items), num_codes)
        return cls(config, tuple(cells), sizes, tuple(items), edges)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_codes(self) -> int:
        """K_1."""
        return sum(self.sizes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Such as `brand_tier=Private, vegan=unknown`, or `other`."""
        return tuple(
            OTHER
            if values is None
            else ", ".join(
                f"{name}={'unknown' if value is None else value}"
                for name, value in zip(self.config.columns, values, strict=True)
            )
            for values in self.combinations
        )

    @typed
    def of(self, catalog: Catalog) -> Int[NDArray, " N"]:
        """The cell of each item, int32.

        A combination that the fit did not see goes to the merged cell; without one, to
        the cell in which all is unknown, where no predicate finds it.

        Raises:
          InputError: the catalog lacks a column or has it of another kind, or such a
            combination has no cell to go to.
        """
        place = {each: cell for cell, each in enumerate(self.combinations)}
        rows = _combine(self.config, self.edges, catalog)
        cells = np.asarray([place.get(each, self._spare) for each in rows], np.int32)
        if (lost := np.flatnonzero(cells < 0)).size:
            row = int(lost[0])
            pairs = zip(self.config.columns, rows[row], strict=True)
            raise InputError(
                f"item {catalog.item_ids[row]!r} ({len(lost)} such): no cell for "
                + ", ".join(f"{name}={value}" for name, value in pairs)
                + "; fit the cells again, with reserve_other for what comes later"
            )
        return cells

    def labels(self, catalog: Catalog) -> dict[str, list[str | None]]:
        """Each column's values as cells have them: text, true/false, names of bands.

        Raises:
          InputError: the catalog lacks a column or has it of another kind.
        """
        return {
            name: read_labels(catalog, name, edges)
            for name, edges in zip(self.config.columns, self.edges, strict=True)
        }

    def allow(self, conditions: Mapping[str, str], *, unknown: bool = False) -> Allowed:
        """The first codes of the items that meet every condition.

        A column of numbers takes the name of a band, such as `..2.5`, `2.5..4` or
        `4..` (exact), or a number (its band, which holds others too: not exact).

        Args:
          conditions: column -> value.
          unknown: let items in whose value is unknown.

        Raises:
          InputError: a column without cells, or a value that no cell has.
        """
        exact, keep = True, np.ones(len(self), bool)
        for name, value in conditions.items():
            if name not in self.config.columns:
                raise InputError(
                    f"the cells are of {', '.join(self.config.columns)}, not of {name};"
                    " filter on it by the items"
                )
            column = self.config.columns.index(name)
            target, whole = self._parse(column, value)
            exact &= whole
            held = self._held(column)
            wanted = {target, None} if unknown else {target}
            matches = np.asarray([each in wanted for each in held])
            if None in self.combinations:
                matches[-1] = True
            elif target not in held:
                known = sorted({each for each in held if each is not None})
                raise InputError(
                    f"no cell has {name}={value}; it has {', '.join(known)}"
                )
            keep &= matches
        if conditions and self._spare >= 0:
            exact &= not keep[self._spare]
        return Allowed(np.repeat(keep, self.sizes), exact)

    def masks(self, column: str) -> dict[str, Bool[NDArray, " K"]]:
        """The first codes of each value that a cell of its own has."""
        held = self._held(self.config.columns.index(column))
        known = sorted({value for value in held if value is not None})
        return {value: self.allow({column: value}).codes for value in known}

    def save(self, path: str | Path) -> None:
        """Writes JSON; the file is whole or absent."""
        fields = asdict(self) | {"schema_version": _SCHEMA_VERSION}
        write_json(path, fields)

    @classmethod
    def load(cls, path: str | Path) -> "Cells":
        """Reads what `save` wrote.

        Raises:
          InputError: the file holds no cells that this version reads.
        """
        try:
            fields: dict[str, Any] = read_json(path)
            if (version := fields.pop("schema_version")) != _SCHEMA_VERSION:
                raise ValueError(f"schema version {version}")
            config = CellConfig(**_freeze(fields.pop("config")))
            return cls(config=config, **_freeze(fields))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: no cells ({error}); fit the tokenizer again"
            ) from None

    @cached_property
    def _spare(self) -> int:
        """The cell of combinations that the fit did not see; -1 if there is none."""
        for each in (None, (None,) * len(self.config.columns)):
            if each in self.combinations:
                return self.combinations.index(each)
        return -1

    def _held(self, column: int) -> list[str | None]:
        """The value of each cell; None where it is unknown or the cell is merged."""
        return [None if each is None else each[column] for each in self.combinations]

    def _parse(self, column: int, value: str) -> tuple[str, bool]:
        """A condition's value as cells have it, and whether it means all of that."""
        edges = self.edges[column]
        if edges is None:
            folded = value.lower()
            # Of true/false, capitals do not count, as in `Catalog.where`.
            is_flag = folded in ("true", "false") and value not in self._held(column)
            return (folded if is_flag else value), True
        if value in (bands := name_bands(edges)):
            return value, True
        try:
            number = float(value)
        except ValueError:
            raise InputError(
                f"{self.config.columns[column]} is a number or one of"
                f" {', '.join(bands)}, not {value!r}"
            ) from None
        return bands[int(np.searchsorted(edges, number, side="right"))], False


@typed
def share_codes(items: Int[NDArray, " A"], num_codes: int) -> tuple[int, ...]:
    """Shares codes out by the square root of the items, by largest remainder.

    Every cell gets a code at least, and no more codes than items. Equal remainders go
    to the cell that comes first.

    Raises:
      InputError: fewer codes than cells, or more than items.
    """
    most = np.maximum(items, 1)
    if not len(items) <= num_codes <= most.sum():
        raise InputError(
            f"{num_codes} codes for {len(items)} cells of {items.sum()} items"
        )
    roots = np.sqrt(most)
    # The scale at which the bounded shares sum to the number of codes, by bisection:
    # their sum rises with it, from all ones to all items.
    low, high = 0.0, float(num_codes)
    for _ in range(100):
        scale = (low + high) / 2
        if np.clip(scale * roots, 1, most).sum() < num_codes:
            low = scale
        else:
            high = scale
    shares = np.clip(high * roots, 1, most)
    # Rounded first: what bisection leaves must not tip a whole number over.
    sizes = np.floor(np.round(shares, 9)).astype(np.int64)
    remainders = np.where(sizes < most, np.round(shares - sizes, 9), -1)
    order = np.argsort(-remainders, kind="stable")
    sizes[order[: num_codes - sizes.sum()]] += 1
    return tuple(sizes.tolist())


def _combine(
    config: CellConfig, edges: tuple[Edges, ...], catalog: Catalog
) -> list[Combination]:
    columns = [
        read_labels(catalog, name, each)
        for name, each in zip(config.columns, edges, strict=True)
    ]
    return list(zip(*columns, strict=True))


def _sort_key(values: Combination) -> tuple:
    return tuple((value is None, value or "") for value in values)


def _freeze(value: Any) -> Any:
    """JSON's lists -> tuples."""
    if isinstance(value, dict):
        return {name: _freeze(each) for name, each in value.items()}
    return tuple(map(_freeze, value)) if isinstance(value, list) else value
