"""Pictures draw for any data, in equal bytes for equal data, and leave no state."""

import io
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.report import plots

NAN, INF = float("nan"), float("inf")
HOSTILE = "$a_b^{ \\frac 日本 \U0001f35e \x00\n\ud800 ‮ $ %s _"


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    plots.save(figure, buffer, "png")
    return buffer.getvalue()


def _legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


FIGURES = {
    "no series": lambda: plots.curves({}),
    "empty series": lambda: plots.curves({"a": ([], [])}),
    "one point": lambda: plots.curves({"a": ([3], [0.5])}),
    "all NaN": lambda: plots.curves({"a": ([0, 1], [NAN, NAN])}),
    "NaN and infinity": lambda: plots.curves(
        {"a": ([0, 1, 2, NAN], [1, NAN, INF, 2]), "_b": ([0, 1], [-INF, 3])}
    ),
    "huge": lambda: plots.curves({"a": ([0, 10**7], [1e300, -1e300])}),
    "many series": lambda: plots.curves({f"s{n}": ([0, 1], [n, n]) for n in range(30)}),
    "unused codebook": lambda: plots.codebook_usage([0, 0, 0]),
    "no codes": lambda: plots.codebook_usage([]),
    "one code": lambda: plots.codebook_usage([7], title="Level 1"),
    "one item": lambda: plots.codebook_usage([0, 1, 0]),
    "large codebook": lambda: plots.codebook_usage(np.arange(5000)),
    "one level": lambda: plots.level_bars([0.5], title="t", xlabel="x"),
    "no levels": lambda: plots.level_bars([], title="t", xlabel="x"),
    "undefined levels": lambda: plots.level_bars([NAN, -0.5], title="t", xlabel="x"),
    "one item, one level": lambda: plots.icicle([[0]], ["a"], num_levels=3),
    "one code for all": lambda: plots.icicle(np.zeros((9, 2), int), list("abcdefghi")),
    "no items": lambda: plots.icicle(np.zeros((0, 4), int), []),
    "no labels": lambda: plots.icicle([[0, 1], [1, 1]], ["", ""], title="t"),
    "bare": lambda: plots.icicle([[0, 1], [1, 1]], ["a", "b"], legend=False),
}


@pytest.mark.parametrize("name", FIGURES)
def test_draws_at_the_edges(name):
    assert _png(FIGURES[name]()).startswith(b"\x89PNG")


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_can_be_drawn(text):
    """Missing glyphs, formulas and hidden labels would each warn, and so raise here."""
    series = {text: ([0, 1], [1, 2]), "_" + text: ([0, 1], [2, 1])}
    figure = plots.curves(series, title=text)
    _png(figure)
    assert len(_legend(figure)) == len(series)


@pytest.mark.parametrize(
    "draw",
    [
        lambda text: plots.curves({text: ([0], [1])}, title=text),
        lambda text: plots.codebook_usage([1, 2], title=text),
        lambda text: plots.level_bars([1, 0], title=text, xlabel=text),
        lambda text: plots.icicle([[0], [1]], [text, text + "b"], title=text),
    ],
)
def test_every_picture_takes_hostile_text(draw):
    _png(draw(HOSTILE))


@given(st.text(st.characters(codec=None), max_size=60))
def test_drawable_keeps_what_the_font_has(text):
    shown = plots.drawable(text)
    assert len(shown) == len(" ".join(text.split()))
    assert plots.drawable(shown) == shown
    assert plots.drawable("Bread:Italian/French 16 OZ, $5 é") == (
        "Bread:Italian/French 16 OZ, $5 é"
    )


@given(st.text(max_size=40), st.integers(1, 20))
def test_shortened_never_passes_its_length(text, length):
    shown = plots.shortened(text, length)
    assert len(shown) <= length
    assert (shown == text) == (len(text) <= length) or shown.endswith("…")


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_labels_are_ranked_by_count_then_name(labels):
    ranked = plots.ranked_labels(labels)
    assert ranked == sorted(set(labels), key=lambda name: (-labels.count(name), name))


def test_steps_and_values_must_match():
    with pytest.raises(InputError, match="'train' of panel 'loss': 2 steps but 1"):
        plots.curves({"train": ([0, 1], [1])}, title="loss")


def test_curves_break_where_a_value_is_missing():
    figure = plots.curves({"a": ([0, 1, 2], [1.0, INF, 3.0])})
    drawn = figure.axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(drawn, [1.0, NAN, 3.0])
    assert "3" in _legend(figure)[0]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_icicle_rows_hold_each_item_once_and_each_code_together(data):
    count = data.draw(st.integers(1, 40))
    codes = np.array(
        data.draw(
            st.lists(
                st.tuples(*[st.integers(0, 3)] * 2), min_size=count, max_size=count
            )
        )
    )
    colour = np.array(
        data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    )
    rows, order = plots._icicle_rows(codes, colour)
    assert sorted(order) == list(range(count))
    for level, (_, majority, share) in enumerate(rows, start=1):
        prefix = [tuple(row) for row in codes[:, :level].tolist()]
        met = [prefix[item] for item in order]
        assert sum(a != b for a, b in pairwise(met)) == (len(set(prefix)) - 1)
        for item in range(count):
            mates = [colour[i] for i in range(count) if prefix[i] == prefix[item]]
            assert share[item] == pytest.approx(
                mates.count(majority[item]) / len(mates)
            )
            assert mates.count(majority[item]) == max(map(mates.count, mates))


def test_pictures_are_the_same_bytes_and_leave_no_state():
    before = dict(matplotlib.rcParams)
    draw = FIGURES["NaN and infinity"]
    assert plots.data_uri(draw()) == plots.data_uri(draw())
    assert plots.data_uri(draw(), "png") == plots.data_uri(draw(), "png")
    assert plots.data_uri(draw()).startswith("data:image/svg+xml;base64,")
    assert dict(matplotlib.rcParams) == before
