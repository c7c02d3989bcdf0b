"""One program in many processes: how they find each other, who writes, when all stop.

Every process runs the same code on the same data. What touches arrays of the mesh is
done by all of them, files of a run are written by the first.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.typing import PyTree

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LOST = re.compile(
    r"Gloo|NCCL|UNAVAILABLE:|DEADLINE_EXCEEDED|\bheartbeat\b|\b[Bb]arrier\b"
)
"""Words in what JAX says of a process that is no longer there."""
_WELL, _TOLD, _UNTOLD = range(3)  # how a call in the first process ended
_GRACE = 2.0  # seconds that the first process, which keeps the line, ends after others
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
    else:
        return
    # JAX hears SIGTERM from here on, but somebody must ask it, as `listen` does. Until
    # then nothing is unsaved, and a process ends as others do.
    Stop.handler = _set_handler(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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

    It may not touch arrays of the mesh.

    Returns:
      What it returned, in the first process; None in the others.

    Raises:
      Exception: what it raised, in the first process.
      InputError: in the others, where it raised bad input or `UnwrittenError`.
      Lost: in the others, where it raised anything else.
    """
    result, failure, code = None, None, _WELL
    if is_first():
        try:
            result = function(*args)
        except BaseException as error:  # whatever it is, the others are waiting
            told = isinstance(error, (InputError, UnwrittenError))
            failure, code = error, _TOLD if told else _UNTOLD
    code = _broadcast(code)
    if failure is not None:
        raise failure
    if code != _WELL:
        words = "the first process could not go on; what it says tells why"
        raise InputError(words) if code == _TOLD else Lost(words)
    return result


def agree(answer: bool) -> bool:
    """What the first process says, in all of them: what one reads of a folder, another
    may have changed.

    Raises:
      jax.errors.JaxRuntimeError: another process is lost; see `together`.
    """
    return bool(_broadcast(answer))


def fetch(tree: PyTree) -> PyTree:
    """Arrays of the mesh as NumPy arrays, whole in every process.

    Raises:
      jax.errors.JaxRuntimeError: another process is lost; see `together`.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(_fetch, tree)


class Lost(Exception):  # noqa: N818 - says what happened
    """Another process ended, or the way to it did; this one cannot go on alone."""


def is_lost(error: Exception) -> bool:
    """Whether an error of JAX or Orbax follows from a process that is not there."""
    ours = type(error).__module__.startswith("sid_jax.")
    return are_many() and not ours and bool(_LOST.search(str(error)))


@contextmanager
def together() -> Iterator[None]:
    """Has errors in the block that follow from a lost process say so.

    Raises:
      Lost: instead.
    """
    try:
        yield
    except Exception as error:  # of JAX, its collectives, or Orbax
        if not is_lost(error):
            raise
        why = " ".join(str(error).split())[:200]
        raise Lost(
            f"another process, or the way to it, was lost ({why}); start all of them "
            "again to go on from the last checkpoint"
        ) from error


def leave(code: int) -> None:
    """Ends this process at once if there are others, for which JAX would wait.

    They may be elsewhere, and find that it is lost. The first one ends last.

    Args:
      code: the exit code.
    """
    if not (jax.distributed.is_initialized() and are_many()):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(_GRACE)
    os._exit(code)


class Stop:
    """Whether a signal asks for an end; all processes hear of it at the same step.

    Attributes:
      signal: that came to this process, or to another one (SIGTERM); None if none did.
      handler: JAX's own one of SIGTERM, in its own form; None if it has none.
    """

    handler: bytes | None = None

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
    ended = many and Stop.handler and _set_handler(signal.SIGTERM, Stop.handler)
    try:
        yield stop
    finally:
        if ended:
            _set_handler(signal.SIGTERM, ended)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _broadcast(value: int) -> int:
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def _set_handler(number: int, handler: bytes | None = None) -> bytes:
    """A signal's handler of the C library, which Python neither tells nor sets."""
    before = ctypes.create_string_buffer(256)  # a `struct sigaction` is smaller
    if ctypes.CDLL(None, use_errno=True).sigaction(number, handler, before):
        raise OSError(ctypes.get_errno(), f"no handler for signal {number}")
    return before.raw


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
