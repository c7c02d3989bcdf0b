import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.dietary import DIETS, add_dietary, dietary_flags
from sid_jax.errors import InputError


def _said(title: str) -> tuple[set[str], set[str]]:
    """The diets that a title claims, and those that it denies."""
    flags = {diet: each[0] for diet, each in dietary_flags([title]).items()}
    return {d for d, f in flags.items() if f}, {d for d in flags if flags[d] is False}


CLAIMS = [
    ("Vegan Chocolate Chip Cookies", "vegan vegetarian"),
    ("Chili with Beans, VEGETARIAN", "vegetarian"),
    ("Organic Baby Spinach", "organic"),
    ("Non-GMO Organic Tofu, Extra-Firm", "organic"),
    ("Gluten-Free Steel Cut Oats", "gluten_free"),
    ("Gluten\u2011Free  Fusilli", "gluten_free"),  # a hyphen that does not break
    ("GlutenFree Pretzels", "gluten_free"),
    ("Pizza Dough Free of Gluten", "gluten_free"),
    ("Crackers, free from dairy and gluten", "gluten_free dairy_free"),
    ("Cookie Dough (Dairy Free, Gluten Free)", "gluten_free dairy_free"),
    ("Gluten & Dairy Free Pizza Dough", "gluten_free dairy_free"),
    ("Gluten/Wheat/Dairy Free Baking Flour", "gluten_free dairy_free"),
    ("Dairy, Soy, and Gluten Free Brownies", "gluten_free dairy_free"),
    ("No Dairy or Gluten Snack Bar", "gluten_free dairy_free"),
    ("Lactose Free 2% Milk", "lactose_free"),
    ("Wintermint Sugarfree Gum", "sugar_free"),
    ("Zero Sugar Cola", "sugar_free"),
    ("Sugarless Hard Candy", "sugar_free"),
    ("Sugar, Salt & Fat Free Broth", "sugar_free"),
    ("Sliced Kosher Salami", "kosher"),
    ("Matzo Ball Mix Kosher for Passover", "kosher"),
    ("Halal Chicken Tikka", "halal"),
    ("Organic Kosher Free Range Chicken Broth", "organic kosher"),
]

SILENT = [
    "",
    "Whole Milk",
    "Vital Wheat Gluten",
    "Free Range Eggs",
    "Wheat Gluten, Free Range Chicken",
    "Gluten Free Range Ovens",
    "Organics Whole Bean Coffee",
    "Organic Shaped Soap",
    "Organic shape soap",
    "Organic Cotton Swabs",
    "Tortilla Chips Made with Organic Corn",
    "Veganaise",
    "Vegetarian-Fed Large Brown Eggs",
    "Sugar Snap Peas",
    "Fruit Cups, No Sugar Added",
    "Peanut Butter No Sugar or Salt Added",
    "Unsweetened Almond Milk",
    "Less Sugar Oatmeal",
    "Non-Dairy Creamer",
    "Nondairy Frozen Dessert",
    "Frozen Dairy Dessert, Fat Free",
    "Skim Milk, Fat Free",
    "No Salt, Dairy Milk Chocolate",
    "Sugar, Fat Free Milk and Cocoa",
    "Coarse Kosher Salt",
    "Kosher Sea Salt",
    "Sea Salt, Kosher",
    "Kosher Whole Dill Pickles",
    "Kosher-Style Corned Beef",
    "Inorganic Fertilizer",
]

DENIALS = [
    ("Non-Organic Bananas", "organic"),
    ("Not Vegan Cheese", "vegan"),
    ("Beer (Not Gluten Free)", "gluten_free"),
    ("Seitan, contains gluten", "gluten_free"),
    ("Non-Kosher Wine", "kosher"),
    ("Non Halal Pork Sausage", "halal"),
]


@pytest.mark.parametrize(("title", "diets"), CLAIMS)
def test_words_claim(title, diets):
    assert _said(title) == (set(diets.split()), set())
    assert _said(title.upper()) == _said(title)


@pytest.mark.parametrize("title", SILENT)
def test_words_about_something_else_say_nothing(title):
    assert _said(title) == (set(), set())


@pytest.mark.parametrize(("title", "diets"), DENIALS)
def test_words_deny(title, diets):
    assert _said(title) == (set(), set(diets.split()))


def test_what_is_said_both_ways_is_unknown():
    assert _said("Gluten Free Oats, contains gluten") == (set(), set())
    assert _said("Organic and Non-Organic Apples") == (set(), set())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.sampled_from("vegan glutenfrorganic-&,/")), max_size=4))
def test_a_title_is_read_by_itself(titles):
    flags = dietary_flags(titles)
    assert list(flags) == list(DIETS)
    for at, title in enumerate(titles):
        alone = dietary_flags([title])
        assert {d: alone[d][0] for d in DIETS} == {d: flags[d][at] for d in DIETS}


def test_adds_columns_to_a_catalog():
    titles = ["Vegan Cheese", None, "Non-Vegan Cheese"]
    catalog = Catalog.from_columns(
        ["a", "b", "c"], titles, attributes={"price": [1, 2, 3]}
    )
    added = add_dietary(catalog)
    assert added.attributes == ("price", *DIETS)
    assert added.column("vegan") == [True, None, False]
    assert added.column("halal") == [None] * 3
    assert added.where({"vegan": "true"}).tolist() == [True, False, False]
    with pytest.raises(InputError, match="'vegan' already"):
        add_dietary(added)
