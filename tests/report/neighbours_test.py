from sid_jax.report.neighbours import Comparison, Neighbours, neighbours_section
from sid_jax.report.page import Report, render
from sid_jax.report.story import Product

TEA = Product(sid="1_2", title="<b>tea</b>", category="drinks > tea", hit=True)
SIDES = [
    Neighbours(flavour="precision", sid="1_3", depth=1, total=9, nearest=[TEA]),
    Neighbours(flavour="discovery", sid="0_0", depth=0, total=0, nearest=[]),
]
PAGE = Comparison(product=Product(sid="", title="a & b"), sides=SIDES)


def test_both_lists_are_shown_as_text():
    html = neighbours_section([PAGE]).content
    assert (
        "a &amp; b" in html and "&lt;b&gt;tea&lt;/b&gt;" in html and "<b>" not in html
    )
    assert "1 of 9 products that share the first code, or more" in html
    assert html.count("same leaf") == 1
    assert html.count("no other product shares its first code") == 1
    assert html.index("precision") < html.index("discovery")


def test_a_page_has_the_section_only_where_there_is_something():
    assert 'id="neighbours"' in render(
        Report(title="x", sections=[neighbours_section([PAGE])])
    )
    assert 'id="neighbours"' not in render(Report(title="x"))
