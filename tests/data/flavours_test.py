import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.flavours import (
    MARKETING,
    RECIPES,
    clean_title,
    cut_words,
    make_texts,
)
from sid_jax.errors import InputError

CATALOG = Catalog.from_columns(
    ["a", "b", "c", "d"],
    title=["Olay Total Effects Cream, 1.7 oz", "Best Whole Milk", None, "NYX 12-Pack"],
    brand=["Olay", None, "Horizon", "NYX"],
    categories=[["Beauty", "Skin", "Creams"], ["Dairy"], [], []],
)


@pytest.mark.parametrize(
    ("title", "brand", "wanted"),
    [
        # brands
        ("L'Oreal Paris Mascara", "L'Oréal Paris", "L'Oreal Paris Mascara"),
        ("L’OREAL-PARIS Mascara", "L'Oreal Paris", "Mascara"),
        ("Clean and Clear Oil Sheets", "Clean & Clear", "Oil Sheets"),
        ("Annie's Mac & Cheese", "Annie's", "Mac & Cheese"),
        ("Kellogg's Corn Flakes", "Kellogg", "Corn Flakes"),
        ("Believe by Britney Spears for Women", "Britney Spears", "Believe for Women"),
        ("Olive Oil", "Oli", "Olive Oil"),
        ("Doves on a Dove Soap", "Dove", "on a Soap"),
        ("100% Pure Mascara", "100% Pure", "Mascara"),
        ("Milk", "***", "Milk"),
        # sizes, units, counts
        ("Lotion, 8.5 fl. oz. Bottle", None, "Lotion"),
        ("Lotion 8oz (Pack of 2)", None, "Lotion"),
        ("Lotion .2 oz", None, "Lotion"),
        ("Serum 2 x 50 ml", None, "Serum"),
        ("12-Pack Sparkling Water, 12 fl oz cans", None, "Sparkling Water"),
        ("Adhesive, 3/4-Fluid Ounce", None, "Adhesive"),
        ("Towel (19 x 39-Inches)", None, "Towel"),
        ("Chips Family Size", None, "Chips"),
        ("16 oz Bottle Warmer", None, "Bottle Warmer"),
        # what says what a product does stays
        ("2% Milk", None, "2% Milk"),
        ("Sunscreen SPF 30, 24 hour", None, "Sunscreen SPF 30, 24 hour"),
        ("3 in 1 Shampoo", None, "3 in 1 Shampoo"),
        ("2-in-1 Shampoo", None, "2-in-1 Shampoo"),
        ("Vitamin B12 Cream", None, "Vitamin B12 Cream"),
        ("7UP", None, "7UP"),
        # praise
        ("NEW & IMPROVED Ultimate Dish Soap™", None, "Dish Soap"),
        ("New England Clam Chowder", None, "New England Clam Chowder"),
        ("Top Quality Brush (Limited Edition)", None, "Brush"),
        ("Superfood Salad", None, "Superfood Salad"),
        ("Premium Professional", None, ""),
    ],
)
def test_cleaning_by_example(title, brand, wanted):
    assert clean_title(title, brand) == wanted


WORDS = st.sampled_from(
    [
        *["milk", "Acme", "acme's", "12", "oz", "fl.", "2", "x", "1.5", "ct", "pack"],
        *["of", "new", "premium", "quality", "&", "-", ",", "(", ")", "50ml", "|", ""],
        *["best", "SPF", "in", "1", "®", "by", "and", "with", "3-pack", "½", "ünder"],
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS, max_size=14).map(" ".join) | st.text(max_size=30))
def test_what_is_clean_stays_and_nothing_that_must_go_is_left(title):
    clean = clean_title(title, "Acme")
    assert clean_title(clean, "Acme") == clean
    assert clean == " ".join(clean.split())
    assert not re.search(r"(?i)(?<!\w)(acme|premium|best)(?!\w)|®", clean)
    assert not re.search(r"(?i)(?<![\w.,])\d+\s*(oz|ml|ct|pack)\b", clean)
    # Words are taken out, never made: what is left is in the title, in its order.
    letters = iter(title)
    assert all(letter in letters for letter in clean if not letter.isspace())


def test_recipes():
    assert make_texts(CATALOG, "precision") == [
        "Olay Total Effects Cream, 1.7 oz | Olay | Beauty > Skin > Creams",
        "Best Whole Milk | Dairy",
        "Horizon",
        "NYX 12-Pack | NYX",
    ]
    assert make_texts(CATALOG, "discovery") == [
        "Total Effects Cream | Skin > Creams",
        "Whole Milk | Dairy",
        "",
        "",
    ]
    assert make_texts(CATALOG, "precision", title_words=2)[:2] == [
        "Olay Total | Olay | Beauty > Skin > Creams",
        "Best Whole | Dairy",
    ]
    with pytest.raises(InputError, match="precision, discovery"):
        make_texts(CATALOG, "recall")


@pytest.mark.parametrize("column", ["size", "package_size"])
def test_a_size_stands_between_brand_and_categories(column):
    sized = Catalog.from_columns(
        ["a", "b"],
        title=["Milk", "Tea"],
        brand=["Horizon", None],
        categories=[["Dairy", "Milk"], ["Tea"]],
        attributes={"price": [1.0, 2.0], column: ["1 GA", None]},
    )
    assert make_texts(sized, "precision") == [
        "Milk | Horizon | 1 GA | Dairy > Milk",
        "Tea | Tea",
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_text_depends_on_its_item_alone(recipe):
    texts = make_texts(CATALOG, recipe)
    rows = [2, 0, 3]
    assert make_texts(CATALOG.take(rows), recipe) == [texts[row] for row in rows]


def test_cut_words():
    assert cut_words(["a  b\tc", "a", ""], 2) == ["a b", "a", ""]
    with pytest.raises(InputError, match="positive"):
        cut_words(["a"], 0)


def test_the_list_of_praise_is_sorted_and_in_small_letters():
    assert list(MARKETING) == sorted({word.lower() for word in MARKETING})
