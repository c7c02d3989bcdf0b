"""The whole idea in one picture: a branch of the SID tree, and a list made from it."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path

from sid_jax.errors import InputError
from sid_jax.report.plots import FAINT, INK, STYLE, drawable

# A tint and an ink a level: deep enough to tell apart, readable at small sizes.
_LEVELS = (
    ("#D6E8F5", "#00476F"),
    ("#FCE9C4", "#6B4700"),
    ("#CFEDE2", "#00553D"),
    ("#F3DDE9", "#76305A"),
    ("#FBDCC9", "#7A3500"),
    ("#E3E6E9", "#3B4046"),
)
_LINE, _CARD, _GREEN = "#C4C9CF", "#F6F8FA", "#00734F"
_WIDTH, _HEIGHT = 1600, 900
_MOST_ROWS = {"branch": 14, "history": 6, "retrieved": 7}


class Product(NamedTuple):
    """A product as a page or a picture shows it.

    Attributes:
      sid: its Semantic ID, written `35_7_120_184`; empty if it has none.
      title: what it is called.
      category: where it stands in the taxonomy, in words.
      score: log-probability under which it was retrieved.
      hit: it was held out, and the list holds it.
      owned: the household had bought it before.
      note: anything else to say, such as "not sold at this store".
    """

    sid: str
    title: str
    category: str = ""
    score: float | None = None
    hit: bool = False
    owned: bool = False
    note: str = ""


@matplotlib.rc_context(STYLE)
def story(
    branch: Sequence[Product],
    history: Sequence[Product],
    retrieved: Sequence[Product],
    *,
    title: str = "From a product catalog to retrieved products",
    subtitle: str = "",
    shopper: str = "A household",
    retailer: str = "this store",
) -> Figure:
    """The picture of the README, 1600 x 900 pixels.

    Args:
      branch: products under a shared prefix, at most 14 drawn, sorted by SID here.
      history: what the shopper bought, what tells most last; the last 6 are drawn.
      retrieved: the answer, best first; the first 7 are drawn.
      title: on top.
      subtitle: below it; say here what data this is.
      shopper: who, such as "Household 718".
      retailer: where, such as "store 367".

    Raises:
      InputError: nothing to draw in one of the three, or a SID of no codes.
    """
    for name, products in (
        ("branch", branch),
        ("history", history),
        ("retrieved", retrieved),
    ):
        if not products:
            raise InputError(f"story: {name} is empty; give at least one product")
        for product in products:
            if not product.sid:
                raise InputError(f"story: {name} has no SID for {product.title!r}")
    figure = Figure((_WIDTH / 100, _HEIGHT / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
    axes.axis("off")
    _write(axes, 48, 54, title, 1500, size=24, weight="bold")
    _write(axes, 48, 94, subtitle, 1500, size=12.5, color=FAINT)

    _box(axes, 32, 124, 770, 748, _CARD, radius=14)
    _heading(axes, 56, 162, 1, "Products become Semantic IDs", 690)
    _write(
        axes, 94, 190, "Alike products share their leading codes", 690, 11, color=FAINT
    )
    _tree(axes, sorted(branch, key=_codes)[: _MOST_ROWS["branch"]])

    _box(axes, 826, 124, 742, 748, _CARD, radius=14)
    _heading(axes, 850, 162, 2, f"{shopper} bought", 680)
    past = history[-_MOST_ROWS["history"] :]
    top = 190.0
    for row, product in enumerate(past):
        _row(axes, top + 16 + 32 * row, product, 1540)
    top += 32 * len(past) + 14
    _arrow(axes, 866, top, top + 44)
    _write(
        axes,
        894,
        top + 13,
        "a transformer spells the next SID, code by code;",
        650,
        11,
        color=FAINT,
    )
    _write(
        axes,
        894,
        top + 34,
        "the beam search keeps to SIDs that exist",
        650,
        11,
        color=FAINT,
    )
    top += 76
    _heading(axes, 850, top, 3, f"Retrieved at {retailer}", 680)
    answer = retrieved[: _MOST_ROWS["retrieved"]]
    step = min(52.0, (862 - top - 26) / len(answer))
    for row, product in enumerate(answer):
        y = top + 26 + step * (row + 0.5)
        if product.hit:
            mark = "✓ bought again" if product.owned else "✓ bought next"
        else:
            mark = "bought before" if product.owned else ""
        if product.hit:
            _box(
                axes,
                842,
                y - step / 2 + 3,
                710,
                step - 6,
                "white",
                radius=8,
                edge=_GREEN,
            )
        _write(axes, 872, y, str(row + 1), 30, 11, color=FAINT, ha="right")
        if mark:
            _write(
                axes,
                1540,
                y,
                mark,
                140,
                10.5,
                color=_GREEN if product.hit else FAINT,
                weight="bold" if product.hit else "normal",
                ha="right",
            )
        _row(axes, y, product, 1400 if mark else 1540, left=884)
    return figure


def _tree(axes: Axes, products: list[Product]) -> None:
    """Columns of codes, a level each; parents stand at the middle of their children."""
    depth = max(len(_codes(product)) for product in products)
    top, bottom = 246.0, 856.0
    step = min(60.0, (bottom - top) / len(products))
    gap = min(92.0, 370 / depth)
    width, height = gap * 0.62, min(28.0, step * 0.66)
    places: dict[tuple[int, ...], list[float]] = {}
    for row, product in enumerate(products):
        codes = _codes(product)
        for level in range(1, len(codes) + 1):
            places.setdefault(codes[:level], []).append(top + step * (row + 0.5))
    middle = {prefix: (ys[0] + ys[-1]) / 2 for prefix, ys in places.items()}
    for prefix, y in middle.items():
        level = len(prefix) - 1
        x = 56 + gap * level
        if level:
            _curve(axes, x - gap + width, middle[prefix[:level]], x, y)
        _chip(axes, x, y, width, height, prefix[level], level, 10.5)
    for level in range(depth):
        x = 56 + gap * level + width / 2
        name = f"level {level + 1}" if gap > 60 else str(level + 1)
        _write(axes, x, 232, name, gap, 9, color=FAINT, ha="center")
    for row, product in enumerate(products):
        codes, y = _codes(product), top + step * (row + 0.5)
        end = 56 + gap * (len(codes) - 1) + width
        left = 56 + gap * (depth - 1) + width + 26
        _curve(axes, end, middle[codes], left - 6, y)
        two = bool(product.category) and step >= 38
        _write(axes, left, y - 9 * two, product.title, 786 - left, 11.5)
        if two:
            _write(axes, left, y + 10, product.category, 786 - left, 9, color=FAINT)


def _row(
    axes: Axes, y: float, product: Product, right: float, left: float = 866
) -> None:
    """The codes of a product as chips, and its title."""
    codes = _codes(product)
    gap = min(46.0, 200 / len(codes))
    for level, code in enumerate(codes):
        _chip(axes, left + gap * level, y, gap - 5, 24, code, level, 9.5)
    left += gap * len(codes) + 10
    _write(axes, left, y, product.title, right - left, 11.5)


def _chip(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    code: int,
    level: int,
    size: float,
) -> None:
    tint, ink = _LEVELS[min(level, len(_LEVELS) - 1)]
    _box(axes, x, y - height / 2, width, height, tint, radius=6)
    digits = len(str(code))
    size = min(size, width / digits / 0.95)
    _write(axes, x + width / 2, y, str(code), width + 8, size, color=ink, ha="center")


def _heading(
    axes: Axes, x: float, y: float, number: int, text: str, width: float
) -> None:
    axes.add_patch(Circle((x + 14, y), 14, color=INK, linewidth=0))
    _write(
        axes, x + 14, y, str(number), 28, 12, color="white", weight="bold", ha="center"
    )
    _write(axes, x + 38, y, text, width - 38, 16, weight="bold")


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    color: str,
    *,
    radius: float,
    edge: str = "none",
) -> None:
    style = f"round,pad=0,rounding_size={min(radius, width / 2, height / 2)}"
    paint = {"facecolor": color, "edgecolor": edge, "linewidth": 1.3}
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **paint))


def _curve(axes: Axes, x0: float, y0: float, x1: float, y1: float) -> None:
    middle = (x0 + x1) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
    steps = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    patch = PathPatch(Path(points, steps), fill=False, edgecolor=_LINE, linewidth=1.2)
    axes.add_patch(patch)


def _arrow(axes: Axes, x: float, y0: float, y1: float) -> None:
    axes.annotate(
        "",
        (x, y1),
        (x, y0),
        arrowprops={"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.6},
    )


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    width: float,
    size: float = 11,
    *,
    color: str = INK,
    weight: str = "normal",
    ha: str = "left",
) -> None:
    """Writes one line, cut with an ellipsis where it would pass `width` pixels."""
    text = drawable(text)
    style = {"fontsize": size, "color": color, "fontweight": weight}
    written = axes.text(x, y, text, ha=ha, va="center_baseline", **style)
    low, high = 0, len(text)
    if written.get_window_extent().width <= width:
        return
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        written.set_text(text[:middle].rstrip() + "…")
        if written.get_window_extent().width <= width:
            low = middle
        else:
            high = middle - 1
    written.set_text(text[:low].rstrip() + "…")


def _codes(product: Product) -> tuple[int, ...]:
    return tuple(int(code) for code in product.sid.split("_"))
