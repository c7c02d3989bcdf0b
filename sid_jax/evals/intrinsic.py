"""The codes judged by themselves: every figure of the rooms beside, by name.

`usage.py` (skew, collisions, branching), `similarity.py` (rho, shares, coherence),
`hierarchy.py` (agreement with the category tree, fragmentation) and `distortion.py`
(FVU, compression) say what each figure is. A name's `@l` is a level, counted from 1.
"""

from collections.abc import Mapping

import numpy as np

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.distortion import (
    category_fvu,
    compression,
    depth_fvu,
    unexplained,
)
from sid_jax.evals.hierarchy import agreement, fragmentation, top_categories
from sid_jax.evals.similarity import coherence, similarity_depth
from sid_jax.evals.usage import (
    LevelUse,
    branching,
    collisions,
    level_use,
    usage_metrics,
)
from sid_jax.typing import Float, Int, NDArray, typed

__all__ = [
    "LevelUse",
    "collisions",
    "intrinsic_metrics",
    "judge_subsets",
    "level_use",
    "similarity_depth",
    "unexplained",
]


@typed
def intrinsic_metrics(
    codes: Int[NDArray, "N L"],
    codebook_sizes: tuple[int, ...],
    vectors: Float[NDArray, "N D"] | None = None,
    reconstructions: Float[NDArray, "N D"] | None = None,
    seed: int = 0,
    *,
    errors: Float[NDArray, "N L"] | None = None,
    purchases: Float[NDArray, " N"] | None = None,
    taxonomy: Taxonomy | None = None,
    rows: Int[NDArray, " n"] | None = None,
) -> dict[str, float]:
    """Every figure by name; levels count from 1.

    Args:
      codes: SID of each item.
      codebook_sizes: codes a level.
      vectors: what was tokenized; adds `rho_*`, `share@*`, `coherence@*`, `cosine@*`.
      reconstructions: what the codes decode to; with `vectors`, adds `fvu`.
      seed: of what is drawn: pairs, bootstrap, and items for AMI.
      errors: squared error of the reconstructions from the first l codes, of
        `distortion.squared_errors`; with `vectors`, adds `fvu@l` and `fvu`, and by
        top category, where there is a taxonomy, `fvu[NAME]`.
      purchases: how often each item was bought; adds `*_by_purchase@l`.
      taxonomy: the category tree with the same items; adds `ami_*`, `homogeneity_*`,
        `completeness_*`, `fragmentation*` and, with `vectors`, `rho_lca_*`.
      rows: the items to judge, each once; all if None. Of a subset, usage, collisions,
        branching, coherence, agreement and FVU are those of its items alone.
        Neighbours, the other item of a uniform pair and leaf-mates (fragmentation) are
        sought in the whole catalog, where the subset's items will live.

    Returns:
      The figures, `items` (how many were judged) and, of what was drawn at random,
      `anchors` and `ami_items`. NaN: undefined.
    """
    # Checked before a subset can hide a bad row.
    level_use(codes, codebook_sizes, purchases)
    metrics = {"items": float(len(codes) if rows is None else len(rows))}

    def own(values: NDArray) -> NDArray:
        return values if rows is None else values[rows]

    mine = own(codes)
    bought = None if purchases is None else own(purchases)
    metrics |= usage_metrics(mine, codebook_sizes, bought)
    metrics |= collisions(mine) | branching(mine)
    if rows is None:
        metrics |= compression(len(codes), codebook_sizes)
    if vectors is not None:
        metrics |= similarity_depth(
            codes, vectors, seed=seed, rows=rows, taxonomy=taxonomy
        )
        seen = own(vectors)
        metrics |= coherence(mine, seen)
        if errors is not None:
            metrics |= depth_fvu(seen, own(errors))
        elif reconstructions is not None:
            metrics["fvu"] = unexplained(seen, own(reconstructions))
    if taxonomy is not None:
        metrics |= agreement(codes, taxonomy, rows, seed=seed)
        metrics |= fragmentation(codes, taxonomy, rows)
        if vectors is not None and errors is not None:
            labels = np.asarray(top_categories(taxonomy), object)
            metrics |= category_fvu(
                own(vectors), own(errors)[:, -1], own(labels).tolist()
            )
    return metrics


@typed
def judge_subsets(
    codes: Int[NDArray, "N L"],
    codebook_sizes: tuple[int, ...],
    subsets: Mapping[str, Int[NDArray, " _"]],
    vectors: Float[NDArray, "N D"] | None = None,
    *,
    errors: Float[NDArray, "N L"] | None = None,
    purchases: Float[NDArray, " N"] | None = None,
    taxonomy: Taxonomy | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The figures of several subsets of a catalog, such as `train` and `heldout`.

    Args:
      codes: SID of each item of the catalog.
      codebook_sizes: codes a level.
      subsets: name -> item rows, each once; they may overlap.
      vectors: see `intrinsic_metrics`, as for all that follows.
      errors: squared error by depth.
      purchases: how often each item was bought.
      taxonomy: the category tree.
      seed: of what is drawn.

    Returns:
      `NAME/figure`, as in `heldout/rho_half`; `rows` of `intrinsic_metrics` says what
      is of the subset alone and what of its items within the catalog.

    Raises:
      InputError: an empty subset, a row that is not there, or one that stands twice.
    """
    metrics = {}
    for name, rows in subsets.items():
        if not len(rows):
            raise InputError(f"subset {name!r} has no items; leave it out")
        if rows.min() < 0 or rows.max() >= len(codes):
            raise InputError(
                f"subset {name!r} names row {rows.min()} to {rows.max()}, but items "
                f"have rows 0 to {len(codes) - 1}"
            )
        if len(np.unique(rows)) < len(rows):
            raise InputError(f"subset {name!r} names a row twice; give each row once")
        figures = intrinsic_metrics(
            codes,
            codebook_sizes,
            vectors,
            seed=seed,
            errors=errors,
            purchases=purchases,
            taxonomy=taxonomy,
            rows=rows,
        )
        metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
    return metrics
