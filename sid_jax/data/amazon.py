"""Amazon product data of 2014 (McAuley et al. 2015; He and McAuley 2016), 5-core.

The benchmark of TIGER and of most papers since. It may not be handed on, so a user
names the folder that holds it, as published:

    reviews_CATEGORY_5.json.gz   a JSON object a line: reviewerID, asin, unixReviewTime
    meta_CATEGORY.json.gz        a Python dictionary a line: asin, title, brand, price,
                                 description, categories (paths, the first is taken)

or the form that others preprocessed it into, which `sid import` reads as well:

    items.jsonl.gz       item_id, title, brand, categories
    sequences.txt.gz     user_id item_id item_id ..., oldest first

A review is a basket of one item; a user's reviews of one day stay in the file's order,
as in S3-Rec.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.parsing import read_items, read_sequences
from sid_jax.data.readers import read_lines
from sid_jax.errors import InputError

CATEGORIES = {
    "amazon_2014_beauty": "Beauty",
    "amazon_2014_sports": "Sports_and_Outdoors",
    "amazon_2014_toys": "Toys_and_Games",
}
ATTRIBUTES = {"price": "float", "description": "string"}
_TYPES = {"price": pa.float64(), "description": pa.string()}
_ASIN = re.compile(r"""['"]asin['"]: ['"](\w+)['"]""")
_WHERE = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"


def read_amazon_2014(name: str, folder: Path) -> tuple[Catalog, Interactions]:
    """Reads one of `CATEGORIES` from a folder of either form.

    Products without metadata are kept, without a title. Only the attributes
    `ATTRIBUTES` are read.

    Raises:
      InputError: neither form is there, or a line is damaged.
    """
    category = CATEGORIES[name]
    reviews = folder / f"reviews_{category}_5.json.gz"
    meta = folder / f"meta_{category}.json.gz"
    if reviews.is_file() and meta.is_file():
        return _read_published(reviews, meta)
    items, sequences = folder / "items.jsonl.gz", folder / "sequences.txt.gz"
    if items.is_file() and sequences.is_file():
        catalog, _ = read_items(items)
        return _keep(catalog), read_sequences(sequences, catalog)[0]
    raise InputError(
        f"{folder}: neither {reviews.name} and {meta.name}, as published, nor "
        f"{items.name} and {sequences.name} are there; get the first two from {_WHERE}"
    )


def explain_source(name: str) -> str:
    """What to do where no folder is named."""
    category = CATEGORIES[name]
    return (
        f"{name} is built from files that may not be handed on: get "
        f"reviews_{category}_5.json.gz and meta_{category}.json.gz from {_WHERE} and "
        "name their folder once with --data.source FOLDER"
    )


def _read_published(reviews: Path, meta: Path) -> tuple[Catalog, Interactions]:
    users, times, bought = [], [], []
    for number, review in _records(reviews, json.loads):
        try:
            users.append(str(review["reviewerID"]))
            bought.append(str(review["asin"]))
            times.append(int(review["unixReviewTime"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{reviews}, line {number}: no review ({error!r}); want reviewerID, "
                "asin and unixReviewTime"
            ) from None
    row_of = {asin: row for row, asin in enumerate(dict.fromkeys(bought))}
    if not row_of:
        raise InputError(f"{reviews}: no reviews")
    told: dict[str, dict[str, Any]] = {}
    for _, product in _records(meta, ast.literal_eval, only=row_of):
        told.setdefault(str(product.get("asin")), product)
    products = [told.get(asin, {}) for asin in row_of]
    catalog = Catalog.from_columns(
        list(row_of),
        title=[_text(product.get("title")) for product in products],
        brand=[_text(product.get("brand")) for product in products],
        categories=[_first_path(product.get("categories")) for product in products],
        attributes={
            "price": [_number(product.get("price")) for product in products],
            "description": [_text(product.get("description")) for product in products],
        },
    )
    baskets = [[row_of[asin]] for asin in bought]
    return _keep(catalog), Interactions.from_baskets(users, times, baskets)


def _records(
    path: Path, parse: Callable[[str], Any], only: dict[str, int] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file's lines; of the products `only`, found before parsing."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        if only is not None:
            asin = _ASIN.search(line)
            if asin is not None and asin[1] not in only:
                continue
        try:
            record = parse(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path}, line {number}: not readable ({reason})"
            ) from None
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, line {number}: want an object, not {type(record).__name__}"
            )
        yield number, record


def _keep(catalog: Catalog) -> Catalog:
    """The catalog with `ATTRIBUTES` alone; one that it lacks is unknown."""
    absent = [None] * len(catalog)
    return Catalog.from_columns(
        catalog.item_ids,
        title=catalog.titles,
        brand=catalog.brands,
        categories=catalog.categories,
        attributes={
            name: pa.array(
                catalog.column(name) if name in catalog.attributes else absent, kind
            )
            for name, kind in _TYPES.items()
        },
    )


def _first_path(value: Any) -> list[str]:
    """The first category path, as far as its first empty name."""
    paths = value if isinstance(value, list) else []
    names = [_text(name) for name in paths[0]] if paths else []
    return [name for name in names[: [*names, None].index(None)] if name]


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if real else None
