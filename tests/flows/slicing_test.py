"""What lists are like, of all requests and of those that ask for a tail category."""

from types import SimpleNamespace

import numpy as np
import pytest

from sid_jax.flows.slicing import describe_answers, slice_tables

# Ten categories of two items each, the first two bought most; the last item has none.
PATHS = [("d", f"k{n // 2}") for n in range(20)] + [()]
CORPUS = SimpleNamespace(
    catalog=SimpleNamespace(
        categories=PATHS, brands=[f"b{n % 3}" for n in range(20)] + [""]
    ),
    codes=np.arange(21)[:, None],
    bought=np.asarray([9, 9, 8, 8, *[1] * 16, 50]),
)
LISTS = {"one": np.asarray([[0, 3, 6], [4, 5, -1], [1, 2, 20], [7, 8, 9]])}


def test_lists_of_tail_categories_are_described_apart():
    # Head, tail beside head, unknown alone, tail: the second and the last are kept.
    targets = np.asarray([[0, 3, -1], [2, 12, -1], [20, -1, -1], [19, -1, -1]])
    requests = SimpleNamespace(targets=targets)
    values = describe_answers(CORPUS, LISTS, requests)
    parts = describe_answers(CORPUS, {"kept": LISTS["one"][[1, 3]]})
    assert {name: values[f"lists/one, tail/{name}"] for name in ("brands", "tail")} == {
        name: parts[f"lists/kept/{name}"] for name in ("brands", "tail")
    }
    assert values["lists/one/brands"] == pytest.approx((1 + 2 + 2 + 3) / 4)
    assert values["lists/one, tail/brands"] == pytest.approx((2 + 3) / 2)


def test_rows_of_the_tail_stand_below_those_of_all_if_there_are_any():
    found = describe_answers(CORPUS, LISTS)
    rows = slice_tables(found, ("one",))[-1].rows
    assert list(rows) == ["one"]
    requests = SimpleNamespace(targets=np.asarray([[19]] * 4))
    found = describe_answers(CORPUS, LISTS, requests)
    assert list(slice_tables(found, ("one",))[-1].rows) == ["one", "one, tail"]
