"""The lines of `metrics.jsonl` once more, as TensorBoard reads them."""

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sid_jax.errors import InputError
from sid_jax.files import writing


class EventLog:
    """Writes scalars into TensorBoard's event files, without TensorFlow.

    A resumed run writes a file of its own, which tells TensorBoard to forget the steps
    that are written again. Signs such as @ become _ in a name there.
    """

    def __init__(self, folder: Path | None, step: int):
        """Opens a new file.

        Args:
          folder: of event files; None writes nowhere.
          step: steps done before.

        Raises:
          InputError: the library that writes them is not there.
          UnwrittenError: the file cannot be written.
        """
        self._writer = None
        if folder is None:
            return
        # Not its SummaryWriter, whose thread dies of a full disk: what is written after
        # that waits for it for ever.
        try:
            from tensorboardX import summary
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import RecordWriter
        except ImportError as error:
            raise InputError(
                "train.tensorboard writes with tensorboardX: "
                'pip install "sid_jax[tensorboard]"'
            ) from error
        protocol: Any = event_pb2
        self._event, self._scalar = protocol.Event, summary.scalar
        # TensorBoard reads files by name; the time in it is of the second alone, so
        # that the step tells two apart.
        told = f"{int(time.time()):010d}.{socket.gethostname()}.{step}"
        self._path = folder / f"events.out.tfevents.{told}"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(self._path))
        begins = protocol.SessionLog(status=protocol.SessionLog.START)
        self._append(
            self._event(file_version="brain.Event:2"),
            self._event(step=step + 1, session_log=begins),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step by their names, and sees them to the file.

        Raises:
          UnwrittenError: the disk is full.
        """
        if self._writer is not None:
            event = self._event(step=step)
            for name, value in values.items():
                event.summary.MergeFrom(self._scalar(name, float(value)))
            self._append(event)

    def close(self) -> None:
        """Closes the file.

        Raises:
          UnwrittenError: what an earlier error left unwritten cannot be, still.
        """
        if self._writer is not None:
            with writing(self._path):
                self._writer.close()

    def _append(self, *events: Any) -> None:
        assert self._writer is not None
        with writing(self._path):
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
