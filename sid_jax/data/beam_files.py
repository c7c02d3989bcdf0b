"""A user's files on Apache Beam: each is read whole, and what strikes is reported.

Workers do not refuse: they tell *facts* of each file, and *cases* of rules that show
where files meet, and the program that started them decides when all is read.

- Facts are JSON: `file`, its place in the pattern; `error`, why it cannot be read, or
  ""; `unit`, what its rows are called; `found`, of each rule how often and where first;
  and what the kind of file adds.
- A case is `((file, rule), (1, [(row, detail)]))`.
"""

# pyright: reportMissingImports=false

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from glob import glob, has_magic
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, PCollection

from sid_jax.data.readers import SHOWN, Findings
from sid_jax.errors import InputError
from sid_jax.files import replacing

Facts = dict[str, Any]
Case = tuple[int, list[tuple[int, str]]]


class FileRecords(beam.PTransform):
    """Records of the files of a pattern, by their row.

    Takes a pipeline and gives (row, record); a subclass says how.

    Attributes:
      pattern: a path, or a pattern of paths.
      files: place and path of each file, in the order of their names.
      spare: a record for a split without any, at which TFDS would stop the pipeline
        before the report is there.
    """

    spare: Mapping[str, Any]

    def __init__(self, pattern: Path, report: Path):
        """Takes where workers may write a report."""
        super().__init__()
        self.pattern, self._report = pattern, report
        names = sorted(glob(str(pattern))) if has_magic(str(pattern)) else []
        self.files = list(enumerate(names or [str(pattern)]))

    def judge(self) -> tuple[dict[str, Any], list[str]]:
        """Counts and notes, once the pipeline has run.

        Raises:
          InputError: what the files hold is refused.
        """
        report = json.loads(self._report.read_text())
        self._report.unlink()
        facts = sorted(report["facts"], key=itemgetter("file"))
        if errors := [fact["error"] for fact in facts if fact["error"]]:
            more = [f"... ({len(errors)} files)"] if len(errors) > SHOWN else []
            raise InputError("\n".join([*errors[:SHOWN], *more]))
        findings = self._gather(facts, report["cases"])
        return self.judge_facts(facts, findings, report["count"])

    def judge_facts(
        self, facts: list[Facts], findings: Findings, count: int
    ) -> tuple[dict[str, Any], list[str]]:
        """`judge`, by the facts of readable files, findings and number of records."""
        raise NotImplementedError

    def spread(self, pipeline: beam.Pipeline) -> PCollection:
        """Place and path of each file, for a worker of its own."""
        return pipeline | "files" >> beam.Create(self.files) | beam.Reshuffle()

    def finish(
        self,
        records: PCollection,
        facts: PCollection,
        cases: PCollection,
    ) -> PCollection:
        """Writes the report; gives the records, or the spare one."""
        counted: Any = records | "count" >> beam.combiners.Count.Globally()
        summed: Any = cases | "sum" >> beam.CombinePerKey(_add_up)
        count = AsSingleton(counted)
        told = AsList(facts), AsList(summed), count
        once = records.pipeline | "once" >> beam.Create([str(self._report)])
        _ = once | "report" >> beam.Map(_write_report, *told)
        spare = once | "spare" >> beam.FlatMap(_make_spare, self.spare, count)
        return (records, spare) | "all" >> beam.Flatten()

    def _gather(self, facts: list[Facts], cases: list) -> Findings:
        """Findings of all files, as of one; of several, places tell which."""
        by_file: dict[int, dict[str, Any]] = defaultdict(dict)
        for (file, rule), (count, places) in sorted(cases):
            unit = Findings(self.pattern, facts[file]["unit"])
            by_file[file][rule] = count, [unit.place(*place) for place in places]
        whole = Findings(self.pattern)
        for fact, (file, path) in zip(facts, self.files, strict=True):
            prefix = f"{Path(path).name} " if len(facts) > 1 else ""
            for rule, (count, places) in (fact["found"] | by_file[file]).items():
                whole.add(rule, count, [prefix + place for place in places])
        return whole


def dump(findings: Findings) -> dict[str, tuple[int, list[str]]]:
    """The findings of a file, as its facts have them."""
    return {rule: (n, findings.places[rule]) for rule, n in findings.counts.items()}


def _add_up(cases: Iterable[Case]) -> Case:
    total, first = 0, []
    for count, places in cases:
        total, first = total + count, nsmallest(SHOWN, [*first, *places])
    return total, first


def _write_report(
    path: str, facts: list[Facts], cases: list[tuple[tuple, Case]], count: int
) -> None:
    report = {"facts": facts, "cases": cases, "count": count}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report))


def _make_spare(_: str, record: Mapping[str, Any], count: int) -> Iterator[tuple]:
    if not count:
        yield 0, dict(record)
