"""Pictures of stability: what they draw, at the edges too."""

import io

import numpy as np
import pytest

from sid_jax.report import plots
from sid_jax.report.stability import churn_map, prefix_bars

NAN = float("nan")
FIGURES = {
    "nothing moved, nothing there": lambda: churn_map(np.zeros((3, 3), int)),
    "one code": lambda: churn_map([[7]]),
    "more new codes": lambda: churn_map(np.ones((2, 5), int), title="t"),
    "more old codes": lambda: churn_map(np.ones((5, 2), int)),
    "many codes": lambda: churn_map(np.eye(300, dtype=int)),
    "no levels": lambda: prefix_bars([], [], [0.5]),
    "undefined": lambda: prefix_bars([NAN, 0.5], [1.0, NAN], [0.9, 0.8, 0.7]),
    "no limits": lambda: prefix_bars([1.0], [1.0]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_draws_at_the_edges(name):
    buffer = io.BytesIO()
    plots.save(FIGURES[name](), buffer, "png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_codes_stand_in_one_order_with_the_largest_first():
    moves = np.array([[2, 0, 1], [0, 0, 0], [3, 0, 5]])  # code 1 has no item at all
    figure = churn_map(moves)
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), [[5 / 8, 3 / 8], [1 / 3, 2 / 3]]
    )
    assert "63.6% of items stayed" in figure.axes[0].get_title(loc="right")


def test_what_is_past_the_largest_codes_is_pooled():
    moves = np.diag(np.arange(1, 101))
    moves[0, 1] = 5  # among the smallest codes
    shares = np.asarray(churn_map(moves).axes[0].images[0].get_array())
    assert shares.shape == (65, 65)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares[64, 64] == 1  # within the pool


def test_limits_past_the_last_level_are_not_drawn():
    axes = prefix_bars([0.5, 0.4], [0.6, 0.5], [0.9, 0.8, 0.7]).axes[0]
    (lines,) = [each for each in axes.collections if each.get_label() == "limit"]
    assert [path[0, 1] for path in lines.get_segments()] == [0.9, 0.8]
