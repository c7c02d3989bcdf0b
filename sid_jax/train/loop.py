"""The one training loop; it does not know what it trains.

All randomness comes from (key, step) and every batch is `stream(step)`, so a checkpoint
needs no more than the state: resumed equals uninterrupted, bit for bit.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from sid_jax.errors import InputError
from sid_jax.train.account import count_flops
from sid_jax.train.checkpoint import Checkpointer
from sid_jax.train.device import is_known
from sid_jax.train.divergence import Diverged, Guard
from sid_jax.train.evaluation import Evaluation, Evaluator
from sid_jax.train.events import EventLog
from sid_jax.train.hosts import Stop, is_first, listen
from sid_jax.train.optimizer import OptimizerConfig, make_optimizer
from sid_jax.train.profile import Profiler
from sid_jax.train.progress import MetricsLog, Progress, Window
from sid_jax.train.sharding import (
    MeshConfig,
    abstract_like,
    make_mesh,
    place,
    use_mesh,
)
from sid_jax.train.step import (
    Aux,
    Task,
    TrainState,
    abstract_state,
    jit_train_step,
    start_state,
)
from sid_jax.typing import PyTree

__all__ = [
    "Aux",
    "Diverged",
    "Evaluator",
    "Interrupted",
    "Task",
    "TrainConfig",
    "TrainState",
    "checkpoint_step",
    "fit",
    "load_params",
]

_STEPS_AHEAD = 2  # steps that may wait for the device, each holding its batch there
_OWED = "evaluation_owed"  # in the configuration of a checkpoint


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, and what to do on the way.

    Attributes:
      steps: steps in all; a resumed run counts those before it.
      seed: of everything random in training.
      log_every: steps between progress lines, each a mean over these steps.
      checkpoint_every: steps between checkpoints; 0 for the last step only.
      eval_every: steps between evaluations; 0 for the last step only.
      keep: latest checkpoints to keep.
      best: figure of an evaluator, such as `validation/recall@10`: each evaluation is
        followed by a checkpoint, and the one where it was highest is kept, and is what
        the run gives. `-validation/loss` is for the lowest.
      accumulate: parts that a batch is computed in, one after the other, for less
        memory; each device has rows of each.
      max_growth: a loss so many times that of the first step (of this start of the run)
        has exploded and ends the run; 0 for no end.
      profile: steps to trace into the run's `profile/`, from the third one on that a
        process takes; 0 for none.
      tensorboard: write the metrics into the run's `events/` for TensorBoard, too
        (`pip install "sid_jax[tensorboard]"`).
      show: metrics in the progress line beside the loss.

    Raises:
      InputError: a number is too small; the message names the field.
    """

    steps: int
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 0
    eval_every: int = 0
    keep: int = 2
    best: str = ""
    accumulate: int = 1
    max_growth: float = 1000.0
    profile: int = 0
    tensorboard: bool = False
    show: tuple[str, ...] = ()

    def __post_init__(self):
        positive = ("steps", "log_every", "keep", "accumulate")
        for field in (*positive, "seed", "checkpoint_every", "eval_every", "profile"):
            least = int(field in positive)
            if getattr(self, field) < least:
                raise InputError(
                    f"train.{field}={getattr(self, field)} must be at least {least}"
                )
        if not (self.max_growth == 0 or self.max_growth > 1):
            raise InputError(f"train.max_growth={self.max_growth}: want 0, or above 1")


class Interrupted(Exception):  # noqa: N818 - asked for, hence no error
    """A signal stopped the run; what was done is saved.

    Attributes:
      signal: SIGINT (Ctrl-C) or SIGTERM; the latter, too, where another process was
        the one to get a signal.
      step: steps done, or what `unit` calls them.
    """

    def __init__(self, stop: Stop, step: int, folder: Path, unit: str = "step"):
        saved = f"saved in {folder}" if step else "nothing to save yet"
        super().__init__(f"stopped at {unit} {step}, {saved}; run again to go on")
        self.signal = stop.signal or signal.SIGTERM
        self.step = step


