import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.labels import find_edges, name_bands, read_labels
from sid_jax.errors import InputError

numbers = st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1, max_size=40)


def _catalog(**attributes) -> Catalog:
    size = len(next(iter(attributes.values())))
    return Catalog.from_columns([str(i) for i in range(size)], attributes=attributes)


@settings(deadline=None, max_examples=50)
@given(
    numbers.filter(lambda values: any(v is not None for v in values)), st.integers(1, 6)
)
def test_a_number_lies_in_the_band_that_names_it(values, num_bands):
    catalog = _catalog(price=[None if v is None else v / 4 for v in values])
    edges = find_edges(catalog, "price", num_bands)
    assert edges is not None and len(edges) < num_bands
    bands = name_bands(edges)
    for number, label in zip(
        catalog.column("price"), read_labels(catalog, "price", edges), strict=True
    ):
        if number is None:
            assert label is None
            continue
        low, high = label.split("..")
        assert label in bands
        assert (not low or float(low) <= number) and (not high or number < float(high))
    known = {label for label in read_labels(catalog, "price", edges) if label}
    assert known == set(bands)  # no band is empty


def test_bands_are_even_where_numbers_differ():
    catalog = _catalog(price=list(np.random.default_rng(0).permutation(100)))
    labels = read_labels(catalog, "price", find_edges(catalog, "price", 4))
    assert sorted(labels.count(label) for label in set(labels)) == [25] * 4


def test_text_and_flags_are_their_own_labels():
    catalog = _catalog(tier=["Private", None, "a"], vegan=[True, None, False])
    for name, labels in {
        "tier": ["Private", None, "a"],
        "vegan": ["true", None, "false"],
    }.items():
        assert find_edges(catalog, name, 4) is None
        assert read_labels(catalog, name, None) == labels


def test_a_column_of_unknown_numbers_has_one_band():
    catalog = _catalog(price=[1.0, None]).take([1])
    edges = find_edges(catalog, "price", 4)
    assert edges == ()
    assert read_labels(catalog, "price", edges) == [None]


def test_refuses_other_columns():
    catalog = _catalog(tier=["a", "b"], price=[1, 2])
    with pytest.raises(InputError, match=r"no attribute 'teir'.*brand, tier, price"):
        find_edges(catalog, "teir", 4)
    with pytest.raises(InputError, match=r"'price' is of type int64.*text"):
        read_labels(catalog, "price", None)
    with pytest.raises(InputError, match=r"'tier' is of type string.*numbers"):
        read_labels(catalog, "tier", (1.0,))
