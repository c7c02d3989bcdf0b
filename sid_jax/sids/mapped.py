"""Arrays in an `.npz`, and as they lie in it: pages are read when they are touched.

Processes that map one file share its pages, and a file that is replaced by renaming
another one over it stays as it was for those that have it.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.typing import NDArray

_HEADER = 30  # bytes of a ZIP member's header before its name
_ZIP64 = 20  # bytes of its sizes, after the extra fields
_ALIGN = 64  # bytes, as in `numpy.save`: reading an array across them is slower
_PADDING = 0xD935  # the extra field that aligns; no reader looks into it


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


def map_npz(path: str | Path) -> dict[str, NDArray]:
    """Name -> array, read-only; of what `save_npz` or `numpy.savez` wrote.

    Contents are not checked: a file that may be damaged is better read with
    `numpy.load`, which compares checksums. One that is shortened in place while it is
    mapped ends the process (SIGBUS): replace it by renaming another one over it.

    Raises:
      InputError: an absent file, no `.npz`, or one that is compressed.
    """
    arrays = {}
    try:
        with Path(path).open("rb") as raw, zipfile.ZipFile(raw) as file:
            for member in file.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise InputError(
                        f"{path} is compressed, and cannot be mapped: write it with "
                        "numpy.savez"
                    )
                name = member.filename.removesuffix(".npy")
                arrays[name] = _map_member(raw, member.header_offset)
    except (OSError, EOFError, ValueError, struct.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be mapped as an .npz: {error}") from error
    return arrays


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