def fit(
    task: Task,
    stream: Callable[[int], PyTree],
    *,
    config: TrainConfig,
    optimizer: OptimizerConfig,
    mesh: MeshConfig | None = None,
    folder: str | Path,
    evaluators: Mapping[str, Evaluator] | None = None,
    describe: Callable[[PyTree], Sequence[str]] | None = None,
    log: Callable[[str], None] = print,
) -> TrainState:
    """Trains, or goes on where the folder's last checkpoint stands.

    Writes `checkpoints/` and `metrics.jsonl`. A metric there is a mean over the steps
    since the line before; an evaluator's value is named `evaluator/name`. Where an
    evaluator raises, what was trained is saved first, and a run that goes on there
    evaluates first. (In one process; many go on from the checkpoint before.)

    Args:
      task: what to train.
      stream: this process's rows of the batch of a step (NumPy), pure; called from
        another thread, one step ahead.
      config: how long.
      optimizer: the optimizer.
      mesh: the devices; by default all of them, data parallel.
      folder: the run's folder.
      evaluators: called with (params, state), which they must not keep.
      describe: names of the items in a batch of `stream`, for `Diverged`.
      log: takes lines for the user.

    In many processes, all of them call it with their own part of each batch
    (`sharding.input_share`), and the first writes.

    Returns:
      The state after the last step.

    Raises:
      InputError: the mesh, the batch or the folder's checkpoint does not fit.
      Diverged: a loss or a gradient is not finite, or a loss has exploded.
      Interrupted: SIGINT or SIGTERM came; the state is saved. (A second Ctrl-C does not
        wait for the step to end, and saves nothing.)
    """
    mesh, folder = mesh or MeshConfig(), Path(folder)
    devices = make_mesh(mesh)
    key = jax.random.key(config.seed)
    transform, schedule = make_optimizer(optimizer, config.steps)
    batch = place(stream(0), devices)
    examples = max(len(leaf) for leaf in jax.tree.leaves(batch))
    _check_parts(batch, devices, config.accumulate)
    evaluate = Evaluation(
        evaluators or {}, config.best, lambda *line: records.write(*line), log
    )
    abstract = abstract_state(task, transform, batch, devices, mesh.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    parts = {"train": config, "optimizer": optimizer, "mesh": mesh}
    config_json = json.dumps({name: asdict(part) for name, part in parts.items()})
    settings = json.loads(config_json)  # as a checkpoint tells them
    owing_json = json.dumps(settings | {_OWED: True})

    with ExitStack() as stack:
        stop = stack.enter_context(listen())
        stack.enter_context(use_mesh(devices, mesh.rules))
        checkpoints = Checkpointer(folder / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        start, owed = checkpoints.latest_step, False
        if start is not None:
            state, start = checkpoints.restore_latest(abstract, log)
            going = "goes on" if start < config.steps else "already finished"
            log(f"{folder}: {going} at step {start} of {config.steps}")
            before = json.loads(checkpoints.config_json())
            owed = _OWED in before
            for change in _changes(before, settings):
                log(f"  changed since that checkpoint: {change}")
            if start >= config.steps and not owed:
                return state
        else:
            start = 0
            batches = _until_stopped(stream, devices, stop, folder)
            state = start_state(task, transform, batch, batches, key, shardings)

        told = folder / "events" if config.tensorboard and is_first() else None
        events = EventLog(told, start)
        path = folder / "metrics.jsonl" if is_first() else None
        records = MetricsLog(path, start, events)
        stack.callback(records.close)
        if owed:
            score = evaluate(start, config.steps, state.params, state.state)
            checkpoints.save(start, state, config_json, score, again=True)
            if start >= config.steps:
                return state
        pool = stack.enter_context(ThreadPoolExecutor(1, "batches"))
        train_step = jit_train_step(
            task, transform, schedule, shardings, devices, config.accumulate
        )
        flops = 0.0
        if is_known():  # a second trace, for accelerators alone
            flops = count_flops(train_step.trace(state, batch, key).jaxpr, anew=False)
        progress = Progress(config.steps, examples, config.show, flops, devices.size)
        guard = Guard(folder, config.max_growth, stream, describe)
        profiler = Profiler(folder / "profile", start, config.profile)
        stack.callback(profiler.close)
        window = Window()
        began = time.perf_counter()
        coming = pool.submit(stream, start)
        for step in range(start + 1, config.steps + 1):
            # A step, in this order; `step` counts it as done.
            # 1. The batch, made while the device worked; the next one is ordered.
            with progress.waiting():
                rows = coming.result()
            batch = place(rows, devices)
            if step < config.steps:
                coming = pool.submit(stream, step)
            # 2. Loss and gradient, optimizer, fold. Nothing is fetched: the call
            #    returns at once, and only steps further back are waited for.
            profiler.before(step)
            state, metrics = train_step(state, batch, key)
            window.add(step, metrics)
            window.wait(_STEPS_AHEAD)
            if step == start + 1:
                window.wait(0)
                log(
                    f"first step took {time.perf_counter() - began:.1f} s (it compiles)"
                )
                progress.restart(step)
            profiler.after(step, metrics, log)
            # 3. The line. Any step that is to be kept is first seen to be finite.
            last = step == config.steps
            log_now = last or step % config.log_every == 0
            eval_now = last or _divides(config.eval_every, step)
            stop_now = stop.asked(step)
            save_now = last or stop_now or _divides(config.checkpoint_every, step)
            save_now |= eval_now and bool(config.best)
            score = None
            if log_now or eval_now or save_now:
                guard.check(window, checkpoints.latest_step)
            if log_now:
                means = window.means()
                values = means | progress.rates(step, means.get("tokens"))
                records.write(step, values)
                log(progress.line(step, values))
                progress.restart(step)
            # 4. The evaluators.
            if eval_now:
                try:
                    score = evaluate(step, config.steps, state.params, state.state)
                except Exception:
                    if jax.process_count() == 1:  # others may be elsewhere
                        checkpoints.save(step, state, owing_json)
                    raise
            # 5. The checkpoint comes last: where there is one, all lines are written.
            if save_now:
                checkpoints.save(step, state, config_json, score)
            # 6. A signal that came since waits for the next step if none is saved here.
            if save_now and (stop_now or stop):
                checkpoints.wait()
                raise Interrupted(stop, step, folder)
            if eval_now or save_now:
                progress.restart(step)
    return state


def load_params(
    task: Task,
    batch: PyTree,
    folder: str | Path,
    *,
    mesh: MeshConfig | None = None,
    step: int | None = None,
) -> tuple[PyTree, PyTree]:
    """Parameters and state of a run's checkpoint, without its optimizer.

    That is the best one (`TrainConfig.best`), if the run told them apart, or the last.

    Args:
      task: the task that was trained.
      batch: arrays or shapes of a batch, as in training (the row count may differ).
      folder: the run's folder.
      mesh: where to put them; need not be the mesh of training.
      step: another one.

    Raises:
      InputError: there is no checkpoint, or it is not of this task.
    """
    mesh = mesh or MeshConfig()
    boxed = jax.eval_shape(task.init, jax.random.key(0), batch)
    params, state = abstract_like(boxed, make_mesh(mesh), mesh.rules)
    checkpoints = Checkpointer(Path(folder) / "checkpoints", read_only=True)
    try:
        step = checkpoints.best_step if step is None else step
        return checkpoints.restore_params(params, state, step)
    finally:
        checkpoints.close()


def checkpoint_step(folder: str | Path) -> int | None:
    """Step of the last checkpoint of a run's folder; None if there is none."""
    if not (Path(folder) / "checkpoints").is_dir():
        return None
    checkpoints = Checkpointer(Path(folder) / "checkpoints", read_only=True)
    try:
        return checkpoints.latest_step
    finally:
        checkpoints.close()


def _until_stopped(stream, mesh: Mesh, stop: Stop, folder: Path) -> Iterator:
    for step in count():
        if stop:
            raise Interrupted(stop, 0, folder)
        yield place(stream(step), mesh)


def _check_parts(batch: PyTree, mesh: Mesh, parts: int) -> None:
    shares = mesh.shape["data"]
    for leaf in jax.tree.leaves(batch):
        if len(leaf) % (shares * parts):
            raise InputError(
                f"train.accumulate={parts}: a batch of {len(leaf)} rows over {shares} "
                f"devices does not divide into so many parts; make it a multiple of "
                f"{shares * parts}"
            )


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for part, fields in now.items():
        for name, value in fields.items():
            was = before.get(part, {}).get(name)
            if was != value:
                yield f"{part}.{name} {was} -> {value}"
