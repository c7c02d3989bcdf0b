"""A data set whose files are damaged loads as it was written, or says that it cannot.

What TFDS tells of the records is damaged bit by bit in `seal_test.py`; here the records
themselves are, and data sets that were written before there were checksums.
"""

import numpy as np
import pytest
from hostile import fuzz
from hypothesis import strategies as st

from sid_jax.data import builders
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import DataConfig, load, save
from sid_jax.data.records import SEAL, reading_records
from sid_jax.errors import InputError

CONFIGS = ("items", "histories")
TOLD = ("dataset_info.json", "features.json")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of a data set of two records of items and three of histories."""
    monkeypatch.setattr(builders, "BLOCK", 9)
    ids = [f"p{n}" for n in range(12)]
    attributes = {"price": np.arange(12.0), "size": ["1 L", None] * 6}
    catalog = Catalog.from_columns(ids, title=["Tea"] * 12, attributes=attributes)
    baskets = [[0, 1], [2], [3, 4, 5], [11]]
    data = Interactions.from_baskets([*"uvuw"], [1, 2, 3, 4], baskets, [*"stst"])
    save("mine", (catalog, data), tmp_path)
    return tmp_path


def read(root):
    catalog, data = load(DataConfig(name="mine", data_dir=str(root)))
    columns = {name: np.asarray(value).tolist() for name, value in vars(data).items()}
    return catalog.digest(), catalog.table.to_pydict(), columns


def damage(root, path, good, told, damaged):
    """Whether damage is refused; else what is read must be what was written."""
    path.unlink()  # the readers before may have it mapped
    path.write_bytes(damaged)
    try:
        assert read(root) == told
    except InputError as error:
        assert f"data set {path.parent} is damaged" in str(error)
        assert str(error).endswith("import it again with sid import --name mine")
        return True
    finally:
        path.unlink()
        path.write_bytes(good)
    return False


def flip(data, place, bit):
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("cases", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_records(root, config, cases):
    (path,) = (root / "mine" / config / "1.0.0").glob("*.array_record*")
    good, told = path.read_bytes(), read(root)
    filled = np.flatnonzero(np.frombuffer(good, np.uint8)).tolist()
    places = st.sampled_from(filled) | st.integers(0, len(good) - 1)
    fuzz(
        cases,
        st.tuples(places, st.integers(0, 7)),
        lambda at: damage(root, path, good, told, flip(good, *at)),
    )
    fuzz(
        cases // 3,
        places,
        lambda end: damage(root, path, good, told, good[:end]),
    )
    assert damage(root, path, good, told, good[: len(good) // 2])
    assert damage(root, path, good, told, flip(good, filled[len(filled) // 2], 0))
    assert not damage(root, path, good, told, good)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_byte_of_the_records(root, config):
    (path,) = (root / "mine" / config / "1.0.0").glob("*.array_record*")
    good, told = path.read_bytes(), read(root)
    filled = np.flatnonzero(np.frombuffer(good, np.uint8)).tolist()
    flips = [flip(good, place, place % 8) for place in filled]
    refused = sum(damage(root, path, good, told, each) for each in flips)
    print(f"{len(flips):,} bytes, of which {refused:,} are refused", flush=True)
    assert refused > len(flips) // 2


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("cases", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_a_data_set_without_checksums_is_read_or_refused(root, name, cases):
    told = read(root)
    for seal in root.glob(f"mine/*/*/{SEAL}"):
        seal.unlink()
    assert read(root) == told
    path = root / "mine" / "items" / "1.0.0" / name
    good = path.read_bytes()

    def check(at):
        path.write_bytes(flip(good, *at))
        read(root)  # a number of records may be another one, in silence

    places = st.integers(0, len(good) - 1)
    fuzz(cases, st.tuples(places, st.integers(0, 7)), check)
    for end in (0, 1, len(good) // 2, len(good) - 1):
        assert damage(root, path, good, told, good[:end])


def test_records_that_are_absent_are_damage(root):
    (path,) = root.glob("mine/histories/*/*.array_record*")
    path.unlink()
    with pytest.raises(InputError, match=r"histories/1\.0\.0 is damaged \("):
        read(root)


def test_what_says_nothing_of_the_data_set_passes(tmp_path):
    folder = tmp_path / "amazon_2014_toys" / "items" / "1.0.0"
    for error in (
        MemoryError(),
        PermissionError(13, "Permission denied"),
        ModuleNotFoundError("no array_record", name="array_record"),
        KeyboardInterrupt(),
        InputError("mine"),
    ):
        with pytest.raises(type(error)) as told, reading_records(folder):
            raise error
        assert told.value is error
    built = rf"damaged \(KeyError: 'a'\); delete {folder.parents[1]}, and it is built"
    with pytest.raises(InputError, match=built), reading_records(folder):
        raise KeyError("a")
