"""Suspects of an audit beside the products that their codes put them with."""

from collections.abc import Sequence
from dataclasses import dataclass

from sid_jax.report.markup import Section, element, number, optional, text
from sid_jax.report.story import Product

_OPEN = 10  # suspects that are unfolded when the page opens


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A product whose neighbours carry another label.

    Attributes:
      product: the suspect; its category is the label that it has.
      item_id: its id.
      suggested: the category that the neighbours prefer.
      confidence: what speaks against the label.
      share: the neighbours' share for the suggested branch.
      own: their share for the label's.
      flagged: both shares pass the limits of a flag.
      prefix: the codes that it shares with the neighbours; empty if none.
      neighbours: some of them, nearest first.
    """

    product: Product
    item_id: str
    suggested: str
    confidence: float
    share: float
    own: float
    flagged: bool
    prefix: str
    neighbours: Sequence[Product] = ()


def suspects_section(suspects: Sequence[Suspect]) -> Section:
    """Suspects one below the other, neighbours at their side."""
    content = "".join(
        _suspect(suspect, rank) for rank, suspect in enumerate(suspects, start=1)
    )
    return Section(name="suspects", heading="Suspects", content=content)


def _suspect(suspect: Suspect, rank: int) -> str:
    title = text(suspect.product.title) or "(no title)"
    flag = element("span", "flagged", class_="badge hit") if suspect.flagged else ""
    facts = (
        ("Labelled", text(suspect.product.category) or "no category"),
        ("Suggested", element("b", text(suspect.suggested))),
        ("Confidence", number(suspect.confidence, 2)),
        (
            "Neighbours' share",
            f"{suspect.share:.0%} for the suggestion, {suspect.own:.0%} for the label",
        ),
        ("Item", element("bdi", text(suspect.item_id))),
        ("SID", optional("code", text(suspect.product.sid), class_="sid")),
    )
    told = "".join(
        element("div", element("h4", name) + element("div", value))
        for name, value in facts
    )
    rows = "".join(
        element(
            "li",
            element("bdi", text(each.title) or "(no title)")
            + " "
            + optional("code", text(each.sid), class_="sid")
            + optional("span", text(each.category), class_="small"),
        )
        for each in suspect.neighbours
    )
    under = f" under {text(suspect.prefix)}" if suspect.prefix else ""
    beside = element("h4", f"Its neighbours{under}") + (
        optional("ul", rows, class_="products") or element("p", "none")
    )
    return element(
        "details",
        element("summary", f"{rank}. {element('bdi', title)} {flag}")
        + element("div", element("div", told, class_="given") + element("div", beside)),
        class_="sample",
        open=rank <= _OPEN,
    )
