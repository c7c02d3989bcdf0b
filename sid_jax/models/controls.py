"""Codes that learn nothing, as controls: what a tokenizer must beat.

Random codes know nothing of an item. LSH codes know its direction: a code's bits are
the signs of random projections, and two vectors at angle t agree in a bit with
probability 1 - t / pi (Charikar 2002). Flat vector quantization, the third control,
is `fit_codebooks(key, vectors, sizes=(K,))`.
"""

import jax
import jax.numpy as jnp

from sid_jax.errors import InputError
from sid_jax.typing import Array, Float, Int, Key, typed


@typed
def random_codes(
    key: Key[Array, ""], num_items: int, sizes: tuple[int, ...]
) -> Int[Array, "N L"]:
    """Codes drawn evenly and independently, int32 `[num_items, L]`.

    Args:
      key: random key.
      num_items: N; static.
      sizes: codes a level; static.
    """
    keys = jax.random.split(key, len(sizes))
    levels = [
        jax.random.randint(each, (num_items,), 0, size)
        for each, size in zip(keys, sizes, strict=True)
    ]
    return jnp.stack(levels, axis=1)


@typed
def lsh_codes(
    key: Key[Array, ""], vectors: Float[Array, "N D"], sizes: tuple[int, ...]
) -> Int[Array, "N L"]:
    """Codes of log2 K random hyperplanes a level, int32; through the origin.

    Centre the vectors first, as item vectors are: else most lie on one side.

    Args:
      key: random key of the hyperplanes.
      vectors: of the items.
      sizes: codes a level, each a power of two; static.

    Raises:
      InputError: a size that is no power of two.
    """
    for level, size in enumerate(sizes, start=1):
        if size < 1 or size & (size - 1):
            raise InputError(
                f"level {level} has {size} codes; LSH needs a power of two, such as"
                f" {1 << max(size - 1, 1).bit_length()}"
            )
    levels = []
    for level, size in enumerate(sizes):
        num_bits = size.bit_length() - 1
        normals = jax.random.normal(
            jax.random.fold_in(key, level), (vectors.shape[1], num_bits)
        )
        sides = jnp.matmul(
            vectors.astype(jnp.float32), normals, precision=jax.lax.Precision.HIGHEST
        )
        bits = (sides > 0).astype(jnp.int32)
        levels.append((bits << jnp.arange(num_bits)).sum(axis=1, dtype=jnp.int32))
    return jnp.stack(levels, axis=1)
