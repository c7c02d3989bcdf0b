import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Interactions
from sid_jax.errors import InputError
from sid_jax.evals.neighbours import neighbour_metrics


def brute_force(codes, leaf, data):
    """By its definition, over all ordered pairs."""
    count, levels = codes.shape
    single = max(len(data.basket(e)) for e in range(len(data))) == 1
    trips = {}
    for e in range(len(data)):
        key = data.user[e] if single else e
        trips.setdefault(key, set()).update(data.basket(e).tolist())
    bought = [sum(i in trip for trip in trips.values()) for i in range(count)]
    found = {}
    for level in range(levels + 1):
        anchors, same, sums = 0, [], {"lift": [0, 0], "lift_across": [0, 0]}
        for i in range(count):
            mates = [
                j
                for j in range(count)
                if j != i and (codes[i, :level] == codes[j, :level]).all()
            ]
            anchors += bool(mates)
            labelled = [j for j in mates if leaf[j] >= 0] if leaf[i] >= 0 else []
            same += (
                [np.mean([leaf[i] == leaf[j] for j in labelled])] if labelled else []
            )
            for name, pool in (("lift", mates), ("lift_across", labelled)):
                for j in pool:
                    if name == "lift" or leaf[i] != leaf[j]:
                        both = sum(i in trip and j in trip for trip in trips.values())
                        chance = bought[i] * bought[j] / len(trips)
                        sums[name][0] += both / len(pool)
                        sums[name][1] += chance / len(pool)
        found[f"anchors@{level}"] = anchors / count
        found[f"same_leaf@{level}"] = np.mean(same) if same else np.nan
        for name, (above, below) in sums.items():
            found[f"{name}@{level}"] = above / below if below > 1e-12 else np.nan
    return found


def make_data(rng, count, basket_size):
    number = int(rng.integers(1, 12))
    baskets = [
        rng.choice(count, rng.integers(1, basket_size + 1), replace=False)
        for _ in range(number)
    ]
    users = [str(u) for u in rng.integers(3, size=number)]
    return Interactions.from_baskets(users, np.arange(number), baskets)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 4]))
def test_is_its_definition_over_all_pairs(seed, count, basket_size):
    rng = np.random.default_rng(seed)
    codes = rng.integers(3, size=(count, 2)).astype(np.int32)
    leaf = rng.integers(-1, 3, size=count).astype(np.int32)
    data = make_data(rng, count, min(basket_size, count))
    found, wanted = neighbour_metrics(codes, leaf, data), brute_force(codes, leaf, data)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-6, atol=1e-9, err_msg=name
        )


def test_codes_that_are_leaves_give_substitutes_alone():
    leaf = np.repeat(np.arange(4), 5).astype(np.int32)
    codes = np.stack([leaf, np.arange(20, dtype=np.int32)], axis=1)
    found = neighbour_metrics(codes, leaf)
    assert found["same_leaf@1"] == 1 and found["same_leaf@0"] == pytest.approx(4 / 19)
    assert np.isnan(found["same_leaf@2"]) and found["anchors@2"] == 0
    assert not any(name.startswith("lift") for name in found)


def test_independent_purchases_have_no_lift_and_pairs_bought_together_do():
    rng = np.random.default_rng(0)
    baskets = [np.flatnonzero(rng.random(30) < 0.3) for _ in range(4000)]
    codes = (np.arange(30, dtype=np.int32) // 6)[:, None]
    leaf = np.arange(30, dtype=np.int32) % 6
    users = [str(place) for place in range(len(baskets))]
    data = Interactions.from_baskets(users, np.zeros(len(users), int), baskets)
    found = neighbour_metrics(codes, leaf, data)
    for name in ("lift@0", "lift@1", "lift_across@1"):
        assert found[name] == pytest.approx(1, abs=0.02), name
    together = [np.flatnonzero(codes[:, 0] == each % 5) for each in range(50)]
    users = users[:50]
    data = Interactions.from_baskets(users, np.zeros(50, int), together)
    assert neighbour_metrics(codes, leaf, data)["lift@1"] == pytest.approx(5)


def test_data_of_another_catalog_is_refused():
    data = Interactions.from_baskets(["a"], [0], [[0, 5]])
    codes, leaf = np.zeros((3, 1), np.int32), np.zeros(3, np.int32)
    with pytest.raises(InputError, match="item row 5, but codes has 3 rows"):
        neighbour_metrics(codes, leaf, data)
