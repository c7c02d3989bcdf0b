"""In the picture of the README no text touches another and nothing leaves its place."""

from itertools import combinations

import pytest
from matplotlib.text import Text

from sid_jax.errors import InputError
from sid_jax.report.plots import data_uri
from sid_jax.report.story import Product, story

BREAD = Product("35_7_120_184", "Bread:Italian/French 16 OZ", "GROCERY > BAKED BREAD")
LONG = "Frozen Super Premium $Dinners$ 日本 & Entrées, Family Pack of _24_ " * 3


def _products(count: int, levels: int, spread: int, title: str, **marks):
    return [
        Product(
            "_".join(str((row // (level + 1)) * spread) for level in range(levels)),
            f"{title} {row}",
            f"GROCERY > {title}",
            **marks,
        )
        for row in range(count)
    ]


CASES = {
    "ordinary": (12, 4, 11, "Bread:Italian/French 16 OZ"),
    "one product": (1, 1, 1, "Bread"),
    "too many, deep, large codes, long titles": (40, 8, 1111, LONG),
    "unknown script": (5, 3, 99, "日本\U0001f35e"),
}


@pytest.mark.parametrize("name", CASES)
def test_no_text_overlaps_or_is_cut(name):
    products = _products(*CASES[name])
    figure = story(
        products,
        products,
        _products(*CASES[name], hit=True, owned=True),
        title=CASES[name][3],
        subtitle=CASES[name][3],
        shopper=CASES[name][3],
        retailer=CASES[name][3],
    )
    boxes = {
        text: text.get_window_extent()
        for text in figure.axes[0].findobj(Text)
        if text.get_visible() and text.get_text()
    }
    assert len(boxes) >= 9
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.x1 <= 1600, text
        assert box.y0 >= 0 and box.y1 <= 900, text
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes of text hold room for letters that hang or rise: 2 pixels may be shared.
        assert wide <= 0 or high <= 2, (one, other)
    assert data_uri(figure, "png").startswith("data:image/png;base64,")


def test_marks_tell_new_hits_from_repeats():
    answer = [
        BREAD._replace(hit=True),
        BREAD._replace(hit=True, owned=True),
        BREAD._replace(owned=True),
        BREAD,
    ]
    texts = [text.get_text() for text in story([BREAD], [BREAD], answer).findobj(Text)]
    assert [
        texts.count(mark)
        for mark in ("✓ bought next", "✓ bought again", "bought before")
    ] == [1, 1, 1]


@pytest.mark.parametrize(
    "parts, message",
    [
        (([], [BREAD], [BREAD]), "branch is empty"),
        (([BREAD], [BREAD], []), "retrieved is empty"),
        (([BREAD], [Product("", "Milk")], [BREAD]), "history has no SID for 'Milk'"),
    ],
)
def test_what_cannot_be_told_is_named(parts, message):
    with pytest.raises(InputError, match=message):
        story(*parts)
