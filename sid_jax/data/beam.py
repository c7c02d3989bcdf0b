"""A data set on Apache Beam: where pipelines run, and its records as a PCollection."""

# pyright: reportMissingImports=false

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from sid_jax.data.records import open_records, reading_records
from sid_jax.errors import InputError

_AT_ONCE = 1000
"""Records that are read together: one by one takes longer."""
_TRACEBACKS = (
    "apache_beam.runners.common",
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.portability.local_job_service",
)
"""Loggers of workers' exceptions, which reach us as exceptions, too."""
_REFUSED = re.compile(r"\bInputError: (.+?) \[while running ")
_UNWRITTEN = re.compile(r"Error: \[Errno (\d+)\][^\n'\[]*(?:'([^'\n]+)')?")


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
          InputError: Beam knows no such runner, lacks what it needs, or cannot read
            an option.
        """
        words = (f"runner={self.runner}", *self.options)
        told = io.StringIO()
        try:
            with redirect_stderr(told):  # all options that there are, and what is wrong
                options = PipelineOptions([f"--{word}" for word in words])
                options.get_all_options()  # it reads them only now
        except SystemExit:
            why = told.getvalue().strip().rpartition("error: ")[2]
            raise InputError(f"--beam-options: {why}") from None
        if self.runner.lower() in ("direct", "directrunner"):
            # By that name, Beam would first try to download another one, Prism.
            return FnApiRunner(), options
        try:
            return create_runner(self.runner), options
        except (ValueError, ImportError, AttributeError) as error:
            raise InputError(f"--runner {self.runner}: {error}") from None


@contextmanager
def running() -> Iterator[None]:
    """Has what stopped a worker raised here, where Beam tells it as text.

    Raises:
      InputError: as a worker did.
      OSError: as a worker did, with its number and its file.
    """
    logs = [logging.getLogger(name) for name in _TRACEBACKS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}".partition(" [while running ")[0]) from error
    except RuntimeError as error:
        if told := _REFUSED.search(f"{error}"):
            raise InputError(told[1]) from error
        if told := _UNWRITTEN.search(f"{error}"):
            number, file = int(told[1]), told[2]
            raise OSError(number, os.strerror(number), file) from error
        raise
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


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
    builder = open_records(Path(folder))
    yield from range(builder.info.splits["train"].num_shards)


def _read_shard(shard: int, folder: str) -> Iterator[dict[str, Any]]:
    builder = open_records(Path(folder))
    with reading_records(Path(folder)):
        source = builder.as_data_source(split=f"train[{shard}shard]")
    for start in range(0, len(source), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(source))
        with reading_records(Path(folder)):
            records = source.__getitems__(range(start, stop))
        yield from records
