"""Parquet files, with checksums of their pages and a digest of what they say.

The pages' CRC-32 is compared wherever a page is read. It knows nothing of the file's
footer, so the metadata of what is written here holds a digest of names and values too,
which is compared where a file is read as a whole; other programs' files have none.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from sid_jax.errors import InputError
from sid_jax.files import replacing

pc: Any = compute  # its functions are made at import: type checkers see none of them
_DIGEST = b"sid_jax.digest"


def write_parquet(path: str | Path, table: pa.Table) -> None:
    """Writes a table of texts, numbers, flags, and lists of them; whole, or not."""
    sealed = table.replace_schema_metadata({_DIGEST: digest_table(table)})
    with replacing(path) as temporary:
        pq.write_table(sealed, temporary, write_page_checksum=True)


def seal_parquet(path: str | Path) -> None:
    """Writes a file of another program again as `write_parquet` does; whole, or not.

    It may be larger than memory: one row group at a time is held.

    Raises:
      InputError: it is missing, damaged or no Parquet.
      UnwrittenError: see `replacing`.
    """
    with reading_parquet(path):
        file = open_parquet(path)
    with file:
        told = {_DIGEST: digest_tables(_row_groups(path, file))}
        schema = file.schema_arrow.with_metadata(told)
        options: Any = {"compression": "zstd", "write_page_checksum": True}
        with (
            replacing(path) as temporary,
            pq.ParquetWriter(temporary, schema, **options) as writer,
        ):
            for table in _row_groups(path, file):
                writer.write_table(table)


def read_parquet(path: str | Path, content: pa.Buffer | None = None) -> pa.Table:
    """Reads a file as a whole.

    Args:
      path: the file.
      content: its bytes, if they are read already.

    Raises:
      InputError: it is missing, damaged or no Parquet, or says something else than
        `write_parquet` wrote.
    """
    # Not `pq.read_table`, which takes folders named a=b for columns.
    with reading_parquet(path):
        with open_parquet(path if content is None else content) as file:
            table = file.read()
        told = (table.schema.metadata or {}).get(_DIGEST)
        if told is not None and told.decode() != digest_table(table):
            raise InputError(
                f"{path}: not what was written (its digest differs); write it again"
            )
    return table


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:
    """A file that compares the checksums of its pages, where it has some."""
    return pq.ParquetFile(source, page_checksum_verification=True, **options)


@contextmanager
def reading_parquet(path: str | Path) -> Iterator[None]:
    """Turns what reading a damaged Parquet file raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None


def digest_table(table: pa.Table) -> str:
    """SHA-256 (hex) of names, types and values, however the table is chunked."""
    return digest_tables([table])


def digest_tables(tables: Iterable[pa.Table]) -> str:
    """`digest_table` of tables of one schema, one under the other."""
    columns: dict[int, Any] = defaultdict(lambda: defaultdict(hashlib.sha256))
    for table in tables:
        for number, name in enumerate(table.column_names):
            for chunk in table.column(number).chunks:
                _feed(columns[number], name, chunk)
    whole = hashlib.sha256()
    for _, streams in sorted(columns.items()):
        for place in sorted(streams):
            whole.update(f"{place!r} {streams[place].hexdigest()}\n".encode())
    return whole.hexdigest()


def _row_groups(path: str | Path, file: pq.ParquetFile) -> Iterator[pa.Table]:
    for number in range(file.num_row_groups):
        with reading_parquet(path):
            table = file.read_row_group(number)
        yield table


def _feed(streams: dict[str, Any], place: str, array: pa.Array) -> None:
    """Adds to the digests of an array's nulls, lengths and values."""
    if not len(array):
        return
    kind = array.type
    streams[f"{place} known"].update(array.is_valid().to_numpy(zero_copy_only=False))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        array = pc.fill_null(array, "")
        lengths = pc.binary_length(array)
        # One string of all: the lengths tell where each ends.
        joined = pc.binary_join(pa.ListArray.from_arrays([0, len(array)], array), "")
        streams[f"{place} {kind}"].update(joined[0].as_buffer())
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        _feed(streams, f"{place} of", array.flatten())
    else:
        values = pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)
        streams[f"{place} {kind}"].update(values.to_numpy(zero_copy_only=False))
        return
    streams[f"{place} lengths"].update(lengths.to_numpy().astype("<i8"))
