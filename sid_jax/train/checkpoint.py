"""Checkpoints: a state and the configuration that made it, whole or absent (Orbax).

A state is stored as a flat table from names such as `params/mlp/kernel` to arrays, so
that a file depends on no Python class, and what differs has a name to report. Beside
the configuration stands the checksum of each array: what comes back is what was saved.
"""

import gc
import inspect
import json
import logging
import math
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.files import writing
from sid_jax.train.checksum import checksum
from sid_jax.train.hosts import is_lost
from sid_jax.typing import PyTree

_SUMS, _SCORE = "checksums", "score"
_ASIDE = "delete this folder to go on from the checkpoint before it"


class DamagedError(InputError):
    """A checkpoint whose files are not what was written."""


class Checkpointer:
    """The checkpoints in one folder.

    `save` returns once the arrays are copied and writes in the background, under a
    temporary name until complete: a kill leaves the last complete checkpoint.
    """

    def __init__(
        self, folder: str | Path, keep: int | None = None, *, read_only: bool = False
    ):
        """Opens a folder.

        Args:
          folder: made if missing, unless `read_only`.
          keep: latest checkpoints to keep, beside the best one of those that have a
            score; None for all.
          read_only: save nothing and clear nothing away, so that a folder can be read
            while another process trains into it.

        Raises:
          UnwrittenError: it cannot be made.
        """
        logging.getLogger("absl").addFilter(_drop_chatter)
        logging.getLogger("asyncio").addFilter(_drop_untold)
        _Quiet.begin()
        self._folder = Path(folder).absolute()
        self._aside = self._folder.with_name(f"{self._folder.name}_aside")
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        state, config = ocp.PyTreeCheckpointHandler(), ocp.JsonCheckpointHandler()
        registry.add("state", ocp.args.PyTreeSave, state)
        registry.add("state", ocp.args.PyTreeRestore, state)
        registry.add("config", ocp.args.JsonSave, config)
        registry.add("config", ocp.args.JsonRestore, config)
        policies = ocp.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        kept = policies.AnyPreservationPolicy([policies.LatestN(n=keep), best])
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            preservation_policy=kept,
        )
        with writing(self._folder):
            if not read_only and jax.process_index() == 0:
                self._put_back()
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, handler_registry=registry
            )

    @property
    def latest_step(self) -> int | None:
        """Step of the last checkpoint, begun ones included; None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest score; None if none has one."""
        scored = [s for s in self._manager.all_steps() if self._manager.metrics(s)]
        return self._manager.best_step() if scored else None

    def save(
        self,
        step: int,
        state: PyTree,
        config_json: str,
        score: float | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Begins to save; a step that is there already is left as it is.

        The state's buffers may be donated as soon as this returns.

        Args:
          step: steps done.
          state: any tree of arrays.
          config_json: what made it.
          score: by which the best is kept; the higher, the better.
          again: save a step that is there anew, in one process; the old one goes once
            the new one is written.

        Raises:
          UnwrittenError: this one, or the one before, cannot be written.
        """
        there = step in self._manager.all_steps()
        if there and (not again or jax.process_count() > 1):
            return
        if there:
            self._move(step, self._aside)
        flat = _flatten(state)
        sums = {name: checksum(leaf) for name, leaf in flat.items()}
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(flat),
                    config=ocp.args.JsonSave(json.loads(config_json) | {_SUMS: sums}),
                ),
                metrics=None if score is None else {_SCORE: _finite(score)},
                force=True,
            )
        if there:
            self.wait()
            self._put_back()

    def wait(self) -> None:
        """Returns when all that was begun is written.

        Raises:
          UnwrittenError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, abstract: PyTree, step: int | None = None) -> PyTree:
        """The state of a checkpoint, laid out as asked.

        Args:
          abstract: the state as `jax.ShapeDtypeStruct` with shardings, which may differ
            from those of the run that saved.
          step: defaults to the latest.

        Raises:
          InputError: there is no checkpoint, or a field differs (the message names it).
        """
        return self._restore(abstract, step, partial=False)

    def restore_latest(
        self, abstract: PyTree, log: Callable[[str], None]
    ) -> tuple[PyTree, int]:
        """The state of the latest checkpoint that is whole, and its step.

        Damaged ones are put aside, under `damaged` beside the checkpoints.

        Raises:
          InputError: as `restore`; DamagedError where none is whole.
        """
        while True:
            step = self._existing(None)
            try:
                return self.restore(abstract, step), step
            except DamagedError as error:
                earlier = [each for each in self._manager.all_steps() if each < step]
                if not earlier or jax.process_count() > 1:
                    raise
                log(f"{error}")
            aside = self._folder.parent / "damaged"
            told = f"it is put aside as {aside / str(step)}; the one of step"
            log(f"{told} {max(earlier)} is next")
            self._move(step, aside)

    def restore_params(
        self, params: PyTree, state: PyTree, step: int | None = None
    ) -> tuple[PyTree, PyTree]:
        """Parameters and moving averages alone, whatever optimizer made them.

        Args:
          params: abstract, as in `restore`.
          state: abstract, as in `restore`.
          step: defaults to the latest.

        Raises:
          InputError: there is no checkpoint, or a field differs (the message names it).
        """
        wanted = {"params": params, "state": state}
        restored = self._restore(wanted, step, partial=True)
        return restored["params"], restored["state"]

    def config_json(self, step: int | None = None) -> str:
        """The configuration saved with a checkpoint.

        Raises:
          InputError: there is no checkpoint.
        """
        config = self._read_config(self._existing(step))
        return json.dumps({key: each for key, each in config.items() if key != _SUMS})

    def close(self) -> None:
        """Waits for what was begun.

        Raises:
          UnwrittenError: it cannot be written.
        """
        with self._writing():
            self._manager.close()

    def _move(self, step: int, folder: Path) -> None:
        """Moves a step into another folder, over one of its name there."""
        aside = folder / str(step)
        with writing(aside):
            folder.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def _put_back(self) -> None:
        """Has each step that was put aside stand in the folder, if no new one does."""
        for old in self._aside.glob("*"):
            if (self._folder / old.name).exists():
                shutil.rmtree(old)
            else:
                old.rename(self._folder / old.name)
        shutil.rmtree(self._aside, ignore_errors=True)

    def _read_config(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        folder = self._folder / str(step)
        return _read(folder, lambda: self._manager.restore(step, args=args))["config"]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise all kinds
            if is_lost(error):
                raise
            whole = ocp.utils.checkpoint_steps(self._folder)
            last = f"that of step {max(whole)} is" if whole else "there is none that is"
            raise UnwrittenError(
                f"{self._folder}: a checkpoint could not be written "
                f"({_shorten(error)}); {last} whole. Make room or choose another "
                "folder, and run again to go on"
            ) from error

    def _existing(self, step: int | None) -> int:
        self.wait()
        steps = self._manager.all_steps()
        step = self.latest_step if step is None else step
        if step is None or step not in steps:
            there = f"there are steps {sorted(steps)}" if steps else "there is none"
            wanted = "checkpoint" if step is None else f"checkpoint {step}"
            raise InputError(f"{self._folder}: no {wanted} ({there}); train first")
        return step

    def _restore(self, abstract: PyTree, step: int | None, *, partial: bool) -> PyTree:
        step = self._existing(step)
        wanted, folder = _flatten(abstract), self._folder / str(step)
        stored = _read(folder, lambda: self._manager.item_metadata(step)["state"].tree)
        _compare(wanted, stored, f"{folder}", partial)
        args = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=partial,
        )
        args = ocp.args.Composite(state=args)
        restored = _read(folder, lambda: self._manager.restore(step, args=args))
        sums = self._read_config(step).get(_SUMS, {})  # older versions wrote none
        for name in wanted if sums else ():
            if checksum(restored["state"][name]) != sums.get(name):
                raise DamagedError(f"{folder}: {name} is not what was saved; {_ASIDE}")
        leaves = [restored["state"][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _read(folder: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; what Orbax and TensorStore say of damaged files, as bad input.

    Where one file fails, Orbax leaves the coroutines of others half done. They are
    collected here, and silently: else Python would print each one's last words later.
    """
    _Quiet.begin()  # in case another hook came in between
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine", RuntimeWarning)
        try:
            return read()
        except (InputError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # the files are not to blame
        except Exception as error:  # of many kinds, by where the damage is
            if is_lost(error):
                raise
            why = _shorten(error)
        gc.collect()
    raise DamagedError(f"{folder}: the checkpoint cannot be read ({why}); {_ASIDE}")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _score(metrics: Mapping[str, float]) -> float:
    return metrics[_SCORE]


def _finite(score: float) -> float:
    return score if math.isfinite(score) else -sys.float_info.max


def _flatten(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _compare(
    wanted: Mapping[str, Any], stored: Mapping[str, Any], where: str, partial: bool
) -> None:
    fix = "restore with the configuration that trained it, or train in a new folder"
    for name, leaf in wanted.items():
        if name not in stored:
            raise InputError(f"{where}: the checkpoint has no {name}; {fix}")
        have = (tuple(stored[name].shape), str(stored[name].dtype))
        want = (tuple(leaf.shape), str(leaf.dtype))
        if have != want:
            raise InputError(
                f"{where}: {name} is {have[1]}{list(have[0])} in the checkpoint and"
                f" {want[1]}{list(want[0])} in this model; {fix}"
            )
    extra = [name for name in stored if name not in wanted]
    if partial:  # an optimizer's fields are not asked for
        extra = [name for name in extra if name.startswith(("params/", "state/"))]
    if extra:
        raise InputError(
            f"{where}: the checkpoint has {extra[0]}, this model has not; {fix}"
        )


def _drop_chatter(record: logging.LogRecord) -> bool:
    """Keeps Orbax's notes off a user's console, and the tracebacks of what it raises as
    well; its other errors, and all others' records, pass.
    """
    untold = record.levelno >= logging.ERROR and not record.exc_info
    return untold or "orbax" not in record.pathname


def _drop_untold(record: logging.LogRecord) -> bool:
    """Keeps off it what else went wrong in a save of Orbax's that failed, too."""
    text = record.getMessage()
    if "never retrieved" not in text:
        return True
    error = record.exc_info[1] if record.exc_info else None
    return "orbax" not in text + "".join(traceback.format_exception(error))


class _Quiet:
    """Drops the last words of what Orbax leaves half done: what failed is told once.

    Where a save fails, writes that were under way find its event loop closed, one by
    one and whenever they end; where a read fails, its coroutines end when collected.
    """

    def __init__(self, hook: Callable[[Any], Any]):
        self._hook = hook

    def __call__(self, it: Any) -> None:
        closed = str(it.exc_value) == "Event loop is closed"
        left = inspect.iscoroutine(it.object) and (
            "orbax" in it.object.cr_code.co_filename
        )
        if not closed and not left:
            self._hook(it)

    @classmethod
    def begin(cls) -> None:
        if not isinstance(sys.unraisablehook, cls):
            sys.unraisablehook = cls(sys.unraisablehook)
