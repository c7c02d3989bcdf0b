"""Pictures of codes judged against similarity and the category tree.

A shade of one colour stands for what has an order: cosine, agreement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from sid_jax.report.plots import FAINT, INK, PALETTE, STYLE, drawable, shortened

_PANEL = (4.0, 2.6)
_SHADES = LinearSegmentedColormap.from_list("sid", ("#EAF2F9", PALETTE[0], "#08263F"))
_MOST_CELLS = 12  # rows or columns whose cells have room for a number


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure for a page.

    Attributes:
      figure: what is drawn.
      alt: the same in words, for who does not see it.
    """

    figure: Figure
    alt: str


@matplotlib.rc_context(STYLE)
def level_lines(lines: Mapping[str, ArrayLike], *, title: str, xlabel: str) -> Figure:
    """A line a series over levels 1, 2, .. L, from the lightest to the darkest.

    Args:
      lines: name -> shares from 0 to 1, a level; one that has no finite value is left
        out. Names are in the order of the shades, such as rising cosine.
      title: of the panel.
      xlabel: what the levels are.
    """
    figure = Figure(_PANEL, layout="constrained")
    axes = figure.add_subplot(
        title=shortened(drawable(title), 38), xlabel=drawable(xlabel)
    )
    kept = {}
    for name, values in lines.items():
        heights = np.asarray(values, float).ravel()
        if np.isfinite(heights).any():
            kept[name] = np.where(np.isfinite(heights), heights, np.nan)
    shades = np.linspace(0.2, 1.0, max(len(kept), 2))
    # The darkest last, so that it lies on top and stands first in the legend.
    for shade, (name, heights) in zip(shades, kept.items(), strict=False):
        axes.plot(
            np.arange(1, len(heights) + 1),
            heights,
            color=_SHADES(shade),
            linewidth=1.8,
            marker="o" if len(heights) <= 24 else "",
            markersize=3.5,
            label=f" {shortened(drawable(name), 22)}",
        )
    if not kept:
        _say_empty(axes)
        return figure
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right center", handlelength=1.4
    )
    axes.set_ylim(-0.03, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


@matplotlib.rc_context(STYLE)
def heat_map(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """A table as shades, from 0 to 1, with its numbers where they have room.

    Args:
      values: one a cell [rows, columns]; what is not finite stays white, with a dash.
      rows: names, from the top.
      columns: names, from the left.
      title: of the panel.
      xlabel: what the columns are.
      ylabel: what the rows are.
    """
    cells = np.asarray(values, float).reshape(len(rows), len(columns))
    figure = Figure(_PANEL, layout="constrained")
    axes = figure.add_subplot(
        title=shortened(drawable(title), 38),
        xlabel=drawable(xlabel),
        ylabel=drawable(ylabel),
    )
    if not cells.size:
        _say_empty(axes)
        return figure
    shown = np.ma.masked_invalid(cells)
    axes.imshow(shown, cmap=_SHADES, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [drawable(name) for name in columns])
    axes.set_yticks(range(len(rows)), [drawable(name) for name in rows])
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if max(cells.shape) <= _MOST_CELLS:
        for (row, column), value in np.ndenumerate(cells):
            finite = np.isfinite(value)
            axes.text(
                column,
                row,
                f"{value:.2f}" if finite else "-",
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if finite and value > 0.33 else INK,
            )
    return figure


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A panel of bars in groups.

    Attributes:
      title: of the panel.
      xlabel: what the groups are.
      groups: their names.
      counts: what each group counts, written below its name.
      series: name -> a value of at least 0 a group; NaN draws no bar.
    """

    title: str
    xlabel: str
    groups: Sequence[str]
    counts: Sequence[int]
    series: Mapping[str, ArrayLike]


@matplotlib.rc_context(STYLE)
def bars(panels: Sequence[Bars]) -> Figure:
    """Panels of bars, one below the other; names that are long stand slanted."""
    width = max([1.7 * _PANEL[0], *(0.62 * len(each.groups) for each in panels)])
    figure = Figure((width, _PANEL[1] * max(len(panels), 1)), layout="constrained")
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(
            len(panels),
            1,
            place + 1,
            title=drawable(panel.title),
            xlabel=drawable(panel.xlabel),
        )
        if not len(panel.groups) or not panel.series:
            _say_empty(axes)
            continue
        centres = np.arange(len(panel.groups))
        step = 0.8 / max(len(panel.series), 1)
        for number, (name, values) in enumerate(panel.series.items()):
            axes.bar(
                centres + (number + 0.5) * step - 0.4,
                np.asarray(values, float),
                0.92 * step,
                color=PALETTE[number % len(PALETTE)],
                label=f" {shortened(drawable(name), 30)}",
            )
        names = [
            f"{shortened(drawable(name), 22)}\n{count:,}"
            for name, count in zip(panel.groups, panel.counts, strict=True)
        ]
        slanted = max(len(name) for name in panel.groups) > 9
        axes.set_xticks(
            centres,
            names,
            rotation=25 if slanted else 0,
            ha="right" if slanted else "center",
        )
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")
        axes.set_ylim(bottom=0)
        # Beside the title, where no bar reaches.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def _say_empty(axes: Axes) -> None:
    axes.text(
        0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color=FAINT
    )
    axes.set_xticks([])
    axes.set_yticks([])
