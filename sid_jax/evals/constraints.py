"""What the first code says of an attribute, and what a mask over first codes costs.

    H(a)          - sum_v p(v) ln p(v)
    H(a | c_1)    sum_k p(k) H(a among the items of first code k)
    violation     of the items under the codes that a value's mask allows, the share
                  that do not have the value; all values pooled
    missed        of the items that have a value, the share under no code that its mask
                  allows; all values pooled

Unknown is a value of its own for the entropies, and satisfies no predicate.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Bool, Int, NDArray, typed


@typed
def constraint_metrics(
    codes: Int[NDArray, "N L"],
    values: Sequence[str | None],
    masks: Mapping[str, Bool[NDArray, " K"]] | None = None,
) -> dict[str, float]:
    """How far the first code decides an attribute.

    Args:
      codes: SID of each item.
      values: the attribute of each item, None where unknown, as `Cells.labels` has it.
      masks: of each value the first codes that its predicate allows, as `Cells.masks`.
        If None, those of the items that have it: the narrowest mask that misses none,
        and so the fewest violations that codes without cells can have.

    Returns:
      `entropy` H(a) and `conditional_entropy` H(a | c_1), in nats; `pure_codes`, share
      of the used first codes all of whose items have one value; `violation_rate` and
      `missed`, NaN where the masks allow no item, or no item has a value.

    Raises:
      InputError: as many values as codes are not given, or a mask is too short.
    """
    if len(values) != len(codes) or not len(codes):
        raise InputError(f"{len(values)} attribute values for {len(codes)} SIDs")
    names = sorted({value for value in values if value is not None})
    place = {name: at for at, name in enumerate(names)} | {None: len(names)}
    first = codes[:, 0]
    held = np.asarray([place[value] for value in values])
    shape = (int(first.max()) + 1, len(place))
    cells = np.bincount(first * shape[1] + held, minlength=shape[0] * shape[1])
    table = cells.reshape(shape).astype(np.float64)
    used = table[table.sum(axis=1) > 0]
    shares = used.sum(axis=1) / len(codes)
    if masks is None:
        masks = {name: table[:, place[name]] > 0 for name in names}
    allowed = satisfied = wanted = 0.0
    for name in {*names, *masks}:
        mask = masks.get(name, np.zeros(len(table), bool))[: len(table)]
        if len(mask) < len(table):
            raise InputError(
                f"the mask of {name!r} has {len(mask)} first codes, but the items have"
                f" codes up to {len(table) - 1}"
            )
        having = table[:, place[name]] if name in place else np.zeros(len(table))
        allowed += table[mask].sum()
        satisfied += having[mask].sum()
        wanted += having.sum()
    return {
        "entropy": _entropy(table.sum(axis=0)),
        "conditional_entropy": float(shares @ [_entropy(row) for row in used]),
        "pure_codes": float(np.mean(used.max(axis=1) == used.sum(axis=1))),
        "violation_rate": float(1 - satisfied / allowed) if allowed else float("nan"),
        "missed": float(1 - satisfied / wanted) if wanted else float("nan"),
    }


def _entropy(counts: NDArray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log(share)))
