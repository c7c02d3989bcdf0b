"""`sid import` past one machine: the same records, made on Apache Beam.

A file is read whole, by one worker; a pattern (`items-*.parquet`) stands for its files
in the order of their names, as if they were one. Files and data set lie where every
worker sees them. The rules are those of `parsing.py`.
"""

from pathlib import Path
from typing import Any

from sid_jax.data.beam import BeamConfig, running
from sid_jax.data.beam_files import FileRecords
from sid_jax.data.beam_histories import HistoryRecords
from sid_jax.data.beam_items import ItemRecords
from sid_jax.data.builders import VERSION, CatalogBuilder, Contents
from sid_jax.data.datasets import prepare, staging
from sid_jax.data.parsing import parse_baskets, parse_sequences


def import_files(
    items: Path,
    sequences: Path | None,
    baskets: Path | None,
    *,
    name: str,
    root: Path,
    dietary: bool,
    config: BeamConfig,
) -> tuple[dict[str, Any], list[str]]:
    """Writes the data set `root/name` from files, or patterns of files.

    Returns:
      The counts of an `ImportSummary` by their names, and its notes.

    Raises:
      InputError: by a rule of `parsing.py`, or Beam has no such runner.
    """
    runner, options = config.open()
    with staging(name, root) as folder:

        def write(config: str, files: FileRecords) -> tuple[dict[str, Any], list[str]]:
            builder = _Files(
                name=name,
                files=files,
                config=config,
                data_dir=folder,
                file_format="array_record",
            )
            with running():
                prepare(builder, beam_runner=runner, beam_options=options)
            return builder.counts, builder.notes

        report = folder / "report.json"
        counts, notes = write("items", ItemRecords(items, report, dietary=dietary))
        histories = baskets if sequences is None else sequences
        if histories is not None:
            files = HistoryRecords(
                histories,
                report,
                parse=parse_baskets if sequences is None else parse_sequences,
                items=folder / name / "items" / VERSION,
            )
            more, further = write("histories", files)
            counts, notes = counts | more, [*notes, *further]
    return counts | {"attributes": tuple(counts["attributes"])}, notes


class _Files(CatalogBuilder, skip_registration=True):
    """A catalog that a user brought."""

    def __init__(self, *, name: str, files: FileRecords, **kwargs: Any):
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._files = files
        self.counts: dict[str, Any] = {}
        self.notes: list[str] = []
        super().__init__(**kwargs)

    def read(self) -> Contents:
        raise NotImplementedError("workers read")

    def attribute_types(self) -> dict[str, str]:
        return {}  # until they have

    def _generate_examples(self) -> Any:
        return self._files

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        del pipeline_result  # a pipeline that failed has raised
        self.counts, self.notes = self._files.judge()
        if self.info.metadata is not None:
            self.info.metadata["attributes"] = self.counts["attributes"]
