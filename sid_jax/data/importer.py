"""A user's own catalog, sequences or baskets -> a data set that `load` reads.

What the files may hold, and what is skipped or refused: see `parsing.py`. Nothing is
written before everything is read, and a data set is replaced as a whole.
"""

import logging
import re
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    users: int = 0
    retailers: int = 0
    baskets: int = 0
    interactions: int = 0
    notes: tuple[str, ...] = ()

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
    runner: str = "",
    beam_options: tuple[str, ...] = (),
) -> ImportSummary:
    """Imports files as the data set `name`, replacing one of that name.

    With `dietary`, what titles say of diets is added as attributes (`add_dietary`).
    With a `runner` the same is done on Apache Beam, and a path may be a pattern of
    files: see `beam_import.py`.

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
    root = find_root(data_dir)
    alone = sequences is None and baskets is None
    if alone and is_prepared(root / name, "histories"):
        raise InputError(
            f"--name {name}: that data set has histories, which an import of items"
            " alone would drop; give --sequences or --baskets again, or another name"
        )
    write = _import_files
    if runner:
        need_beam("--runner")
        from sid_jax.data.beam import BeamConfig
        from sid_jax.data.beam_import import import_files

        config = BeamConfig(runner=runner, options=beam_options)
        write = partial(import_files, config=config)
    counts, notes = write(
        items, sequences, baskets, name=name, root=root, dietary=dietary
    )
    return ImportSummary(name=name, folder=root / name, notes=tuple(notes), **counts)


def need_beam(flag: str) -> None:
    """Raises InputError if Apache Beam, which `flag` asks for, is not installed."""
    if find_spec("apache_beam") is None:
        raise InputError(f'{flag} needs Apache Beam: pip install "sid_jax[beam]"')
    logging.getLogger().addFilter(_is_ours)


def _is_ours(told: logging.LogRecord) -> bool:
    """Not Beam's warning, as it is imported, of a client that nothing here asks for."""
    return "apitools" not in told.getMessage()


def _import_files(
    items: Path,
    sequences: Path | None,
    baskets: Path | None,
    *,
    name: str,
    root: Path,
    dietary: bool,
) -> tuple[dict[str, Any], list[str]]:
    """What the summary counts, and notes."""
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
    save(name, (catalog, data), root)
    counts = {
        "items": len(catalog),
        "with_title": sum(map(bool, catalog.titles)),
        "with_brand": sum(map(bool, catalog.brands)),
        "with_categories": sum(map(bool, catalog.categories)),
        "attributes": catalog.attributes,
    }
    if data is not None:
        counts |= {
            "users": len(data.users),
            "retailers": len(data.retailers),
            "baskets": len(data),
            "interactions": len(data.items),
        }
    return counts, notes
