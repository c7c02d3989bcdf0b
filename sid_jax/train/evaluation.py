"""What evaluators say of a run's parameters, and which checkpoint is the best by it."""

from collections.abc import Callable, Iterable, Mapping

from sid_jax.errors import InputError
from sid_jax.typing import PyTree

Evaluator = Callable[[PyTree, PyTree], Iterable[tuple[str, float]]]
"""(params, state) -> (name, value) of each figure; all processes call it."""


class Evaluation:
    """The evaluators of a run, called with (params, state) when they are due."""

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        best: str,
        write: Callable[[int, Mapping[str, float]], None],
        log: Callable[[str], None],
    ):
        """Arguments as in `loop.fit` and its configuration; `write` takes the values.

        Raises:
          InputError: no evaluator is named like the group of `best`.
        """
        self._evaluators, self._best = evaluators, best
        self._write, self._log = write, log
        if best and best.removeprefix("-").partition("/")[0] not in evaluators:
            there = ", ".join(evaluators) or "none in this run"
            raise InputError(
                f"train.best: no evaluator gives {best!r}; there is {there}"
            )

    def __call__(
        self, step: int, steps: int, params: PyTree, state: PyTree
    ) -> float | None:
        """Evaluates, and writes all values once all of them are there.

        Returns:
          What `best` names, the higher the better; None if it is not asked for.

        Raises:
          InputError: no evaluator gives what `best` names.
        """
        found = {}
        for group, evaluator in self._evaluators.items():
            pairs = evaluator(params, state)
            values = {f"{group}/{name}": float(value) for name, value in pairs}
            shown = (f"{name} {value:.4g}" for name, value in values.items())
            self._log("  ".join((f"step {step}/{steps}", *shown)))
            found[group] = values
        for values in found.values():
            self._write(step, values)
        if not self._best:
            return None
        name = self._best.removeprefix("-")
        value = found[name.partition("/")[0]].get(name)
        if value is None:
            raise InputError(f"train.best: no evaluator gives {self._best!r}")
        return -value if self._best.startswith("-") else value
