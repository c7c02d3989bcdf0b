"""The dimension alphabet, array aliases and `typed`, which checks them when traced.

B batch, S history positions, L SID levels (never length), K codes a level, D width,
F MLP width, H heads, V decoder vocabulary, N items, U unique SIDs, M beams,
C children, R retailers, G taxonomy nodes. T is a number of tokens. The same letters
stand in annotations, einsums and prose.
"""

from typing import Any

import numpy as np
from beartype import beartype
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt, jaxtyped

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Key",
    "Metrics",
    "NDArray",
    "PyTree",
    "Shaped",
    "UInt",
    "typed",
]

NDArray = np.ndarray
PyTree = Any
"""Any nesting of containers with arrays for leaves."""

Metrics = dict[str, tuple[Any, Any]]
"""A metric is a (sum, count) pair, so that hosts and padded batches merge exactly."""

typed = jaxtyped(typechecker=beartype)
"""Checks a function's annotated shapes and dtypes at each call (under `jit`: trace)."""
