"""What a run says while it runs: lines of `metrics.jsonl`, and the progress line."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sid_jax.errors import InputError
from sid_jax.files import replacing, writing
from sid_jax.train.device import memory_in_use, utilisation
from sid_jax.train.events import EventLog
from sid_jax.typing import Metrics

_WORTH_TELLING = 0.05  # of the time, spent waiting for input


class MetricsLog:
    """Appends to a file of one JSON object a line: step, time, then name -> value.

    Opened at a step, it drops the lines after that step (a resumed run writes them
    again; None drops none) and a last line that was cut off. Without a path it writes
    nowhere. Values that are not finite become null.
    """

    def __init__(
        self, path: str | Path | None, step: int | None, events: EventLog | None = None
    ):
        """Opens the file; `events` is told and closed as well."""
        self._events = events
        self._path = path = Path(os.devnull if path is None else path)
        with writing(path):
            if path != Path(os.devnull):
                path.parent.mkdir(parents=True, exist_ok=True)
                _trim(path, step)
            self._file = path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line, and sees it to the file.

        Raises:
          UnwrittenError: the disk is full; who opens the file next cuts off what is
            there of the line.
        """
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        for name, value in values.items():
            number = float(value)
            line[name] = number if math.isfinite(number) else None
        text = memoryview((json.dumps(line) + "\n").encode())
        with writing(self._path):
            while text:  # a disk that is nearly full takes a part first
                text = text[self._file.write(text) :]
        if self._events is not None:
            self._events.write(step, values)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order; a last line that was cut off is left out.

    Raises:
      InputError: a line is no JSON object with a step.
    """
    rows = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number == len(lines):  # no line end follows: the writer was killed
                break
            raise InputError(
                f"{path}, line {number}: no metrics line; delete it"
            ) from error
        rows.append(row)
    return rows


class Progress:
    """Rates and the time left, from the steps and seconds between two lines.

    Time spent on other things (compiling, evaluation) stays out: call `restart` after.
    """

    def __init__(
        self,
        steps: int,
        examples: int,
        show: Sequence[str] = (),
        flops: float = 0.0,
        devices: int = 1,
    ):
        """Begins at no step yet.

        Args:
          steps: steps of the whole run.
          examples: examples a step.
          show: metrics in the line beside the loss.
          flops: of a step, on all devices; 0 if nobody asks.
          devices: that a step runs on.
        """
        self._steps, self._examples, self._show = steps, examples, tuple(show)
        self._flops, self._devices = flops, devices
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts the clock at a step."""
        self._from, self._clock, self._waited = step, time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as spent waiting for input."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def rates(self, step: int, tokens: float | None = None) -> dict[str, float]:
        """steps_per_second, examples_per_second, tokens_per_second, and input_wait, the
        share of the time that went into waiting for batches; what devices say of their
        use and memory; empty while there is no step.

        Args:
          step: steps done.
          tokens: of an example, for tokens_per_second; None where a task tells none.
        """
        done, seconds = step - self._from, time.perf_counter() - self._clock
        if done < 1 or seconds <= 0:
            return {}
        examples = done * self._examples / seconds
        spelled = {} if tokens is None else {"tokens_per_second": tokens * examples}
        return {
            "steps_per_second": done / seconds,
            "examples_per_second": examples,
            **spelled,
            "input_wait": self._waited / seconds,
            **utilisation(self._flops, seconds / done, self._devices),
            **memory_in_use(),
        }

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """The progress line.

        Raises:
          InputError: a metric to show is not there.
        """
        missing = [name for name in self._show if name not in values]
        if missing:
            raise InputError(
                f"train.show: no metric {missing[0]!r}; there are"
                f" {', '.join(sorted(values))}"
            )
        parts = [f"step {step}/{self._steps}"]
        parts += [f"{name} {values[name]:.4g}" for name in ("loss", *self._show)]
        if "steps_per_second" in values:
            rate = values["steps_per_second"]
            parts.append(f"{rate:.3g} steps/s")
            parts.append(f"{values['examples_per_second']:.4g} examples/s")
            if "tokens_per_second" in values:
                parts.append(f"{values['tokens_per_second']:.4g} tokens/s")
            if "mfu" in values:
                parts.append(f"MFU {values['mfu']:.1%}")
            if "device_gb" in values:
                parts.append(f"{values['device_gb']:.3g} GB a device")
            if values["input_wait"] >= _WORTH_TELLING:
                parts.append(f"waits {values['input_wait']:.0%} for input")
            parts.append(f"ETA {format_seconds((self._steps - step) / rate)}")
        return "  ".join(parts)


class Window:
    """Metrics of the steps since the last line, on the device until asked for."""

    def __init__(self):
        self._steps: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        self._steps.append((step, metrics))

    def wait(self, behind: int) -> None:
        """Waits until the device is at most so many steps behind."""
        if len(self._steps) > behind:
            jax.block_until_ready(self._steps[-1 - behind][1])

    def first_loss(self) -> float:
        """The loss of the first step."""
        return float(self._fetch()[0][1]["loss"][0])

    def first_bad(self, limit: float = math.inf) -> tuple[int, float, float] | None:
        """The first step whose loss or gradient is not finite, or whose loss is above
        the limit, with the two.
        """
        for step, metrics in self._fetch():
            loss, norm = metrics["loss"][0], metrics["grad_norm"][0]
            if not np.isfinite([loss, norm]).all() or loss > limit:
                return step, float(loss), float(norm)
        return None

    def means(self) -> dict[str, float]:
        """Means over the window (NaN where nothing was counted), which starts again."""
        total: dict[str, list[float]] = {}
        for _, metrics in self._fetch():
            for name, (part, number) in metrics.items():
                pair = total.setdefault(name, [0.0, 0.0])
                pair[0] += float(part)
                pair[1] += float(number)
        self._steps.clear()
        return {name: a / b if b else math.nan for name, (a, b) in total.items()}

    def _fetch(self) -> list[tuple[int, Metrics]]:
        self._steps = jax.device_get(self._steps)  # what is here already stays as it is
        return self._steps


def format_seconds(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _trim(path: Path, step: int | None) -> None:
    if not path.exists():
        return
    rows = read_metrics(path)
    kept = [row for row in rows if step is None or row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    # A file that stays as it is may be written by another process.
    if text.encode() != path.read_bytes():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
