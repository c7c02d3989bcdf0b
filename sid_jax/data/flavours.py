"""Text recipes: what of an item an encoder is given to read.  [ours]

The embedding decides which products come to share a SID, so a flavour of SIDs is its
text. `precision` tells substitutes apart: everything as it stands,

    title | brand | size | categories

`discovery` says what a product is for and not who sells it: the title without its
brand, package sizes and marketing words, and the last two names of the category path,

    cleaned title | parent > leaf

By these rules, ignoring case, until nothing changes any more:

- The item's own brand goes, wherever it stands (whole words; an apostrophe or hyphen
  may be missing or be a blank, `and` be `&`), with a `by` before it and a possessive s.
  Other brands stay.
- A number with a unit of weight, volume, length or count goes (`1.7 fl. oz.`,
  `12-pack`, `2 x 50 ml`), so do `pack of 6` and `family size`. Percentages, `SPF 30`,
  `24 hour` and `3 in 1` say what a product does, and stay.
- The words of MARKETING go, and trademark signs.
- Brackets left empty, doubled separators and those at the ends go.

A title of which nothing is left is left out; an item without title and categories has
an empty text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from sid_jax.data.catalog import Catalog
from sid_jax.errors import InputError

RECIPES = ("precision", "discovery")

SIZE_COLUMNS = ("size", "package_size")
"""Attributes taken for the package size; the first that a catalog has."""

MARKETING = (
    "100% satisfaction guarantee",
    "all new",
    "amazing",
    "as seen on tv",
    "award winning",
    "best",
    "best seller",
    "best selling",
    "bonus",
    "brand new",
    "classic",
    "deluxe",
    "exclusive",
    "genuine",
    "guaranteed",
    "high quality",
    "improved",
    "limited edition",
    "limited sale",
    "luxury",
    "must have",
    "new & improved",
    "new and improved",
    "number one",
    "on sale",
    "original",
    "perfect",
    "premium",
    "professional",
    "quality",
    "revolutionary",
    "satisfaction guaranteed",
    "signature",
    "special offer",
    "super",
    "superior",
    "top quality",
    "top rated",
    "ultimate",
    "value",
    "world famous",
)
"""Words that praise and do not describe. (`new` alone stays: New England.)"""


def make_texts(catalog: Catalog, recipe: str, *, title_words: int = 0) -> list[str]:
    """The text of each item; it depends on the item alone.

    Args:
      catalog: the items.
      recipe: `precision` or `discovery`.
      title_words: titles are cut to so many words first, as sparse catalogs have them;
        0 leaves them whole.

    Raises:
      InputError: no such recipe.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe: {recipe!r} is none of {', '.join(RECIPES)}")
    titles = catalog.titles
    if title_words:
        titles = cut_words(titles, title_words)
    if recipe == "precision":
        column = next((n for n in SIZE_COLUMNS if n in catalog.attributes), None)
        sizes = catalog.column(column) if column else [None] * len(catalog)
        rows = zip(titles, catalog.brands, sizes, catalog.categories, strict=True)
        return [
            _join(title, brand, size, " > ".join(path))
            for title, brand, size, path in rows
        ]
    rows = zip(titles, catalog.brands, catalog.categories, strict=True)
    return [
        _join(clean_title(title, brand), " > ".join(path[-2:]))
        for title, brand, path in rows
    ]


def cut_words(texts: Sequence[str], n: int) -> list[str]:
    """The first `n` words of each text, joined by single blanks."""
    if n < 1:
        raise InputError(f"words to keep must be positive: {n}")
    return [" ".join(text.split()[:n]) for text in texts]


def clean_title(title: str, brand: str | None = None) -> str:
    """A title without brand, package sizes and marketing words, by the rules above.

    Cleaning what is clean changes nothing.
    """
    rules = (*([_brand_rule(brand)] if brand and _WORD.search(brand) else []), *_RULES)
    text, before = title, None
    while text != before:  # every rule shortens, or leaves the text as it is
        before = text
        for rule in rules:
            text = rule.sub(" ", text)
        text = _tidy(text)
    return text


