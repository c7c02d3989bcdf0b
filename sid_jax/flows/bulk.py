"""`sid encode` into a folder: items stream through the devices, and come out in parts.

Memory holds one part. What is stopped goes on where it was, and hosts that share a
folder take turns: part k is that of host k mod P.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby, repeat
from pathlib import Path

from sid_jax.data.bulk import stream_items
from sid_jax.data.catalog import Catalog
from sid_jax.data.vector_rows import stream_vectors
from sid_jax.errors import InputError
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.job import Folder, Slice, open_folder
from sid_jax.flows.runs import Log
from sid_jax.sids.table import SidTable, write_table
from sid_jax.train.hosts import find_rank, listen
from sid_jax.train.loop import Interrupted
from sid_jax.train.progress import format_seconds
from sid_jax.typing import NDArray

PART_ROWS = 1 << 16
"""Items of a part, unless told otherwise."""

_QUIET = 2.0  # seconds between two lines, at least


def encode_parts(
    tokenizer: Path,
    items: Path,
    out: Path,
    log: Log,
    *,
    vectors: str = "",
    part_rows: int = PART_ROWS,
    host: tuple[int, int] | None = None,
) -> None:
    """Encodes items part by part; parts that are done already are not done again.

    Args:
      tokenizer: run folder.
      items: a file as `sid import` reads it, or a folder of some.
      out: the folder for the parts.
      log: where lines go.
      vectors: file of the items' vectors, in their order, where the tokenizer was
        trained on a file.
      part_rows: items of a part, at most; memory grows with it.
      host: which host this is, from 0, and of how many; by its launcher if None. They
        need not know of each other.

    Raises:
      InputError: bad items or vectors, a tokenizer with a level that tells items of one
        SID apart, or a folder that holds something else.
      Interrupted: SIGINT or SIGTERM came; the parts that are done are kept.
    """
    number, hosts = host or find_rank()
    if part_rows < 1:
        raise InputError(f"--part-rows {part_rows} must be positive")
    model = Tokenizer.load(tokenizer, vectors)
    if model.dedup:
        raise InputError(
            f"{tokenizer} numbers the items of one SID over the whole catalog (dedup): "
            "no part knows the others' numbers. Encode into one file (--out "
            "sids.parquet), or train without dedup: an index tells them apart, too"
        )
    folder = open_folder(out, model, items, part_rows, log)
    mine = folder.slices[number::hosts]
    todo = [piece for piece in mine if not folder.is_done(piece, log)]
    log(
        f"{items}: {sum(folder.job.rows):,} items, {len(folder.slices):,} parts"
        + (f", {len(mine):,} of them host {number}'s" if hosts > 1 else "")
        + f"; {len(mine) - len(todo):,} done already"
    )
    with listen(alone=True) as stop:
        clock = _Clock(sum(map(len, todo)), log)
        for piece, catalog, brought in _read(folder, todo, model, log):
            codes, distances = model.assign(catalog, brought)
            manifest = model.manifest(folder.digest(piece))
            table = SidTable.build(catalog.item_ids, codes, distances, manifest)
            folder.sweep(piece)
            write_table(out / piece.name, table)
            folder.record(piece)
            clock.tell(piece.name, len(catalog))
            if stop.signal and piece is not todo[-1]:
                raise Interrupted(stop, piece.number + 1, out, "part")
    if missing := folder.finish():
        log(f"{out}: {missing:,} parts are not there yet; other hosts have them to do")
    else:
        log(f"{out}: {sum(folder.job.rows):,} items in {len(folder.slices):,} parts")


def _read(
    folder: Folder, todo: Sequence[Slice], model: Tokenizer, log: Log
) -> Iterator[tuple[Slice, Catalog, NDArray | None]]:
    """Each part's items, and what the file of vectors holds of them, if any."""
    brought = repeat(None)
    if folder.job.vectors:
        ranges = [(piece.first, piece.first + len(piece)) for piece in todo]
        brought = stream_vectors(Path(model.recipe.config.file), ranges)
    for file, group in groupby(todo, key=lambda piece: piece.file):
        pieces, notes = list(group), []
        ranges = [(piece.start, piece.stop) for piece in pieces]
        parts = stream_items(folder.files[file], ranges, folder.job.columns)
        for piece in pieces:
            catalog, notes = next(parts, (None, []))
            vectors = next(brought, None)
            if catalog is None or len(catalog) != len(piece):
                raise InputError(
                    f"{folder.files[file]} has fewer rows than when it was counted; "
                    "leave it as it is while it is encoded"
                )
            yield piece, catalog, vectors
        for note in notes:
            log(f"note: {note}")


class _Clock:
    """Says how far it is, but not with every part."""

    def __init__(self, total: int, log: Log):
        self._total, self._log, self._done = total, log, 0
        self._began = self._told = time.perf_counter()

    def tell(self, name: str, rows: int) -> None:
        self._done += rows
        now, left = time.perf_counter(), self._total - self._done
        if not left or now - self._told >= _QUIET:
            self._told, rate = now, self._done / (now - self._began)
            self._log(
                f"{name}  {self._done:,} of {self._total:,} items"
                f"  {rate:,.0f} items/s  ETA {format_seconds(left / rate)}"
            )
