"""Labels made wrong on purpose, and how many of them an audit finds.

Plant before anything reads the labels: vectors, tokenizer and audit then all see the
catalog that a shop would have. A new label is drawn as often as the catalog uses it.
"""

from typing import Literal

import numpy as np

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.audit import branch_table
from sid_jax.typing import Bool, Float, Int, NDArray, typed

Kind = Literal["sibling", "cousin", "far"]
KINDS: tuple[Kind, ...] = ("sibling", "cousin", "far")


def plant_flips(
    taxonomy: Taxonomy, share: float, kind: Kind, seed: int
) -> tuple[list[tuple[str, ...]], Int[NDArray, " P"]]:
    """Gives some items the label of another item.

    The top of the tree is the first depth at which labels differ (of a catalog of
    beauty products, the depth below `Beauty`). A `sibling` has the same parent, below
    the top; a `cousin` shares the top and neither is its sibling nor above or below
    it; `far` is under another top. Items that have no label of the kind, and those of
    unknown label, are never drawn.

    Args:
      taxonomy: the category tree and the right labels.
      share: flips, as a share of all N items.
      kind: how far the wrong label is.
      seed: of the draws.

    Returns:
      The N paths with the flips in them, and the rows that were flipped, ascending.

    Raises:
      InputError: a share out of range, or too few items that have such a label.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    if not 0 < share < 1:
        raise InputError(f"a share of flips is between 0 and 1, not {share}")
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(taxonomy.leaf >= 0)
    nodes, label, uses = np.unique(
        taxonomy.leaf[known], return_inverse=True, return_counts=True
    )
    allowed = _related(taxonomy, nodes, kind)
    possible = np.asarray(allowed.any(axis=1))
    eligible = known[possible[label]]
    wanted = max(1, round(share * len(taxonomy.leaf)))
    if len(eligible) < wanted:
        raise InputError(
            f"{wanted} {kind} flips are asked for, but only {len(eligible)} of "
            f"{len(taxonomy.leaf)} items have such a label beside their own; plant "
            "fewer, or another kind"
        )
    rows = np.sort(rng.choice(eligible, wanted, replace=False))
    leaf = taxonomy.leaf.copy()
    for row in rows:
        odds = allowed[np.searchsorted(nodes, leaf[row])] * uses
        leaf[row] = rng.choice(nodes, p=odds / odds.sum())
    return [taxonomy.path(int(node)) if node >= 0 else () for node in leaf], rows


@typed
def score_audit(
    confidence: Float[NDArray, " N"], planted: Int[NDArray, " P"]
) -> dict[str, float]:
    """How well a confidence (0: no suspect) finds the planted rows.

    Returns:
      `precision@k` for k = number planted (which equals recall at that k),
      `recall@2k`, and `average_precision`; ties to the lower row.
    """
    if not len(planted):
        raise InputError("no flips were planted: there is nothing to find")
    hit = np.isin(np.lexsort((np.arange(len(confidence)), -confidence)), planted)
    k = len(planted)
    ranks = np.flatnonzero(hit) + 1
    return {
        "precision@k": float(hit[:k].mean()),
        "recall@2k": float(hit[: 2 * k].sum() / k),
        "average_precision": float(np.mean(np.arange(1, len(ranks) + 1) / ranks)),
    }


def _related(taxonomy: Taxonomy, nodes: NDArray, kind: Kind) -> Bool[NDArray, "J J"]:
    """Whether label b is of this kind to label a."""
    if len(nodes) < 2:
        return np.zeros((len(nodes), len(nodes)), bool)
    top = taxonomy.max_depth + 1 - branch_table(taxonomy, nodes).shape[1]
    one, other = np.meshgrid(nodes, nodes, indexing="ij")
    common = taxonomy.common_depth(one, other)
    depth = taxonomy.depth[nodes]
    apart = common < np.minimum(depth[:, None], depth)  # neither holds the other
    if kind == "far":
        return (common < top) & apart
    parent = taxonomy.parent[nodes]
    siblings = (parent[:, None] == parent) & (one != other)
    if kind == "sibling":
        return siblings & (taxonomy.depth[parent] >= top)[:, None]
    return (common >= top) & ~siblings & apart
