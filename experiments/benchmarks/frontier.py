"""Similarity against the category tree: the frontier of a sweep, as a picture.

    sid sweep experiments/neighbours_tokenizer.py --workdir runs/near --seeds 0 1 2
    python experiments/benchmarks/frontier.py runs/near/sweep.json --out frontier.png

Each variant is a point: AMI of its first codes with the top categories, and rho half
(codes against cosines). `--part heldout/` takes the held-out items. What is up and to
the right of a point beats it in both; the variants that nothing beats are joined.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sid_jax.report.plots import INK, OTHER, PALETTE, STYLE

ACROSS, UP = "ami_d1@1", "rho_half"


def find_frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other beats in both, by rising first value."""
    best, kept = float("-inf"), []
    for name in sorted(points, key=lambda each: points[each], reverse=True):
        if points[name][1] > best:
            best = points[name][1]
            kept.append(name)
    return kept[::-1]


def draw(points: Mapping[str, tuple[float, float]], title: str) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), dpi=144, layout="constrained")
        axes = figure.add_subplot()
        kept = find_frontier(points)
        axes.plot(*zip(*map(points.get, kept), strict=True), color=PALETTE[0], lw=1)
        for name, (across, up) in points.items():
            color = PALETTE[0] if name in kept else OTHER
            axes.plot(across, up, "o", color=color, ms=5)
            # On the frontier above and below by turns, the others to the left.
            side, away = "right", (-7, 0)
            if name in kept:
                side, away = "left", (6, 9 - 18 * (kept.index(name) % 2))
            axes.annotate(
                name,
                (across, up),
                away,
                textcoords="offset points",
                ha=side,
                va="center",
                color=INK,
                size=8,
            )
        axes.axvline(0.75, color=OTHER, ls=":", lw=1)
        axes.axhline(0.80, color=OTHER, ls=":", lw=1)
        axes.margins(0.15)
        axes.set(
            title=title,
            xlabel="AMI of the first code and the top category",
            ylabel="rho half: shared codes and cosine",
        )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--part", choices=("", "train/", "heldout/"), default="")
    parser.add_argument("--out", type=Path, default=Path("frontier.png"))
    given = parser.parse_args()
    points = {}
    for file in given.sweeps:
        for name, row in json.loads(file.read_text()).items():
            points[name] = (row[given.part + ACROSS], row[given.part + UP])
    whose = {"": "all items", "train/": "training items", "heldout/": "held-out items"}
    draw(points, f"What holds both ({whose[given.part]})").savefig(given.out)
    print(f"{given.out}: " + ", ".join(find_frontier(points)))


if __name__ == "__main__":
    main()
