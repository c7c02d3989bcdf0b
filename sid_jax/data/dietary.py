"""Dietary attributes from the words of a title, by stated rules.

A title is read in lower case, hyphens as blanks, whole words alone. It says

- `vegan`, `halal`, `organic`: that word. `vegetarian`: that word, or `vegan`.
- `gluten_free`, `dairy_free`, `lactose_free`, `sugar_free`: `X free`, `free of X`,
  `free from X`, `no X`, `without X`; `zero sugar`, `sugarless`. In a list such as
  `soy, dairy & gluten free` or `gluten/dairy free` each X is meant.
- `kosher`: that word.

It does not say so where the words are about something else:

- `vegetarian fed`, `vegetarian diet` (the hens');
- `organic shape`, `organic form` (a shape), `organic cotton` (a cloth), `made with
  organic`, `organic ingredients` (a part of it), `organics` (a name);
- `kosher salt`, `kosher dill`, `kosher style` (a kind of salt or pickle);
- `no sugar added`, `unsweetened` (it may have its own sugar); `free range` after an X;
- `non dairy` (by United States rules, 21 CFR 101.4(d), it may hold milk protein).

`not` or `non` before a claim, or `contains X`, says that it is not so. What the words
do not say, or say both ways, is unknown: a title without the word `vegan` may well be
that of a vegan product.
"""

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from sid_jax.data.catalog import Catalog
from sid_jax.errors import InputError

DIETS = (
    "vegan",
    "vegetarian",
    "organic",
    "gluten_free",
    "dairy_free",
    "lactose_free",
    "sugar_free",
    "kosher",
    "halal",
)
"""The attributes, in the order of their columns."""

_LIST = (
    r"(?:gluten|wheat|grain|yeast|corn|soy|soya|dairy|lactose|casein|milk|egg|nut"
    r"|peanut|sugar|fat|sodium|salt|caffeine|cholesterol|gmo)s?"
)
_AND = r"(?:,? (?:&|and|or) | ?[/&+] ?)"  # no comma alone: `skim milk, fat free`

_NOT_DENIED = r"(?<!\bnon )(?<!\bnot )"


def dietary_flags(titles: Sequence[str]) -> dict[str, list[bool | None]]:
    """What titles say of each diet, by the module's rules; None where they say nothing.

    Args:
      titles: of the items; an empty one says nothing.
    """
    texts = [_normalise(title) for title in titles]
    return {
        diet: [
            # Looking for a word is far faster than for a pattern.
            _decide(text, claims, denials) if _ROOTS[diet] in text else None
            for text in texts
        ]
        for diet, (claims, denials) in _RULES.items()
    }


def add_dietary(catalog: Catalog) -> Catalog:
    """The catalog with an attribute of true, false or unknown for each diet.

    Raises:
      InputError: it has an attribute of such a name.
    """
    refuse_dietary(catalog.attributes)
    table = catalog.table
    for diet, flags in dietary_flags(catalog.titles).items():
        table = table.append_column(diet, pa.array(flags, pa.bool_()))
    return Catalog(table)


def refuse_dietary(attributes: Iterable[str]) -> None:
    """Raises InputError if an attribute has the name of a diet."""
    for diet in attributes:
        if diet in DIETS:
            raise InputError(
                f"the catalog has a column {diet!r} already; leave that out, or import"
                " without dietary attributes from titles"
            )


def _normalise(title: str) -> str:
    text = re.sub(r"[-\u2010-\u2015\s]+", " ", title.casefold())
    return text.strip()


def _decide(
    text: str, claims: re.Pattern[str], denials: re.Pattern[str]
) -> bool | None:
    is_claimed, is_denied = bool(claims.search(text)), bool(denials.search(text))
    return None if is_claimed == is_denied else is_claimed


def _word(word: str, unless: str = "", implied: str = "") -> tuple[str, str]:
    """Patterns of a claim by a word, or by one that implies it, and of its denial."""
    words = f"(?:{word}|{implied})" if implied else word
    return rf"{_NOT_DENIED}\b{words}\b{unless}", rf"\b(?:non|not) {word}\b"


def _free(what: str, more: str = "") -> tuple[str, str]:
    """Patterns of a claim to be free of something, and of its denial."""
    more_list = rf"(?:(?:, ?|{_AND}){_LIST})*"
    several = rf"(?:(?:{_LIST}, ?)*{_LIST}{_AND})?"
    claims = [
        rf"{_NOT_DENIED}\b{what}(?:{more_list}{_AND}{_LIST})? ?free\b(?! range\b)",
        rf"\bfree (?:of|from):? {several}{what}\b",
        rf"\b(?:no|without|zero) {several}{what}\b(?!(?:{_AND}\w+)* added\b)",
        *([more] if more else []),
    ]
    denials = [rf"\b(?:non|not) {what} ?free\b", rf"\bcontains {what}\b"]
    return "|".join(claims), "|".join(denials)


_RULES = {
    diet: (re.compile(claims), re.compile(denials))
    for diet, (claims, denials) in {
        "vegan": _word("vegan"),
        "vegetarian": _word(
            "vegetarian", r"(?! (?:fed|diet|grain fed)\b)", implied="vegan"
        ),
        "organic": _word(
            "organic",
            r"(?! (?:shape|form|ingredient|cotton)(?:s|d|ed)?\b)(?<!made with organic)",
        ),
        "gluten_free": _free("gluten"),
        "dairy_free": _free("dairy"),
        "lactose_free": _free("lactose"),
        "sugar_free": _free("sugar", r"\bsugarless\b"),
        "kosher": _word(
            "kosher",
            r"(?! style\b|(?: \w+){0,2} (?:salt|dills?|pickles?|spears?)\b)"
            r"(?<!salt kosher)(?<!salt, kosher)",
        ),
        "halal": _word("halal"),
    }.items()
}

_ROOTS = {diet: diet.split("_")[0] for diet in DIETS} | {"vegetarian": "veg"}
"""What any title that a rule matches holds."""
