"""A number that tells whether an array is the one that was saved, on any mesh.

The sum, modulo 2^32, of a hash of each 32-bit word with its place. For a given place
the hash is one to one, so that a single changed word is always seen; several go unseen
once in 2^32. A sum of integers is the same in any order: however an array is split over
devices, its number is that of the whole.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def checksum(leaf: Any) -> int:
    """The number of an array, of any shape, with elements of at most 32 bits.

    A CPU's array is read where it is, others on their devices.
    """
    if isinstance(leaf, jax.Array):
        here = next(iter(leaf.sharding.device_set)).platform == "cpu"
        if not (here and leaf.is_fully_addressable):
            return int(_on_devices(leaf))
    array = np.asarray(leaf)
    words = np.ascontiguousarray(array).view(_WORD[array.dtype.itemsize])
    return int(_sum(words.reshape(array.shape).astype(np.uint32), np))


@jax.jit
def _on_devices(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, _WORD[leaf.dtype.itemsize])
    return _sum(words.astype(jnp.uint32), jnp)


def _sum(words: Any, library: Any) -> Any:
    """The sum of the hashes of uint32 words, in NumPy or JAX."""
    words = library.atleast_1d(words)
    place = np.uint32(0) * words
    for axis, size in enumerate(words.shape):
        # Not one range reshaped: this way each device knows its own places.
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        shape = [size if each == axis else 1 for each in range(words.ndim)]
        place = place + library.arange(size, dtype=np.uint32).reshape(shape) * stride
    # The finalizer of MurmurHash3 (Appleby 2011), which permutes 32-bit words.
    mixed = words ^ (place * np.uint32(0x9E3779B1))
    mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> np.uint32(16))
    return mixed.sum(dtype=np.uint32)
