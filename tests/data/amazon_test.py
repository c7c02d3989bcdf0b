"""Both forms of Amazon 2014 give the same; what is damaged is named."""

import gzip
import json
from pathlib import Path

import pytest

from sid_jax.data.amazon import CATEGORIES, read_amazon_2014
from sid_jax.data.datasets import DataConfig, load
from sid_jax.errors import InputError

NAME = "amazon_2014_beauty"
SHARED = Path(__file__).parents[2] / "../shared/data/amazon2014-beauty"
REVIEWS = [  # user, product, day
    ("A1", "B01", 3),
    ("A2", "B02", 1),
    ("A1", "B03", 1),
    ("A1", "B02", 3),
    ("A2", "B01", 9),
]
PRODUCTS = [
    {"asin": "B02", "title": " It's \"tea\" ", "brand": "", "price": 3.5,
     "categories": [["Beauty", " Skin Care ", "", "Lost"], ["Beauty", "Hair Care"]],
     "related": {"also_bought": ["B99"]}},
    {"asin": "B99", "title": "never reviewed"},
    {"asin": "B01", "description": "An oil", "imUrl": "x", "categories": [["Beauty"]]},
]  # fmt: skip


def write(path, lines):
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


@pytest.fixture
def folder(tmp_path):
    reviews = [
        json.dumps({"reviewerID": u, "asin": a, "unixReviewTime": d, "overall": 5.0})
        for u, a, d in REVIEWS
    ]
    write(tmp_path / "reviews_Beauty_5.json.gz", reviews)
    write(tmp_path / "meta_Beauty.json.gz", map(repr, PRODUCTS))
    return tmp_path


def test_published_files_are_read(folder):
    catalog, data = read_amazon_2014(NAME, folder)
    assert catalog.item_ids == ["B01", "B02", "B03"]
    assert catalog.titles == ["", 'It\'s "tea"', ""]
    assert catalog.brands == [None, None, None]
    assert catalog.categories == [("Beauty",), ("Beauty", "Skin Care"), ()]
    assert catalog.column("price") == [None, 3.5, None]
    assert catalog.column("description") == ["An oil", None, None]
    # By time; of one day, in the order of the file.
    bought = [
        [catalog.item_ids[i] for i in data.items[data.offsets[s] : data.offsets[e]]]
        for s, e in zip(data.user_offsets[:-1], data.user_offsets[1:], strict=True)
    ]
    assert data.users == ("A1", "A2")
    assert bought == [["B03", "B01", "B02"], ["B02", "B01"]]


def test_the_other_form_gives_the_same(folder, tmp_path_factory):
    catalog, data = read_amazon_2014(NAME, folder)
    other = tmp_path_factory.mktemp("other")
    items = [
        {"item_id": i, "title": t, "categories": list(path), "price": p, "asin": i,
         "description": d}
        for i, t, path, p, d in zip(
            catalog.item_ids, catalog.titles, catalog.categories,
            catalog.column("price"), catalog.column("description"), strict=True,
        )
    ]  # fmt: skip
    write(other / "items.jsonl.gz", map(json.dumps, items))
    write(other / "sequences.txt.gz", ["A1 B03 B01 B02", "A2 B02 B01"])
    again, same = read_amazon_2014(NAME, other)
    assert again.attributes == catalog.attributes == ("price", "description")
    assert again.column("title") == [t or None for t in catalog.titles]
    assert again.categories == catalog.categories
    assert same.users == data.users and same.items.tolist() == data.items.tolist()


def test_it_is_built_once_and_then_needs_no_source(folder, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("tfds"))
    with pytest.raises(InputError, match=r"--data.source FOLDER"):
        load(DataConfig(name=NAME, data_dir=root))
    built = load(DataConfig(name=NAME, data_dir=root, source=str(folder)))
    again = load(DataConfig(name=NAME, data_dir=root))
    assert built[0] == again[0]
    assert built[1] is not None and again[1] is not None
    assert built[1].items.tolist() == again[1].items.tolist()


@pytest.mark.parametrize("name", CATEGORIES)
def test_an_empty_folder_is_told_what_is_missing(tmp_path, name):
    wanted = f"reviews_{CATEGORIES[name]}_5.json.gz.*https://"
    with pytest.raises(InputError, match=wanted):
        read_amazon_2014(name, tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("reviews", "{", "line 1: not readable"),
        ("reviews", "[1]", "line 1: want an object, not list"),
        ("reviews", '{"asin": "B01"}', "line 1: no review .*reviewerID"),
        (
            "reviews",
            '{"reviewerID": "a", "asin": "b", "unixReviewTime": "x"}',
            "line 1",
        ),
        ("reviews", "", "no reviews"),
        ("meta", "{'asin': 'B01'", "line 1: not readable"),
        ("meta", "__import__('os').getcwd()", "line 1: not readable"),
    ],
)
def test_damaged_lines_are_named(folder, file, line, message):
    name = {"reviews": "reviews_Beauty_5.json.gz", "meta": "meta_Beauty.json.gz"}[file]
    write(folder / name, [line])
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_amazon_2014(NAME, folder)


def test_a_cut_file_is_named(folder):
    path = folder / "meta_Beauty.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"meta_Beauty.json.gz: truncated"):
        read_amazon_2014(NAME, folder)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not at hand")
def test_beauty_is_the_literatures():
    catalog, data = read_amazon_2014(NAME, SHARED)
    assert len(catalog) == 12_101
    assert (len(data.users), len(data.items)) == (22_363, 198_502)
