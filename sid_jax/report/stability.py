"""Pictures of two versions of SIDs: where the items of a code went, what stayed."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from sid_jax.report.plots import FAINT, PALETTE, STYLE

_MOST = 64  # codes drawn one by one: more would be narrower than a stroke
_SHADES = LinearSegmentedColormap.from_list("share", ["#FFFFFF", PALETTE[0], "#002A44"])


@matplotlib.rc_context(STYLE)
def churn_map(moves: ArrayLike, *, title: str = "") -> Figure:
    """Where the items of each old code are now; the diagonal has stayed.

    Codes stand in one order on both sides, those of most old items first; past 64 of
    them the rest is one row and one column. A row's shares add up to 1.

    Args:
      moves: items by old code (row) and new code (column) [K, J], the new ones under
        aligned names.
      title: of the picture.
    """
    shares, stayed, pooled = _order(np.asarray(moves, np.int64))
    figure = Figure((5.4, 4.9), layout="constrained")
    axes = figure.add_subplot(
        title=title, xlabel="new code, renamed", ylabel="old code, most items first"
    )
    axes.set_title(
        f"{stayed:.1%} of items stayed",
        loc="right",
        fontsize=8.5,
        fontweight="normal",
        color=FAINT,
    )
    if not len(shares):
        axes.text(0.5, 0.5, "nothing to draw", ha="center", color=FAINT)
        return figure
    image = axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1, aspect="equal")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1.0))
    bar.set_label("of the old code's items")
    bar.outline.set_visible(False)  # pyright: ignore
    axes.grid(False)
    if pooled:
        last = len(shares) - 1
        axes.axhline(last - 0.5, color=FAINT, linewidth=0.6)
        axes.axvline(last - 0.5, color=FAINT, linewidth=0.6)
        ticks = [*range(0, last, 16), last]
        names = [*(str(tick + 1) for tick in ticks[:-1]), f"+{pooled}"]
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(8, integer=True))
            axis.set_major_formatter(lambda value, _: f"{round(value) + 1}")
    return figure


@matplotlib.rc_context(STYLE)
def prefix_bars(
    before: ArrayLike, after: ArrayLike, limits: Sequence[float] = ()
) -> Figure:
    """Prefix match by level, as the codes are and aligned, and the limits.

    Args:
      before: share of items a level [L].
      after: the same after alignment [L].
      limits: least shares, from the first level; past L they are not drawn.
    """
    figure = Figure((5.4, 3.2), layout="constrained")
    axes = figure.add_subplot(
        title="Prefix match", xlabel="first levels that are the same", ylabel="items"
    )
    pairs = (np.asarray(before, float), np.asarray(after, float))
    levels = np.arange(1, len(pairs[0]) + 1)
    names = ("as they are", "aligned")
    for place, (heights, name) in enumerate(zip(pairs, names, strict=True)):
        x = levels + (place - 0.5) * 0.36
        shown = np.nan_to_num(heights)
        axes.bar(x, shown, width=0.34, color=PALETTE[4 * (1 - place)], label=name)
        for left, height, drawn in zip(x, heights, shown, strict=True):
            axes.annotate(
                f"{height:.2f}" if np.isfinite(height) else "-",
                (left, drawn),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0},
            )
    if len(limits) and len(levels):
        lines = list(limits)[: len(levels)]
        x = levels[: len(lines)]
        axes.hlines(
            lines, x - 0.42, x + 0.42, color=PALETTE[5], linestyle="--", label="limit"
        )
    axes.set_xticks(levels)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _order(moves: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Row shares with both sides in one order, share that stayed, codes pooled."""
    size = max(moves.shape)
    square = np.zeros((size, size), np.int64)
    square[: moves.shape[0], : moves.shape[1]] = moves
    stayed = np.trace(square) / max(square.sum(), 1)
    # Codes without any item have nothing to show.
    order = np.lexsort([-square.sum(0), -square.sum(1)])
    order = order[(square.sum(0) + square.sum(1))[order] > 0]
    square = square[np.ix_(order, order)]
    pooled = max(len(square) - _MOST, 0)
    if pooled:
        ends = [*range(_MOST), _MOST]
        square = np.add.reduceat(np.add.reduceat(square, ends, 0), ends, 1)
    return square / np.maximum(square.sum(1, keepdims=True), 1), float(stayed), pooled
