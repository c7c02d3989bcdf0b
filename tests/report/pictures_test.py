"""Pictures draw for any data, and show the numbers that they were given."""

import io

import numpy as np
import pytest

from sid_jax.report import plots
from sid_jax.report.pictures import Bars, bars, heat_map, level_lines

NAN = float("nan")
HOSTILE = "$a_b^{ \\frac 日本 \x00\n ‮ %s"


def make_bars(groups, series):
    return Bars(
        title=HOSTILE,
        xlabel=HOSTILE,
        groups=groups,
        counts=[10**6] * len(groups),
        series=series,
    )


FIGURES = {
    "no lines": lambda: level_lines({}, title="t", xlabel="x"),
    "undefined lines": lambda: level_lines({"a": [NAN, NAN]}, title="t", xlabel="x"),
    "one level": lambda: level_lines({"a": [1.0], "b": [NAN]}, title="t", xlabel="x"),
    "many lines": lambda: level_lines(
        {f"{HOSTILE}{n}": np.linspace(1, 0, 30) for n in range(9)},
        title=HOSTILE,
        xlabel=HOSTILE,
    ),
    "no panels": lambda: bars([]),
    "odd panels": lambda: bars(
        [
            make_bars([], {}),
            make_bars(["a"], {}),
            make_bars([HOSTILE] * 30, {HOSTILE: np.ones(30), "b": [NAN] * 30}),
        ]
    ),
    "no cells": lambda: heat_map([], [], [], title="t"),
    "one undefined cell": lambda: heat_map([[NAN]], ["r"], ["c"], title="t"),
    "many cells": lambda: heat_map(
        np.linspace(-1, 2, 17 * 40).reshape(17, 40), [HOSTILE] * 17, [""] * 40, title=""
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_draws_at_the_edges(name):
    buffer = io.BytesIO()
    plots.save(FIGURES[name](), buffer, "png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_cells_hold_their_numbers():
    cells = np.asarray([[0.25, NAN, 1], [0, 0.5, -0.125]])
    figure = heat_map(cells, ["1", "2"], list("abc"), title="t")
    found = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    shown = [["0.25", "-", "1.00"], ["0.00", "0.50", "-0.12"]]
    assert found == {(c, r): shown[r][c] for r in (0, 1) for c in (0, 1, 2)}


def test_lines_darken_in_their_order_and_keep_their_gaps():
    figure = level_lines(
        {"low": [0.5, NAN, 0.1], "none": [NAN] * 3, "high": [1, 1, 0.9]},
        title="t",
        xlabel="x",
    )
    low, high = figure.axes[0].get_lines()
    np.testing.assert_array_equal(low.get_ydata(), [0.5, NAN, 0.1])
    assert sum(plots.matplotlib.colors.to_rgb(high.get_color())) < sum(
        plots.matplotlib.colors.to_rgb(low.get_color())
    )
    (legend,) = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["high", "low"]


def test_bars_stand_for_their_values_and_name_their_groups():
    panel = make_bars(["one", "two"], {"x": [0.5, NAN], "y": [0.25, 1.0]})
    (axes,) = bars([panel]).axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_array_equal(heights, [0.5, NAN, 0.25, 1.0])
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["one\n1,000,000", "two\n1,000,000"]
    assert [t.get_text().strip() for t in axes.get_legend().get_texts()] == ["x", "y"]
