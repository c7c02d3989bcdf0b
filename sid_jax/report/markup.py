"""Pieces of HTML: every string that comes from data passes `text` or an attribute."""

import html
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

Value = float | int | str | None
_DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
      name: of its address in the page.
      heading: above it.
      content: HTML; empty for a section that leaves nothing behind.
    """

    name: str
    heading: str
    content: str


def text(value: object) -> str:
    """Data as HTML text: escaped, on one line, without control characters."""
    line = "".join(" " if _unseen(letter) else letter for letter in str(value))
    return html.escape(" ".join(line.split()))


def number(value: Value, decimals: int = 4) -> str:
    """A figure as HTML text; a dash where there is none."""
    if value is None:
        return _DASH
    if isinstance(value, str):
        return text(value)
    if not math.isfinite(value):
        return _DASH
    return f"{value:,d}" if isinstance(value, Integral) else f"{value:,.{decimals}f}"


def element(tag: str, content: str, **attributes: str | int | bool | None) -> str:
    """`content`, which is HTML already, within a tag.

    Args:
      tag: its name.
      content: HTML.
      **attributes: by name (`class_`, `aria_label`), from data or not; True gives a
        name alone, None and False leave it out.
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts.append(f'{name}="{text(value)}"')
    return f"<{' '.join(parts)}>{content}</{tag}>"


def optional(tag: str, content: str, **attributes: str | int | bool | None) -> str:
    """An element, or nothing where its content is empty."""
    return element(tag, content, **attributes) if content else ""


def bullets(lines: Iterable[str], class_: str) -> str:
    """A list of sentences; nothing where there are none."""
    items = "".join(element("li", text(line)) for line in lines)
    return optional("ul", items, class_=class_)


def _unseen(letter: str) -> bool:
    """Controls, lone surrogates and what would turn the text around it."""
    return (
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
