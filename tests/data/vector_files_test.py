import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sid_jax.data.vector_files import look_up, read_vectors, write_vectors
from sid_jax.errors import InputError

IDS = ["a", "7", "é c"]
VECTORS = np.asarray([[1.5, -2], [0, 3], [4, 5]], np.float32)


def _npy(folder, ids, vectors):
    np.save(folder / "v.npy", vectors)
    (folder / "v.ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return folder / "v.npy"


def _npy_pair(folder, ids, vectors):
    np.save(folder / "v.npy", vectors)
    np.save(folder / "v_ids.npy", np.asarray(ids))
    return folder / "v.npy"


def _npz(folder, ids, vectors):
    np.savez(folder / "v.npz", ids=np.asarray(ids), vectors=vectors)
    return folder / "v.npz"


def _parquet(folder, ids, vectors):
    table = {"item_id": list(ids), "vector": list(np.asarray(vectors))}
    pq.write_table(pa.table(table), folder / "v.parquet")
    return folder / "v.parquet"


FORMS = [_npy, _npy_pair, _npz, _parquet]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_round_trip(write, dtype, tmp_path):
    vectors = VECTORS.astype(dtype)
    ids, found = read_vectors(write(tmp_path, IDS, vectors))
    assert ids == IDS
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize("write", FORMS)
def test_look_up_orders_by_the_items_asked_for(write, tmp_path):
    path = write(tmp_path, IDS, VECTORS)
    np.testing.assert_array_equal(look_up(path, [IDS[2], IDS[0]]), VECTORS[[2, 0]])
    with pytest.raises(InputError, match=r"no vector for 6 of 7 items: 'b0'.*\.\.\."):
        look_up(path, [f"b{i}" for i in range(6)] + ["a"])


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_not_finite_is_named(write, bad, tmp_path):
    vectors = VECTORS.astype(np.float64)
    vectors[1, 0] = bad
    with pytest.raises(InputError, match=r"v\.\w+: row 1 \(item '7'\) is not finite"):
        read_vectors(write(tmp_path, IDS, vectors))


@pytest.mark.parametrize("write", FORMS)
def test_a_repeated_id_names_both_rows(write, tmp_path):
    with pytest.raises(InputError, match=r"row 2 repeats item id 'a' of row 0"):
        read_vectors(write(tmp_path, ["a", "b", "a"], VECTORS))


@pytest.mark.parametrize("write", FORMS)
def test_an_empty_id_is_named(write, tmp_path):
    with pytest.raises(InputError, match="row 1 has no item id"):
        read_vectors(write(tmp_path, ["a", "", "b"], VECTORS))


@pytest.mark.parametrize("write", FORMS[:3])
def test_counts_must_match(write, tmp_path):
    with pytest.raises(InputError, match="2 ids for 3 vectors"):
        read_vectors(write(tmp_path, IDS[:2], VECTORS))


@pytest.mark.parametrize("write", FORMS[:3])
@pytest.mark.parametrize("vectors", [VECTORS[0], VECTORS[:, :0], VECTORS[None]])
def test_rank_and_width_are_checked(write, vectors, tmp_path):
    with pytest.raises(InputError, match="must be numbers of shape"):
        read_vectors(write(tmp_path, IDS, vectors))


@pytest.mark.parametrize("write", FORMS)
def test_ids_may_be_whole_numbers_or_bytes_but_not_fractions(write, tmp_path):
    if write is not _npy:
        path = write(tmp_path, [3, 1, 2], VECTORS)
        assert read_vectors(path)[0] == ["3", "1", "2"]
        with pytest.raises(InputError, match="text or whole numbers"):
            read_vectors(write(tmp_path, [3.0, 1.0, 2.5], VECTORS))
        encoded = [item_id.encode() for item_id in IDS]
        assert read_vectors(write(tmp_path, encoded, VECTORS))[0] == IDS


@pytest.mark.parametrize("write", [_npy_pair, _npz])
def test_object_ids_are_refused_with_the_fix(write, tmp_path):
    path = write(tmp_path, np.asarray(IDS, object), VECTORS)
    with pytest.raises(InputError, match=r"np\.asarray\(ids, dtype=str\)"):
        read_vectors(path)


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("keep", [0, 20, -8])
def test_a_damaged_file_is_an_input_error(write, keep, tmp_path):
    path = write(tmp_path, IDS, VECTORS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=path.name):
        read_vectors(path)


def test_missing_files_and_fields_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_vectors(tmp_path / "none.npy")
    with pytest.raises(InputError, match=r"\.npy, \.npz, \.parquet"):
        read_vectors(tmp_path / "v.csv")
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(InputError, match=r"write v\.ids\.txt"):
        read_vectors(tmp_path / "v.npy")
    np.savez(tmp_path / "v.npz", names=np.asarray(IDS))
    with pytest.raises(InputError, match="ids and vectors; it has names"):
        read_vectors(tmp_path / "v.npz")
    (tmp_path / "v.npz").rename(tmp_path / "v.npy")
    (tmp_path / "v.ids.txt").write_text("a\nb\nc")
    with pytest.raises(InputError, match="several arrays"):
        read_vectors(tmp_path / "v.npy")
    np.save(tmp_path / "w.npy", VECTORS)
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(InputError, match=r"w\.npz cannot be read"):
        read_vectors(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a"], "x": [1]}, "it has item_id, x"),
        ({"item_id": ["a"], "vector": [1.0]}, "cannot be read"),
        ({"item_id": ["a"], "vector": [["x"]]}, "cannot be read"),
        ({"item_id": [["a"]], "vector": [[1.0]]}, "text or whole numbers"),
        ({"item_id": [["a"], []], "vector": [[1.0], [2.0]]}, "cannot be read"),
        ({"item_id": ["a", None], "vector": [[1.0], [2.0]]}, "row 1 has no item id"),
        ({"item_id": ["a", "b"], "vector": [[1.0], None]}, "row 1 has no vector"),
        ({"item_id": ["a", "b"], "vector": [[1.0], [1.0, 2]]}, "row 1 has width 2"),
        ({"item_id": ["a", "b"], "vector": [[1.0], [None]]}, "row 1 .* not finite"),
        ({"item_id": ["a"], "vector": [[]]}, "of shape"),
        ({"item_id": [], "vector": []}, "no item ids"),
    ],
)
def test_bad_parquet(columns, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=message):
        read_vectors(tmp_path / "v.parquet")


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32(), 2), pa.large_list(pa.float16()), pa.list_(pa.int8())],
)
def test_parquet_list_types(kind, tmp_path):
    vectors = pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())).cast(kind)
    # In two pieces, the second one a slice, whose values do not start at 0.
    pieces = pa.chunked_array([vectors[:1], vectors[1:]])
    table = pa.table({"item_id": ["a", "b"], "vector": pieces})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=1)
    assert read_vectors(tmp_path / "v.parquet")[1].tolist() == [[1, 2], [3, 4]]


