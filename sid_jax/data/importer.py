"""A user's own catalog, sequences or baskets -> a data set that `load` reads.

What the files may hold, and what is skipped or refused: see `parsing.py`. Nothing is
written before everything is read, and a data set is replaced as a whole.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from sid_jax.data.datasets import BUILTIN, find_root, is_prepared, save
from sid_jax.data.dietary import add_dietary
from sid_jax.data.parsing import read_baskets, read_items, read_sequences
from sid_jax.errors import InputError


@dataclass(frozen=True)
class ImportSummary:
    """What an import took in.

    Attributes:
      name: of the data set.
      folder: where it lies.
      items: how many; with_title, with_brand, with_categories: how many have that.
      attributes: their names.
      users, retailers, baskets, interactions: how many; 0 without histories.
      notes: a line each for what was skipped, left out or changed by a rule.
    """

    name: str
    folder: Path
    items: int
    with_title: int
    with_brand: int
    with_categories: int
    attributes: tuple[str, ...]
    users: int
    retailers: int
    baskets: int
    interactions: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary to print."""
        histories = "histories: none"
        if self.baskets:
            histories = (
                f"histories: {self.interactions:,} interactions in {self.baskets:,} "
                f"baskets of {self.users:,} users at {self.retailers:,} retailer(s)"
            )
        return [
            f"imported {self.name}: {self.items:,} items ({self.with_title:,} with a "
            f"title, {self.with_brand:,} with a brand, {self.with_categories:,} with a "
            "category path)",
            "attributes: " + (", ".join(self.attributes) or "none"),
            histories,
            *(f"note: {note}" for note in self.notes),
            f"written to {self.folder}",
        ]


def import_dataset(
    items: Path,
    sequences: Path | None = None,
    baskets: Path | None = None,
    *,
    name: str,
    data_dir: str = "",
    dietary: bool = False,
) -> ImportSummary:
    """Imports files as the data set `name`, replacing one of that name.

    With `dietary`, what titles say of diets is added as attributes (`add_dietary`).

    Raises:
      InputError: by a rule above; a data set of that name stays as it was.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise InputError(
            f"--name {name!r}: use small letters, digits and _, starting with a letter"
        )
    if name in BUILTIN:
        raise InputError(f"--name {name}: that one is built in; choose another name")
    if sequences is not None and baskets is not None:
        raise InputError("give --sequences or --baskets, not both")
    catalog, notes = read_items(items)
    if dietary:
        catalog = add_dietary(catalog)
    data = None
    if sequences is not None:
        data, more = read_sequences(sequences, catalog)
        notes += more
    elif baskets is not None:
        data, more = read_baskets(baskets, catalog)
        notes += more
    root = find_root(data_dir)
    if data is None and is_prepared(root / name, "histories"):
        raise InputError(
            f"--name {name}: that data set has histories, which an import of items"
            " alone would drop; give --sequences or --baskets again, or another name"
        )
    save(name, (catalog, data), root)
    return ImportSummary(
        name=name,
        folder=root / name,
        items=len(catalog),
        with_title=sum(map(bool, catalog.titles)),
        with_brand=sum(map(bool, catalog.brands)),
        with_categories=sum(map(bool, catalog.categories)),
        attributes=catalog.attributes,
        users=0 if data is None else len(data.users),
        retailers=0 if data is None else len(data.retailers),
        baskets=0 if data is None else len(data),
        interactions=0 if data is None else len(data.items),
        notes=tuple(notes),
    )
