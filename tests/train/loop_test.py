import errno
import json
import os
import shutil
import signal
import threading
from unittest.mock import Mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.train.loop import Diverged, Interrupted, TrainConfig, fit, load_params
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.progress import read_metrics
from sid_jax.train.sharding import MeshConfig
from sid_jax.train.step import Stats

OPTIMIZER = OptimizerConfig(learning_rate=0.3, schedule="cosine", warmup_steps=2)


class Line:
    """y = w x with noise on x, a prepared offset and a moving mean of the error."""

    def __init__(self, width=4):
        self.width = width
        self.prepared = 0

    def init(self, key, batch):
        params = {"w": jax.random.normal(key, (self.width,))}
        return params, {"offset": jnp.zeros(()), "error": jnp.zeros(())}

    def prepare(self, params, state, batches, key):
        self.prepared += 1
        offset = np.mean([next(batches)["y"].mean() for _ in range(3)])
        return params, state | {"offset": jnp.float32(offset)}

    def loss(self, params, state, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        error = x[:, : self.width] @ params["w"] + state["offset"] - batch["y"]
        metrics = {"large": ((jnp.abs(error) > 1).sum(), error.size)}
        stats = Stats(sums=jnp.abs(error).mean())
        return jnp.mean(error**2), (metrics, stats)

    def fold(self, params, state, opt_state, stats, key):
        noise = 0.01 * jax.random.normal(key)
        error = 0.9 * state["error"] + 0.1 * stats.sums + noise
        return params, state | {"error": error}, opt_state


def _stream(step):
    x = np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)
    return {"x": x, "y": x @ np.arange(4, dtype=np.float32) + 1}


def _fit(folder, task=None, stream=_stream, **kwargs):
    lines = []
    settings = {"steps": 9, "log_every": 3, "checkpoint_every": 3, "seed": 1}
    config = TrainConfig(**(settings | kwargs.pop("train", {})))
    state = fit(
        task or Line(),
        stream,
        config=config,
        optimizer=kwargs.pop("optimizer", OPTIMIZER),
        mesh=kwargs.pop("mesh", MeshConfig(data=1)),
        folder=folder,
        log=kwargs.pop("log", lines.append),
        **kwargs,
    )
    return state, lines


