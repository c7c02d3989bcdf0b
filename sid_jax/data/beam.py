"""A data set on Apache Beam: where pipelines run, and its records as a PCollection."""

# pyright: reportMissingImports=false

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from sid_jax.errors import InputError

_AT_ONCE = 1000
"""Records that are read together: one by one takes longer."""


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """Where a pipeline runs.

    Attributes:
      runner: DirectRunner for this machine; FlinkRunner, SparkRunner, DataflowRunner
        or another that Beam knows.
      options: of Beam and the runner, such as `direct_num_workers=4`.
    """

    runner: str = "DirectRunner"
    options: tuple[str, ...] = ()

    def open(self) -> tuple[PipelineRunner, PipelineOptions]:
        """The runner and its options.

        Raises:
          InputError: Beam knows no such runner, or lacks what it needs.
        """
        words = (f"runner={self.runner}", *self.options)
        options = PipelineOptions([f"--{word}" for word in words])
        if self.runner.lower() in ("direct", "directrunner"):
            # By that name, Beam would first try to download another one, Prism.
            return FnApiRunner(), options
        try:
            return create_runner(self.runner), options
        except (ValueError, ImportError, AttributeError) as error:
            raise InputError(f"--runner {self.runner}: {error}") from None


class ReadRecords(beam.PTransform):
    """The records of a configuration of a data set, in any order.

    Takes a pipeline and gives dictionaries of the features in `builders.py`, text as
    bytes.
    """

    def __init__(self, folder: str | Path):
        """Takes `NAME/items/VERSION` or `NAME/histories/VERSION`."""
        super().__init__()
        self._folder = str(folder)

    def expand(self, input_or_inputs: beam.Pipeline) -> PCollection:
        return (
            input_or_inputs
            | "shards" >> beam.Create([None])
            | "list" >> beam.FlatMap(_list_shards, self._folder)
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(_read_shard, self._folder)
        )


def _list_shards(_: None, folder: str) -> Iterator[int]:
    builder: Any = tfds.builder_from_directory(folder)
    yield from range(builder.info.splits["train"].num_shards)


def _read_shard(shard: int, folder: str) -> Iterator[dict[str, Any]]:
    builder: Any = tfds.builder_from_directory(folder)
    source = builder.as_data_source(split=f"train[{shard}shard]")
    for start in range(0, len(source), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(source))
        yield from source.__getitems__(range(start, stop))
