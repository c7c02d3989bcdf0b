"""One program in many processes: how they find each other, who writes, when all stop.

Every process runs the same code on the same data. What touches arrays of the mesh is
done by all of them, files of a run are written by the first.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sid_jax.errors import InputError
from sid_jax.typing import PyTree

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "arrier")
"""Words in what JAX says of a process that is no longer there."""
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS")


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, where a launcher started more than this one.

    To be called before any device is asked for. Known are JAX_COORDINATOR_ADDRESS
    (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three;
    tasks of a SLURM step; Open MPI; workers of a TPU slice on GKE; and SID_JOIN=1 for
    whatever else JAX finds by itself, such as a Cloud TPU VM of a pod.

    Raises:
      InputError: some of the three are missing or no numbers.
    """
    told = [name for name in _EXPLICIT if environment.get(name)]
    if len(told) > 1:
        jax.distributed.initialize(*_read(environment))
    elif _launched(environment):
        jax.distributed.initialize()


def find_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which of the processes of a launcher this is, from 0, and of how many.

    For work that is shared out without a word between them: none is joined.

    Raises:
      InputError: as in `join`.
    """
    if len([name for name in _EXPLICIT if environment.get(name)]) > 1:
        _, size, rank = _read(environment)
        return rank, size
    names = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
    if all(environment.get(name) for name in _SLURM):
        names = _SLURM[2:]
    if all(environment.get(name) for name in names):
        return int(environment[names[0]]), int(environment[names[1]])
    return jax.process_index(), jax.process_count()


def are_many() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def first(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in the first process alone, and lets the others wait for it.

    It may not touch arrays of the mesh. If it fails, the others go on, to find that
    what they need is not there.

    Returns:
      What it returned, in the first process; None in the others.
    """
    try:
        return function(*args) if is_first() else None
    finally:
        wait(function.__name__)


def wait(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(answer: bool) -> bool:
    """What the first process says, in all of them: what one reads of a folder, another
    may have changed.
    """
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def fetch(tree: PyTree) -> PyTree:
    """Arrays of the mesh as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(_fetch, tree)


class Lost(Exception):  # noqa: N818 - says what happened
    """Another process ended, or the way to it did; this one cannot go on alone."""


@contextmanager
def together() -> Iterator[None]:
    """Has errors in the block that follow from a lost process say so.

    Raises:
      Lost: instead.
    """
    try:
        yield
    except Exception as error:  # of JAX, its collectives, or Orbax
        words = str(error)
        if jax.process_count() == 1 or not any(each in words for each in _LOST):
            raise
        why = " ".join(words.split())[:200]
        raise Lost(
            f"another process, or the way to it, was lost ({why}); start all of them "
            "again to go on from the last checkpoint"
        ) from error


class Stop:
    """Whether a signal asks for an end; all processes hear of it at the same step.

    Attributes:
      signal: that came to this process, or to another one (SIGTERM); None if none did.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None and jax.process_count() == 1

    def asked(self, step: int) -> bool:
        """Whether to end after this step; to be asked at every step."""
        if jax.process_count() == 1:
            return bool(self)
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signal = self.signal or signal.SIGTERM
        return True


@contextmanager
def listen(alone: bool = False) -> Iterator[Stop]:
    """Hears SIGINT and SIGTERM in the block; a second SIGINT interrupts at once.

    Args:
      alone: whether to tell no other process; ask for the signal itself then.
    """
    stop = Stop()
    many = jax.process_count() > 1 and not alone

    def handle(number, frame):
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = stop.signal or signal.Signals(number)
        if many:  # JAX tells the others, and listens for SIGTERM alone
            os.kill(os.getpid(), signal.SIGTERM)

    numbers = (signal.SIGINT,) if many else (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # only the main thread may listen; others are stopped otherwise
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _read(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Address, number and index of processes that a launcher told in words."""
    values = []
    for name in _EXPLICIT:
        value = environment.get(name, "")
        if not value or (name != _EXPLICIT[0] and not value.isdecimal()):
            raise InputError(
                f"{name}={value!r}: a run in many processes needs {_EXPLICIT[0]} "
                f"(host:port of the first one), {_EXPLICIT[1]} and {_EXPLICIT[2]}"
            )
        values.append(value if name == _EXPLICIT[0] else int(value))
    address, count, index = values
    if not 0 <= index < count:
        raise InputError(f"{_EXPLICIT[2]}={index} is not below {_EXPLICIT[1]}={count}")
    return address, count, index


def _launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows by itself started more than one process."""
    if all(environment.get(name) for name in _SLURM):
        return int(environment["SLURM_NTASKS"]) > 1
    return (
        int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or int(environment.get("MEGASCALE_NUM_SLICES", "1")) > 1
        or environment.get("SID_JOIN", "0") == "1"
    )


def _fetch(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
