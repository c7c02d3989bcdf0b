"""Item <-> SID: a versioned artifact, in memory and as a Parquet file.

Rows of `sids` are unique and sorted; a leaf is such a row. Items that share a SID are
neighbours in `items`, so that leaf u holds `items[offsets[u] : offsets[u + 1]]`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import compute

from sid_jax.errors import InputError
from sid_jax.files import hash_file, replacing, unpacking
from sid_jax.sids.manifest import (
    SCHEMA_VERSION,
    Manifest,
    parse_manifest,
    read_parts,
    seal_manifest,
)
from sid_jax.sids.trie import sort_sids
from sid_jax.typing import Float, Int, NDArray, UInt, typed

pc: Any = compute  # its functions are made at import: type checkers see none of them
_METADATA_KEY = b"sid_jax"
_SID_PATTERN = r"^\d{1,9}([_-]\d{1,9})*$"


@dataclass(frozen=True, eq=False)
class SidTable:
    """Items and their SIDs. Item rows are positions in `item_ids`.

    Attributes:
      sids: int32 `[U, L]`, unique and sorted lexicographically.
      offsets: int64 `[U + 1]` into `items`.
      items: int32 `[N]` item rows, grouped by leaf, ascending within a leaf.
      item_ids: unique strings; an arrow array, so that ten million stay small.
      distances: float32 `[N]`, by item row: the squared distance that the levels left
        between the item's vector and its SID; NaN if unknown.
      manifest: where the table comes from.
    """

    sids: NDArray
    offsets: NDArray
    items: NDArray
    item_ids: pa.StringArray
    distances: NDArray
    manifest: Manifest

    @classmethod
    @typed
    def build(
        cls,
        item_ids: Sequence[str] | pa.Array,
        codes: Int[NDArray, "N L"] | UInt[NDArray, "N L"],
        distances: Float[NDArray, " N"] | None,
        manifest: Manifest,
    ) -> "SidTable":
        """Groups items by SID; row i of each argument is item i.

        Raises:
          InputError: no items, an empty, null or repeated id, as many ids as codes are
            not given, or codes outside `manifest.codebook_sizes`. Rows count from 0.
        """
        ids = pa.array(item_ids, pa.string())
        _check_ids(ids, len(codes))
        order, parting = sort_sids(codes, manifest.codebook_sizes)
        starts = np.flatnonzero(parting < codes.shape[1])
        if distances is None:
            distances = np.full(len(codes), np.nan)
        return cls(
            sids=codes[order[starts]].astype(np.int32),
            offsets=np.append(starts, len(codes)).astype(np.int64),
            items=order.astype(np.int32),
            item_ids=ids,
            distances=distances.astype(np.float32),
            manifest=manifest,
        )

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.items)

    def leaves(self) -> Int[NDArray, " N"]:
        """The leaf of each item row."""
        leaves = np.empty(len(self), np.int32)
        counts = np.diff(self.offsets)
        leaves[self.items] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return leaves

    def codes(self) -> Int[NDArray, "N L"]:
        """The SID of each item row."""
        return self.sids[self.leaves()]

    @typed
    def rows(self, item_ids: Sequence[str] | pa.Array) -> Int[NDArray, " n"]:
        """The rows of items.

        Raises:
          InputError: ids that the table lacks; the message names some.
        """
        wanted = pa.array(item_ids, pa.string())
        rows = pc.index_in(wanted, value_set=self.item_ids)
        unknown = wanted.filter(rows.is_null())
        if len(unknown):
            some = ", ".join(map(repr, unknown[:5].to_pylist()))
            raise InputError(
                f"{len(unknown)} of {len(wanted)} item ids have no SID: {some};"
                " encode those items first"
            )
        return rows.to_numpy()

    def digest(self) -> str:
        """SHA-256 (hex) over codebook sizes, codes and item ids, in item order."""
        sha = hashlib.sha256(json.dumps(self.manifest.codebook_sizes).encode())
        sha.update(self.codes().astype("<i4").tobytes())
        sha.update(pc.binary_length(self.item_ids).to_numpy().astype("<i4").tobytes())
        # One string of all ids: the lengths above tell where each ends.
        one_list = pa.ListArray.from_arrays([0, len(self)], self.item_ids)
        sha.update(pc.binary_join(one_list, "")[0].as_buffer())
        return sha.hexdigest()

    def extend(
        self,
        item_ids: Sequence[str] | pa.Array,
        codes: NDArray,
        distances: NDArray | None,
    ) -> "SidTable":
        """The table with new items after the old, whose rows and SIDs do not move.

        Leaves are rows of the sorted SIDs and do move: build the trie and the index
        again. The manifest stays: the caller puts the new catalog's hash into it.

        Raises:
          InputError: a known id, or what `build` refuses.
        """
        new = SidTable.build(item_ids, codes, distances, self.manifest)
        known = new.item_ids.filter(pc.is_in(new.item_ids, value_set=self.item_ids))
        if len(known):
            some = ", ".join(map(repr, known[:5].to_pylist()))
            raise InputError(
                f"{len(known)} of {len(new)} new items have a SID already: {some};"
                " leave them out"
            )
        return SidTable.build(
            pa.concat_arrays([self.item_ids, new.item_ids]),
            np.concatenate([self.codes(), new.codes()]),
            np.concatenate([self.distances, new.distances]),
            self.manifest,
        )


def write_table(path: str | Path, table: SidTable) -> None:
    """Writes Parquet: item_id, sid (as text), codes and distance, in item order.

    The manifest and the table's digest stand as JSON in the schema's metadata.
    """
    codes = table.codes()
    num_levels = codes.shape[1]
    texts = [pc.cast(pa.array(column), pa.string()) for column in codes.T]
    ends = np.arange(len(table) + 1, dtype=np.int32) * num_levels
    columns = {
        "item_id": table.item_ids,
        "sid": pc.binary_join_element_wise(*texts, "_"),
        "codes": pa.ListArray.from_arrays(ends, codes.reshape(-1)),
        "distance": pa.array(table.distances),
    }
    manifest = asdict(table.manifest) | {
        "schema_version": SCHEMA_VERSION,
        "digest": table.digest(),
    }
    manifest["seal"] = seal_manifest(manifest, table.distances.tobytes())
    metadata = {_METADATA_KEY: json.dumps(manifest).encode()}
    with replacing(path) as temporary:
        pq.write_table(
            pa.table(columns).replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )


def read_table(path: str | Path) -> SidTable:
    """Reads what `write_table` wrote, or another system's table of `item_id,sid`.

    That may be a CSV (or .csv.gz) or a Parquet file. Its codebook sizes are taken to be
    the largest code of each level plus one. A folder of parts is read as one table.

    Raises:
      InputError: an absent or damaged file, a newer schema, codes that are ragged or
        outside their codebook, or repeated ids. Rows count from 0.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_parts(path)
        if path.suffix == ".parquet":
            return _read_parquet(path)
        if path.name.endswith((".csv", ".csv.gz")):
            return _read_csv(path)
        raise InputError("not a .parquet, .csv or .csv.gz file")
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a SID table: {error}") from error


