import dataclasses
from typing import Any

import numpy as np
import pytest

from sid_jax.data.neighbourhood import (
    NeighbourhoodConfig,
    coordinates,
    fit_coordinates,
)
from sid_jax.errors import InputError

CONFIG = NeighbourhoodConfig(k=6, blocks=((3, 2.0), (5, 0.5)))


def _clouds(count=240, width=12, clouds=3, seed=0):
    """Vectors around `clouds` directions, and the cloud of each."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(1).normal(size=(clouds, width))
    cloud = rng.integers(0, clouds, count)
    noise = 0.45 * rng.normal(size=(count, width))
    return (middles[cloud] + noise).astype(np.float32), cloud


def _dense(vectors, config, top=None):
    """The definition, on whole matrices: each block's unit rows before averaging."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units.astype(np.float64) @ units.T
    np.fill_diagonal(cosines, -2)
    graph = np.zeros_like(cosines)
    for row, near in enumerate(np.argsort(-cosines, axis=1)[:, : config.k]):
        graph[row, near] = np.maximum(cosines[row, near], 0)
    if top is not None:
        graph *= np.where(top[:, None] != top, 1 - config.cut, 1)
    graph = np.maximum(graph, graph.T)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    _, axes = np.linalg.eigh(scale[:, None] * graph * scale)
    axes = axes[:, ::-1]
    return [axes[:, :m] / np.linalg.norm(axes[:, :m], axis=1)[:, None] for m in (3, 5)]


@pytest.mark.parametrize("cut", [0.0, 0.7])
def test_coordinates_are_those_of_the_dense_definition(cut):
    vectors, cloud = _clouds()
    config = dataclasses.replace(CONFIG, cut=cut)
    paths = [["shop", f"c{each}"] for each in cloud]
    arrays = fit_coordinates(config, vectors, paths)
    points = np.split(arrays["neighbour_points"], [3], axis=1)
    for found, wanted in zip(points, _dense(vectors, config, cloud), strict=True):
        # An eigenvector's sign is free, inner products are not.
        np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)

    found = coordinates(config, arrays, vectors)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    for part, weight in zip(np.split(found, [3], axis=1), (2.0, 0.5), strict=True):
        spread = np.square(part).sum(axis=1).mean()
        assert spread == pytest.approx(weight**2, rel=1e-4)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in (0, 7):
        cosines = units @ units[row]
        near = np.argsort(-cosines)[:6]
        mean = np.average(
            arrays["neighbour_points"][near], axis=0, weights=cosines[near]
        )
        wanted = (mean - arrays["neighbour_mean"]) * arrays["neighbour_scale"]
        np.testing.assert_allclose(found[row], wanted, atol=1e-4)


def test_a_fit_is_the_same_to_the_bit_each_time_and_rows_do_not_depend_on_others():
    vectors, _ = _clouds(700)
    arrays, again = (fit_coordinates(CONFIG, vectors) for _ in range(2))
    assert all((arrays[name] == again[name]).all() for name in arrays)
    whole = coordinates(CONFIG, arrays, vectors)
    rows = np.random.default_rng(3).permutation(700)[:90]
    assert (coordinates(CONFIG, arrays, vectors[rows]) == whole[rows]).all()
    one = coordinates(CONFIG, arrays, vectors[650:651])
    assert (one == whole[650]).all()
    assert coordinates(CONFIG, arrays, vectors[:0]).shape == (0, CONFIG.width)


def test_items_outside_of_the_fit_lie_among_their_cloud():
    vectors, cloud = _clouds(600)
    config = dataclasses.replace(CONFIG, landmarks=200, blocks=((3, 1.0),))
    arrays = fit_coordinates(config, vectors)
    assert arrays["neighbour_units"].shape == (200, 12)
    new, of = _clouds(150, seed=9)
    known, found = (coordinates(config, arrays, each) for each in (vectors, new))
    middles = np.stack([known[cloud == each].mean(axis=0) for each in range(3)])
    away = np.square(found[:, None] - middles).sum(axis=2)
    assert (away.argmin(axis=1) == of).mean() > 0.95
    other = dataclasses.replace(config, seed=1)
    units = fit_coordinates(other, vectors)["neighbour_units"]
    assert not (units == arrays["neighbour_units"]).all()


def test_copies_of_a_vector_count_once():
    vectors, _ = _clouds()
    copies = np.concatenate([vectors, np.repeat(vectors[:1], 100, axis=0)])
    once, more = (fit_coordinates(CONFIG, each) for each in (vectors, copies))
    for name in ("neighbour_units", "neighbour_points"):
        assert (once[name] == more[name]).all()
    found = coordinates(CONFIG, more, copies)
    assert (found[240:] == found[0]).all()


def test_a_small_piece_of_the_graph_takes_no_eigenvector():
    vectors, cloud = _clouds(clouds=2, count=900)
    apart = np.zeros((907, 14), np.float32)
    apart[:900, :12] = vectors
    apart[900:, 12] = 1
    apart[900:, 13] = 0.001 * np.arange(7)
    config = dataclasses.replace(CONFIG, blocks=((2, 1.0),))
    arrays = fit_coordinates(config, apart)
    assert len(arrays["neighbour_units"]) == 900
    found = coordinates(config, arrays, apart)
    assert np.isfinite(found).all()
    first, second = (found[:900][cloud == each].mean(axis=0) for each in range(2))
    nearer = np.linalg.norm(found[:900] - first, axis=1) < np.linalg.norm(
        found[:900] - second, axis=1
    )
    assert (nearer == (cloud == 0)).mean() > 0.95


def test_a_vector_without_a_direction_lies_at_the_mean():
    vectors, _ = _clouds()
    vectors[5] = 0
    arrays = fit_coordinates(CONFIG, vectors)
    assert len(arrays["neighbour_units"]) == 239
    assert (coordinates(CONFIG, arrays, vectors)[5] == 0).all()


def test_too_few_items_and_bad_settings_are_named():
    vectors, _ = _clouds(5)
    with pytest.raises(InputError, match="want 5 coordinates, but only 5 items"):
        fit_coordinates(CONFIG, np.repeat(vectors, 3, axis=0))
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"k": -1}, "neighbours.k=-1"),
        ({"blocks": ()}, "neighbours.blocks"),
        ({"blocks": ((0, 1.0),)}, "at least one dimension"),
        ({"blocks": ((2, -1.0),)}, "weights are positive"),
        ({"cut": 1.5}, "neighbours.cut is a share"),
        ({"landmarks": 1}, "neighbours.landmarks=1"),
    )
    for fields, message in cases:
        with pytest.raises(InputError, match=message):
            NeighbourhoodConfig(**fields)
