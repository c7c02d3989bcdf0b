"""Ranges of rows of a Parquet file: neither it nor a row group is held as a whole."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sid_jax.data.parquet import open_parquet, reading_parquet
from sid_jax.data.readers import check_names
from sid_jax.errors import InputError

_BATCH = 4096  # rows that are decoded at once
_BUFFER = 1 << 20  # bytes that are read of a column at once


def read_ranges(
    path: Path, ranges: Iterable[tuple[int, int]], columns: Sequence[str]
) -> Iterator[tuple[int, pa.Table]]:
    """The first row of each range, and its rows; what lies between is passed over.

    Args:
      path: the file.
      ranges: (first row, row after the last), from 0, in order and apart. What lies
        past the end of the file is left out, and a range without rows ends all.
      columns: those to read; what the file lacks of them is left out.

    Raises:
      InputError: the file is damaged, or zipped as a whole.
    """
    with reading_parquet(path), _open(path) as file:
        names = [name for name in file.schema_arrow.names if name in columns]
        starts = _row_group_starts(file)
        batches, batch, end = iter(()), None, -1  # `end`: the row after the batch
        for start, stop in ranges:
            stop = min(stop, starts[-1])
            if start >= stop:
                return
            group = int(np.searchsorted(starts, start, side="right")) - 1
            if starts[group] > end:
                batches, batch, end = _batches(file, group, names), None, starts[group]
            pieces = []
            while True:
                if batch is not None:
                    low, high = max(start - end, -len(batch)), min(stop - end, 0)
                    if low < high:
                        pieces.append(batch.slice(len(batch) + low, high - low))
                if end >= stop:
                    break
                batch = next(batches)
                end += len(batch)
            yield start, pa.Table.from_batches(pieces)


def _open(path: Path) -> pq.ParquetFile:
    if path.suffix == ".gz":
        raise InputError(
            f"{path}: unpack it first; a Parquet file is compressed within"
        )
    file = open_parquet(path, buffer_size=_BUFFER, pre_buffer=False)
    check_names(path, file.schema_arrow.names)
    return file


def _row_group_starts(file: pq.ParquetFile) -> list[int]:
    told = file.metadata
    sizes = [told.row_group(group).num_rows for group in range(told.num_row_groups)]
    return np.cumsum([0, *sizes]).tolist()


def _batches(
    file: pq.ParquetFile, group: int, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """Row group by row group, so that none is read before it is asked for."""
    for each in range(group, file.metadata.num_row_groups):
        yield from file.iter_batches(_BATCH, row_groups=[each], columns=names)