def _read_parquet(path: Path) -> SidTable:
    schema = pq.read_schema(path)
    foreign = _METADATA_KEY not in (schema.metadata or {})
    # One of ours whose manifest is gone is not read as another system's.
    ours = {"item_id", "sid", "codes", "distance"} == set(schema.names)
    if foreign and not ours and {"item_id", "sid"} <= set(schema.names):
        return _parse_foreign(path, _read_columns(path, ["item_id", "sid"]))
    manifest, fields, seal = parse_manifest((schema.metadata or {}).get(_METADATA_KEY))
    needed = ["item_id", "codes", "distance"]
    absent = [name for name in needed if name not in schema.names]
    if absent:
        raise InputError(f"no column {', '.join(absent)}; encode again")
    table = _read_columns(path, needed)
    built = SidTable.build(
        table["item_id"].cast(pa.string()).combine_chunks(),
        _unfold(table["codes"].cast(pa.list_(pa.int32())).combine_chunks()),
        table["distance"].cast(pa.float32()).to_numpy(),
        manifest,
    )
    if built.digest() != fields["digest"]:
        raise InputError(
            "codes or ids differ from what was written (the digest in the manifest"
            " disagrees); encode again"
        )
    if seal and seal != seal_manifest(fields, built.distances.tobytes()):
        raise InputError(
            "the manifest or the distances differ from what was written (the seal in"
            " the manifest disagrees); encode again"
        )
    return built


