"""The suspects of a page: everything is text, and only the first are unfolded."""

from sid_jax.report.page import Report, render
from sid_jax.report.story import Product
from sid_jax.report.suspects import Suspect, suspects_section


def suspect(title="Protein bar", **changes):
    fields = {
        "product": Product("3_1_2", title, "snacks > candy"),
        "item_id": "i7",
        "suggested": "snacks > bars",
        "confidence": 4.321,
        "share": 0.875,
        "own": 0.01,
        "flagged": True,
        "prefix": "3_1",
        "neighbours": [Product("3_1_0", "Oat bar", "snacks > bars")],
    }
    return Suspect(**fields | changes)


def test_a_suspect_stands_beside_its_neighbours():
    page = render(Report(title="Audit", sections=[suspects_section([suspect()])]))
    assert 'id="suspects"' in page
    for each in (
        *("Protein bar", "snacks &gt; candy", "snacks &gt; bars", "4.32", "flagged"),
        *("88% for the suggestion, 1% for the label", "under 3_1", "Oat bar", "3_1_0"),
    ):
        assert each in page
    assert page.index("Protein bar") < page.index("Oat bar")


def test_no_suspects_leave_nothing_behind():
    assert suspects_section([]).content == ""
    assert 'id="suspects"' not in render(Report(title="Audit"))


def test_what_is_missing_is_said_and_data_is_never_markup():
    blank = suspect("", prefix="", neighbours=[], flagged=False)
    page = suspects_section([blank]).content
    assert "(no title)" in page and "<p>none</p>" in page
    assert "flagged" not in page and "under" not in page
    evil = "<script>alert(1)</script>"
    page = suspects_section(
        [suspect(evil, suggested=evil, item_id=evil, prefix=evil)]
    ).content
    assert "<script" not in page


def test_only_the_first_are_unfolded():
    page = suspects_section([suspect()] * 12).content
    assert page.count("<details") == 12
    assert page.count(" open>") == 10
