"""What it means to share a prefix: substitutes and complements among neighbours. [ours]

An anchor i is an item, its neighbour j drawn uniformly from the other items with the
same first l codes. Over all anchors that have one, in exact expectation:

    same_leaf@l   share of neighbours in the anchor's taxonomy leaf: substitutes
    lift@l        E[trips with i and j] / E[n_i n_j / n], n_i of the n trips holding i:
                  how much more often they are bought together than by chance
    lift_across@l the same over neighbours of another leaf: complements

A trip is a basket; where no basket holds two items (sequences), all that a user had.
"""

import numpy as np

from sid_jax.data.catalog import Interactions
from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray, typed


@typed
def neighbour_metrics(
    codes: Int[NDArray, "N L"],
    leaf: Int[NDArray, " N"],
    data: Interactions | None = None,
) -> dict[str, float]:
    """Substitutes and complements among prefix neighbours, by depth.

    Sums run over trips and prefixes, never over pairs, so it is exact and takes time in
    proportion to the interactions.

    Args:
      codes: SID of each item.
      leaf: taxonomy node of each item, -1 where it is unknown; such an item is left out
        of `same_leaf` and `lift_across`, as anchor and as neighbour.
      data: what was bought together; items are rows of `codes`. None: no lifts.

    Returns:
      `anchors@l` (share of the items that have a neighbour), `same_leaf@l`, `lift@l`,
      `lift_across@l` for l = 0 (any two items) to L. NaN: undefined.

    Raises:
      InputError: `data` has items that `codes` lacks.
    """
    count, levels = codes.shape
    known = leaf >= 0
    if data is not None:
        trip, item, trips = _trips(data)
        if len(item) and item.max() >= count:
            raise InputError(
                f"interactions hold item row {item.max()}, but codes has {count} rows; "
                "are both of one catalog?"
            )
    metrics: dict[str, float] = {}
    group = np.zeros(count, np.int64)
    for level in range(levels + 1):
        if level:
            group = _join(group, codes[:, level - 1])
        everyone = _Pairs(group)
        labelled = _Pairs(np.where(known, group, -1))
        alike = np.where(known, _join(group, leaf), -1)
        metrics[f"anchors@{level}"] = everyone.anchors / max(count, 1)
        same = labelled.weight[group] * (_sizes(alike)[alike] - 1) * known
        metrics[f"same_leaf@{level}"] = _divide(same.sum(), labelled.anchors)
        if data is None:
            continue
        bought = np.bincount(item, minlength=count)
        both, chance = everyone.sums(group, trip, item, bought, trips)
        metrics[f"lift@{level}"] = _divide(both, chance)
        whole = labelled.sums(labelled.group, trip, item, bought, trips)
        inner = labelled.sums(alike, trip, item, bought, trips)
        metrics[f"lift_across@{level}"] = _divide(
            whole[0] - inner[0], whole[1] - inner[1]
        )
    return metrics


class _Pairs:
    """Ordered pairs of items of a group, each weighted 1 / (size of the group - 1)."""

    def __init__(self, group: NDArray):
        self.group = group  # -1: left out
        sizes = _sizes(group)
        self.anchors = float(sizes[sizes > 1].sum())
        self.weight: Float[NDArray, " groups"] = np.where(
            sizes > 1, 1 / np.maximum(sizes - 1, 1), 0.0
        )

    def sums(
        self, part: NDArray, trip: NDArray, item: NDArray, bought: NDArray, trips: int
    ) -> tuple[float, float]:
        """Weighted trips with both of a pair, and those expected by chance.

        `part` refines the groups: pairs are those within a part (-1: none), their
        weights those of the whole group.
        """
        used = part >= 0
        weight = np.zeros(part.max(initial=-1) + 1)
        weight[part[used]] = self.weight[self.group[used]]
        # In a trip that holds m items of a part, m^2 - m ordered pairs were bought.
        rows = used[item]
        cells = _join(trip[rows], part[item[rows]])
        held = np.bincount(cells).astype(float)
        of_part = np.zeros(len(held), np.int64)
        of_part[cells] = part[item[rows]]
        both = float((weight[of_part] * (held**2 - held)).sum()) if len(held) else 0.0
        n = bought[used].astype(float)
        total = np.bincount(part[used], n, minlength=len(weight))
        square = np.bincount(part[used], n**2, minlength=len(weight))
        chance = float((weight * (total**2 - square)).sum()) / max(trips, 1)
        return both, chance


def _trips(data: Interactions) -> tuple[NDArray, NDArray, int]:
    """(trip, item) of each distinct purchase, and the number of trips."""
    sizes = np.diff(data.offsets)
    basket = np.repeat(np.arange(len(data)), sizes)
    single = not (sizes > 1).any()
    trip = data.user[basket] if single else basket
    trips = len(data.users) if single else len(data)
    pairs = np.unique(np.stack([trip, data.items], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1], trips


def _join(first: NDArray, second: NDArray) -> NDArray:
    """Numbers from 0 of the distinct pairs."""
    if not len(first):
        return np.zeros(0, np.int64)
    pairs = np.stack([first, second], axis=1).astype(np.int64)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def _sizes(group: NDArray) -> NDArray:
    # No group's number is above the number of items; those left out have room too.
    return np.bincount(group[group >= 0], minlength=len(group))


def _divide(above: float, below: float) -> float:
    return float(above / below) if below > 0 else float("nan")
