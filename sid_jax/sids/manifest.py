"""What a SID table, or a folder of its parts, says of itself beside the SIDs."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sid_jax.errors import InputError
from sid_jax.files import read_json, write_json

SCHEMA_VERSION = 3
"""Of the files that `write_table` writes; `read_table` reads versions 1 up to it.

Version 2 adds `cells` and `dedup`, version 3 `seal`."""

PARTS = "_manifest.json"
"""In a folder of parts; once it is there, all of them are."""

_PARTS_VERSION = 1
_PART_NAME = re.compile(r"part-[0-9]+-of-[0-9]+\.parquet")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where a SID table comes from.

    Attributes:
      codebook_sizes: codes a level.
      tokenizer: hash of the tokenizer that encoded the items; empty if unknown.
      catalog: hash of the catalog that was encoded; empty if unknown.
      created_by: the program or file that the SIDs come from.
      schema_version: of the file.
      cells: attribute cells, in the order of their first codes: what each holds, and
        how many consecutive codes of the first level are its own; none if empty.
    """

    codebook_sizes: tuple[int, ...]
    tokenizer: str = ""
    catalog: str = ""
    created_by: str = ""
    schema_version: int = SCHEMA_VERSION
    cells: tuple[tuple[str, int], ...] = ()
    dedup: bool = False


@dataclass(frozen=True)
class Part:
    """A SID table that is a part of another: consecutive items of it.

    Attributes:
      name: of its file.
      rows: items in it.
      sha256: of its file's bytes, hex.
    """

    name: str
    rows: int
    sha256: str


def seal_manifest(fields: Mapping[str, Any], distances: bytes) -> str:
    """SHA-256 (hex) of the fields, among them the table's digest, and of the rest."""
    sha = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    sha.update(distances)
    return sha.hexdigest()


def parse_manifest(raw: bytes | None) -> tuple[Manifest, dict[str, Any], str]:
    """The manifest, the fields that are sealed (`digest` among them), and the seal.

    Before version 3 there was no seal: it is empty.
    """
    if raw is None:
        raise InputError("no SID manifest in the metadata; write it with `sid encode`")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        fields = None
    version = _field(fields, "schema_version", int)
    if not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"schema version {version}, but versions 1 to {SCHEMA_VERSION} are readable"
            " here; update sid_jax, or encode again"
        )
    sizes = tuple(_field(fields, "codebook_sizes", list))
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise InputError(f"malformed SID manifest (codebook_sizes {sizes})")
    manifest = Manifest(
        codebook_sizes=sizes,
        tokenizer=_field(fields, "tokenizer", str),
        catalog=_field(fields, "catalog", str),
        created_by=_field(fields, "created_by", str),
        schema_version=version,
        cells=_parse_cells(fields, sizes[0]) if version > 1 else (),
        dedup=_field(fields, "dedup", bool) if version > 1 else False,
    )
    told = dict(fields or {})
    _field(told, "digest", str)
    seal = _field(told, "seal", str) if version > 2 or "seal" in told else ""
    told.pop("seal", None)
    return manifest, told, seal


def write_parts(folder: Path, parts: Sequence[Part], told: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder of parts.

    Args:
      folder: where the parts lie.
      parts: all of them, in the order of their items.
      told: what else to say of them, for JSON.
    """
    plain = {
        "schema_version": _PARTS_VERSION,
        **told,
        "parts": [asdict(part) for part in parts],
    }
    write_json(folder / PARTS, plain)


def read_parts(folder: Path) -> tuple[Part, ...]:
    """The parts of a folder, in the order of their items.

    Raises:
      InputError: they are not all there, or the manifest is damaged or of a newer
        version.
    """
    if not (folder / PARTS).exists():
        raise InputError(
            f"no {PARTS}: not all parts are there; go on with `sid encode`"
        )
    fields = read_json(folder / PARTS)
    if (version := _field(fields, "schema_version", int)) != _PARTS_VERSION:
        raise InputError(f"{PARTS} is of schema version {version}; update sid_jax")
    parts = [
        Part(
            _field(part, "name", str),
            _field(part, "rows", int),
            _field(part, "sha256", str),
        )
        for part in _field(fields, "parts", list)
    ]
    if not parts or not all(_PART_NAME.fullmatch(part.name) for part in parts):
        raise InputError(f"malformed {PARTS} (names of parts); encode again")
    return tuple(parts)


def _parse_cells(fields: Any, num_codes: int) -> tuple[tuple[str, int], ...]:
    cells: list[Any] = _field(fields, "cells", list)
    good = all(
        isinstance(cell, list) and [*map(type, cell)] == [str, int] and cell[1] > 0
        for cell in cells
    )
    if not good or (cells and sum(size for _, size in cells) != num_codes):
        raise InputError(
            f"malformed SID manifest (cells {cells} for {num_codes} first codes);"
            " encode again"
        )
    return tuple((name, size) for name, size in cells)


def _field(fields: Any, name: str, kind: type) -> Any:
    value = fields.get(name) if isinstance(fields, dict) else None
    if type(value) is not kind:
        raise InputError(f"malformed SID manifest ({name}: {value!r}); encode again")
    return value
