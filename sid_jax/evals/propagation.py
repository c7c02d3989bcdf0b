"""Error propagation: what becomes of an item's SID when its text is sparse.

A first code chosen wrongly sends all that follow astray, so the same items are encoded
twice, from the whole text and from a cut one, and compared. (The measure is ours.)
"""

from collections.abc import Sequence

import numpy as np

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.distortion import depth_fvu
from sid_jax.evals.hierarchy import agreement, fragmentation
from sid_jax.typing import Float, Int, NDArray, typed


@typed
def error_propagation(
    codes: Int[NDArray, "N L"],
    cut: Int[NDArray, "N L"],
    taxonomy: Taxonomy | None = None,
    vectors: Float[NDArray, "N D"] | None = None,
    errors: Float[NDArray, "N L"] | None = None,
    cut_errors: Float[NDArray, "N L"] | None = None,
    rows: Int[NDArray, " n"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """How far items land from where their whole text would put them.

    Args:
      codes: SID of each item from its whole text.
      cut: SID of the same items from cut texts.
      taxonomy: the category tree with the same items.
      vectors: of the whole texts.
      errors: squared distance of `vectors` and what the first l of `codes` decode to
        (`distortion.squared_errors`).
      cut_errors: the same for `cut`, still against the vectors of the *whole* texts:
        how well the SID of a cut text tells what the product is.
      rows: the items to judge; all if None.
      seed: of the items that AMI is drawn over.

    Returns:
      `prefix_match@l`: share of the items whose first l codes stay the same;
      `full/` and `cut/` before `fragmentation*` (a judged item's SID of that encoding
      beside its leaf-mates' of the whole text, since a sparse item joins a catalog
      that is otherwise described), `ami_*`, `homogeneity_*`, `completeness_*` and
      `fvu*`, as far as arguments allow.
    """
    rows = np.arange(len(codes)) if rows is None else rows
    if not len(rows):
        raise InputError("no items to judge: give at least one row")
    same = np.cumprod(codes[rows] == cut[rows], axis=1).mean(axis=0)
    metrics = {f"prefix_match@{level}": float(s) for level, s in enumerate(same, 1)}
    for name, own, error in (("full", codes, errors), ("cut", cut, cut_errors)):
        figures: dict[str, float] = {}
        if taxonomy is not None:
            figures |= fragmentation(own, taxonomy, rows, others=codes)
            figures |= agreement(own, taxonomy, rows, seed=seed)
        if vectors is not None and error is not None:
            figures |= depth_fvu(vectors[rows], error[rows])
        metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
    return metrics


def short_rows(texts: Sequence[str], words: int = 3) -> Int[NDArray, " _"]:
    """Rows of the naturally short texts: at most so many words, but at least one."""
    return np.flatnonzero([0 < len(text.split()) <= words for text in texts])
