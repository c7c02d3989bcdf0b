"""Every picture of a report: pure functions from plain data to a Matplotlib figure.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart. Figures are
made with the object interface, so no global state of `pyplot` is read or left behind,
and saved without dates, so that equal data give equal bytes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import LevelUse

PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
OTHER = "#9AA0A6"
INK, FAINT = "#1F2328", "#656D76"

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.facecolor": "white",
    "axes.edgecolor": "#C4C9CF",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": FAINT,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same everywhere
    "font.size": 9,
    "grid.color": "#E7EAED",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.bbox": None,
    "savefig.dpi": "figure",
    "svg.fonttype": "path",
    "svg.hashsalt": "sid_jax",
    "text.color": INK,
    "text.parse_math": False,  # a price such as $5 is no formula
    "text.usetex": False,
    "xtick.color": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.color": FAINT,
    "ytick.labelsize": 8.5,
}
_PANEL = (4.0, 2.6)
_MOST_NAMED = 8  # series in a legend
_COLUMNS = 1600  # pixels across an icicle


def save(figure: Figure, file: Any, form: str) -> None:
    """Writes a figure as `svg` or `png`, without a date."""
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=form, metadata=metadata)


def data_uri(figure: Figure, form: str = "svg") -> str:
    """A figure as a `data:` address, to stand in an `<img>` of a page."""
    buffer = io.BytesIO()
    save(figure, buffer, form)
    kind = {"svg": "image/svg+xml", "png": "image/png"}[form]
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def drawable(text: str) -> str:
    """One line of characters that the font has; others become a white square."""
    known = _glyphs()
    return "".join(
        letter if ord(letter) in known and letter.isprintable() else "\N{WHITE SQUARE}"
        for letter in " ".join(str(text).split())
    )


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis if any was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def ranked_labels(labels: Sequence[str]) -> list[str]:
    """The distinct labels, most common first, ties in alphabetical order.

    The first `len(PALETTE)` have a colour of their own, all others share `OTHER`.
    """
    names, counts = np.unique(np.asarray(labels, dtype=object), return_counts=True)
    return [str(names[place]) for place in np.argsort(-counts, kind="stable")]


@matplotlib.rc_context(STYLE)
def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], *, title: str = ""
) -> Figure:
    """Lines over training steps; gaps where a value is not finite.

    Args:
      series: name -> (steps, values), both of one length.
      title: of the panel.
    """
    figure = Figure(_PANEL, layout="constrained")
    axes = figure.add_subplot(title=_title(title), xlabel="step")
    lines, names = [], []
    for place, (name, (steps, values)) in enumerate(series.items()):
        x, y = np.asarray(steps, float).ravel(), np.asarray(values, float).ravel()
        if x.shape != y.shape:
            raise InputError(
                f"curve {name!r} of panel {title!r}: {len(x)} steps but {len(y)} "
                "values; give one step for each value"
            )
        kept = np.isfinite(x)
        x, y = x[kept], np.where(np.isfinite(y[kept]), y[kept], np.nan)
        if not np.isfinite(y).any():
            continue
        last = y[np.isfinite(y)][-1]
        (line,) = axes.plot(
            x,
            y,
            color=PALETTE[place % 6],
            linestyle=("-", "--", ":", "-.")[place // 6 % 4],
            linewidth=1.8,
            marker="o" if len(x) <= 24 else "",
            markersize=3.5,
        )
        lines.append(line)
        names.append(f" {shortened(drawable(name), 28)}  {last:.4g}")
    if lines:
        if len(names) > _MOST_NAMED:
            names[_MOST_NAMED - 1 :] = [f" and {len(names) - _MOST_NAMED + 1} more"]
        legend = axes.legend(lines[: len(names)], names, loc="best", handlelength=1.6)
        legend.set_in_layout(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.margins(y=0.12)
    else:
        _say_empty(axes)
    return figure


@matplotlib.rc_context(STYLE)
def codebook_usage(counts: ArrayLike, *, title: str = "") -> Figure:
    """One level's codes by number of items, most used first.

    The dashed line is where all bars would end if the codes were used evenly.

    Args:
      counts: items of each code [K].
      title: of the panel.
    """
    use = LevelUse(np.asarray(counts, np.int64).ravel())
    size, used = len(use.counts), int(np.count_nonzero(use.counts))
    figure = Figure(_PANEL, layout="constrained")
    axes = figure.add_subplot(
        title=_title(title), xlabel="codes, most used first", ylabel="items"
    )
    if not used:
        _say_empty(axes)
        return figure
    axes.set_title(
        f"{used:,} of {size:,} used · perplexity {use.perplexity:,.1f}",
        loc="right",
        fontsize=8.5,
        fontweight="normal",
        color=FAINT,
    )
    axes.stairs(np.sort(use.counts)[::-1], fill=True, color=PALETTE[0])
    even = use.counts.sum() / size
    axes.axhline(even, color=PALETTE[5], linestyle="--", linewidth=1.2)
    axes.annotate(
        f"even use: {even:,.0f}" if even >= 10 else f"even use: {even:.2g}",
        (1, even),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        color=PALETTE[5],
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
    )
    axes.set_xlim(0, size)
    axes.set_ylim(0)
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


@matplotlib.rc_context(STYLE)
def level_bars(values: ArrayLike, *, title: str, xlabel: str, first: int = 1) -> Figure:
    """One bar a level, its value written above it; a dash where it is not finite.

    Args:
      values: between -1 and 1, such as shares or cosines.
      title: of the panel.
      xlabel: what the levels are.
      first: number of the first level.
    """
    heights = np.asarray(values, float).ravel()
    figure = Figure(_PANEL, layout="constrained")
    axes = figure.add_subplot(title=_title(title), xlabel=drawable(xlabel))
    if not len(heights):
        _say_empty(axes)
        return figure
    finite = np.where(np.isfinite(heights), heights, 0.0)
    levels = np.arange(first, first + len(heights))
    axes.bar(levels, finite, width=0.62, color=PALETTE[0])
    for level, height, shown in zip(levels, heights, finite, strict=True):
        axes.annotate(
            f"{height:.2f}" if np.isfinite(height) else "-",
            (level, max(shown, 0.0)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xticks(levels)
    axes.set_xlim(levels[0] - 0.7, levels[-1] + 0.7)
    axes.set_ylim(min(0.0, finite.min() * 1.1), max(1.0, finite.max()) * 1.08)
    return figure


@matplotlib.rc_context(STYLE)
def icicle(
    codes: ArrayLike,
    labels: Sequence[str],
    *,
    num_levels: int = 2,
    title: str = "",
    legend: bool = True,
) -> Figure:
    """The first levels of the SID tree, each code as wide as it has items.

    A code has the colour of its items' most common label, the paler the smaller that
    label's share; the lowest row is the items themselves, in their own colours.

    Args:
      codes: SIDs of the items [N, L].
      labels: label of each item, such as its top category.
      num_levels: levels drawn, at most L.
      title: of the picture.
      legend: whether labels and their shares stand below.
    """
    codes = np.asarray(codes)
    num_levels = min(num_levels, codes.shape[1])
    ranked = ranked_labels(labels)
    figure = Figure(
        (11, 0.6 + 0.9 * legend + 0.85 * (num_levels + 1)), layout="constrained"
    )
    axes = figure.add_subplot(title=drawable(title))
    if not len(codes):
        _say_empty(axes)
        return figure
    rank = {label: min(place, len(PALETTE)) for place, label in enumerate(ranked)}
    colour = np.array([rank[label] for label in labels])
    rows, order = _icicle_rows(codes[:, :num_levels], colour)
    shades = np.array([_rgb(shade) for shade in (*PALETTE, OTHER)])
    count = len(codes)
    pixel = np.minimum((np.arange(_COLUMNS) + 0.5) / _COLUMNS * count, count - 1)
    pixel = order[pixel.astype(np.int64)]
    for place, (node, majority, share) in enumerate([*rows, (None, colour, None)]):
        paint = shades[majority[pixel]]
        if share is not None:
            paint = 1 - (1 - paint) * share[pixel, None]
        extent = (0.0, 1.0, place + 0.94, float(place))
        axes.imshow(paint[None], extent=extent, aspect="auto", interpolation="nearest")
        if node is not None:
            ends = np.flatnonzero(np.diff(node[order])) + 1
            ends = np.concatenate([[0], ends, [count]]) / count
            # Between narrow codes, borders would be all that is seen.
            wide = np.diff(ends) > 5 / _COLUMNS
            edges = ends[1:-1][wide[1:] & wide[:-1]]
            axes.vlines(edges, place, place + 0.94, color="white", linewidth=0.7)
    names = [f"level {level + 1}" for level in range(num_levels)] + ["items"]
    axes.set_yticks(np.arange(len(names)) + 0.47, names)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names), 0)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if legend:
        shares = np.bincount(colour, minlength=len(shades)) / count
        _legend(figure, ranked, shares)
    return figure


def _icicle_rows(codes: np.ndarray, colour: np.ndarray) -> tuple[list, np.ndarray]:
    """(node, majority colour, its share) by item, a level; and the drawing order.

    Codes are ordered by colour, then by size, so that equal colours lie together.
    """
    count, num_colours = len(codes), int(colour.max()) + 1
    rows, keys = [], []
    node = np.zeros(count, np.int64)
    for column in codes.T:
        _, node = np.unique(np.stack([node, column], 1), axis=0, return_inverse=True)
        node = node.ravel()
        cells = (int(node.max()) + 1) * num_colours
        table = np.bincount(node * num_colours + colour, minlength=cells)
        table = table.reshape(-1, num_colours)
        majority, size = table.argmax(1), table.sum(1)
        share = table.max(1) / size
        rows.append((node, majority[node], share[node]))
        keys += [majority[node], -size[node], node]
    return rows, np.lexsort([colour, *keys[::-1]])


def _legend(figure: Figure, ranked: list[str], shares: np.ndarray) -> None:
    names = [shortened(drawable(name), 26) for name in ranked[: len(PALETTE)]]
    if len(ranked) > len(PALETTE):
        names.append(f"{len(ranked) - len(PALETTE)} others")
    handles = [
        Patch(color=shade, label=f" {name or 'no label'}  {share:.0%}")
        for name, shade, share in zip(names, (*PALETTE, OTHER), shares, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1)


def _title(text: str) -> str:
    return shortened(drawable(text), 38)


def _say_empty(axes: Axes) -> None:
    axes.text(
        0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color=FAINT
    )
    axes.set_xticks([])
    axes.set_yticks([])


def _thousands(value: float, _place: int | None = None) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _rgb(shade: str) -> tuple[float, ...]:
    return tuple(int(shade[place : place + 2], 16) / 255 for place in (1, 3, 5))


@cache
def _glyphs() -> frozenset[int]:
    """Characters of the regular and the bold face."""
    faces = [
        get_font(findfont(FontProperties(family="DejaVu Sans", weight=weight)))
        for weight in ("normal", "bold")
    ]
    return frozenset.intersection(*(frozenset(face.get_charmap()) for face in faces))
