import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax.train import checksum as room
from sid_jax.train.checksum import checksum
from sid_jax.train.sharding import MeshConfig, make_mesh

ARRAYS = {
    "float32": np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32),
    "bfloat16": jnp.linspace(-3, 3, 24).reshape(8, 3).astype(jnp.bfloat16),
    "int32": np.arange(-40, 40, dtype=np.int32),
    "bool": np.arange(16) % 3 == 0,
    "scalar": np.int32(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_it_is_the_same_wherever_an_array_lies(kind):
    array = ARRAYS[kind]
    wanted = checksum(array)
    assert int(room._on_devices(jnp.asarray(array))) == wanted
    assert checksum(jnp.asarray(array)) == wanted
    if np.ndim(array) and len(array):
        split = NamedSharding(make_mesh(MeshConfig()), PartitionSpec("data"))
        assert int(room._on_devices(jax.device_put(array, split))) == wanted


def test_every_changed_bit_is_seen():
    array = ARRAYS["float32"]
    wanted, found = checksum(array), set()
    for place in range(array.size):
        for bit in (0, 13, 31):
            changed = array.copy().view(np.uint32)
            changed.ravel()[place] ^= np.uint32(1 << bit)
            found.add(checksum(changed.view(np.float32)))
    assert wanted not in found and len(found) == 3 * array.size


def test_words_that_change_places_are_seen():
    array = ARRAYS["int32"]
    assert len({checksum(np.roll(array, by)) for by in range(80)}) == 80
    assert checksum(array.reshape(8, 10)) == checksum(array)  # the bytes are the same
    assert checksum(array.reshape(8, 10).T) != checksum(array)
