"""A loss that is no number, or explodes, ends a run in words that help to mend it."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.train.hosts import is_first
from sid_jax.train.progress import Window
from sid_jax.typing import PyTree

_NAMED = 5  # items in the message; the file has all of them


class Diverged(InputError):  # noqa: N818 - says what happened
    """Names the step, the items of its batch and the last good checkpoint.

    All of them stand in the run's `diverged.json`. Where there are many processes each
    writes one, `diverged-1.json` and so on, with the items of its part of the batch.
    """


class Guard:
    """Looks at the losses of a run before they are written or saved."""

    def __init__(
        self,
        folder: Path,
        max_growth: float,
        stream: Callable[[int], PyTree],
        describe: Callable[[PyTree], Sequence[str]] | None,
    ):
        """Arguments as in `loop.fit` and its configuration."""
        rank = jax.process_index()
        self._path = folder / (f"diverged-{rank}.json" if rank else "diverged.json")
        if is_first():  # no other process writes one before a step that they share
            for left in [
                *folder.glob("diverged.json"),
                *folder.glob("diverged-*.json"),
            ]:
                left.unlink(missing_ok=True)  # of a run that was mended
        self._growth, self._stream, self._describe = max_growth, stream, describe
        self._limit = None if max_growth else math.inf

    def check(self, window: Window, good: int | None) -> None:
        """Looks at the steps of a window; the first loss it sees is the measure, and no
        loss explodes where that is 0.

        Args:
          window: the steps since the last check, or some more.
          good: step of the last checkpoint; None if there is none.

        Raises:
          Diverged: a loss or a gradient is not finite, or a loss is too large.
        """
        if self._limit is None:
            self._limit = self._growth * abs(window.first_loss()) or math.inf
        bad = window.first_bad(self._limit)
        if bad is None:
            return
        step, loss, norm = bad
        items = []
        if self._describe is not None:
            items = list(self._describe(self._stream(step - 1)))
        told = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
        told |= {"checkpoint": good, "items": items}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(told, indent=1), encoding="utf-8")
        named = ", ".join(items[:_NAMED]) + (", ..." if items[_NAMED:] else "")
        batch = f" of a batch of {len(items):,} items ({named})" if items else ""
        where = "there is none" if good is None else f"that of step {good}"
        raise Diverged(
            f"step {step}: the loss{batch} is {loss}, the norm of its gradient {norm};"
            f" last good checkpoint: {where}. Lower optimizer.learning_rate or set"
            f" optimizer.clip_norm. All this stands in {self._path}"
        )
