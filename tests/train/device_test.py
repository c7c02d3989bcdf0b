"""The share of the devices' peak, in the lines of a run."""

import jax.numpy as jnp
import numpy as np
import pytest

from sid_jax.train import device
from sid_jax.train.loop import TrainConfig, fit
from sid_jax.train.optimizer import OptimizerConfig
from sid_jax.train.progress import read_metrics
from sid_jax.train.sharding import MeshConfig
from sid_jax.train.step import Stats

PEAK = 1e9


class Line:
    """y = x w: one product forward, one for the gradient of w."""

    def init(self, key, batch):
        return {"w": jnp.zeros((4, 1))}, {}

    def prepare(self, params, state, batches, key):
        return params, state

    def loss(self, params, state, batch, key):
        error = batch["x"] @ params["w"] - 1
        return jnp.mean(error**2), ({}, Stats())

    def fold(self, params, state, opt_state, stats, key):
        return params, state, opt_state


@pytest.mark.parametrize("devices", [1, 8])
def test_the_share_is_of_the_devices_of_the_mesh(tmp_path, monkeypatch, devices):
    """Though there are eight, and seven do nothing where the mesh has one."""
    monkeypatch.setitem(device.PEAK_FLOPS, "cpu", PEAK)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    fit(
        Line(),
        lambda step: {"x": x},
        config=TrainConfig(steps=4, log_every=2),
        optimizer=OptimizerConfig(),
        mesh=MeshConfig(data=devices),
        folder=tmp_path,
        log=lambda line: None,
    )
    flops = 2 * 2 * 8 * 4
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        wanted = flops * row["steps_per_second"] / (PEAK * devices)
        np.testing.assert_allclose(row["mfu"], wanted)
