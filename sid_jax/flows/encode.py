"""`sid encode` into one file: items that fit into memory get their Semantic IDs."""

import dataclasses
from pathlib import Path

from sid_jax.data.catalog import Catalog
from sid_jax.data.parsing import read_items
from sid_jax.errors import InputError
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.runs import Log
from sid_jax.sids.table import SidTable, read_table, write_table


def encode_file(
    tokenizer: Path,
    items: Path,
    out: Path,
    log: Log,
    *,
    extend: Path | None = None,
    vectors: str = "",
) -> None:
    """Encodes items into a table of their own, or after those of another.

    Args:
      tokenizer: run folder.
      items: file as `sid import` reads it.
      out: the table to write.
      log: where lines go.
      extend: a table whose items keep their SIDs; those it holds are not encoded.
      vectors: file of the items' vectors, where the tokenizer was trained on a file.

    Raises:
      InputError: a bad file, or `extend` is another tokenizer's.
    """
    if out.suffix != ".parquet":
        raise InputError(
            f"--out {out}: a SID table is a .parquet file; a folder of parts has no "
            "ending"
        )
    if items.is_dir():
        raise InputError(
            f"{items} is a folder: its items are encoded into a folder of parts (--out "
            f"{out.with_suffix('')})"
        )
    model = Tokenizer.load(tokenizer, vectors)
    catalog, notes = read_items(items)
    for note in notes:
        log(f"note: {note}")
    if extend is None:
        table, added = model.table(catalog, model.encode(catalog)), len(catalog)
    else:
        table, added = _extend(model, read_table(extend), catalog, extend)
    write_table(out, table)
    log(f"{out}: {len(table):,} items ({added:,} encoded), {len(table.sids):,} SIDs")


def _extend(
    model: Tokenizer, table: SidTable, catalog: Catalog, path: Path
) -> tuple[SidTable, int]:
    if table.manifest.tokenizer != model.digest():
        raise InputError(
            f"{path} was made by another tokenizer: their SIDs cannot stand in one "
            "table; encode all items anew, without --extend"
        )
    known = set(table.item_ids.to_pylist())
    new = [row for row, each in enumerate(catalog.item_ids) if each not in known]
    if not new:
        return table, 0
    fresh = catalog.take(new)
    encoded = model.encode(fresh)
    codes, sizes = model.place(table, encoded)
    manifest = dataclasses.replace(table.manifest, codebook_sizes=sizes, catalog="")
    room = dataclasses.replace(table, manifest=manifest)
    return room.extend(fresh.item_ids, codes, encoded.distances), len(new)