def test_write_vectors_is_read_back(tmp_path):
    path = tmp_path / "v.parquet"
    write_vectors(path, IDS, VECTORS)
    ids, vectors = read_vectors(path)
    assert ids == IDS
    np.testing.assert_array_equal(vectors, VECTORS)
    for bad, message in ((IDS[:2], "2 ids for 3"), (["a", "b", "a"], "repeats")):
        with pytest.raises(InputError, match=message):
            write_vectors(path, bad, VECTORS)
    assert read_vectors(path)[0] == IDS


def test_a_header_that_is_cut_is_an_input_error(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "v.ids.txt").write_text("\n".join(IDS))
    good = (tmp_path / "v.npy").read_bytes()
    at = good.index(b"(")
    (tmp_path / "v.npy").write_bytes(good[:at] + b"\0" * 9 + good[at + 9 :])
    with pytest.raises(InputError, match=r"v\.npy: cannot be read"):
        read_vectors(tmp_path / "v.npy")
    for shape in (b"(10**30,)", b"(9999999999999,)", b"(-1,)"):
        with (tmp_path / "v.npy").open("wb") as file:
            head = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b"}"
            head += b" " * (117 - len(head)) + b"\n"
            file.write(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)
        with pytest.raises(InputError, match=r"v\.npy: "):
            read_vectors(tmp_path / "v.npy")
