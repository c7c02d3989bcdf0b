"""New codes renamed after the old ones that they stand for, one permutation a level.

Two trainings number alike clusters differently.  With a_l the new codes renamed so far,

    M_l[k, k'] = sum_i w_i [new_il = k] [old_il = k'],
    w_i = prefix_weight if a_i,1..l-1 = old_i,1..l-1 else 1,

and level l takes the one-to-one renaming of greatest sum (Kuhn 1955, in SciPy's form by
Jonker and Volgenant).  One renaming a level and not one a prefix, as the codewords of a
level are shared by all prefixes.  The matching by codebook is the shape of "SID
staleness" (arXiv 2604.13273); the weights and the rule for spare codes are ours.

A renaming keeps what codes mean only if the rows of the codebooks move with them:
`sid_jax.models.quantizer.permute`.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from sid_jax.errors import InputError
from sid_jax.typing import Int, NDArray, typed


@typed
def align_codes(
    old: Int[NDArray, "N L"],
    new: Int[NDArray, "N L"],
    sizes_old: tuple[int, ...],
    sizes_new: tuple[int, ...],
    *,
    prefix_weight: float = 10.0,
) -> list[Int[NDArray, " K"]]:
    """The permutation of each level's new codes that agrees most with the old codes.

    The sizes of a level may differ between the versions.  A name is always one of the
    new codebook's own numbers, so a level that shrank cannot take up old names past
    its size.  A code that no item shares with an old one keeps its number if that is
    free, and gets the lowest free one otherwise; so equal codes stay as they are.

    Args:
      old: codes of the items that both versions hold.
      new: their codes in the new version, in the same order.
      sizes_old: codes a level of the old version.
      sizes_new: codes a level of the new one.
      prefix_weight: how many items of another prefix an item weighs whose renamed
        prefix agrees already. Prefix matches need all levels above, so such an item
        can still gain one and others cannot; 1 counts all items alike, which serves
        the level's own churn instead. (Two residual k-means of Amazon Beauty, 16, 64,
        256, 512 codes, from other seeds: prefix match@4 .043, .062, .062 for weights
        1, 10, 100, and codes of level 4 that match .23, .21, .20.)

    Returns:
      For each level an array p: code k of the new version is renamed p[k].

    Raises:
      InputError: a code outside its level's size, or a weight that is not positive.
    """
    if not 0 < prefix_weight < np.inf:
        raise InputError(f"prefix_weight must be positive, not {prefix_weight}")
    _check("old", old, sizes_old)
    _check("new", new, sizes_new)
    permutations = []
    agrees = np.ones(len(old), bool)
    for level, (size_old, size_new) in enumerate(
        zip(sizes_old, sizes_new, strict=True)
    ):
        weights = np.where(agrees, prefix_weight, 1.0)
        cells = new[:, level].astype(np.int64) * size_old + old[:, level]
        shared = np.bincount(cells, weights, minlength=size_new * size_old)
        renamed = _match(shared.reshape(size_new, size_old)[:, :size_new])
        permutations.append(renamed)
        agrees &= renamed[new[:, level]] == old[:, level]
    return permutations


@typed
def rename(
    codes: Int[NDArray, "N L"], permutations: list[Int[NDArray, " _"]]
) -> Int[NDArray, "N L"]:
    """Codes under their new names; levels past the permutations keep theirs."""
    renamed = codes.copy()
    for level, permutation in enumerate(permutations):
        renamed[:, level] = permutation[codes[:, level]]
    return renamed


def _match(shared: NDArray) -> NDArray:
    """Row -> column of the greatest sum, and free numbers where nothing is shared."""
    rows, columns = linear_sum_assignment(shared, maximize=True)
    kept = shared[rows, columns] > 0
    names = np.full(len(shared), -1)
    names[rows[kept]] = columns[kept]
    free = np.ones(len(shared), bool)
    free[columns[kept]] = False
    own = (names < 0) & free
    names[own] = np.flatnonzero(own)
    free[own] = False
    names[names < 0] = np.flatnonzero(free)
    return names


def _check(version: str, codes: NDArray, sizes: tuple[int, ...]) -> None:
    if len(sizes) != codes.shape[1]:
        raise InputError(
            f"the {version} codes have {codes.shape[1]} levels, but {len(sizes)} sizes "
            "are given; give one size a level"
        )
    bad = (codes < 0) | (codes >= np.asarray(sizes))
    if bad.any():
        row, level = np.argwhere(bad)[0]
        raise InputError(
            f"{version} codes, row {row}: code {codes[row, level]} of level "
            f"{level + 1} is outside its codebook of {sizes[level]}"
        )
