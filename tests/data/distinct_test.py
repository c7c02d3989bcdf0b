import numpy as np
import pytest

from sid_jax.data import distinct
from sid_jax.data.distinct import finding_repeats


@pytest.mark.parametrize("twice", [(), ("i0", "i7919", "i99"), ("i19999",)])
def test_ids_that_stand_twice_are_found_and_no_others(tmp_path, twice):
    ids = [f"i{number}" for number in range(20_000)] + list(twice)
    with finding_repeats(tmp_path) as repeats:
        for block in np.array_split(np.random.default_rng(0).permutation(ids), 7):
            repeats.add(block.tolist())
        assert repeats.find() == {hash(item_id) for item_id in twice}
    assert not list(tmp_path.iterdir())


def test_of_many_some_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(distinct, "_MOST", 10)
    ids = [f"i{number}" for number in range(5000)]
    with finding_repeats(tmp_path) as repeats:
        repeats.add(ids)
        repeats.add(ids)
        found = repeats.find()
    assert 10 <= len(found) < 100
    assert found <= set(map(hash, ids))
