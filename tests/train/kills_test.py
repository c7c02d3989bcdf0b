"""Runs that are killed at any moment go on as if they had not been.

The child process saves after every step, so that most kills fall into a save, its
renaming, or the clearing away of an older checkpoint.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sid_jax.train.checkpoint import Checkpointer
from sid_jax.train.progress import read_metrics

STEPS = 60
CHILD = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from sid_jax.train.loop import TrainConfig, fit
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.sharding import MeshConfig
from sid_jax.train.step import Stats


class Line:
    def init(self, key, batch):
        return {"w": jax.random.normal(key, (64, 64))}, {"seen": jnp.zeros(64)}

    def prepare(self, params, state, batches, key):
        return params, state

    def loss(self, params, state, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        loss = jnp.mean((jnp.tanh(x @ params["w"]) - batch["x"]) ** 2)
        return loss, ({}, Stats(sums=batch["x"].mean(0)))

    def fold(self, params, state, opt_state, stats, key):
        return params, {"seen": state["seen"] + stats.sums}, opt_state


def stream(step):
    return {"x": np.random.default_rng(step).normal(size=(8, 64)).astype(np.float32)}


state = fit(
    Line(),
    stream,
    config=TrainConfig(steps=int(sys.argv[2]), log_every=1, checkpoint_every=1),
    optimizer=OptimizerConfig(schedule="cosine"),
    mesh=MeshConfig(data=1),
    folder=sys.argv[1],
    log=lambda line: print(line, flush=True),
)
digest = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
np.savez(sys.argv[1] + "/end.npz", *digest)
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(STEPS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs")},
        cwd=Path(__file__).parents[2],
    )


def finish(child):
    """Waits for a child to end well; returns what it said."""
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "damaged" not in out
    return out


def kill_after(child, seconds):
    """Kills a child so long after its first word; returns whether it was alive."""
    with child.stdout, child.stderr:
        child.stdout.readline()
        time.sleep(seconds)
        alive = child.poll() is None
        child.kill()
        child.wait()
    return alive


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that nobody killed."""
    folder = tmp_path_factory.mktemp("kills") / "alone"
    finish(start(folder))
    return folder


@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=pytest.mark.slow)], ids=lambda n: f"{n} kills"
)
def test_a_run_that_is_killed_is_the_run_that_is_not(alone, kills):
    """A run that ends too soon to be killed so often is followed by another one."""
    rng, done, runs = random.Random(kills), 0, 0
    while done < kills:
        folder, alive, runs = alone.with_name(f"{kills}-{runs}"), True, runs + 1
        while alive and done < kills:
            alive = kill_after(start(folder), rng.uniform(0, 0.8))
            checkpoints = Checkpointer(folder / "checkpoints", read_only=True)
            step = checkpoints.latest_step
            checkpoints.close()
            assert step is None or 0 < step <= STEPS
            done += alive
        finish(start(folder))
        compare(folder, alone)


def compare(folder, alone):
    """Asserts that a run is that which nobody killed."""
    with np.load(folder / "end.npz") as found, np.load(alone / "end.npz") as wanted:
        assert found.files == wanted.files
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name])
    rows = (
        [row["loss"] for row in read_metrics(each / "metrics.jsonl")]
        for each in (folder, alone)
    )
    assert next(rows) == next(rows)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {str(STEPS - 1), str(STEPS)}  # the two that are kept, nothing else
