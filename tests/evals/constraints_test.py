import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import CellConfig, Cells
from sid_jax.errors import InputError
from sid_jax.evals.constraints import constraint_metrics

pairs = st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", None]))


def _entropy(counts):
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts)


def _codes(first):
    return np.stack([first, np.zeros(len(first), int)], axis=1)


@settings(deadline=None, max_examples=60)
@given(st.lists(pairs, min_size=1, max_size=30), st.booleans(), st.data())
def test_figures_equal_the_loop(items, has_masks, data):
    first, values = map(list, zip(*items, strict=True))
    names = sorted({value for value in values if value is not None})
    some = st.lists(st.booleans(), min_size=5, max_size=5)
    masks = {
        name: np.asarray(data.draw(some))
        if has_masks
        else np.asarray([(code, name) in items for code in range(5)])
        for name in names
    }
    metrics = constraint_metrics(_codes(first), values, masks if has_masks else None)
    groups = [Counter(v for c, v in items if c == code) for code in sorted(set(first))]
    allowed = [(v, n) for n in names for c, v in items if masks[n][c]]
    missed = [not masks[v][c] for c, v in items if v is not None]
    assert metrics == pytest.approx(
        {
            "entropy": _entropy(Counter(values).values()),
            "conditional_entropy": sum(
                group.total() / len(items) * _entropy(group.values())
                for group in groups
            ),
            "pure_codes": np.mean([len(group) == 1 for group in groups]),
            "violation_rate": np.mean([v != n for v, n in allowed])
            if allowed
            else math.nan,
            "missed": np.mean(missed) if missed else math.nan,
        },
        nan_ok=True,
    )
    if not has_masks and names:
        assert metrics["missed"] == 0


def test_cells_have_no_violations_and_other_codes_have_some():
    rng = np.random.default_rng(0)
    values = rng.choice(["a", "b"], 300).tolist()
    catalog = Catalog.from_columns(list(map(str, range(300))), attributes={"x": values})
    cells = Cells.fit(CellConfig(columns=("x",)), catalog, 8)
    first = np.cumsum(cells.sizes)[cells.of(catalog)] - 1
    inside = constraint_metrics(
        _codes(first), cells.labels(catalog)["x"], cells.masks("x")
    )
    assert inside["entropy"] == pytest.approx(math.log(2), abs=0.01)
    zeros = ("conditional_entropy", "violation_rate", "missed")
    assert [inside[name] for name in zeros] == pytest.approx([0, 0, 0])
    assert inside["pure_codes"] == 1
    anywhere = constraint_metrics(_codes(rng.integers(8, size=300)), values)
    assert anywhere["violation_rate"] == pytest.approx(0.5, abs=0.05)
    assert anywhere["conditional_entropy"] > 0.9 * anywhere["entropy"]
    assert (anywhere["pure_codes"], anywhere["missed"]) == (0, 0)


def test_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="1 attribute values for 2 SIDs"):
        constraint_metrics(_codes([0, 1]), ["a"])
    with pytest.raises(InputError, match="mask of 'a' has 1 first codes"):
        constraint_metrics(_codes([0, 1]), ["a", "b"], {"a": np.ones(1, bool)})
