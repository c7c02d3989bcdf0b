"""What changed between catalogs, and files of items that are read or refused."""

import numpy as np
import pytest

from sid_jax.data.catalog import Catalog
from sid_jax.data.changes import find_edited, read_item_ids
from sid_jax.errors import InputError


def test_any_field_that_differs_counts_and_order_does_not():
    ids = ["a", "b", "c", "d", "e", "f"]
    fields = {
        "title": ["t"] * 6,
        "brand": [None, "B", "B", "B", "B", "B"],
        "categories": [["x", "y"]] * 6,
        "attributes": {"price": [1.0, 2.0, 3.0, 4.0, None, 6.0]},
    }
    old = Catalog.from_columns(ids, **fields)
    new = {**fields, "title": ["t", "T", "t", "t", "t", "t"]}
    new["brand"] = ["", "B", None, "B", "B", "B"]  # an empty brand was unknown before
    new["categories"] = [["x", "y"]] * 3 + [["x"]] + [["x", "y"]] * 2
    new["attributes"] = {"price": [1, 2, 3, 4, None, 7], "z": [1] * 6}
    back = Catalog.from_columns(ids, **new).take([5, 4, 3, 2, 1, 0])
    edited, alone = find_edited(old, back, ids)
    np.testing.assert_array_equal(edited, [False, True, True, True, False, True])
    assert alone == ["z"]
    with pytest.raises(InputError, match="not in the catalog"):
        find_edited(old, back, ["a", "none"])


def test_ids_are_text_or_whole_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("item_id,x\n007,1\n b ,2\n")
    assert read_item_ids(tmp_path / "a.csv") == {"007", "b"}
    (tmp_path / "a.jsonl").write_text('{"item_id": 7}\n{"item_id": "7"}\n')
    assert read_item_ids(tmp_path / "a.jsonl") == {"7"}
    (tmp_path / "a.txt").write_text("7\r\n\r\n 8\n")
    assert read_item_ids(tmp_path / "a.txt") == {"7", "8"}