def _values(folder):
    """The metrics that a rerun repeats: all but times."""
    times = ("time", "input_wait")
    return [
        {k: v for k, v in row.items() if k not in times and "per_second" not in k}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module", autouse=True)
def programs_compile_once(tmp_path_factory):
    """Runs here share their programs, so the file takes seconds, not half a minute."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    now = (str(tmp_path_factory.mktemp("programs")), 0)
    for values in (now, before):
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is now:
            yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    state, lines = _fit(folder)
    return folder, state, lines


def test_a_run_learns_and_tells(whole):
    folder, state, lines = whole
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert {"large", "grad_norm", "learning_rate", "steps_per_second"} <= set(rows[-1])
    assert int(state.step) == 9
    assert any(line.startswith("step 6/9  loss ") and "ETA" in line for line in lines)


def test_steps_are_traced_where_asked(tmp_path):
    def traces(folder):
        return list((folder / "profile").rglob("*.xplane.pb"))

    state, lines = _fit(tmp_path / "a", train={"profile": 2})
    assert len(traces(tmp_path / "a")) == 1
    told = [line for line in lines if "are traced in" in line]
    assert len(told) == 1 and told[0].startswith("steps 3 to 4")
    plain, _ = _fit(tmp_path / "b")
    chex.assert_trees_all_equal(state, plain)
    assert not traces(tmp_path / "b")
    # A run that ends in the midst of it leaves a trace, and none that goes on.
    with pytest.raises(StreamError):
        _fit(tmp_path / "c", stream=_failing_at(4), train={"profile": 9})
    assert len(traces(tmp_path / "c")) == 1
    with jax.profiler.trace(tmp_path / "d"):  # which refuses to begin inside another
        pass
    with pytest.raises(InputError, match=r"train\.profile=-1"):
        TrainConfig(steps=1, profile=-1)


def test_metrics_go_to_tensorboard_too(tmp_path):
    pytest.importorskip("tensorboardX")
    _fit(tmp_path / "a", train={"tensorboard": True, "steps": 3})
    (file,) = (tmp_path / "a" / "events").iterdir()
    assert b"learning_rate" in file.read_bytes()


class StreamError(Exception):
    pass


def _failing_at(cut):
    def failing(step):
        if step == cut:
            raise StreamError
        return _stream(step)

    return failing


@pytest.mark.parametrize("cut", [1, 3, 5, 8])
def test_resumed_equals_uninterrupted_after_a_crash(whole, tmp_path, cut):
    with pytest.raises(StreamError):
        _fit(tmp_path, stream=_failing_at(cut))
    task = Line()
    state, lines = _fit(tmp_path, task)
    folder, wanted, _ = whole
    chex.assert_trees_all_equal(state, wanted)
    assert _values(tmp_path) == _values(folder)
    restored = cut // 3 * 3
    assert any(f"goes on at step {restored} of 9" in line for line in lines) == (
        cut > 2
    )
    assert task.prepared == (cut < 3)  # the start is part of the first checkpoint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_its_step_and_the_run_goes_on(whole, tmp_path, number):
    before = signal.getsignal(number)

    def log(line):
        if line.startswith("step 3/9"):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped at step") as caught:
        _fit(tmp_path, log=log, train={"checkpoint_every": 0})
    assert caught.value.signal == number and caught.value.step in (3, 4)
    assert signal.getsignal(number) is before
    state, lines = _fit(tmp_path, train={"checkpoint_every": 0})
    chex.assert_trees_all_equal(state, whole[1])
    assert f"goes on at step {caught.value.step} of 9" in lines[0]


def test_a_signal_in_the_start_saves_nothing(tmp_path):
    class Slow(Line):
        def prepare(self, params, state, batches, key):
            next(batches)
            os.kill(os.getpid(), signal.SIGTERM)
            return super().prepare(params, state, batches, key)

    with pytest.raises(Interrupted, match="nothing to save"):
        _fit(tmp_path, Slow())
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_signal_at_the_end_is_not_lost(whole, tmp_path):
    def log(line):
        if line.startswith("step 9/9"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at step 9"):
        _fit(tmp_path, log=log)
    state, lines = _fit(tmp_path)
    chex.assert_trees_all_equal(state, whole[1])
    assert "already finished" in lines[0]


def test_a_finished_run_returns_at_once(whole):
    folder, wanted, _ = whole
    asked = []

    def stream(step):
        asked.append(step)
        return _stream(step)

    state, lines = _fit(folder, stream=stream)
    chex.assert_trees_all_equal(state, wanted)
    assert set(asked) == {0} and "already finished" in lines[0]
    assert len(_values(folder)) == 3


def test_another_mesh_goes_on_with_the_same_run(whole, tmp_path):
    _fit(tmp_path, train={"steps": 6}, optimizer=OptimizerConfig())
    on_eight, lines = _fit(tmp_path, optimizer=OptimizerConfig(), mesh=MeshConfig())
    assert "  changed since that checkpoint: mesh.data 1 -> -1" in lines
    assert "  changed since that checkpoint: train.steps 6 -> 9" in lines
    on_one, _ = _fit(tmp_path / "one", optimizer=OptimizerConfig())
    leaves = jax.device_get((on_eight, on_one))
    chex.assert_trees_all_close(*leaves, rtol=1e-5, atol=1e-6)
    assert on_eight.params["w"].sharding.mesh.size == 8


def test_rows_that_do_not_divide_are_refused(tmp_path):
    def stream(step):
        return {name: value[:5] for name, value in _stream(step).items()}

    with pytest.raises(InputError, match=r"batch x of shape \(5, 4\)"):
        _fit(tmp_path, stream=stream, mesh=MeshConfig(data=2))


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_loss_that_is_not_finite_stops(tmp_path, log_every):
    def stream(step):
        batch = _stream(step)
        return batch | {"x": batch["x"] * np.float32("inf" if step == 4 else 1)}

    def describe(batch):
        return [f"p{n}" for n in range(7)] if np.isinf(batch["x"]).any() else ["good"]

    words = (
        r"step 5: the loss of a batch of 7 items \(p0, p1, p2, p3, p4, \.\.\.\) is "
        r"(nan|inf).*of step 3\..*diverged\.json"
    )
    with pytest.raises(Diverged, match=words):
        _fit(tmp_path, stream=stream, describe=describe, train={"log_every": log_every})
    saved = [int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()]
    assert max(saved) == 3  # no spoilt state was saved
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert (told["step"], told["checkpoint"]) == (5, 3)
    assert told["items"] == describe(stream(4))
    _fit(tmp_path, train={"log_every": log_every})  # mended: it goes on
    assert not (tmp_path / "diverged.json").exists()


def test_a_loss_that_explodes_stops(tmp_path):
    def stream(step):
        batch = _stream(step)
        return batch | {"x": batch["x"] * np.float32(1e4 if step == 4 else 1)}

    with pytest.raises(Diverged, match=r"step 5: the loss is \d.*of step 3\."):
        _fit(tmp_path / "a", stream=stream)
    _fit(tmp_path / "b", stream=stream, train={"max_growth": 0})
    with pytest.raises(InputError, match=r"max_growth=1"):
        TrainConfig(steps=1, max_growth=1)


def test_evaluators_run_when_due_and_at_the_end(tmp_path):
    seen = []

    def evaluate(params, state):
        seen.append(np.asarray(params["w"]).copy())
        yield "size", jnp.float32(params["w"].size)
        yield "unknown", float("nan")

    state, lines = _fit(
        tmp_path, evaluators={"codes": evaluate}, train={"eval_every": 4}
    )
    rows = [row for row in _values(tmp_path) if "codes/size" in row]
    assert [(row["step"], row["codes/size"]) for row in rows] == [
        (4, 4),
        (8, 4),
        (9, 4),
    ]
    assert rows[0]["codes/unknown"] is None
    np.testing.assert_array_equal(seen[-1], state.params["w"])
    assert "step 8/9  codes/size 4  codes/unknown nan" in lines


@pytest.mark.parametrize("best", ["", "-a/size"])
@pytest.mark.parametrize("fails_at", [6, 9])
def test_an_evaluator_that_fails_loses_no_step(whole, tmp_path, fails_at, best):
    def evaluate(params, state):
        yield "size", np.abs(params["w"]).sum()

    def fail(params, state):
        calls.append(len(calls) + 1)
        if broken and 3 * len(calls) == fails_at:
            raise ValueError("the evaluator's own")
        yield "one", 1

    def stream(step):
        trained.append(step)
        return _stream(step)

    broken, trained, calls = True, [], []
    settings = {"checkpoint_every": 0, "eval_every": 3, "best": best}
    kwargs = {"evaluators": {"a": evaluate, "b": fail}, "train": settings}
    with pytest.raises(ValueError, match="the evaluator's own"):
        _fit(tmp_path / "run", stream=stream, **kwargs)
    assert {row["step"] for row in _values(tmp_path / "run")} == set(
        range(3, fails_at + 1, 3)
    )
    broken, trained = False, []
    state, lines = _fit(tmp_path / "run", stream=stream, **kwargs)
    assert trained[1:] == list(range(fails_at, 9))  # the first one tells shapes
    assert not any("changed since" in line for line in lines)
    chex.assert_trees_all_equal(state.params, whole[1].params)
    _fit(tmp_path / "at_once", **kwargs)
    assert _values(tmp_path / "run") == _values(tmp_path / "at_once")
    chex.assert_trees_all_equal(
        *(
            load_params(Line(), _stream(0), tmp_path / name, mesh=MeshConfig(data=1))
            for name in ("run", "at_once")
        )
    )
    _, lines = _fit(tmp_path / "run", stream=stream, **kwargs)
    assert len(lines) == 1 and "already finished" in lines[0]


def test_a_state_that_is_saved_again_is_never_gone(tmp_path, monkeypatch):
    """Neither where the disk is full then, nor where the process is killed."""
    broken = True

    def evaluate(params, state):
        assert not broken
        yield "size", 1

    kwargs = {"evaluators": {"a": evaluate}, "train": {"checkpoint_every": 0}}
    with pytest.raises(AssertionError):
        _fit(tmp_path, **kwargs)
    broken, folder = False, tmp_path / "checkpoints"
    with monkeypatch.context() as full, pytest.raises(UnwrittenError, match="No space"):
        error = OSError(errno.ENOSPC, "No space left on device")
        full.setattr(ocp.CheckpointManager, "save", Mock(side_effect=error))
        _fit(tmp_path, **kwargs)
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path, killed, ignore=shutil.ignore_patterns("killed"))
    for each in (tmp_path, killed):
        state, lines = _fit(each, **kwargs)
        assert state.step == 9 and "goes on" not in lines[0]
        assert [path.name for path in (each / "checkpoints").iterdir()] == ["9"]
        assert not list(each.glob("checkpoints_*"))
        _, lines = _fit(each, **kwargs)
        assert len(lines) == 1
    assert folder.exists()


def test_a_folder_of_another_model_is_refused(whole):
    with pytest.raises(InputError, match=r"params/w is float32\[4\] .* float32\[3\]"):
        _fit(whole[0], Line(width=3), train={"steps": 12})


def test_parameters_load_without_the_optimizer(whole):
    folder, state, _ = whole
    batch = jax.tree.map(jnp.zeros_like, _stream(0))
    loaded = load_params(Line(), batch, folder, mesh=MeshConfig(data=2))
    chex.assert_trees_all_equal(loaded, (state.params, state.state))
    with pytest.raises(InputError, match="no checkpoint"):
        load_params(Line(), batch, folder / "elsewhere")


def test_a_run_leaves_no_thread_behind(tmp_path):
    before = set(threading.enumerate())
    _fit(tmp_path)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not any(name.startswith("batches") for name in left)


@pytest.mark.parametrize(
    "field", [{"steps": 0}, {"log_every": 0}, {"keep": 0}, {"eval_every": -1}]
)
def test_bad_fields_are_named(field):
    with pytest.raises(InputError, match=rf"train\.{next(iter(field))}"):
        TrainConfig(**({"steps": 1} | field))


def test_a_batch_that_does_not_divide_into_parts_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"accumulate=3: a batch of 8 rows over 2 dev"):
        _fit(tmp_path, mesh=MeshConfig(data=2), train={"accumulate": 3})


@pytest.mark.parametrize("best", ["a/size", "-a/size"])
def test_the_best_evaluation_is_what_a_run_gives(tmp_path, best):
    def evaluate(params, state):
        seen.append(jax.tree.map(np.array, params))
        yield "size", [2.0, 1.0, 5.0, 3.0][len(seen) - 1]

    seen = []
    settings = {"eval_every": 2, "best": best, "keep": 1, "checkpoint_every": 0}
    _fit(tmp_path, evaluators={"a": evaluate}, train=settings | {"steps": 8})
    wanted = {"a/size": 6, "-a/size": 4}[best]
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {wanted, 8}
    params, _ = load_params(Line(), _stream(0), tmp_path, mesh=MeshConfig(data=1))
    chex.assert_trees_all_equal(params, seen[wanted // 2 - 1])


def test_a_figure_that_nobody_gives_is_named(tmp_path):
    with pytest.raises(InputError, match=r"train\.best: .*'a/size'; there is none"):
        _fit(tmp_path, train={"best": "a/size"})
    told = {"a": lambda params, state: [("depth", 1.0)]}
    with pytest.raises(InputError, match=r"train\.best: no evaluator gives 'a/size'"):
        _fit(tmp_path, train={"best": "a/size"}, evaluators=told)
