import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.neighbourhood import NeighbourhoodConfig, coordinates
from sid_jax.data.vectors import ItemVectors, VectorConfig
from sid_jax.errors import InputError
from sid_jax.files import read_json

COLUMNS = ("maker", "organic", "price", "stock")
CONFIG = VectorConfig(dim=12, num_hashes=2**10, columns=COLUMNS, max_values=3)


def _catalog(count=60, seed=0, start=0):
    rng = np.random.default_rng(seed)
    words = np.asarray(
        ["tea", "green", "black", "oolong", "milk", "oat", "soap", "rice"]
    )
    draw = lambda values: rng.choice(np.asarray(values, object), count)  # noqa: E731
    leaves = draw([0, 1, 2, 3, 4])
    paths = [[], ["Drinks"], ["Drinks", "Tea"], ["Drinks", "Milk"], ["Home", "Soap"]]
    return Catalog.from_columns(
        [f"i{start + i}" for i in range(count)],
        title=[" ".join(rng.choice(words, rng.integers(0, 5))) for _ in range(count)],
        brand=draw(["Acme", "Zed", None]).tolist(),
        categories=[paths[leaf] for leaf in leaves],
        attributes={
            "maker": draw(["m1", "m1", "m2", "m3", "m4", None]).tolist(),
            "organic": draw([True, False, None]).tolist(),
            "price": draw([None, 0.5, 1.0, 2.5, 40.0, -1.0]).tolist(),
            "stock": rng.integers(0, 50, count).tolist(),
        },
    )


def _variance(vectors):
    return np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()


CONFIGS = [
    CONFIG,
    VectorConfig(dim=5, num_hashes=64),
    VectorConfig(text=(), columns=("price", "maker")),
    VectorConfig(text=("maker", "title"), dim=500, char_ngrams=(1, 1)),
    dataclasses.replace(CONFIG, column_weight=0.1),
]
NEAR = NeighbourhoodConfig(k=4, blocks=((2, 2.0), (5, 0.5)), cut=0.5)


@pytest.mark.parametrize("config", CONFIGS)
def test_centred_and_of_total_variance_one(config):
    catalog = _catalog()
    vectors = ItemVectors.fit(config, catalog).encode(catalog)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-6)
    assert np.square(vectors).sum(axis=1).mean() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_columns_carry_their_share_in_equal_parts(weight):
    catalog = _catalog()
    config = dataclasses.replace(CONFIG, column_weight=weight)
    fitted = ItemVectors.fit(config, catalog)
    vectors = fitted.encode(catalog).astype(np.float64)
    widths = [fitted.arrays[f"column{i}_table"].shape[1] for i in range(len(COLUMNS))]
    text = vectors.shape[1] - sum(widths)
    assert _variance(vectors[:, :text]) == pytest.approx(1 - weight, abs=1e-4)
    for part in np.split(vectors[:, text:], np.cumsum(widths)[:-1], axis=1):
        assert _variance(part) == pytest.approx(weight / len(COLUMNS), abs=1e-4)


@pytest.mark.parametrize(
    "config", [*CONFIGS, dataclasses.replace(CONFIG, neighbours=NEAR)]
)
def test_saved_loaded_and_encoded_again_is_equal_to_the_bit(config, tmp_path):
    catalog, new = _catalog(), _catalog(40, seed=9, start=100)
    fitted = ItemVectors.fit(config, catalog)
    fitted.save(tmp_path / "vectors")
    loaded = ItemVectors.load(tmp_path / "vectors")
    assert loaded.config == config
    assert fitted.encode(new).shape == (40, loaded.width)
    assert (loaded.encode(catalog) == fitted.encode(catalog)).all()
    assert (loaded.encode(new) == fitted.encode(new)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 59), unique=True, max_size=20))
def test_a_vector_depends_on_its_item_alone(rows):
    catalog = _catalog()
    fitted = ItemVectors.fit(dataclasses.replace(CONFIG, neighbours=NEAR), catalog)
    whole = fitted.encode(catalog)
    assert (fitted.encode(catalog.take(rows)) == whole[rows]).all()


def test_coordinates_stand_behind_the_plain_columns():
    catalog, new = _catalog(), _catalog(9, seed=9, start=100)
    plain = ItemVectors.fit(CONFIG, catalog)
    config = dataclasses.replace(CONFIG, neighbours=NEAR)
    fitted = ItemVectors.fit(config, catalog)
    assert (plain.plain, plain.width) == (fitted.plain, fitted.plain)
    assert fitted.width == fitted.plain + NEAR.width
    for items in (catalog, new):
        vectors = fitted.encode(items)
        wanted = plain.encode(items)
        np.testing.assert_array_equal(vectors[:, : fitted.plain], wanted)
        np.testing.assert_array_equal(wanted, fitted.encode_plain(items))
        found = coordinates(NEAR, fitted.arrays, wanted)
        np.testing.assert_array_equal(vectors[:, fitted.plain :], found)


