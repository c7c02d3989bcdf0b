import json
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError
from sid_jax.train.progress import (
    MetricsLog,
    Progress,
    Window,
    format_seconds,
    read_metrics,
)


def _metrics(loss, norm=1.0):
    return {"loss": (jnp.float32(loss), 1), "grad_norm": (jnp.float32(norm), 1)}


def test_written_lines_read_back(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl", 0)
    log.write(1, {"loss": np.float32(0.5)})
    log.write(2, {"loss": math.nan, "a/b": 3})
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")  # seen before it is closed
    log.close()
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, None)]
    assert rows[1]["a/b"] == 3 and rows[0]["time"] <= rows[1]["time"]


@settings(deadline=None, max_examples=25)
@given(written=st.integers(0, 9), restored=st.integers(0, 9), cut=st.integers(0, 60))
def test_a_resumed_log_has_each_line_once(tmp_path_factory, written, restored, cut):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, written + 1):
        log.write(step, {"loss": step})
    log.close()
    if (
        written > restored
    ):  # the kill came while a line after the checkpoint was written
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) - min(cut, len(whole.splitlines()[-1]))])
    resumed = MetricsLog(path, restored)
    for step in range(restored + 1, 11):
        resumed.write(step, {"loss": step})
    resumed.close()
    steps = [row["step"] for row in read_metrics(path)]
    assert steps == [*range(1, min(written, restored) + 1), *range(restored + 1, 11)]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_a_foreign_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1))
def test_window_means_are_sums_over_counts(pairs):
    window = Window()
    for step, (part, number) in enumerate(pairs):
        window.add(step, _metrics(1.0) | {"hits": (jnp.float32(part), number)})
        window.wait(1)
    assert window.first_bad() is None
    means = window.means()
    total, number = np.sum(pairs, axis=0)
    expected = total / number if number else math.nan
    np.testing.assert_allclose(means["hits"], expected)
    window.add(9, _metrics(4.0))
    assert window.means()["loss"] == 4.0  # what was told is gone


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1), (math.inf, 1), (1, math.nan)]
)
def test_the_first_bad_step_is_found(loss, norm):
    window = Window()
    for step in range(1, 4):
        window.add(step, _metrics(1.0))
    for step in range(4, 7):
        window.add(step, _metrics(loss, norm))
    found = window.first_bad()
    assert found is not None and found[0] == 4
    np.testing.assert_array_equal(found[1:], (loss, norm))


def test_the_line_tells_rate_and_time_left():
    progress = Progress(100, 32, show=("fvu",))
    assert progress.rates(0) == {}
    rates = progress.rates(10)
    ratio = rates["examples_per_second"] / rates["steps_per_second"]
    np.testing.assert_allclose(ratio, 32)
    assert "tokens_per_second" not in rates
    rates = progress.rates(10, 2.5)
    ratio = rates["tokens_per_second"] / rates["examples_per_second"]
    np.testing.assert_allclose(ratio, 2.5)
    values = {"loss": 0.25, "fvu": 0.5, "hidden": 9.0}
    values |= {"steps_per_second": 2.0, "examples_per_second": 64.0, "input_wait": 0.01}
    line = progress.line(10, values)
    for part in ("step 10/100", "loss 0.25", "fvu 0.5", "64 examples/s", "ETA 0:45"):
        assert part in line
    assert "hidden" not in line and "steps_per_second" not in line
    assert "input" not in line
    waits = progress.line(10, values | {"input_wait": 0.25})
    assert "waits 25% for input" in waits


def test_the_time_that_input_takes_is_told():
    progress = Progress(100, 32)
    assert progress.rates(1)["input_wait"] == 0
    with progress.waiting():
        time.sleep(0.02)
    share = progress.rates(1)["input_wait"]
    assert 0 < share < 1
    with progress.waiting():
        time.sleep(0.02)
    assert progress.rates(1)["input_wait"] > share / 2
    progress.restart(1)
    assert progress.rates(2)["input_wait"] == 0


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"train\.show: no metric 'nope'.*loss"):
        Progress(1, 1, show=("nope",)).line(1, {"loss": 1.0})


@given(st.integers(0, 10**6))
def test_seconds_are_read_as_a_clock(seconds):
    parts = [int(part) for part in format_seconds(seconds).split(":")]
    assert sum(part * 60**i for i, part in enumerate(reversed(parts))) == seconds


class Chip:
    """A device that says what it is, and what it holds."""

    def __init__(self, held):
        self.device_kind, self.held = "TPU v5 lite", held

    def memory_stats(self):
        return None if self.held is None else {"peak_bytes_in_use": self.held}


def test_devices_tell_their_use_and_memory(monkeypatch):
    """Their use is that of the devices that the step runs on; another one is idle."""
    chips = [Chip(3e9), Chip(5e9), Chip(None), Chip(None)]
    monkeypatch.setattr("jax.devices", lambda: chips)
    monkeypatch.setattr("jax.local_devices", lambda: chips)
    monkeypatch.setattr("jax.device_count", lambda: 4)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress(10, 8, flops=3 * 197e12 / 10, devices=3)
    found = progress.rates(4, 5.0)  # two steps a second
    np.testing.assert_allclose(found["mfu"], 0.2)
    assert found["device_gb"] == 5.0 and found["examples_per_second"] == 16
    line = progress.line(4, found | {"loss": 1.0})
    assert "80 tokens/s  MFU 20.0%  5 GB a device" in line


def test_a_cpu_tells_neither():
    progress = Progress(10, 8, flops=1e9)
    time.sleep(0.01)
    assert not {"mfu", "device_gb"} & progress.rates(1).keys()
