import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from sid_jax.data.catalog import Catalog
from sid_jax.data.ngrams import count_ngrams, distinct_texts

BUCKETS = 2**12
TITLES = st.lists(st.text("aAbß 1.5é>-", max_size=12), min_size=1, max_size=6)


def _count(catalog, fields, words=(1, 2), chars=(3, 5)):
    texts, text_of = distinct_texts(catalog, fields)
    blocks = count_ngrams(texts, words, chars, BUCKETS)
    assert all(block.has_sorted_indices for block in blocks.values())
    return {name: block.toarray()[text_of] for name, block in blocks.items()}


@settings(deadline=None, max_examples=50)
@given(TITLES, st.sampled_from([(1, 1), (1, 2), (2, 4)]))
def test_counts_equal_scikit_learn_on_the_whole_text(titles, ngrams):
    ids = [str(i) for i in range(len(titles))]
    catalog = Catalog.from_columns(ids, title=titles)
    options = {"n_features": BUCKETS, "alternate_sign": False, "norm": None}
    options |= {"ngram_range": ngrams, "dtype": np.float32}
    token = r"\d+[.]\d+|\w+"
    wanted = HashingVectorizer(token_pattern=token, **options)
    spelled = [" ".join(re.findall(token, title.lower())) for title in titles]
    chars = HashingVectorizer(analyzer="char_wb", **options)
    found = _count(catalog, ("title",), ngrams, ngrams)
    np.testing.assert_array_equal(found["words"], wanted.transform(titles).toarray())
    np.testing.assert_array_equal(found["chars"], chars.transform(spelled).toarray())


@settings(deadline=None, max_examples=25)
@given(TITLES, st.data())
def test_a_row_depends_on_its_item_alone(titles, data):
    ids = [str(i) for i in range(len(titles))]
    catalog = Catalog.from_columns(ids, title=titles, brand=titles[::-1])
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1))
    whole = _count(catalog, ("brand", "title"))
    taken = Catalog.from_columns(
        [str(i) for i in range(len(rows))],
        title=[titles[i] for i in rows],
        brand=[titles[::-1][i] for i in rows],
    )
    part = _count(taken, ("brand", "title"))
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][rows])


def test_texts_are_distinct_and_map_back():
    catalog = Catalog.from_columns(
        list("abcd"),
        title=["x", None, "x", "x"],
        categories=[["p", "q"], [], ["p", "q"], ["p"]],
    )
    texts, text_of = distinct_texts(catalog, ("title", "categories"))
    assert text_of.tolist() == [0, 1, 0, 2]
    assert texts[0] == (("x",), ("p", "q"), (" > p", " > p > q"))
    assert texts[1] == ((), (), ())


def test_leaf_mates_share_a_feature_that_same_named_nodes_do_not():
    paths = [["Tea", "Green"], ["Tea", "Green"], ["Paint", "Green"]]
    catalog = Catalog.from_columns(list("abc"), categories=paths)
    with_path = _count(catalog, ("categories",))["words"]
    words = [len({*map(str.lower, path)}) for path in paths]
    assert with_path.sum(axis=1).tolist() == [w + 2 for w in words]
    assert (with_path[0] == with_path[1]).all()
    assert with_path[0] @ with_path[2] == 1
