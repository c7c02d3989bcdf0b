"""What an item is bought with, as coordinates beside its vector.

Items i, j co-occur with weight C_ij: the sum, over the pairs of a user's baskets that
hold them and are d <= `window` apart, of 1 / max(d, 1). With

    ppmi_ij = max(0, log C_ij / (C_i q_j)),   q_j ~ (sum_i C_ij)^0.75,

the rows of U sqrt(S) of the truncated SVD are what word2vec would learn of baskets
(Levy and Goldberg 2014; smoothing and square root by Levy, Goldberg and Dagan 2015; on
baskets item2vec, Barkan and Koenigstein 2016). A row is scaled to the length
sqrt(n / (n + shrink)) for an item bought n times, so that what few purchases say counts
little, and an item never bought is at 0. Ours: that length, and that the coordinates
stand beside the text's, so that codes follow both (LETTER, Wang et al. 2024, aligns
codes with a recommender's vectors by a loss instead).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from sid_jax.data.catalog import Interactions
from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray, typed

_SMOOTHING = 0.75
_POWER_ITERATIONS = 4  # of the randomized SVD


@dataclass(frozen=True, kw_only=True)
class CopurchaseConfig:
    """Coordinates of what is bought together.

    Attributes:
      dim: how many; 0 for none.
      weight: root mean square length, where the vectors beside them have 1.
      window: baskets of a user at most so far apart count; 0 looks within baskets.
      shrink: purchases at which an item's coordinates have 0.7 of their full length.
      max_basket: longer baskets are left out.
      seed: of the SVD.
    """

    dim: int = 0
    weight: float = 1.0
    window: int = 3
    shrink: float = 5.0
    max_basket: int = 64
    seed: int = 0

    def __post_init__(self):
        for name in ("dim", "window", "shrink", "max_basket"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"copurchase.{name}={getattr(self, name)} must not be negative"
                )
        if not 0 < self.weight < float("inf"):
            raise InputError(f"copurchase.weight={self.weight} must be positive")


@typed
def fit_copurchase(
    config: CopurchaseConfig,
    data: Interactions,
    num_items: int,
    rows: Int[NDArray, " n"] | None = None,
) -> Float[NDArray, "N dim"]:
    """Coordinates of the catalog's items, float32.

    Args:
      config: with `dim` above 0.
      data: baskets of item rows.
      num_items: N.
      rows: the items to look at; others get none and lend none. All if None.

    Raises:
      InputError: no two of the items are bought together.
    """
    baskets = _baskets(config, data, num_items, rows)
    together = _cooccurrences(baskets, data.user, config.window)
    if not together.nnz:
        raise InputError(
            "copurchase.dim: no two items are bought together; raise copurchase.window,"
            " or set copurchase.dim=0"
        )
    total = np.asarray(together.sum(axis=1)).ravel()
    smooth = total**_SMOOTHING / (total**_SMOOTHING).sum()
    pairs: Any = together.tocoo()
    information = np.log(pairs.data / (total[pairs.row] * smooth[pairs.col]))
    kept = information > 0
    ppmi = sparse.csr_matrix(
        (information[kept], (pairs.row[kept], pairs.col[kept])), shape=pairs.shape
    )
    options: dict[str, Any] = {
        "n_components": min(config.dim, num_items),
        "n_iter": _POWER_ITERATIONS,
        "random_state": config.seed,
    }
    left, strengths, _ = randomized_svd(ppmi, **options)
    points = left * np.sqrt(strengths)
    length = np.linalg.norm(points, axis=1, keepdims=True)
    count = np.asarray(baskets.sum(axis=0)).reshape(-1, 1)
    points *= np.sqrt(count / (count + config.shrink)) / np.maximum(length, 1e-12)
    points[length[:, 0] < 1e-9] = 0
    seen = np.square(points).sum() / (num_items if rows is None else len(rows))
    points *= config.weight / np.sqrt(seen)
    missing = config.dim - points.shape[1]
    return np.pad(points, ((0, 0), (0, missing))).astype(np.float32)


def _baskets(
    config: CopurchaseConfig,
    data: Interactions,
    num_items: int,
    rows: NDArray | None,
) -> Any:
    """Baskets by items, 1 where one holds the other."""
    sizes = np.diff(data.offsets)
    basket = np.repeat(np.arange(len(data)), sizes)
    kept = (sizes <= config.max_basket)[basket]
    if rows is not None:
        kept &= np.isin(data.items, rows)
    ones = np.ones(kept.sum(), np.float64)
    return sparse.csr_matrix(
        (ones, (basket[kept], data.items[kept])), shape=(len(data), num_items)
    )


def _cooccurrences(baskets: Any, user: NDArray, window: int) -> Any:
    """Weights C of pairs of items, symmetric, an item with itself left out."""
    total = (baskets.T @ baskets).tocsr()
    for apart in range(1, window + 1):
        same = sparse.diags((user[apart:] == user[:-apart]).astype(float) / apart)
        pairs = baskets[:-apart].T @ same @ baskets[apart:]
        total = total + pairs + pairs.T
    total.setdiag(0)
    total.eliminate_zeros()
    return total