def _read_columns(path: Path, names: list[str]) -> pa.Table:
    # Not `pq.read_table`, which takes folders named a=b for columns.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(names).select(names)


def _read_parts(folder: Path) -> SidTable:
    parts = read_parts(folder)
    tables = []
    for part in parts:
        if hash_file(folder / part.name) != part.sha256:
            raise InputError(
                f"{part.name} is not what was written (its SHA-256 differs); run the"
                " same `sid encode` again, which makes it anew"
            )
        tables.append(read_table(folder / part.name))
        if len(tables[-1]) != part.rows:
            raise InputError(f"{part.name} has {len(tables[-1])} rows, not {part.rows}")
    if len({table.manifest.codebook_sizes for table in tables}) > 1:
        raise InputError("its parts are of several codebook sizes; encode again")
    told = hashlib.sha256("".join(part.sha256 for part in parts).encode())
    return SidTable.build(
        pa.concat_arrays([table.item_ids for table in tables]),
        np.concatenate([table.codes() for table in tables]),
        np.concatenate([table.distances for table in tables]),
        replace(tables[0].manifest, catalog=told.hexdigest()),
    )


def _read_csv(path: Path) -> SidTable:
    options = pyarrow.csv.ConvertOptions(
        column_types={"item_id": pa.string(), "sid": pa.string()},
        include_columns=["item_id", "sid"],
    )
    with unpacking(path) as file:
        table = pyarrow.csv.read_csv(file, convert_options=options)
    return _parse_foreign(path, table)


def _parse_foreign(path: Path, table: pa.Table) -> SidTable:
    """The table of another system, of columns item_id and sid."""
    texts = table["sid"].cast(pa.string()).combine_chunks()
    wrong = np.flatnonzero(
        ~_to_numpy(pc.fill_null(pc.match_substring_regex(texts, _SID_PATTERN), False))
    )
    if len(wrong):
        text = texts[int(wrong[0])].as_py()
        raise InputError(
            f"row {wrong[0]}: {text!r} is no SID (want codes such as 35_7_120_184)"
        )
    parts = pc.split_pattern(pc.replace_substring(texts, "-", "_"), "_")
    codes = _unfold(parts.cast(pa.list_(pa.int32())))
    if not len(codes):
        raise InputError("no items; at least one row is needed")
    sizes = tuple(int(size) + 1 for size in codes.max(axis=0))
    manifest = Manifest(codebook_sizes=sizes, created_by=path.name)
    ids = table["item_id"].cast(pa.string()).combine_chunks()
    return SidTable.build(ids, codes, None, manifest)


def _unfold(lists: pa.ListArray) -> NDArray:
    """Arrow lists of equal length -> a matrix; a null code becomes -1."""
    lengths = pc.fill_null(lists.value_lengths(), 0).to_numpy()
    uneven = np.flatnonzero(lengths != lengths[:1])
    if len(uneven):
        row = uneven[0]
        raise InputError(
            f"row {row}: a SID of {lengths[row]} levels, but row 0 has {lengths[0]};"
            " all SIDs of a table have the same number"
        )
    codes = pc.fill_null(lists.flatten(), -1).to_numpy()
    return codes.reshape(len(lists), lengths[0] if len(lengths) else 0)


def _check_ids(ids: pa.StringArray, num_codes: int) -> None:
    if len(ids) != num_codes:
        raise InputError(f"{len(ids)} item ids for {num_codes} SIDs")
    if not num_codes:
        raise InputError("no items; at least one row is needed")
    named = _to_numpy(pc.fill_null(pc.greater(pc.binary_length(ids), 0), False))
    if not named.all():
        raise InputError(f"row {np.flatnonzero(~named)[0]}: no item id")
    first = pc.index_in(ids, value_set=ids).to_numpy()
    repeats = np.flatnonzero(first != np.arange(len(ids)))
    if len(repeats):
        row = repeats[0]
        raise InputError(
            f"row {row}: item id {ids[int(row)].as_py()!r} stands in row {first[row]}"
            " already; keep one of them"
        )


def _to_numpy(flags: pa.BooleanArray) -> NDArray:
    return flags.to_numpy(zero_copy_only=False).astype(bool)
