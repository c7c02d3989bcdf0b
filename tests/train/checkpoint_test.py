import asyncio
import gc
import json
import logging
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.train.checkpoint import Checkpointer, DamagedError
from sid_jax.train.sharding import MeshConfig, make_mesh
from sid_jax.train.step import TrainState

CONFIG = json.dumps({"train": {"steps": 3}})


def _state(seed=0):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)
    params = {"dense": {"kernel": kernel, "bias": jnp.ones(4, jnp.bfloat16)}}
    moving = {"counts": [jnp.arange(4), jnp.asarray(rng.random(8) > 0.5)]}
    opt_state = ({"mu": kernel * 2}, (), {"count": jnp.asarray(seed)})
    return TrainState(jnp.asarray(seed), params, moving, opt_state)


def _abstract(tree, model=1, axis=None):
    mesh = make_mesh(MeshConfig(model=model))

    def describe(leaf):
        spec = PartitionSpec(axis) if leaf.ndim == 2 else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    checkpoints.save(3, _state(3), CONFIG)
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def test_what_is_saved_comes_back(saved, tmp_path):
    restored = saved.restore(_abstract(_state()))
    chex.assert_trees_all_equal(restored, _state(3))
    chex.assert_trees_all_equal_dtypes(restored, _state(3))
    assert json.loads(saved.config_json()) == json.loads(CONFIG)
    again = Checkpointer(tmp_path, read_only=True)
    assert again.latest_step == 3
    chex.assert_trees_all_equal(again.restore(_abstract(_state())), _state(3))
    again.close()


def test_restores_onto_another_mesh(saved):
    for model, axis in ((1, "data"), (2, "model"), (4, ("data", "model"))):
        abstract = _abstract(_state(), model, axis)
        restored = saved.restore(abstract)
        chex.assert_trees_all_equal(restored, _state(3))
        layout = jax.tree.map(lambda leaf: leaf.sharding, restored)
        chex.assert_trees_all_equal(
            layout, jax.tree.map(lambda leaf: leaf.sharding, abstract)
        )


def test_parameters_come_without_an_optimizer(saved):
    abstract = _abstract(_state())
    params, moving = saved.restore_params(abstract.params, abstract.state)
    chex.assert_trees_all_equal((params, moving), (_state(3).params, _state(3).state))


def test_a_save_may_be_followed_by_donation(tmp_path):
    checkpoints = Checkpointer(tmp_path)
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    start = np.random.default_rng(0).random(1 << 20, np.float32)
    state = add({"x": jnp.asarray(start)})
    checkpoints.save(1, state, CONFIG)
    for _ in range(10):
        state = add(state)
    restored = checkpoints.restore(_abstract(state), 1)
    checkpoints.close()
    np.testing.assert_array_equal(restored["x"], start + 1)


def test_keeps_the_latest(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step in (1, 4, 6, 9):
        checkpoints.save(step, _state(step), CONFIG)
    checkpoints.save(9, _state(0), CONFIG)  # is there already
    checkpoints.wait()
    assert checkpoints.latest_step == 9
    assert int(checkpoints.restore(_abstract(_state()), 6).step) == 6
    assert int(checkpoints.restore(_abstract(_state())).step) == 9
    with pytest.raises(InputError, match=r"no checkpoint 4 \(there are steps \[6, 9\]"):
        checkpoints.restore(_abstract(_state()), 4)
    checkpoints.close()


def test_a_save_that_was_killed_leaves_the_last_whole_one(saved, tmp_path):
    # What a kill leaves is a folder under a temporary name, and perhaps parts in it.
    shutil.copytree(tmp_path / "3", tmp_path / "5.orbax-checkpoint-tmp")
    shutil.rmtree(tmp_path / "5.orbax-checkpoint-tmp" / "config")
    reader = Checkpointer(tmp_path, read_only=True)
    assert reader.latest_step == 3
    reader.close()
    assert (tmp_path / "5.orbax-checkpoint-tmp").exists()  # perhaps another's: left
    writer = Checkpointer(tmp_path)
    assert writer.latest_step == 3
    writer.save(5, _state(5), CONFIG)
    assert int(writer.restore(_abstract(_state())).step) == 5
    writer.close()
    assert not (tmp_path / "5.orbax-checkpoint-tmp").exists()


def _without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dense: dense | {"more": dense["bias"]}, "has no params/dense/more"),
        (lambda dense: _without(dense, "bias"), "has params/dense/bias, this model"),
        (
            lambda dense: dense | {"kernel": dense["kernel"].T},
            r"params/dense/kernel is float32\[16, 4\] .* and float32\[4, 16\]",
        ),
        (
            lambda dense: dense | {"bias": dense["bias"].astype(jnp.float32)},
            r"params/dense/bias is bfloat16\[4\] .* and float32\[4\]",
        ),
    ],
)
def test_what_differs_is_named(saved, change, message):
    state = _state()
    params = {"dense": change(state.params["dense"])}
    other = _abstract(TrainState(state.step, params, state.state, state.opt_state))
    with pytest.raises(InputError, match=message):
        saved.restore(other)
    with pytest.raises(InputError, match=message):
        saved.restore_params(other.params, other.state)


