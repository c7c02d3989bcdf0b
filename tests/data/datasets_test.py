"""What is saved is read back as it was, whole or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data import builders
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import DataConfig, find_root, list_names, load, save
from sid_jax.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
NAME = TEXT.filter(bool)


@st.composite
def contents(draw):
    ids = draw(st.lists(NAME, unique=True, min_size=1, max_size=9))
    n = len(ids)
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    number = st.floats(allow_nan=False, allow_infinity=False)
    attributes = {
        "size": column(st.none() | TEXT),
        "count": column(st.integers(-(2**63), 2**63 - 1)),
        "price": column(number),
        "sold": column(st.booleans()),
        "nothing": [None] * n,
    }
    for name, hidden in (("count", 0), ("price", -1), ("sold", n // 2)):
        attributes[name][hidden] = None if n > 1 else attributes[name][hidden]
    catalog = Catalog.from_columns(
        ids,
        title=column(st.none() | TEXT),
        brand=column(st.none() | TEXT),
        categories=column(st.lists(NAME, max_size=3)),
        attributes=attributes,
    )
    baskets = draw(
        st.lists(
            st.tuples(
                NAME,
                st.integers(-(2**40), 2**40),
                st.lists(st.integers(0, n - 1), max_size=4),
                st.sampled_from(["all", "367", "b\u00e9"]),
            ),
            max_size=8,
        )
    )
    columns = zip(*baskets, strict=True) if baskets else ([], [], [], [])
    data = Interactions.from_baskets(*map(list, columns))
    return catalog, data if len(data) else None


def assert_same(first, second):
    assert first[0] == second[0] and first[0].digest() == second[0].digest()
    if first[1] is None:
        assert second[1] is None
        return
    for name, value in vars(first[1]).items():
        again = vars(second[1])[name]
        if isinstance(value, np.ndarray):
            assert value.dtype == again.dtype, name
            np.testing.assert_array_equal(value, again, name)
        else:
            assert value == again, name


@settings(deadline=None, max_examples=15)
@given(first=contents(), second=contents(), block=st.sampled_from([2, 1000]))
def test_round_trip_and_replacement(first, second, block, tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    config = DataConfig(name="mine", data_dir=str(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "BLOCK", block)
        save("mine", first, root)
        assert_same(load(config), first)
        save("mine", second, root)
        assert_same(load(config), second)
    assert [path.name for path in root.iterdir()] == ["mine"]
    assert list_names(root) == ["mine"]


def test_tfds_reads_it_by_itself(tmp_path):
    catalog = Catalog.from_columns(["a", "b"], title=["Tea", None])
    save("mine", (catalog, Interactions.from_baskets(["u"], [5], [[1, 0]])), tmp_path)
    items, histories = (
        tfds.builder_from_directory(tmp_path / "mine" / config / "1.0.0")
        for config in ("items", "histories")
    )
    assert (items.name, items.info.file_format.value) == ("mine", "array_record")
    assert [r["item_ids"] for r in items.as_data_source("train")] == [[b"a", b"b"]]
    (record,) = histories.as_data_source("train")
    assert record["item_ids"] == [b"b", b"a"] and list(record["times"]) == [5]
    text = (tmp_path / "mine/items/1.0.0/dataset_info.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["configName"] == "items"


def test_a_failed_write_leaves_the_old_data_set(tmp_path, monkeypatch):
    old = (Catalog.from_columns(["a"]), Interactions.from_baskets(["u"], [0], [[0]]))
    save("mine", old, tmp_path)

    def fail(*_):
        raise RuntimeError("disk full")
        yield

    monkeypatch.setattr(builders, "_history_records", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        save("mine", (Catalog.from_columns(["b"]), old[1]), tmp_path)
    assert_same(load(DataConfig(name="mine", data_dir=str(tmp_path))), old)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(InputError, match="choose another name"):
        save("mnist", (Catalog.from_columns(["a"]), None), tmp_path)
    assert (tmp_path / "mnist" / "3.0.1").is_dir()
    assert list_names(tmp_path) == []


def test_a_missing_data_set_tells_the_command(tmp_path):
    save("mine", (Catalog.from_columns(["a"]), None), tmp_path)
    with pytest.raises(InputError) as error:
        load(DataConfig(name="yours", data_dir=str(tmp_path)))
    assert "it has mine (and complete_journey, amazon_2014_beauty, " in str(error.value)
    command = (
        f"sid import --items FILE [--baskets FILE] --name yours --data-dir {tmp_path}"
    )
    assert command in str(error.value)


def test_root_is_the_argument_then_the_variable_then_home(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert find_root("/here") == Path("/here")
    assert find_root() == Path("/somewhere")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert find_root() == Path(os.path.expanduser("~")) / "tensorflow_datasets"
