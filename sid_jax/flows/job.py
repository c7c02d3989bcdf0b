"""What is encoded in parts, by what and into what: kept beside the parts, and resumed.

A folder holds, beside `part-00000-of-00153.parquet` and so on,
  `_work/job.json`: what is encoded by what, written before the first part;
  `_work/00000.json` and so on: rows and checksum of a part, written after it;
  `_manifest.json`: all of that, written once all parts are there.
Each is written under a temporary name and then renamed, and none says anything else
when another process writes it: hosts share a folder without a word between them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from sid_jax.data.bulk import Column, find_files, survey
from sid_jax.data.vector_rows import stream_ids
from sid_jax.errors import InputError
from sid_jax.files import hash_file, read_json, write_json, writing
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.runs import Log
from sid_jax.plain import from_plain, to_plain
from sid_jax.sids.manifest import Part, write_parts

_WORK = "_work"
_ANEW = "choose another --out, or delete it to start afresh"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file as it was when the job began.

    Attributes:
      name: without its folder.
      sha256: of its bytes.
      size: in bytes.
      mtime_ns: when it was last written to. Where size and time are the same, the bytes
        are taken to be, too.
    """

    name: str
    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the parts follow from.

    Attributes:
      tokenizer: its digest.
      codebook_sizes: codes a level.
      part_rows: items of a part, at most; none has items of two files.
      items: the files, in order.
      rows: items of each.
      columns: the attributes that the tokenizer reads.
      vectors: the file of the items' vectors, or none.
    """

    tokenizer: str
    codebook_sizes: tuple[int, ...]
    part_rows: int
    items: tuple[Input, ...]
    rows: tuple[int, ...]
    columns: tuple[Column, ...]
    vectors: tuple[Input, ...] = ()


@dataclass(frozen=True)
class Slice:
    """The items that a part is made of.

    Attributes:
      number: of the part, from 0.
      name: of its file.
      file: number of the file of items.
      start: its first row there.
      stop: the row after its last.
      first: how many items are before it, in all files.
    """

    number: int
    name: str
    file: int
    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Folder:
    """A job in its folder.

    Attributes:
      path: the folder.
      files: the items.
      job: what is done.
    """

    path: Path
    files: tuple[Path, ...]
    job: Job

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """Of all parts."""
        ranges, size, first = [], self.job.part_rows, 0
        for file, rows in enumerate(self.job.rows):
            for start in range(0, rows, size):
                stop = min(start + size, rows)
                ranges.append((file, start, stop, first + start))
            first += rows
        total = f"{len(ranges):05d}"
        return tuple(
            Slice(number, f"part-{number:0{len(total)}d}-of-{total}.parquet", *each)
            for number, each in enumerate(ranges)
        )

    def digest(self, piece: Slice) -> str:
        """SHA-256 (hex) of what a part is made of."""
        job = self.job
        files = [each.sha256 for each in (*job.items, *job.vectors)]
        told = json.dumps([job.tokenizer, job.part_rows, files, piece.number])
        return hashlib.sha256(told.encode()).hexdigest()

    def is_done(self, piece: Slice, log: Log) -> bool:
        """Whether a part is there as it was written; says so where it is damaged."""
        path, part = self.path / piece.name, self._read(piece)
        if part is None or not path.exists():
            return False
        if hash_file(path) == part.sha256:
            return True
        log(f"{path} is damaged (its SHA-256 differs): it is made anew")
        self._record(piece).unlink()
        return False

    def sweep(self, piece: Slice) -> None:
        """Removes what a process left that was killed while it wrote a part."""
        for path in (self.path / piece.name, self._record(piece)):
            for left in path.parent.glob(f".{path.stem}.*"):
                left.unlink(missing_ok=True)

    def record(self, piece: Slice) -> None:
        """Takes a part that was written as done."""
        part = Part(piece.name, len(piece), hash_file(self.path / piece.name))
        write_json(self._record(piece), to_plain(part))

    def finish(self) -> int:
        """Writes the manifest if all parts are there; returns how many are not."""
        parts = [self._read(piece) for piece in self.slices]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            write_parts(self.path, whole, asdict(self.job))
        return len(parts) - len(whole)

    def _record(self, piece: Slice) -> Path:
        return self.path / _WORK / f"{piece.number:05d}.json"

    def _read(self, piece: Slice) -> Part | None:
        try:
            return from_plain(Part, read_json(self._record(piece)), piece.name)
        except (OSError, ValueError):
            return None  # not there, or not whole: the part is made anew


def open_folder(
    path: Path, model: Tokenizer, items: Path, part_rows: int, log: Log
) -> Folder:
    """Begins a job in a folder, or finds the one that was begun there.

    Args:
      path: the folder; made if it is not there.
      model: the tokenizer.
      items: a file of items, or a folder of some.
      part_rows: items of a part, at most.
      log: where lines go.

    Raises:
      InputError: bad items or vectors, or the folder holds something else, or parts of
        another tokenizer, of other items or of another size.
    """
    files = find_files(items)
    vectors = [Path(model.recipe.config.file)] if model.recipe.config.file else []
    told = path / _WORK / "job.json"
    if not told.exists():
        _make(path)
        log(
            "reading all item ids once, to count them and to see that none stands twice"
        )
        ids = stream_ids(vectors[0]) if vectors else None
        with writing(path):
            found = survey(files, model.columns, path, ids)
        job = Job(
            tokenizer=model.digest(),
            codebook_sizes=model.task.model.codebook_sizes,
            part_rows=part_rows,
            items=tuple(map(_stamp, files)),
            rows=found.rows,
            columns=found.columns,
            vectors=tuple(map(_stamp, vectors)),
        )
        write_json(told, to_plain(job))
    try:
        job = from_plain(Job, read_json(told), told.name)
    except ValueError as error:
        raise InputError(f"{told} is damaged ({error}); {_ANEW}") from None
    if job.tokenizer != model.digest():
        raise InputError(f"{path} holds parts by another tokenizer; {_ANEW}")
    if job.part_rows != part_rows:
        raise InputError(
            f"{path} holds parts of {job.part_rows} items, not of {part_rows}; give"
            f" --part-rows {job.part_rows}, or {_ANEW}"
        )
    _check_files(path, "items", job.items, files)
    _check_files(path, "vectors", job.vectors, vectors)
    return Folder(path, tuple(files), job)


def _make(path: Path) -> None:
    others = sorted(each.name for each in path.glob("[!._]*")) if path.is_dir() else []
    if others:
        raise InputError(
            f"--out {path} holds something else ({others[0]}), and no parts; choose "
            "another"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: no folder ({error.strerror})") from None


def _check_files(
    path: Path, what: str, before: Sequence[Input], now: Sequence[Path]
) -> None:
    """Raises InputError if these are not the files that a job was begun with."""
    names = {each.name for each in before} ^ {each.name for each in now}
    if names:
        raise InputError(
            f"{path} holds parts of other files of {what} ({min(names)} is new or gone)"
            f"; {_ANEW}"
        )
    for known, file in zip(before, now, strict=True):
        status = file.stat()
        same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)
        if not same and hash_file(file) != known.sha256:
            raise InputError(
                f"{file} is not what the parts in {path} were made of (its SHA-256 "
                f"differs); {_ANEW}"
            )


def _stamp(path: Path) -> Input:
    status = path.stat()
    return Input(
        name=path.name,
        sha256=hash_file(path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
