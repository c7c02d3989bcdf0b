"""Products and their neighbours by prefix, a list a flavour, side by side, as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from sid_jax.report.markup import Section, element, optional, text
from sid_jax.report.story import Product


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A product's neighbours in one flavour.

    Attributes:
      flavour: its name.
      sid: of the product.
      depth: leading levels that the farthest of them shares.
      total: products that share so many.
      nearest: some of these, those that share most first; `hit`: of the same leaf.
    """

    flavour: str
    sid: str
    depth: int
    total: int
    nearest: Sequence[Product]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One product in every flavour."""

    product: Product
    sides: Sequence[Neighbours]


def neighbours_section(comparisons: Sequence[Comparison]) -> Section:
    """The lists, a product below the other."""
    content = "".join(
        element("h3", element("bdi", text(each.product.title) or "(no title)"))
        + optional("p", text(each.product.category), class_="faint")
        + element("div", "".join(map(_side, each.sides)), class_="grid")
        for each in comparisons
    )
    return Section(name="neighbours", heading="Neighbours", content=content)


def _side(side: Neighbours) -> str:
    heading = (
        f"{element('span', text(side.flavour))} "
        f"{element('code', text(side.sid), class_='sid')}"
    )
    shared = "code" if side.depth == 1 else f"{side.depth} codes"
    told = (
        f"{len(side.nearest):,} of {side.total:,} products that share the first "
        f"{shared}, or more"
        if side.nearest
        else "no other product shares its first code"
    )
    rows = "".join(element("li", _product(each)) for each in side.nearest)
    label = f"Neighbours in {side.flavour}"
    return element(
        "div",
        element("h4", heading)
        + element("p", told, class_="small")
        + optional("ul", rows, class_="products", tabindex=0, aria_label=label),
    )


def _product(product: Product) -> str:
    return (
        element("bdi", text(product.title) or "(no title)")
        + f" {element('code', text(product.sid), class_='sid')} "
        + (element("span", "same leaf", class_="badge hit") if product.hit else "")
        + optional("span", text(product.category), class_="small")
    )
