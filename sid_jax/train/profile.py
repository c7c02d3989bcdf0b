"""A trace of a few steps, for XProf or Perfetto."""

from collections.abc import Callable
from pathlib import Path

import jax

from sid_jax.typing import PyTree

_WARM = 2  # steps of this process that are left out: one compiles, one warms up


class Profiler:
    """Traces steps of a run with `jax.profiler`; what ends the run ends the trace."""

    def __init__(self, folder: Path, start: int, steps: int):
        """Traces nothing yet.

        Args:
          folder: where traces go.
          start: steps that were done before this process.
          steps: how many to trace; 0 for none.
        """
        self._folder, self._first = folder, start + _WARM + 1
        self._last = self._first + steps - 1
        self._tracing = False

    def before(self, step: int) -> None:
        """To be called before a step."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: PyTree, log: Callable[[str], None]) -> None:
        """To be called after a step, with what it gave; the last one is waited for."""
        if self._tracing and step == self._last:
            jax.block_until_ready(results)
            self.close()
            log(f"steps {self._first} to {self._last} are traced in {self._folder}")

    def close(self) -> None:
        """Ends a trace that is not ended."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
