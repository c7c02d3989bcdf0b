"""Arrays in an `.npz`, and as they lie in it: pages are read when they are touched.

An `.npz` holds a CRC-32 of each array, which is compared when the file is opened.
Processes that map one file share its pages, and a file that is replaced by renaming
another one over it stays as it was for those that have it.
"""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.typing import NDArray

_HEADER = 30  # bytes of a ZIP member's header before its name
_END = struct.Struct("<4s4H2LH")  # the end of an archive
_ZIP64 = 20  # bytes of its sizes, after the extra fields
_ALIGN = 64  # bytes, as in `numpy.save`: reading an array across them is slower
_PADDING = 0xD935  # the extra field that aligns; no reader looks into it

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,  # a member that is marked as encrypted, or of an unknown method
    MemoryError,  # of a shape that no file holds
    OverflowError,
    SyntaxError,  # NumPy's, of the header of an array
    tokenize.TokenError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What reading a damaged archive may raise."""


def save_npz(path: str | Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes arrays by name, uncompressed and aligned; whole, or not at all."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            told = _HEADER + len(info.filename.encode()) + 4 + _ZIP64
            fill = -(file.start_dir + told) % _ALIGN
            info.extra = struct.pack("<HH", _PADDING, fill) + bytes(fill)
            with file.open(info, "w", force_zip64=True) as member:
                npy.write_array(member, np.asanyarray(array), allow_pickle=False)


def load_npz(path: str | Path) -> dict[str, NDArray]:
    """Name -> array; of what `save_npz` or any of `numpy.savez...` wrote.

    Raises:
      InputError: an absent file, no `.npz`, a damaged one, or one of Python objects.
    """
    with _open(path, "be read") as (raw, file):
        _check(raw, file)
        raw.seek(0)
        arrays = np.load(raw, allow_pickle=False)
        return {name: arrays[name] for name in arrays}


def map_npz(path: str | Path, *, check: bool = True) -> dict[str, NDArray]:
    """Name -> array, read-only; of what `save_npz` or `numpy.savez` wrote.

    A file that is shortened in place while it is mapped ends the process (SIGBUS):
    replace it by renaming another one over it.

    Args:
      path: the file.
      check: read it once as a whole, to compare checksums; or it is known to be good.

    Raises:
      InputError: an absent file, no `.npz`, a damaged one, or one that is compressed.
    """
    arrays = {}
    with _open(path, "be mapped") as (raw, file):
        for member in file.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise InputError(
                    f"{path} is compressed, and cannot be mapped: write it with "
                    "numpy.savez"
                )
        if check:
            _check(raw, file)
        for member in file.infolist():
            name = member.filename.removesuffix(".npy")
            arrays[name] = _map_member(raw, member.header_offset)
    return arrays


@contextmanager
def _open(path: str | Path, what: str) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    try:
        with Path(path).open("rb") as raw, zipfile.ZipFile(raw) as file:
            yield raw, file
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path} cannot {what} as an .npz: {error}") from error


def _check(raw: BinaryIO, file: zipfile.ZipFile) -> None:
    # A damaged length in the list of members may hide the next of them.
    raw.seek(-_END.size, 2)
    mark, _, _, _, number, *_ = _END.unpack(raw.read(_END.size))
    if mark == b"PK\5\6" and number != len(file.infolist()) < 0xFFFF:
        raise ValueError(f"of {number} arrays {len(file.infolist())} are found")
    # Not left to `numpy.load`: an array whose header is damaged may end before its
    # member does, and then no checksum is compared.
    if (name := file.testzip()) is not None:
        raise ValueError(f"{name} is damaged (its checksum differs)")


def _map_member(raw: BinaryIO, start: int) -> NDArray:
    raw.seek(start)
    name, extra = struct.unpack("<HH", raw.read(_HEADER)[-4:])
    raw.seek(name + extra, 1)
    version = npy.read_magic(raw)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(raw)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order = "F" if fortran else "C"
    if 0 in shape:
        return np.empty(shape, dtype, order)
    return np.memmap(raw, dtype, "r", raw.tell(), shape, order)
