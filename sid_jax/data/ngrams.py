"""Hashed word and character n-gram counts of items' texts: stateless, no vocabulary.

The buckets are MurmurHash3 of the n-gram, as in scikit-learn's HashingVectorizer
(Weinberger et al. 2009, without signs, so that counts stay counts).
"""

import re
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import HashingVectorizer

from sid_jax.data.catalog import Catalog
from sid_jax.typing import NDArray

_TOKEN = re.compile(r"\d+[.]\d+|\w+")  # a size such as 10.5 is one word

Text = tuple[tuple[str, ...], ...]
"""What an item says: of each field its parts, of a category path also the paths down
to each node (they start with ` > `)."""


def distinct_texts(
    catalog: Catalog, fields: tuple[str, ...]
) -> tuple[list[Text], NDArray]:
    """The distinct texts, by first occurrence, and which of them is each item's.

    A large catalog has far fewer texts than items, and a text is worked on once.
    """
    columns = [
        catalog.categories
        if name == "categories"
        else [() if v is None else (str(v),) for v in catalog.column(name)]
        for name in fields
    ]
    paths = catalog.categories if "categories" in fields else [()] * len(catalog)
    spelled = {path: _spell(path) for path in set(paths)}
    places = {}
    text_of = [
        places.setdefault((*parts, spelled[path]), len(places))
        for path, *parts in zip(paths, *columns, strict=True)
    ]
    return list(places), np.asarray(text_of, np.int64)


def count_ngrams(
    texts: list[Text],
    word_ngrams: tuple[int, int],
    char_ngrams: tuple[int, int],
    num_hashes: int,
) -> dict[str, Any]:
    """N-gram counts of texts as sparse float32 rows; a row depends on its text alone.

    Args:
      texts: at least one.
      word_ngrams: shortest and longest run of words; none spans two parts. The path
        down to a category node counts as one word, so that leaf-mates meet there.
      char_ngrams: shortest and longest run of characters within a word, its borders
        spelled as blanks.
      num_hashes: buckets of each matrix.

    Returns:
      CSR matrices [texts, num_hashes] `words` and `chars`, column indices sorted.
    """
    shortest, longest = word_ngrams
    places, features, words, ends = {}, [], [], [0]
    for *fields, paths in texts:
        grams = list(paths)
        for part in (part for field in fields for part in field):
            tokens = _TOKEN.findall(part.lower())
            words += [places.setdefault(token, len(places)) for token in tokens]
            for n in range(shortest, longest + 1):
                starts = range(len(tokens) - n + 1)
                grams += [" ".join(tokens[i : i + n]) for i in starts]
        features.append(grams)
        ends.append(len(words))
    hashing: dict[str, Any] = {
        "n_features": num_hashes,
        "alternate_sign": False,
        "dtype": np.float32,
    }
    hasher = FeatureHasher(input_type="string", **hashing)
    # Character n-grams end at a word's edge: each distinct word is cut up once.
    hashing |= {"analyzer": "char_wb", "ngram_range": char_ngrams, "norm": None}
    speller: Any = HashingVectorizer(lowercase=False, **hashing)
    spelling = speller.transform(list(places) or [""])
    used = sparse.csr_matrix(
        (np.ones(len(words), np.float32), words, ends),
        shape=(len(texts), spelling.shape[0]),
    )
    blocks: dict[str, Any] = {
        "words": hasher.transform(features),
        "chars": used @ spelling,
    }
    for counts in blocks.values():
        counts.sort_indices()  # one order of summation, whichever texts came along
    return blocks


def _spell(path: tuple[str, ...]) -> tuple[str, ...]:
    nodes = [f" > {node.lower()}" for node in path]
    return tuple("".join(nodes[: i + 1]) for i in range(len(nodes)))
