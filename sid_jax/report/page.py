"""A run as one HTML file that needs nothing else: no request leaves the page.

Its style, its script and its pictures stand in it, and a content security policy lets
the browser run nothing but that script. Every string of a catalog goes in as text.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sid_jax.files import replacing
from sid_jax.report import plots
from sid_jax.report.markup import (
    Section,
    Value,
    bullets,
    element,
    number,
    optional,
    text,
)
from sid_jax.report.pictures import Picture
from sid_jax.report.story import Product
from sid_jax.report.tables import Table, render_table
from sid_jax.report.tree import ItemTree, pack


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Whether alike items share leading codes.

    Attributes:
      share_by_level: share of the alike pairs that have the first 1, 2, .. L levels
        in common.
      mean_cosine: mean cosine of pairs that share 0, 1, .. L levels.
      note: how pairs were drawn, Spearman's rho.
    """

    share_by_level: Sequence[float] = ()
    mean_cosine: Sequence[float] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request and its answer.

    Attributes:
      shopper: such as "Household 718".
      retailer: such as "store 367".
      history: bought before, what tells most last.
      basket: in the basket so far.
      held_out: what came next.
      retrieved: the answer, best first.
    """

    shopper: str
    retailer: str = ""
    history: Sequence[Product] = ()
    basket: Sequence[Product] = ()
    held_out: Sequence[Product] = ()
    retrieved: Sequence[Product] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page tells; whatever is empty leaves nothing behind.

    Attributes:
      title: on top.
      subtitle: one sentence below it.
      summary: (label, value) of the big numbers.
      warnings: what the reader must know before believing the numbers.
      tables: of figures.
      pictures: of the figures, below the tables.
      sections: what other rooms have made, after the figures.
      curves: panel -> series -> (steps, values).
      levels: items of each code, a level.
      similarity: similarity against depth.
      tree: the catalog under its SIDs.
      samples: requests and their answers; the first is open.
      notes: sentences at the end.
      footer: (name, value): version, command, date, hash of the configuration.
    """

    title: str
    subtitle: str = ""
    summary: Sequence[tuple[str, Value]] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    sections: Sequence[Section] = ()
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]] = field(
        default_factory=dict
    )
    levels: Sequence[ArrayLike] = ()
    similarity: Similarity | None = None
    tree: ItemTree | None = None
    samples: Sequence[Sample] = ()
    notes: Sequence[str] = ()
    footer: Sequence[tuple[str, str]] = ()


def write_report(path: str | Path, report: Report) -> None:
    """Writes the page of a report; `path` is whole or as it was before."""
    page = render(report).encode("utf-8")
    with replacing(path) as temporary:
        temporary.write_bytes(page)


def render(report: Report) -> str:
    """The page of a report."""
    style, script = _part("page.css"), _part("page.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return Template(_part("page.html")).substitute(
        policy=policy,
        title=text(report.title),
        style=style,
        script=script,
        body=_body(report),
    )


def _part(name: str) -> str:
    return (resources.files("sid_jax.report") / name).read_text(encoding="utf-8")


