"""Coordinates of what is bought together against their dense definition."""

import dataclasses

import numpy as np
import pytest

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.copurchase import CopurchaseConfig, fit_copurchase
from sid_jax.data.vectors import ItemVectors, VectorConfig
from sid_jax.errors import InputError

CONFIG = CopurchaseConfig(dim=3, window=2, shrink=4.0, weight=0.5)
ITEMS = 12


def make_baskets(seed=0, users=40):
    """Users who stay with one half of the items; the last item is never bought."""
    rng = np.random.default_rng(seed)
    user, time, baskets = [], [], []
    for number in range(users):
        for step in range(rng.integers(1, 6)):
            user.append(f"u{number}")
            time.append(step)
            half = (number % 2) * 6
            baskets.append(rng.integers(half, min(half + 6, ITEMS - 1), 3).tolist())
    return Interactions.from_baskets(user, time, baskets)


def dense(config, data, rows):
    together, count = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    every = [data.basket(e) for e in range(len(data))]
    short = [b if len(b) <= config.max_basket else [] for b in every]
    sets = [[item for item in b if item in rows] for b in short]
    for first, early in enumerate(sets):
        count[early] += 1
        for second, late in enumerate(sets):
            apart = abs(first - second)
            if data.user[first] == data.user[second] and apart <= config.window:
                for i in early:
                    together[i, [j for j in late if j != i]] += 1 / max(apart, 1)
    total = together.sum(axis=1)
    smooth = total**0.75 / (total**0.75).sum()
    with np.errstate(all="ignore"):
        ppmi = np.maximum(np.log(together / np.outer(total, smooth)), 0)
    ppmi[together == 0] = 0
    left, values, _ = np.linalg.svd(ppmi)
    points = left[:, : config.dim] * np.sqrt(values[: config.dim])
    length = np.linalg.norm(points, axis=1)
    points[length > 1e-9] /= length[length > 1e-9, None]
    points *= np.sqrt(count / (count + config.shrink))[:, None]
    return points * config.weight / np.sqrt(np.square(points).sum() / len(rows))


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("rows", [None, np.asarray([0, 1, 3, 4, 6, 7, 8, 9, 11])])
@pytest.mark.parametrize("max_basket", [2, 64])
def test_coordinates_are_those_of_the_dense_definition(window, rows, max_basket):
    data = make_baskets()
    config = dataclasses.replace(CONFIG, window=window, max_basket=max_basket)
    found = fit_copurchase(config, data, ITEMS, rows)
    wanted = dense(config, data, range(ITEMS) if rows is None else rows.tolist())
    # A singular vector's sign is free, inner products are not.
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)
    assert (found[-1] == 0).all()  # never bought
    kept = np.arange(ITEMS) if rows is None else rows
    spread = np.square(found[kept]).sum(axis=1).mean()
    assert spread == pytest.approx(0.25, rel=1e-4)
    assert (found[np.setdiff1d(np.arange(ITEMS), kept)] == 0).all()


def test_what_is_bought_together_lies_together():
    found = fit_copurchase(CONFIG, make_baskets(users=200), ITEMS)
    cosines = found @ found.T
    assert cosines[:6, :6].min() > cosines[:6, 6:11].max()


def test_more_coordinates_than_items_are_zero():
    config = dataclasses.replace(CONFIG, dim=20)
    found = fit_copurchase(config, make_baskets(), ITEMS)
    assert found.shape == (ITEMS, 20)
    assert (found[:, ITEMS:] == 0).all()


def test_a_recipe_finds_them_by_id(tmp_path):
    titles = [f"tea {row}" for row in range(ITEMS)]
    catalog = Catalog.from_columns([f"i{row}" for row in range(ITEMS)], title=titles)
    bought = fit_copurchase(CONFIG, make_baskets(), ITEMS)
    config = VectorConfig(dim=4, num_hashes=64, copurchase=CONFIG)
    ItemVectors.fit(config, catalog, bought).save(tmp_path / "recipe")
    recipe = ItemVectors.load(tmp_path / "recipe")
    assert recipe.config == config
    whole = recipe.encode(catalog)
    assert whole.shape == (ITEMS, recipe.width) and recipe.width == recipe.plain + 3
    np.testing.assert_array_equal(whole[:, recipe.plain :], bought)
    other = Catalog.from_columns(["new", "i7", "i2"], title=["tea", "tea 7", "tea 2"])
    found = recipe.encode(other)
    np.testing.assert_array_equal(found[1:], whole[[7, 2]])
    assert (found[0, recipe.plain :] == 0).all() and found[0].any()


def test_what_cannot_be_is_refused():
    alone = Interactions.from_baskets(["a", "b"], [0, 0], [[1], [2]])
    with pytest.raises(InputError, match="no two items are bought together"):
        fit_copurchase(CONFIG, alone, 3)
    catalog = Catalog.from_columns(["a", "b"], title=["x", "y"])
    with pytest.raises(InputError, match="needs histories"):
        ItemVectors.fit(VectorConfig(copurchase=CONFIG), catalog)
    for field in ("dim", "window", "shrink", "max_basket"):
        with pytest.raises(InputError, match=rf"copurchase\.{field}=-1"):
            CopurchaseConfig(**{field: -1})
    with pytest.raises(InputError, match=r"copurchase\.weight=0"):
        CopurchaseConfig(weight=0)
