"""The lines of `metrics.jsonl` once more, as TensorBoard reads them."""

from collections.abc import Mapping
from pathlib import Path

from sid_jax.errors import InputError


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
        """
        self._writer = None
        if folder is None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "train.tensorboard writes with tensorboardX: "
                'pip install "sid_jax[tensorboard]"'
            ) from error
        # The name of a file is of the second alone: the step tells two apart.
        self._writer = SummaryWriter(
            str(folder), purge_step=step + 1, filename_suffix=f".{step}"
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step by their names."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Sees to it that all is in the file."""
        if self._writer is not None:
            self._writer.close()
