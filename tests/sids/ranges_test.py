from bisect import bisect_left

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sid_jax.sids.ranges import bisect_ranges, in_ranges


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6))
def test_ranges_are_those_of_python(pairs):
    starts = np.asarray([start for start, _ in pairs], np.int64)
    sizes = np.asarray([size for _, size in pairs], np.int64)
    row, found = in_ranges(starts, starts + sizes)
    wanted = [
        (number, value)
        for number, (start, size) in enumerate(pairs)
        for value in range(start, start + size)
    ]
    assert list(zip(row.tolist(), found.tolist(), strict=True)) == wanted


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5),
    st.data(),
)
def test_bisection_in_many_ranges_is_that_in_each(lists, data):
    rows = [sorted(each) for each in lists]
    ends = np.cumsum([len(each) for each in rows])
    starts = ends - [len(each) for each in rows]
    values = np.asarray([value for each in rows for value in each], np.int64)
    wanted = [data.draw(st.integers(-1, 10)) for _ in rows]
    found = bisect_ranges(values.__getitem__, starts, ends, np.asarray(wanted))
    assert found.tolist() == [
        start + bisect_left(each, value)
        for start, each, value in zip(starts, rows, wanted, strict=True)
    ]
