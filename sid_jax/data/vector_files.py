"""Item vectors brought in a file: `.npy` with ids beside it, `.npz` or `.parquet`."""

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sid_jax.data.parquet import read_parquet, write_parquet
from sid_jax.errors import InputError
from sid_jax.sids.mapped import load_npz
from sid_jax.typing import Float, NDArray, typed

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,  # of a shape that no file holds
    OverflowError,
    SyntaxError,  # NumPy's, of the header of an array
    tokenize.TokenError,
    pa.ArrowException,
)
"""What the readers of NumPy, Parquet and JSON raise on a missing or damaged file."""


def read_vectors(path: str | Path) -> tuple[list[str], Float[NDArray, "N D"]]:
    """Item ids and float32 vectors of a file.

    Args:
      path: `.npy` with ids beside it (`<stem>.ids.txt`, one a line, or
        `<stem>_ids.npy`), `.npz` (arrays `ids` and `vectors`) or `.parquet` (columns
        `item_id` and `vector`).

    Raises:
      InputError: a bad file; the message names it, the row (from 0) and the fix.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: vectors come as {', '.join(readers)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        ids, vectors = readers[path.suffix](path)
        ids = _clean_ids(path, ids)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({error}); write it again") from None
    return ids, check_vectors(path, vectors, ids)


def check_vectors(
    path: Path, vectors: NDArray, ids: Sequence[str] | None = None, start: int = 0
) -> Float[NDArray, "N D"]:
    """Vectors as float32.

    Args:
      path: the file.
      vectors: rows of it.
      ids: their items; not looked at if None.
      start: the row that the first of them is.

    Raises:
      InputError: they are no matrix of finite numbers, or not one an id.
    """
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: vectors must be numbers of shape [items, width], not "
            f"{vectors.dtype} of shape {vectors.shape}"
        )
    if ids is not None and len(ids) != len(vectors):
        raise InputError(
            f"{path}: {len(ids)} ids for {len(vectors)} vectors; give one id a row"
        )
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        item = f" (item {ids[bad[0]]!r})" if ids else ""
        raise InputError(
            f"{path}: row {start + bad[0]}{item} is not finite in float32, "
            f"nor are {len(bad) - 1} others; drop or repair them"
        )
    return vectors


def look_up(path: str | Path, item_ids: Sequence[str]) -> Float[NDArray, "N D"]:
    """The file's vectors of these items, in this order.

    Raises:
      InputError: a bad file, or one without some of the items.
    """
    ids, vectors = read_vectors(path)
    rows = {item_id: row for row, item_id in enumerate(ids)}
    missing = [item_id for item_id in item_ids if item_id not in rows]
    if missing:
        raise InputError(
            f"{path}: no vector for {len(missing)} of {len(item_ids)} items: "
            + ", ".join(map(repr, missing[:5]))
            + (" ..." if len(missing) > 5 else "")
            + "; add them to the file (ids are text, as in the catalog)"
        )
    return vectors[[rows[item_id] for item_id in item_ids]]


@typed
def write_vectors(
    path: str | Path, item_ids: Sequence[str], vectors: Float[NDArray, "N D"]
) -> None:
    """Writes a `.parquet` as `read_vectors` reads it; the file is whole or absent.

    Raises:
      InputError: an id is missing or stands twice, or there is not one a vector.
    """
    ids = _clean_ids(Path(path), list(item_ids))
    if len(ids) != len(vectors):
        raise InputError(f"{path}: {len(ids)} ids for {len(vectors)} vectors")
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1]
    )
    table = pa.table({"item_id": pa.array(ids, pa.string()), "vector": lists})
    write_parquet(path, table)


def _read_npy(path: Path) -> tuple[Any, NDArray]:
    beside = path.with_name(f"{path.stem}.ids.txt")
    if beside.is_file():
        # Not splitlines, which also splits at characters that an id may hold.
        ids = beside.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    elif (other := path.with_name(f"{path.stem}_ids.npy")).is_file():
        ids = _load_npy(other)
    else:
        raise InputError(f"{path}: no ids beside it; write {beside.name}, one a line")
    return ids, _load_npy(path)


def _read_npz(path: Path) -> tuple[Any, NDArray]:
    arrays = _load_array(path, lambda: load_npz(path))
    if not {"ids", "vectors"} <= arrays.keys():
        held = ", ".join(arrays) or "none"
        raise InputError(f"{path}: want arrays ids and vectors; it has {held}")
    return arrays["ids"], arrays["vectors"]


def _load_npy(path: Path) -> NDArray:
    array = _load_array(path, lambda: np.load(path, allow_pickle=False))
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: several arrays in one; call the file .npz")
    return array


def _load_array(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise InputError(
            f"{path}: no NumPy array, or one of Python objects, which is never "
            "unpickled; save ids as np.asarray(ids, dtype=str), vectors as float32"
        ) from None


def _read_parquet(path: Path) -> tuple[Any, NDArray]:
    table = read_parquet(path)
    if not {"item_id", "vector"} <= set(table.column_names):
        held = ", ".join(table.column_names) or "none"
        raise InputError(f"{path}: want columns item_id and vector; it has {held}")
    return table["item_id"].to_pylist(), unfold_lists(path, table["vector"])


def unfold_lists(path: Path, lists: pa.ChunkedArray, start: int = 0) -> NDArray:
    """A Parquet column of lists as a matrix; `start` is the row of the first.

    Raises:
      InputError: a row without a list, or lists of several lengths.
    """
    # One list type for all; a column that is no list of numbers raises.
    whole = lists.cast(pa.large_list(pa.float64())).combine_chunks()
    if whole.null_count:
        row = start + whole.is_null().to_pylist().index(True)
        raise InputError(f"{path}: row {row} has no vector; drop the row or fill it")
    widths = np.diff(whole.offsets.to_numpy())
    uneven = np.flatnonzero(widths != widths[:1])
    if len(uneven):
        row = uneven[0]
        raise InputError(
            f"{path}: row {start + row} has width {widths[row]}, the rows before it "
            f"{widths[0]}; give all vectors one width"
        )
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(widths), widths[:1].sum())


def _clean_ids(path: Path, ids: Any) -> list[str]:
    """Ids as text, each once."""
    array = np.asarray(ids)
    if not array.size:
        raise InputError(f"{path}: no item ids; the file must hold at least one item")
    if array.ndim != 1 or array.dtype.kind == "f":
        raise InputError(f"{path}: ids must be one list of text or whole numbers")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    ids, first = [None if i is None else str(i) for i in array.tolist()], {}
    for row, item_id in enumerate(ids):
        if not item_id:
            raise InputError(f"{path}: row {row} has no item id")
        if first.setdefault(item_id, row) != row:
            raise InputError(
                f"{path}: row {row} repeats item id {item_id!r} of row "
                f"{first[item_id]}; keep one of them"
            )
    return ids
