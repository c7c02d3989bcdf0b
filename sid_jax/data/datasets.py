"""Data sets on disk: `load` reads one, building it first if it is built in; `save`.

Their form is that of `builders.py`.
"""

import contextlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from sid_jax.data.builders import (
    BUILTIN,
    VERSION,
    CatalogBuilder,
    Contents,
    Imported,
)
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.records import read_records, reading_records, seal_records
from sid_jax.errors import InputError
from sid_jax.files import replacing

_TYPES = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, and where it lies.

    Attributes:
      name: `complete_journey`, `amazon_2014_beauty`, `_sports` or `_toys`, or the name
        given to `sid import`.
      data_dir: the folder of TFDS data sets; "" is $TFDS_DATA_DIR, else
        ~/tensorflow_datasets.
      source: the folder with the files that a built-in data set is built from, on
        first use; `complete_journey` finds its own.
    """

    name: str = "complete_journey"
    data_dir: str = ""
    source: str = ""


def load(config: DataConfig) -> Contents:
    """The catalog and the interactions (None if there are none) of a data set.

    Builds those of `BUILTIN` on first use (under a minute, with progress lines).

    Raises:
      InputError: no such data set, its source is not at hand, or it is damaged.
    """
    folder = find_folder(config)
    items, histories = folder / "items" / VERSION, folder / "histories" / VERSION
    metadata, records = read_records(items)
    with reading_records(items):
        catalog = make_catalog(records, metadata["attributes"])
    if not is_prepared(folder, "histories"):
        return catalog, None
    _, records = read_records(histories)
    with reading_records(histories):
        return catalog, _make_histories(records, catalog)


def find_folder(config: DataConfig) -> Path:
    """The folder of a data set; builds one of `BUILTIN` on first use.

    Raises:
      InputError: no such data set, or its source is not at hand.
    """
    root = find_root(config.data_dir)
    folder = root / config.name
    if config.name in BUILTIN:
        if not (is_prepared(folder, "items") and is_prepared(folder, "histories")):
            _report(f"{config.name}: reading its source (first use)")
            builder = BUILTIN[config.name]
            source = builder(config="items", data_dir=root, source=config.source)
            save(config.name, source.read(), root)
    elif not is_prepared(folder, "items"):
        raise InputError(
            f"there is no data set {config.name!r} in {root}; it has "
            f"{', '.join(list_names(root)) or 'none'} (and {', '.join(BUILTIN)} are "
            "built when asked for). Bring your own with: "
            f"sid import --items FILE [--baskets FILE] --name {config.name}"
            + (f" --data-dir {config.data_dir}" if config.data_dir else "")
        )
    return folder


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
    catalog, interactions = contents
    builder = BUILTIN.get(name) or partial(Imported, name=name)
    with staging(name, root) as folder:
        for config, kind, number in (
            ("items", "items", len(catalog)),
            ("histories", "baskets", 0 if interactions is None else len(interactions)),
        ):
            if number == 0:
                continue
            start = time.monotonic()
            prepare(
                builder(
                    config=config,
                    data_dir=folder,
                    file_format="array_record",
                    contents=contents,
                )
            )
            seconds = time.monotonic() - start
            _report(f"{name}: wrote {number:,} {kind} in {seconds:.1f} s")


@contextlib.contextmanager
def staging(name: str, root: Path) -> Iterator[Path]:
    """A `data_dir` to write a data set to, which becomes `root/name` on success.

    Raises:
      InputError: that folder is something else, and so is left alone.
    """
    if (root / name).exists() and name not in BUILTIN and name not in list_names(root):
        raise InputError(
            f"{root / name} exists and is no data set of this form; choose another name"
        )
    with replacing(root / name) as folder:
        yield folder
        # TFDS wrote folder/name/config/version; the folder itself becomes root/name.
        for part in (folder / name).iterdir():
            part.rename(folder / part.name)
        (folder / name).rmdir()
        shutil.rmtree(folder / "downloads", ignore_errors=True)
        for told in folder.glob(f"*/{VERSION}/dataset_info.json"):
            seal_records(told.parent)


def prepare(builder: CatalogBuilder, **options: Any) -> None:
    """Has TFDS write a configuration; `options` are those of `DownloadConfig`.

    Raises:
      OSError: it cannot be written.
    """
    # TFDS prints sizes it does not know, and bars without a total.
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            config = tfds.download.DownloadConfig(**options)
            builder.download_and_prepare(download_config=config)
    except RuntimeError as error:  # array_record's, of a disk that is full
        failed = re.search(r"\b[a-z]+\(\) failed: ([^;\n]+)", str(error))
        if not failed:
            raise
        raise OSError(failed[1]) from error
    finally:
        tfds.display_progress_bar(True)


def make_catalog(records: list[dict[str, Any]], types: Mapping[str, str]) -> Catalog:
    """The catalog of records of items in order, with attributes of these types."""
    names = iter(_decode(records, "categories"))
    attributes = [json.loads(record["attributes"]) for record in records]
    return Catalog.from_columns(
        _decode(records, "item_ids"),
        title=_decode(records, "titles"),
        brand=_decode(records, "brands"),
        categories=[
            list(islice(names, int(depth)))
            for record in records
            for depth in record["depths"]
        ],
        attributes={
            name: pa.array([v for each in attributes for v in each[name]], _TYPES[kind])
            for name, kind in types.items()
        },
    )


def _make_histories(records: list[dict[str, Any]], catalog: Catalog) -> Interactions:
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


def _report(line: str) -> None:
    print(line, flush=True)
