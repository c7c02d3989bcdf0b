"""A retriever's answers by kind of request and product; what its lists are like."""

from collections.abc import Mapping

import numpy as np

from sid_jax.data.pipeline import Requests
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.evals.hierarchy import top_categories
from sid_jax.evals.slices import (
    count_bins,
    describe_lists,
    sliced_recall,
    tail_items,
)
from sid_jax.flows.corpus import Corpus
from sid_jax.report.pictures import Bars, Picture, bars
from sid_jax.report.tables import Table
from sid_jax.typing import NDArray

K = 10
"""Length of the lists."""
SLICES = {
    "history": "different products the household had bought before",
    "popularity": "purchases of the target in training baskets",
    "category": "top category of the target",
}
LISTS = {
    "entropy": "of a list's categories, in nats",
    "categories": "different ones a list",
    "brands": "different ones a list",
    "firsts": "different first codes a list",
    "confined": "share of a list under its first product's first code",
    "tail": "share outside the fifth of the products that are bought most",
    "coverage": "share of the catalog that stands in any list",
}
_TAIL = ", tail"
_HISTORY = (0, 1, 3, 5, 9, 17, 33)
_POPULARITY = (0, 1, 5, 10, 20, 50, 100)
_MOST_CATEGORIES = 8


def slice_answers(
    corpus: Corpus, requests: Requests, lists: Mapping[str, NDArray]
) -> dict[str, float]:
    """Recall@10 by slice, `by/KIND/BIN/SYSTEM`, and the targets of each bin,
    `by/KIND/BIN/targets`; bins without targets are left out.
    """
    values: dict[str, float] = {}
    for kind, (bins, names) in _bins(corpus, requests).items():
        for system, items in lists.items():
            recalls, number = sliced_recall(
                items[:, :K], requests.targets, bins, len(names)
            )
            for name, recall, count in zip(names, recalls, number, strict=True):
                if count:
                    values[f"by/{kind}/{name}/{system}"] = float(recall)
                    values[f"by/{kind}/{name}/targets"] = int(count)
    return values


def describe_answers(
    corpus: Corpus, lists: Mapping[str, NDArray], requests: Requests | None = None
) -> dict[str, float]:
    """Figures of each system's lists of 10 products, `lists/SYSTEM/FIGURE`; given their
    requests, also of those that ask for a tail category, `lists/SYSTEM, tail/FIGURE`.
    """
    catalog, values = corpus.catalog, {}
    told = {
        "categories": _numbers(catalog.categories),
        "brands": _numbers(catalog.brands),
        "firsts": corpus.codes[:, 0],
        "tail": tail_items(corpus.bought),
    }
    views = {"": lists}
    if requests is not None:
        asked = _ask_tail(corpus.bought, told["categories"], requests.targets)
        views[_TAIL] = {system: items[asked] for system, items in lists.items()}
    for view, parts in views.items():
        for system, items in parts.items():
            for name, value in describe_lists(items[:, :K], **told).items():
                values[f"lists/{system}{view}/{name}"] = value
    return values


def slice_tables(values: Mapping[str, float], systems: tuple[str, ...]) -> list[Table]:
    """What `slice_answers` and `describe_answers` found, as tables."""
    tables = [
        Table(
            title=f"Recall@{K} by {kind}",
            rows={
                name: {"targets": int(values[f"by/{kind}/{name}/targets"])}
                | {system: values[f"by/{kind}/{name}/{system}"] for system in systems}
                for name in _names(values, kind)
            },
            note=f"{kind}: {meaning}.",
            best="none",
        )
        for kind, meaning in SLICES.items()
    ]
    shown = [f"{system}{view}" for view in ("", _TAIL) for system in systems]
    rows = {
        system: {name: values[f"lists/{system}/{name}"] for name in LISTS}
        for system in shown
        if f"lists/{system}/entropy" in values
    }
    told = "; ".join(f"{name}: {meaning}" for name, meaning in LISTS.items())
    told += (
        ". Rows of the tail: lists of baskets that have a target whose category is "
        "outside the fifth of the categories that are bought most."
    )
    lists = Table(title=f"Lists of {K}", rows=rows, note=told, best="none")
    return [*tables, lists]


def slice_panels(values: Mapping[str, float], systems: tuple[str, ...]) -> list[Bars]:
    """A panel a kind of slice."""
    panels = []
    for kind, meaning in SLICES.items():
        names = _names(values, kind)
        panels.append(
            Bars(
                title=f"Recall@{K} by {kind}",
                xlabel=f"{meaning}; below: targets",
                groups=names,
                counts=[int(values[f"by/{kind}/{name}/targets"]) for name in names],
                series={
                    system: [values[f"by/{kind}/{name}/{system}"] for name in names]
                    for system in systems
                },
            )
        )
    return panels


def slice_pictures(
    values: Mapping[str, float], systems: tuple[str, ...]
) -> list[Picture]:
    """The panels as pictures of a page."""
    pictures = []
    for panel in slice_panels(values, systems):
        told = "; ".join(
            f"{system}: "
            + ", ".join(
                f"{name} {value:.3f}"
                for name, value in zip(panel.groups, np.asarray(each), strict=True)
            )
            for system, each in panel.series.items()
        )
        pictures.append(Picture(figure=bars([panel]), alt=f"{panel.title}: {told}"))
    return pictures


def _bins(corpus: Corpus, requests: Requests) -> dict[str, tuple[NDArray, list[str]]]:
    targets = requests.targets
    known = np.maximum(targets, 0)
    lengths = np.sum(requests.owned >= 0, axis=1)
    by_length, lengths = count_bins(lengths, _HISTORY)
    by_purchases, purchases = count_bins(corpus.bought[known], _POPULARITY)
    tops = np.asarray(
        top_categories(Taxonomy.from_paths(corpus.catalog.categories)), object
    )
    names, count = np.unique(
        tops[targets[targets >= 0]].astype(str), return_counts=True
    )
    kept = [str(name) for name in names[np.argsort(-count, kind="stable")] if name]
    kept = kept[:_MOST_CATEGORIES]
    place = {name: number for number, name in enumerate(kept)}
    by_category = np.asarray([place.get(name, len(kept)) for name in tops])[known]
    return {
        "history": (np.broadcast_to(by_length[:, None], targets.shape), lengths),
        "popularity": (by_purchases, purchases),
        "category": (
            by_category,
            [*(name.replace("/", " ") for name in kept), "other"],
        ),
    }


def _ask_tail(bought: NDArray, kinds: NDArray, targets: NDArray) -> NDArray:
    """Which requests have a target in a tail category."""
    known = kinds >= 0
    sums = np.bincount(kinds[known], bought[known]).astype(np.int64)
    tail = np.append(tail_items(sums), False)  # the last: an unknown category
    asks = (targets >= 0) & tail[kinds[np.maximum(targets, 0)]]
    return np.any(asks, axis=1)


def _names(values: Mapping[str, float], kind: str) -> list[str]:
    """Bins of a kind of slice, in their order."""
    parts = [name.split("/") for name in values]
    return [
        each[2] for each in parts if each[:2] == ["by", kind] and each[3] == "targets"
    ]


def _numbers(labels: list) -> NDArray:
    """A number for each label; -1 for an empty one."""
    place: dict = {}
    return np.asarray(
        [place.setdefault(each, len(place)) if each else -1 for each in labels]
    )
