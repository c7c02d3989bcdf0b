import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sid_jax.data.histories import lay_out, rank_histories, take_last

lists = st.lists(st.lists(st.integers(0, 6), max_size=7), min_size=1, max_size=5)


def flat(rows):
    """Row and value of lists that stand row by row."""
    row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    return row, np.asarray([value for each in rows for value in each], np.int64)


@given(lists, st.sampled_from([1.0, 0.5]))
def test_many_histories_are_ranked_as_each_alone(rows, decay):
    row, bought = flat(rows)
    ago = np.concatenate([np.arange(len(each))[::-1] for each in rows])
    found = rank_histories(row, bought, ago, decay)
    for number in range(len(rows)):
        mine = row == number
        none = np.zeros(int(mine.sum()), int)
        alone = rank_histories(none, bought[mine], ago[mine], decay)
        for each, wanted in zip(found[1:], alone[1:], strict=True):
            assert each[found[0] == number].tolist() == wanted.tolist()


@given(lists, st.integers(1, 9), st.sampled_from([-1, 0]))
def test_rows_are_laid_out_as_wide_as_the_longest(rows, width, fill):
    found = lay_out(*flat(rows), len(rows) + 1, fill=fill, width=width)
    wide = max(width, *(len(each) for each in rows))
    assert found.tolist() == [
        [*each, *[fill] * (wide - len(each))] for each in (*rows, [])
    ]


@given(lists, st.integers(1, 9), st.randoms())
def test_the_last_values_of_a_row_stand_at_its_end(rows, count, random):
    absent = max(len(each) for each in rows) + 1
    holes = []
    for each in rows:
        places = sorted(random.sample(range(absent), len(each)))
        hole = np.full(absent, -1)
        hole[places] = each
        holes.append(hole)
    found = take_last(np.asarray(holes), count)
    for each, row in zip(rows, found.tolist(), strict=True):
        last = each[-count:]
        assert row == [-1] * (count - len(last)) + last
