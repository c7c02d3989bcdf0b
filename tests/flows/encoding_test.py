import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.config import (
    CellConfig,
    NeighbourhoodConfig,
    ResidualKMeansConfig,
    TokenizerTaskConfig,
    VectorConfig,
)
from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import Cells
from sid_jax.data.vectors import ItemVectors
from sid_jax.flows.encoding import Tokenizer
from sid_jax.models.codebooks import make_codebooks
from sid_jax.train.tokenizer_task import TokenizerTask


def test_coordinates_among_neighbours_are_quantized_but_not_judged():
    rng = np.random.default_rng(0)
    words = np.asarray(["tea", "green", "black", "milk", "oat", "soap", "rice"])
    titles = [" ".join(rng.choice(words, 4)) for _ in range(60)]
    catalog = Catalog.from_columns([f"i{row}" for row in range(60)], title=titles)
    near = NeighbourhoodConfig(k=4, blocks=((2, 3.0),))
    recipe = ItemVectors.fit(VectorConfig(dim=6, neighbours=near), catalog)
    inputs, plain = recipe.encode(catalog), recipe.plain
    assert inputs.shape == (60, plain + 2)

    levels = [rng.normal(size=(size, plain + 2)) for size in (5, 7)]
    state = make_codebooks([jnp.asarray(level, jnp.float32) for level in levels])
    task = TokenizerTask(TokenizerTaskConfig(), ResidualKMeansConfig())
    encoded = Tokenizer(task, {}, state, recipe).encode(catalog)
    first = np.square(inputs[:, None] - levels[0]).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(encoded.codes[:, 0], first)
    np.testing.assert_array_equal(encoded.vectors, inputs[:, :plain])
    total = 0
    for level in range(2):
        total = total + levels[level][encoded.codes[:, level]]
        away = np.square(inputs - total)
        wanted = away[:, :plain].sum(axis=1)
        np.testing.assert_allclose(encoded.errors[:, level], wanted, rtol=1e-4)
    np.testing.assert_allclose(encoded.distances, away.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_assigned_alone_codes_are_the_same(beams):
    """With cells, too, and for items that do not fill the devices."""
    rng = np.random.default_rng(0)
    brands = rng.choice(["Own", "Known"], 90).tolist()
    titles = [f"tea {row}" for row in rng.integers(20, size=90)]
    catalog = Catalog.from_columns([f"i{row}" for row in range(90)], titles, brands)
    recipe = ItemVectors.fit(VectorConfig(dim=6), catalog)
    cells = Cells.fit(CellConfig(columns=("brand",), min_items=1), catalog, 5)
    levels = [rng.normal(size=(size, recipe.width)) for size in (5, 7)]
    levels = [jnp.asarray(level, jnp.float32) for level in levels]
    state = make_codebooks(levels, cells.sizes)
    config = TokenizerTaskConfig(beams=beams)
    task = TokenizerTask(config, ResidualKMeansConfig(), cells.sizes)
    model = Tokenizer(task, {}, state, recipe, cells)
    want, (codes, distances) = model.encode(catalog), model.assign(catalog)
    np.testing.assert_array_equal(codes, want.codes)
    np.testing.assert_array_equal(distances, want.distances)
    assert set(model.columns) == {"title", "brand", "categories"}
