"""Read some rows at a time, vectors and ids are those of the whole file."""

import numpy as np
import pytest

from sid_jax.data import vector_rows
from sid_jax.data.vector_files import read_vectors, write_vectors
from sid_jax.data.vector_rows import stream_ids, stream_vectors
from sid_jax.errors import InputError

IDS = ["a", "7", "é c", *(f"i{row}" for row in range(20))]
VECTORS = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)


def write(path, ids, vectors):
    """By the file's name; ids of `_ids.npy` where it begins with `pair`."""
    if path.suffix == ".parquet":
        write_vectors(path, ids, vectors)
    elif path.suffix == ".npz":
        np.savez(path, ids=np.asarray(ids), vectors=vectors)
    elif path.stem == "pair":
        np.save(path, vectors)
        np.save(path.with_name("pair_ids.npy"), np.asarray(ids))
    else:
        np.save(path, vectors)
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return path


NAMES = ["v.parquet", "v.npz", "v.npy", "pair.npy"]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_rows_of_the_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(vector_rows, "_BLOCK", 5)
    path = write(tmp_path / name, IDS, VECTORS)
    ids, vectors = read_vectors(path)
    assert list(stream_ids(path)) == ids == IDS
    ranges = [(0, 4), (9, 10), (10, 23)]
    for (start, stop), got in zip(ranges, stream_vectors(path, ranges), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, vectors[start:stop])


def test_numbers_and_bytes_are_ids_too(tmp_path):
    for ids in (np.arange(23), np.asarray([each.encode() for each in IDS])):
        np.save(tmp_path / "pair.npy", VECTORS)
        np.save(tmp_path / "pair_ids.npy", ids)
        path = tmp_path / "pair.npy"
        assert list(stream_ids(path)) == read_vectors(path)[0]


@pytest.mark.parametrize("name", NAMES)
def test_bad_vectors_are_named(name, tmp_path):
    vectors = VECTORS.copy()
    vectors[11, 1] = np.nan
    path = write(tmp_path / name, IDS, vectors)
    with pytest.raises(InputError, match=f"{name}: row 11 is not finite"):
        list(stream_vectors(path, [(3, 8), (8, 23)]))
    path.write_bytes(path.read_bytes()[:-70])
    with pytest.raises(InputError, match=name):
        list(stream_vectors(path, [(0, 23)]))
    path.unlink()
    with pytest.raises(InputError, match=name):
        list(stream_vectors(path, [(0, 23)]))


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "pair_ids.npy", np.asarray([{}, []], object))
    with pytest.raises(InputError, match=r"pair.npy: its ids cannot be read"):
        list(stream_ids(tmp_path / "pair.npy"))
