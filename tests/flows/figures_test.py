"""Figures in groups: all of them, each once, in whatever selection is known."""

import numpy as np

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.evals.intrinsic import intrinsic_metrics, judge_subsets
from sid_jax.flows.figures import format_figures, make_pictures, make_tables
from sid_jax.sids.table import Manifest, SidTable

SIZES = (3, 4)


def _made(count=60):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=count) for size in SIZES], axis=1)
    given = {
        "vectors": rng.normal(size=(count, 4)),
        "errors": rng.random((count, 2)),
        "purchases": rng.random(count),
        "taxonomy": Taxonomy.from_paths([[f"a/{a}", f"b{b}"] for a, b in codes]),
    }
    ids = [str(row) for row in range(count)]
    table = SidTable.build(ids, codes, None, Manifest(codebook_sizes=SIZES))
    return table, codes, given


def _cells(tables):
    return [v for t in tables for row in t.rows.values() for v in row.values()]


def test_every_figure_stands_in_one_table():
    table, codes, given = _made()
    values = intrinsic_metrics(codes, SIZES, **given) | {"invented": 12345.5}
    # Told apart by value: each figure gets one of its own.
    values = {name: 1000.5 + place for place, name in enumerate(values)}
    counts = {"anchors", "alike_pairs", "ami_items"}  # in headings
    met = [v for v in _cells(make_tables(table, values)) if v is not None]
    met = sorted(v for v in met if v not in SIZES)
    whole = {"items", "largest_group"}
    expected = [int(v) if k in whole else v for k, v in values.items()]
    kept = zip(values, expected, strict=True)
    assert met == sorted(v for k, v in kept if k not in counts)
    text = format_figures(table, values)
    assert "More" in text and f"{values['invented']:,.1f}" in text


def test_a_run_of_fewer_figures_is_shown_too():
    table, codes, given = _made()
    few = {"usage@1": 0.5, "unique": 0.25}
    titles = [each.title for each in make_tables(table, few)]
    assert titles == ["Codebooks", "Codes"]
    assert make_pictures(few, 2) == []
    plain = intrinsic_metrics(codes, SIZES)
    assert "Fragmentation" not in format_figures(table, plain)
    assert len(make_pictures(intrinsic_metrics(codes, SIZES, **given), 2)) == 4


def test_subsets_stand_in_rows():
    table, codes, given = _made()
    rows = {"train": np.arange(40), "heldout": np.arange(40, 60)}
    values = intrinsic_metrics(codes, SIZES, **given)
    values |= judge_subsets(codes, SIZES, rows, **given)
    (subsets,) = (t for t in make_tables(table, values) if t.title == "Subsets")
    assert list(subsets.rows) == ["train", "heldout"]
    assert subsets.rows["heldout"]["items"] == 20
    assert subsets.rows["heldout"]["fvu"] == values["heldout/fvu"]
    text = format_figures(table, values)
    assert "a/1" in text and "More" not in text
