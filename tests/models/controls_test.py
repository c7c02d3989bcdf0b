from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.models.controls import lsh_codes, random_codes

KEY = jax.random.key(0)


def test_random_codes_are_even_and_independent():
    sizes, count = (3, 8, 5), 20_000
    draw = partial(random_codes, num_items=count, sizes=sizes)
    codes = np.asarray(jax.jit(draw)(KEY))
    assert codes.dtype == np.int32 and codes.shape == (count, 3)
    np.testing.assert_array_equal(codes, draw(KEY))
    for level, size in enumerate(sizes):
        used = np.bincount(codes[:, level], minlength=size)
        assert len(used) == size
        # A count's standard deviation is sqrt(count p (1 - p)): five of them.
        spread = np.sqrt(count / size * (1 - 1 / size))
        assert np.abs(used - count / size).max() < 5 * spread
    correlations = np.corrcoef(codes.T) - np.eye(3)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)


def test_lsh_bits_agree_as_often_as_the_angle_says():
    rng = np.random.default_rng(0)
    count = 5000
    left, other = rng.normal(size=(2, count, 3))
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    other -= (other * left).sum(axis=1, keepdims=True) * left
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    run = jax.jit(partial(lsh_codes, sizes=(2,)))
    for degrees in (0, 10, 45, 90, 170):
        angle = np.radians(degrees)
        right = np.cos(angle) * left + np.sin(angle) * other
        codes = [np.asarray(run(KEY, jnp.float32(each))) for each in (left, right)]
        agree = np.mean(codes[0] == codes[1])
        assert agree == pytest.approx(1 - degrees / 180, abs=0.03)


def test_lsh_collides_less_with_the_angle_and_knows_no_length():
    rng = np.random.default_rng(0)
    vectors = jnp.float32(rng.normal(size=(400, 8)))
    sizes = (8, 1, 16)
    run = jax.jit(partial(lsh_codes, sizes=sizes))
    codes = np.asarray(run(KEY, vectors))
    assert codes.dtype == np.int32 and (codes < sizes).all() and (codes >= 0).all()
    assert len(np.unique(codes[:, 0])) == 8 and len(np.unique(codes[:, 2])) == 16
    np.testing.assert_array_equal(run(KEY, 3 * vectors), codes)
    # Opposite sides of each hyperplane: all bits turn over.
    np.testing.assert_array_equal(run(KEY, -vectors), np.asarray(sizes) - 1 - codes)
    near = jnp.float32(vectors + 0.1 * rng.normal(size=vectors.shape))
    far = jnp.float32(vectors + 1.0 * rng.normal(size=vectors.shape))
    shares = [np.mean(np.asarray(run(KEY, other)) == codes) for other in (near, far)]
    assert shares[0] > shares[1] + 0.2


def test_lsh_refuses_other_sizes():
    with pytest.raises(InputError, match=r"level 2 has 6 codes.*such as 8"):
        lsh_codes(KEY, jnp.zeros((2, 3)), (4, 6))
    with pytest.raises(InputError, match="level 1 has 0 codes"):
        lsh_codes(KEY, jnp.zeros((2, 3)), (0,))
