"""Which item ids stand twice among more than memory holds.

64-bit hashes go into files of a folder, by their last bits; each file is then sorted by
itself. That takes 8 bytes of disk an item and 1/32 of that of memory. Ids of one hash
are compared as they are by the caller: in a billion ids, two others share one with
odds of 1 in 37.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

_FILES = 64
_MOST = 1000  # hashes that are told


@contextmanager
def finding_repeats(folder: Path) -> Iterator["Repeats"]:
    """Its files have no name in `folder`, and are gone when the process is."""
    with ExitStack() as stack:
        files = [
            stack.enter_context(tempfile.TemporaryFile(dir=folder))
            for _ in range(_FILES)
        ]
        yield Repeats(files)


@dataclass(frozen=True)
class Repeats:
    """Ids are added, and those that stand twice are found."""

    files: Sequence[IO[bytes]]

    def add(self, ids: Sequence[str]) -> None:
        """More of the ids."""
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        places = hashes % _FILES
        order = np.argsort(places, kind="stable")
        ends = np.searchsorted(places[order], np.arange(1, _FILES))
        pieces = np.split(hashes[order], ends)
        for file, piece in zip(self.files, pieces, strict=True):
            file.write(piece.tobytes())

    def find(self) -> set[int]:
        """`hash(id)` of ids that were added twice; of some, where there are many."""
        found: set[int] = set()
        for file in self.files:
            file.seek(0)
            hashes = np.frombuffer(bytearray(file.read()), np.int64)
            hashes.sort()
            found.update(hashes[1:][hashes[1:] == hashes[:-1]][:_MOST].tolist())
            if len(found) >= _MOST:
                break
        return found
