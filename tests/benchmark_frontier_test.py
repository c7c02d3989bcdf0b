"""The frontier's picture: what nothing beats in both."""

from hypothesis import given, settings
from hypothesis import strategies as st

FIGURES = st.integers(0, 6).map(lambda n: n / 6)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=12))
def test_frontier_is_what_nothing_beats(load_benchmark, pairs):
    points = {f"v{i}": pair for i, pair in enumerate(pairs)}
    kept = load_benchmark("frontier").find_frontier(points)
    seen = {points[name] for name in kept}
    assert len(seen) == len(kept)  # of equal points, one
    for pair in pairs:
        beaten = any(a >= pair[0] and u >= pair[1] and (a, u) != pair for a, u in pairs)
        assert (pair in seen) == (not beaten)


def test_picture_names_every_point(load_benchmark):
    draw = load_benchmark("frontier").draw
    figure = draw({"a": (0.5, 0.8), "b": (0.7, 0.7), "c": (0.4, 0.6)}, "t")
    told = {text.get_text() for text in figure.axes[0].texts}
    assert told == {"a", "b", "c"}
