"""Tries and arrays that stay in their files."""

import dataclasses
import zipfile

import chex
import jax
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.sids.beam import beam_search
from sid_jax.sids.index import build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.sids.mapped import load_npz, map_npz, save_npz
from sid_jax.sids.trie import build_trie
from sid_jax.sids.trie_file import load_trie, save_trie
from sid_jax.sids.update import make_room

SIZES = (5, 300, 7)
SIDS = np.random.default_rng(0).integers(0, SIZES, (200, 3))


@pytest.mark.parametrize("room", [0.0, 0.5])
@pytest.mark.parametrize(("tail", "dense"), [(0, 0), (1, 0), (2, 1), (2, 2)])
def test_a_trie_comes_back_and_is_searched_from_its_file(tmp_path, tail, dense, room):
    trie = build_trie(SIDS, SIZES, tail=tail, dense=dense)
    trie = make_room(trie, room) if room else trie
    save_trie(tmp_path / "trie.npz", trie)
    loaded = load_trie(tmp_path / "trie.npz")
    assert all(isinstance(each, np.memmap) for each in jax.tree.leaves(loaded))
    assert jax.tree.structure(loaded) == jax.tree.structure(trie)
    for ours, theirs in zip(*map(jax.tree.leaves, (loaded, trie)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)

    def step(context, state, codes, level):
        beams = 1 if codes is None else codes.shape[1]
        return state, jax.numpy.zeros((2, beams, SIZES[level]))

    search = jax.jit(lambda trie: beam_search(step, None, (), trie, num_beams=9))
    chex.assert_trees_all_equal(search(loaded), search(trie))


def test_an_index_answers_from_its_file(tmp_path):
    items = np.arange(40)
    told = items % 20, items // 20, np.repeat(np.arange(20), 2), np.ones(40)
    index = build_index(told[0][:20], told[1], told[2], told[3], 3, {"stock": items})
    path = tmp_path / "index.npz"
    save_index(path, index)
    mapped, read = load_index(path, mapped=True), load_index(path)
    assert isinstance(mapped.items, np.memmap) and not isinstance(read.items, np.memmap)
    for name in ("leaves", "starts", "items", "sales"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(read, name))
    leaves = np.asarray([[3, 15, 17]])
    asked = leaves, np.zeros((1, 3), np.float32), np.ones((1, 3), bool), np.asarray([1])
    found, wanted = (each.products(*asked, top=4) for each in (mapped, read))
    np.testing.assert_array_equal(found.items, wanted.items)
    assert (found.items >= 0).any()
    # The next version takes its place; what was mapped stays what it was.
    save_index(path, build_index(*(each[:5] for each in told), 3))
    np.testing.assert_array_equal(mapped.items, read.items)
    assert len(load_index(path, mapped=True).items) != len(read.items)


def test_any_array_is_mapped_as_it_was_written(tmp_path):
    arrays = {
        "empty": np.empty((0, 3), np.int16),
        "number": np.float64(2.5),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.asarray([True, False]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    save_npz(tmp_path / "b.npz", arrays)
    for path in (tmp_path / "a.npz", tmp_path / "b.npz"):
        found, read = map_npz(path), np.load(path, allow_pickle=False)
        assert found.keys() == arrays.keys() == set(read)
        for name, array in arrays.items():
            for each in (found[name], read[name]):
                np.testing.assert_array_equal(each, array)
                assert each.dtype == array.dtype
            assert not found[name].size or not found[name].flags.writeable
    assert all(not each.ctypes.data % 64 for each in found.values() if each.size)


def test_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    for load in (load_trie, lambda at: load_index(at, mapped=True)):
        with pytest.raises(InputError, match=r"a\.npz"):
            load(path)
        path.write_bytes(b"PK no zip")
        with pytest.raises(InputError, match=r"a\.npz"):
            load(path)
        np.savez(path, a=np.arange(3))
        with pytest.raises(InputError, match=r"a\.npz is no"):
            load(path)
        path.unlink()
    np.savez_compressed(path, a=np.arange(3))
    with pytest.raises(InputError, match="is compressed, and cannot be mapped"):
        map_npz(path)
    np.savez(path, a=np.asarray([{}], object))
    with pytest.raises(InputError, match="Python objects"):
        map_npz(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"\x93NUMPY")
    with pytest.raises(InputError, match="cannot be mapped"):
        map_npz(path)


def test_damage_is_found_before_anything_is_answered(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, {"a": np.arange(40), "b": np.arange(3)})
    good = path.read_bytes()
    inside = good.index(np.arange(2, 4).tobytes())
    assert good.count(b"(40,)") == 1
    listed, end = good.index(b"PK\1\2"), good.index(b"PK\5\6")
    second = good.index(b"PK\1\2", listed + 1)
    cases = {
        "its checksum differs": (inside, b"\5"),
        # Half of it, or a name more: numpy alone takes the first for an array.
        "a.npy is damaged": (good.index(b"(40,)"), b"(20,)"),
        # The first of two is said to have a comment, which is the second.
        "of 2 arrays 1 are found": (listed + 32, (end - second).to_bytes(2, "little")),
        "cannot be": (listed + 8, b"\1"),  # encrypted
    }
    for message, (place, other) in cases.items():
        path.write_bytes(good[:place] + other + good[place + len(other) :])
        for read in (map_npz, load_npz):
            with pytest.raises(InputError, match=rf"a\.npz.*{message}"):
                read(path)
    # Who has compared a digest already need not read it twice.
    path.write_bytes(good[:inside] + b"\5" + good[inside + 1 :])
    assert map_npz(path, check=False)["a"][2] == 5


def test_an_index_whose_arrays_do_not_fit_is_refused(tmp_path):
    path = tmp_path / "index.npz"
    items = np.arange(4, dtype=np.int32)
    good = build_index(items, items // 2, items, np.ones(4), 2)
    save_index(path, good)
    assert len(load_index(path).items) == 4
    for change in (
        {"starts": good.starts[:-1]},
        {"starts": np.asarray([0, 5, 4])},
        {"items": good.items + 1},
        {"items": good.items - 1},
        {"sales": good.sales[:, None]},
        {"leaves": good.leaves.astype(float)},
        {"leaves": good.leaves - 1},
        {"columns": {"x": np.zeros(3)}},
    ):
        save_index(path, dataclasses.replace(good, **change))
        for mapped in (False, True):
            with pytest.raises(InputError, match=r"index\.npz: the arrays .* not fit"):
                load_index(path, mapped=mapped)


def test_a_trie_that_lacks_a_part_is_refused(tmp_path):
    path = tmp_path / "trie.npz"
    save_trie(path, build_trie(SIDS, SIZES, tail=2, dense=1))
    arrays = map_npz(path)
    for name in arrays:
        rest = {key: each for key, each in arrays.items() if key != name}
        np.savez(tmp_path / "less.npz", **rest)
        with pytest.raises(InputError, match=r"less\.npz"):
            load_trie(tmp_path / "less.npz")
    for name in arrays:
        if "." in name:
            short = arrays[name][: len(arrays[name]) // 2]
            for wrong in (short, arrays[name].astype(np.float32)):
                np.savez(tmp_path / "wrong.npz", **{**arrays, name: wrong})
                with pytest.raises(InputError, match="of the trie is damaged"):
                    load_trie(tmp_path / "wrong.npz")
    for name, wrong in {
        "codebook_sizes": (5, 200, 7),
        "max_slots": (5, 9, 9),
        "dense": 2,
    }.items():
        np.savez(tmp_path / "wrong.npz", **{**arrays, name: np.asarray(wrong)})
        with pytest.raises(InputError, match="of the trie is damaged"):
            load_trie(tmp_path / "wrong.npz")
    for name, wrong in {
        "tail": 1.0,
        "dense": (1, 1),
        "codebook_sizes": "five",
        "max_slots": (1,),
    }.items():
        np.savez(tmp_path / "wrong.npz", **{**arrays, name: np.asarray(wrong)})
        with pytest.raises(InputError, match="is no trie"):
            load_trie(tmp_path / "wrong.npz")