def _digest(code: str) -> str:
    digest = hashlib.sha256(code.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _body(report: Report) -> str:
    tree = report.tree if report.tree and len(report.tree.titles) else None
    named = {
        "figures": ("Figures", _figures(report.tables, report.pictures)),
        **{each.name: (each.heading, each.content) for each in report.sections},
        "samples": ("Sample retrievals", _samples(report.samples, tree is not None)),
        "tree": ("The tree of Semantic IDs", _tree(tree, report.samples)),
        "codebooks": ("Codebooks", _codebooks(report)),
        "training": ("Training", _training(report.curves)),
        "notes": ("Notes", bullets(report.notes, "notes")),
    }
    named = {name: pair for name, pair in named.items() if pair[1]}
    links = "".join(
        element("li", element("a", heading, href=f"#{name}"))
        for name, (heading, _) in named.items()
    )
    tiles = "".join(
        element("div", element("dt", text(label)) + element("dd", number(value)))
        for label, value in report.summary
    )
    sections = (
        element(
            "section",
            element("h2", heading, id=f"{name}-heading") + content,
            id=name,
            aria_labelledby=f"{name}-heading",
        )
        for name, (heading, content) in named.items()
    )
    header = (
        element("h1", text(report.title))
        + optional("p", text(report.subtitle), class_="lead")
        + optional("dl", tiles, class_="tiles")
        + bullets(report.warnings, "warnings")
        + (element("nav", element("ul", links), aria_label="Sections") if links else "")
    )
    facts = "".join(
        element("dt", text(name)) + element("dd", text(value))
        for name, value in report.footer
    )
    return element(
        "div",
        element("header", header)
        + element("main", "\n".join(sections))
        + optional("footer", optional("dl", facts)),
        class_="wrap",
    )


def _figures(tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    shown = "".join(_picture(each.figure, each.alt) for each in pictures)
    told = "".join(map(render_table, tables))
    return told + optional("div", shown, class_="grid bars")


def _samples(samples: Sequence[Sample], linked: bool) -> str:
    return "".join(
        _sample(sample, linked, is_open=place == 0)
        for place, sample in enumerate(samples)
    )


def _sample(sample: Sample, linked: bool, is_open: bool) -> str:
    told = element("bdi", text(sample.shopper))
    if sample.retailer:
        told += " at " + element("bdi", text(sample.retailer))
    if sample.held_out:
        hits = sum(product.hit for product in sample.retrieved)
        told += (
            f": {hits} of {len(sample.held_out)} held-out products among the first "
            f"{len(sample.retrieved)}"
        )
    given = "".join(
        element("div", element("h4", heading) + _products(products, heading, linked))
        for heading, products in (
            ("History, what tells most last", sample.history),
            ("Basket so far", sample.basket),
            ("Held out", sample.held_out),
        )
        if products
    )
    rows = "".join(
        element(
            "li",
            element("span", str(rank), class_="rank")
            + element("div", _product(product, linked, "held out: hit"))
            + element(
                "span",
                "" if product.score is None else number(float(product.score), 2),
                class_="score",
            ),
            class_="hit" if product.hit else None,
        )
        for rank, product in enumerate(sample.retrieved, start=1)
    )
    scored = any(product.score is not None for product in sample.retrieved)
    heading = "Retrieved, with scores" if scored else "Retrieved"
    answer = element("h4", heading) + optional("ol", rows, class_="retrieved")
    content = optional("div", given, class_="given") + element("div", answer)
    return element(
        "details",
        element("summary", told) + element("div", content),
        class_="sample",
        open=is_open,
    )


def _products(products: Sequence[Product], heading: str, linked: bool) -> str:
    rows = "".join(
        element("li", _product(product, linked, "retrieved")) for product in products
    )
    return element("ul", rows, class_="products", tabindex=0, aria_label=heading)


def _product(product: Product, linked: bool, hit: str) -> str:
    """A title, a SID that unfolds the tree, a category and what is special."""
    sid = text(product.sid)
    if linked:
        sid = optional("a", sid, class_="sid", href="#tree", data_sid=product.sid)
    else:
        sid = optional("code", sid, class_="sid")
    badges = (
        (element("span", hit, class_="badge hit") if product.hit else "")
        + (element("span", "bought before", class_="badge") if product.owned else "")
        + optional("span", text(product.note), class_="badge")
    )
    return (
        element("bdi", text(product.title) or "(no title)")
        + f" {sid} {badges}"
        + optional("span", text(product.category), class_="small")
    )


def _tree(tree: ItemTree | None, samples: Sequence[Sample]) -> str:
    if tree is None:
        return ""
    keep = {
        product.sid
        for sample in samples
        for products in (sample.retrieved, sample.held_out, sample.history)
        for product in products
    }
    packed = pack(tree, keep)
    (sids, items), (all_sids, all_items) = packed.shown, packed.total
    ranked = plots.ranked_labels(tree.tops)
    own = ranked[: len(plots.PALETTE)]
    names = [text(name) or "no category" for name in own]
    if len(ranked) > len(own):
        names.append(f"{len(ranked) - len(own)} others")
    keys = "".join(
        element("li", element("span", "", class_=f"dot c{place}") + name)
        for place, name in enumerate(names)
    )
    # `</` would end the script element, wherever it stands in the data.
    data = json.dumps(packed.data, separators=(",", ":")).replace("<", "\\u003c")
    picture = plots.icicle(tree.codes, tree.tops, legend=False)
    return (
        "<p>Each code narrows what is meant. A dot has the colour of a node's most "
        "common top category; the share is that of its most common category at this "
        "depth.</p>"
        + _picture(
            picture,
            f"Icicle of {all_items:,} items under the first levels of their SIDs, "
            "coloured by top category",
            form="png",
            wide=True,
        )
        + element("ul", keys, class_="keys", aria_label="Colours of top categories")
        + f"<p>Showing {sids:,} of {all_sids:,} SIDs and {items:,} of {all_items:,} "
        "items; counts and shares are those of all items.</p>"
        '<div id="tree-tools" hidden><div class="find"><label for="find">Find a '
        'product by its title</label><input id="find" type="search" '
        'autocomplete="off" spellcheck="false"><p id="found-count" '
        'class="found-count" role="status"></p><ul id="found-list" class="found-list" '
        'aria-label="Products found"></ul></div></div>'
        '<ul id="sid-tree" class="tree" aria-label="SID tree"></ul>'
        "<noscript><p>The tree needs JavaScript.</p></noscript>"
        f'<script type="application/json" id="tree-data">{data}</script>'
    )


def _codebooks(report: Report) -> str:
    pictures = [
        _picture(
            plots.codebook_usage(counts, title=f"Level {level}"),
            f"Items of each code of level {level}, most used first: "
            f"{np.count_nonzero(counts)} of {np.size(counts)} codes are used",
        )
        for level, counts in enumerate(report.levels, start=1)
    ]
    note, similarity = "", report.similarity
    if similarity is not None:
        note = optional("p", text(similarity.note), class_="faint")
        for values, title, xlabel, first in (
            (similarity.share_by_level, "Alike pairs that share", "first levels", 1),
            (similarity.mean_cosine, "Mean cosine of pairs", "levels shared", 0),
        ):
            if np.size(values):
                told = ", ".join(
                    f"{level}: {number(float(value), 2)}"
                    for level, value in enumerate(np.ravel(values), start=first)
                )
                figure = plots.level_bars(
                    values, title=title, xlabel=xlabel, first=first
                )
                pictures.append(_picture(figure, f"{title}, by {xlabel}: {told}"))
    return note + optional("div", "".join(pictures), class_="grid")


def _training(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
) -> str:
    pictures = "".join(
        _picture(
            plots.curves(series, title=name),
            f"{name} over training steps: {', '.join(series)}",
        )
        for name, series in panels.items()
        if series
    )
    return optional("div", pictures, class_="grid")


def _picture(figure: Figure, alt: str, form: str = "svg", wide: bool = False) -> str:
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    image = (
        f'<img src="{plots.data_uri(figure, form)}" alt="{text(alt)}" '
        f'width="{width}" height="{height}">'
    )
    return element("figure", image, class_="wide" if wide else None)