def test_another_optimizer_is_named(saved):
    state = _state()
    other = TrainState(state.step, state.params, state.state, ({"nu": state.step},))
    with pytest.raises(InputError, match="has no opt_state/0/nu"):
        saved.restore(_abstract(other))


def test_no_checkpoint_is_said_plainly(tmp_path):
    reader = Checkpointer(tmp_path / "nothing", read_only=True)
    assert reader.latest_step is None
    for ask in (lambda: reader.restore(_abstract(_state())), reader.config_json):
        with pytest.raises(InputError, match=r"nothing: no checkpoint \(there is none"):
            ask()
    reader.close()
    assert not (tmp_path / "nothing").exists()


def test_the_console_stays_clean(tmp_path, capfd):
    logging.getLogger("absl").warning("kept: others may speak")
    for read_only in (False, True):
        checkpoints = Checkpointer(tmp_path, read_only=read_only)
        if not read_only:
            checkpoints.save(3, _state(3), CONFIG)
            checkpoints.wait()
        checkpoints.restore(_abstract(_state()))
        checkpoints.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) <= 1 and "orbax" not in err.lower()


def test_a_full_disk_is_told_once(tmp_path, capfd):
    checkpoints = Checkpointer(tmp_path)
    state = {f"part{each}": jnp.ones((64, 64)) for each in range(20)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UnwrittenError, match="there is none that is whole"):
            checkpoints.save(1, state, CONFIG)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.close()
    assert capfd.readouterr().err == ""


def _files(folder):
    """The files of a checkpoint, the largest first: they hold its arrays."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def _flip(path, place):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["params/dense/kernel", "opt_state/0/mu", "step"])
def test_an_array_that_is_not_what_was_saved_is_named(saved, monkeypatch, name):
    restore = saved._manager.restore

    def wrong(step, args):
        found = restore(step, args=args)
        if "state" in found:
            found["state"][name] = found["state"][name] + 1
        return found

    monkeypatch.setattr(saved._manager, "restore", wrong)
    with pytest.raises(DamagedError, match=f"3: {name} is not what was saved"):
        saved.restore(_abstract(_state()))


@given(place=st.integers(0, 2**20), number=st.integers(0, 40))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_no_flipped_bit_comes_back_as_if_it_were_whole(tmp_path_factory, place, number):
    """What is restored is right, or of the step before, or an error in words."""
    folder = tmp_path_factory.mktemp("flipped") / "checkpoints"
    checkpoints = Checkpointer(folder)
    for step in (3, 5):
        checkpoints.save(step, _state(step), CONFIG)
    checkpoints.close()
    files = _files(folder / "5")
    _flip(files[number % len(files)], place)
    lines = []
    checkpoints = Checkpointer(folder)
    state, step = checkpoints.restore_latest(_abstract(_state()), lines.append)
    checkpoints.close()
    chex.assert_trees_all_equal(state, _state(step))
    aside = folder.parent / "damaged" / "5"
    assert (step == 3) == aside.exists() == bool(lines)


def test_what_else_a_failed_save_leaves_is_not_told_but_others_is(saved, caplog):
    def leave(text):
        loop = asyncio.new_event_loop()
        future = loop.create_future()
        future.set_exception(ValueError(text))
        del future
        gc.collect()
        loop.close()
        told = [each.exc_info[1].args[0] for each in caplog.records if each.exc_info]
        caplog.clear()
        return told

    assert leave("Error writing /x/2.orbax-checkpoint-tmp/state") == []
    assert leave("mine") == ["mine"]


def test_where_none_is_whole_nothing_is_restored_nor_lost(saved, tmp_path):
    for path in _files(tmp_path / "3"):
        path.write_bytes(b"")
    with pytest.raises(DamagedError, match="3: "):
        saved.restore_latest(_abstract(_state()), print)
    assert (tmp_path / "3").exists()


def test_checkpoints_of_older_versions_have_no_sums(saved, monkeypatch):
    read = saved._read_config
    monkeypatch.setattr(saved, "_read_config", lambda s: {"train": read(s)["train"]})
    chex.assert_trees_all_equal(saved.restore(_abstract(_state())), _state(3))


def test_what_cannot_be_written_is_told_with_what_is_whole(saved, monkeypatch):
    def full(*args, **kwargs):
        raise ValueError("OUT_OF_RANGE: No space left on device")

    monkeypatch.setattr(saved._manager, "save", full)
    with pytest.raises(OSError, match=r"No space left.*step 3 is whole.*run again"):
        saved.save(5, _state(5), CONFIG)


def test_the_best_is_kept_beside_the_latest(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    assert checkpoints.best_step is None
    for step, score in ((1, None), (2, 0.5), (3, 0.9), (4, None), (5, float("nan"))):
        checkpoints.save(step, _state(step), CONFIG, score)
    checkpoints.close()
    assert {path.name for path in tmp_path.iterdir()} == {"3", "4", "5"}
    reader = Checkpointer(tmp_path, read_only=True)
    assert reader.best_step == 3 and reader.latest_step == 5
    assert int(reader.restore(_abstract(_state()), reader.best_step).step) == 3
    reader.close()