def test_a_recipe_of_the_first_schema_is_read(tmp_path):
    fitted = ItemVectors.fit(CONFIG, _catalog())
    fitted.save(tmp_path / "vectors")
    path = tmp_path / "vectors" / "recipe.json"
    recipe = read_json(path) | {"schema_version": 1}
    del recipe["config"]["neighbours"]
    path.write_text(json.dumps(recipe))
    loaded = ItemVectors.load(tmp_path / "vectors")
    assert loaded.config == CONFIG
    assert (loaded.encode(_catalog(5)) == fitted.encode(_catalog(5))).all()


def test_a_copy_of_an_item_changes_neither_idf_nor_components():
    catalog = _catalog()
    config = VectorConfig(dim=8, num_hashes=256)
    ids = [f"copy {i}" for i in range(40)]
    copies = catalog.take([3]).table.take([0] * 40).set_column(0, "item_id", [ids])
    both = Catalog(pa.concat_tables([catalog.table, copies]))
    once = ItemVectors.fit(config, catalog).arrays
    more = ItemVectors.fit(config, both).arrays
    np.testing.assert_array_equal(once["words_idf"], more["words_idf"])
    ratio = more["words_components"] / once["words_components"]
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], ratio[0, 0], rtol=1e-3)


def test_items_of_one_leaf_are_closer_than_others():
    catalog = _catalog(300)
    fitted = ItemVectors.fit(VectorConfig(dim=20, num_hashes=2**12), catalog)
    vectors = fitted.encode(catalog)
    squares = np.square(vectors[:, None] - vectors[None]).sum(axis=2)
    leaf = np.asarray([" > ".join(path) for path in catalog.categories])
    same = leaf[:, None] == leaf[None]
    assert squares[same].mean() < 0.8 * squares[~same].mean()


def test_numbers_keep_their_order_and_unknown_values_their_place():
    prices = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, None, None]
    makers = [*"aaaabbcd", None, "b"]
    ids = [str(i) for i in range(10)]
    catalog = Catalog.from_columns(ids, attributes={"price": prices, "maker": makers})
    price = VectorConfig(text=(), columns=("price",), num_bins=8)
    vectors = ItemVectors.fit(price, catalog).encode(catalog)
    away = np.square(vectors - vectors[0]).sum(axis=1)
    steps = np.diff(away[:8])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert steps[0] > 0
    assert (vectors[8] == vectors[9]).all()
    assert not (vectors[:8] == vectors[8]).all(axis=1).any()

    maker = VectorConfig(text=(), columns=("maker",), max_values=2)
    fitted = ItemVectors.fit(maker, catalog)
    vectors = fitted.encode(catalog)
    assert fitted.values == (("a", "b"),)
    assert (vectors[6] == vectors[7]).all()  # c and d are both "another value"
    assert len(np.unique(vectors, axis=0)) == 4
    new = Catalog.from_columns(["n", "m"], attributes={"maker": ["never seen", None]})
    np.testing.assert_array_equal(fitted.encode(new), vectors[[6, 8]])


def test_known_or_not_is_told_apart_where_all_known_values_are_equal():
    prices = [5.0, None, 5.0, None]
    catalog = Catalog.from_columns(list("abcd"), attributes={"price": prices})
    config = VectorConfig(text=(), columns=("price",))
    vectors = ItemVectors.fit(config, catalog).encode(catalog)
    assert (vectors[0] == vectors[2]).all()
    assert np.square(vectors[0] - vectors[1]).sum() == pytest.approx(4)


def test_a_column_without_variance_leaves_its_share_to_the_others():
    catalog = Catalog.from_columns(
        list("abcd"),
        title=["same"] * 4,
        attributes={"x": ["p", "q", "p", "q"], "y": ["k"] * 4, "z": [1, 2, 3, 4]},
    )
    config = VectorConfig(columns=("x", "y", "z"), column_weight=0.3)
    fitted = ItemVectors.fit(config, catalog)
    assert _variance(fitted.encode(catalog)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="same title, brand, categories, y"):
        ItemVectors.fit(VectorConfig(columns=("y",)), catalog)


def test_texts_that_differ_in_spaces_alone_are_not_blown_up_noise():
    titles = [f"a{' ' * n}tea" for n in range(1, 59)]
    catalog = Catalog.from_columns(titles, title=titles)
    with pytest.raises(InputError, match="nothing tells the items apart"):
        ItemVectors.fit(VectorConfig(), catalog)


