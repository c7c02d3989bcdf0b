import math

import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.evals.distortion import (
    category_fvu,
    compression,
    depth_fvu,
    squared_errors,
    unexplained,
)


def _made(count=80):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, 6)).astype(np.float32) + 3
    noise = rng.normal(size=(count, 3, 6)).astype(np.float32)
    return vectors, vectors[:, None] + noise / np.asarray([1, 2, 4])[:, None]


def test_fvu_by_depth_is_that_of_each_reconstruction():
    vectors, decoded = _made()
    found = depth_fvu(vectors, squared_errors(vectors, decoded))
    for level in (1, 2, 3):
        expected = unexplained(vectors, decoded[:, level - 1])
        assert found[f"fvu@{level}"] == pytest.approx(expected, rel=1e-5)
    assert found["fvu"] == found["fvu@3"] < found["fvu@1"]
    assert math.isnan(depth_fvu(np.ones((3, 2)), np.ones((3, 1)))["fvu"])


def test_categories_average_to_the_whole():
    vectors, decoded = _made()
    errors = squared_errors(vectors, decoded)[:, -1]
    labels = ["a"] * 50 + ["b"] * 20 + ["c@1"] * 10
    found = category_fvu(vectors, errors, labels)
    assert list(found) == ["fvu[a]", "fvu[b]", "fvu[c@1]"]
    mean = np.dot(list(found.values()), [50, 20, 10]) / 80
    assert mean == pytest.approx(unexplained(vectors, decoded[:, -1]), rel=1e-5)
    assert list(category_fvu(vectors, errors, [*labels[:-60], *[""] * 60])) == [
        "fvu[a]"
    ]
    assert len(category_fvu(vectors, errors, labels, most=2)) == 2
    with pytest.raises(InputError, match="80 items have errors but 1 a label"):
        category_fvu(vectors, errors, ["a"])


def test_compression_counts_rows_of_both_tables():
    found = compression(256_000, (512,) * 4, num_special=0)
    assert found == {"compression": 125, "compression_with_head": 125}
    assert compression(100, (10,), 5)["compression_with_head"] == 205 / 25