@lru_cache(1 << 14)  # compiling it takes longer than a title does
def _brand_rule(brand: str) -> re.Pattern[str]:
    # Between a brand's words, titles have blanks, hyphens, apostrophes or nothing.
    gap = r"(?:\s*(?:&|\band\b)\s*|[\W_]{0,3})"
    words = gap.join(map(re.escape, _WORD.findall(brand)))
    return re.compile(
        rf"(?:(?<!\w)by\s+)?(?<!\w){words}(?:['’]?s)?(?!\w)", re.IGNORECASE
    )


def _join(*parts: object) -> str:
    words = [" ".join(str(part).split()) for part in parts if part is not None]
    return " | ".join(word for word in words if word)


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"[(\[{][\W_]*[)\]}]", " ", text)
    text = re.sub(r"\s+([,;:.!?)\]])", r"\1", text)
    text = re.sub(r"([(\[])\s+", r"\1", text)
    text = re.sub(r"([,;:/|&+-])(?:\s*[,;:/|&+])+", r"\1", text)
    text = re.sub(r"(?:\s[-–—])+(?=\s[-–—]|[,;:)])", "", text)
    text = re.sub(r"^[\s,;:./|&+*–—-]+|[\s,;:/|&+*–—-]+$", "", text)
    text = re.sub(
        r"^(?:by|from)\b\s*|\s*\b(?:by|from|with|and|of|in)$", "", text, flags=re.I
    )
    return " ".join(text.split())


_WORD = re.compile(r"\w+")
_NUMBER = r"(?:\d+(?:[.,/]\d+)*|\.\d+)"
_UNITS = (
    r"fl(?:uid)?\.?[\s-]*(?:oz|ounces?)",
    r"oz|ounces?|lbs?|pounds?",
    r"mg|g|gr|gms?|grams?|kgs?|kilos?|kilograms?",
    r"ml|cl|dl|l|ltr|lit(?:er|re)s?|millilit(?:er|re)s?|cc",
    r"gal|gallons?|qts?|quarts?|pts?|pints?",
    # `3 in 1` is no length.
    r"in(?![\s-]*\w)|inch|inches|cm|mm|ft|feet|foot|yds?|yards?|meters?|metres?",
    r"cts?|counts?|pks?|packs?|packages?|pcs?|pieces?|ea|each|dozens?|dz|units?",
    r"tablets?|tabs|capsules?|caps|softgels?|sheets?|rolls?|wipes|bags?|cans?|bottles?",
)
_UNIT = rf"(?:{'|'.join(_UNITS)})"
# `12 Ounce Bottle` at an end is a size; `16 oz Bottle Warmer` is a warmer.
_VESSEL = (
    r"(?:\s+(?:bottle|jar|tube|tub|can|bag|box|pouch|carton)s?(?=\s*(?:[,;)(-]|$)))?"
)
_SIZES = r"family|travel|trial|value|jumbo|economy|king|giant|bulk|full|sample|mini"
# The longest first, so that a phrase goes as a whole.
_PRAISE = "|".join(re.escape(words) for words in sorted(MARKETING, key=len)[::-1])
_RULES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"[®™©℠]|\((?:r|tm|c)\)",
        # 2 x 50 ml; 1.7 fl. oz.; 12-pack; 50ml
        rf"(?<![\w.,])(?:{_NUMBER}\s*[x×]\s*)*{_NUMBER}[\s-]*{_UNIT}\b\.?{_VESSEL}",
        rf"\b(?:packs?|sets?|cases?|box|boxes|bundles?|lots?|counts?|qty)\s*(?:of|:)\s*"
        rf"(?:{_NUMBER}|two|three|four|five|six|eight|ten|twelve)\b",
        r"\b(?:twin|double|triple|multi|variety|value|bonus)[\s-]+packs?\b",
        rf"\b(?:{_SIZES})[\s-]+siz(?:e|ed)\b",
        rf"(?<![\w.,])[x×]\s?\d+(?!\w)|(?<![\w.,]){_NUMBER}[x×](?!\w)",
        rf"(?<!\w)(?:{_PRAISE})(?!\w)",
    )
)