def test_an_item_of_unseen_or_no_text_is_finite():
    fitted = ItemVectors.fit(VectorConfig(num_hashes=2**16, dim=8), _catalog())
    new = Catalog.from_columns(["n", "m"], title=["", "日本茶"])
    vectors = fitted.encode(new)
    assert np.isfinite(vectors).all()
    assert (vectors[0] == vectors[1]).all()
    assert fitted.encode(new.take([])).shape == (0, 8)


def test_columns_are_checked():
    catalog = _catalog()
    with pytest.raises(InputError, match="no column 'colour'"):
        ItemVectors.fit(VectorConfig(columns=("colour",)), catalog)
    with pytest.raises(InputError, match="no column 'colour'"):
        ItemVectors.fit(VectorConfig(text=("colour",)), catalog)
    with pytest.raises(InputError, match="without items"):
        ItemVectors.fit(VectorConfig(), catalog.take([]))
    fitted = ItemVectors.fit(VectorConfig(text=(), columns=("price",)), catalog)
    words = Catalog.from_columns(["n"], attributes={"price": ["cheap"]})
    with pytest.raises(InputError, match="'price' holds text"):
        fitted.encode(words)
    unknown = Catalog.from_columns(["n"], attributes={"price": [None]})
    row = catalog.column("price").index(None)
    np.testing.assert_array_equal(
        fitted.encode(unknown)[0], fitted.encode(catalog)[row]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"word_ngrams": (2, 1)}, "word_ngrams"),
        ({"char_ngrams": (0, 1)}, "char_ngrams"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"column_weight": 1.5}, "column_weight"),
        ({"columns": ("categories",)}, "name them in text"),
        ({"text": ()}, "nothing to encode"),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(InputError, match=message):
        VectorConfig(**fields)


def test_vectors_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    catalog = _catalog(20)
    brought = (5 + 3 * rng.normal(size=(25, 4))).astype(np.float32)
    ids = [f"i{i}" for i in range(25)]
    np.savez(tmp_path / "v.npz", ids=np.asarray(ids[::-1]), vectors=brought[::-1])
    fitted = ItemVectors.fit(VectorConfig(file=str(tmp_path / "v.npz")), catalog)
    vectors = fitted.encode(catalog)
    centred = brought[:20] - brought[:20].mean(axis=0)
    wanted = centred / np.sqrt(np.square(centred).sum(axis=1).mean())
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)

    fitted.save(tmp_path / "recipe")
    loaded = ItemVectors.load(tmp_path / "recipe")
    new = _catalog(5, start=20)
    assert (loaded.encode(catalog) == vectors).all()
    assert (loaded.encode(new) == fitted.encode(new)).all()

    (tmp_path / "v.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(InputError, match=r"v\.npz: no such file"):
        loaded.encode(new)
    moved = ItemVectors.load(tmp_path / "recipe", file=str(tmp_path / "moved.npz"))
    assert (moved.encode(catalog) == vectors).all()
    with pytest.raises(InputError, match=r"moved\.npz: no vector for 1 of 1"):
        moved.encode(_catalog(1, start=25))
    np.savez(tmp_path / "v.npz", ids=np.asarray(ids), vectors=brought[:, :3])
    with pytest.raises(InputError, match=r"width 3, but .* width 4"):
        loaded.encode(catalog)
    np.savez(tmp_path / "v.npz", ids=np.asarray(ids), vectors=brought * 0)
    with pytest.raises(InputError, match="all 20 items are equal"):
        ItemVectors.fit(VectorConfig(file=str(tmp_path / "v.npz")), catalog)


def test_damaged_recipes_are_input_errors(tmp_path):
    folder = tmp_path / "vectors"
    with pytest.raises(InputError, match="vectors: no recipe"):
        ItemVectors.load(folder)
    fitted = ItemVectors.fit(VectorConfig(dim=4, num_hashes=64), _catalog())
    for name, damage in {
        "arrays.npz": lambda data: data[: len(data) // 2],
        "recipe.json": lambda data: data[:30],
    }.items():
        fitted.save(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        with pytest.raises(InputError, match="fit it again"):
            ItemVectors.load(folder)
    fitted.save(folder)
    recipe = read_json(folder / "recipe.json")
    recipe["schema_version"] = 99
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match="schema version 99"):
        ItemVectors.load(folder)
    odd = recipe | {"schema_version": 3, "config": ""}
    (folder / "recipe.json").write_text(json.dumps(odd))
    with pytest.raises(InputError, match="no recipe for item vectors"):
        ItemVectors.load(folder)
