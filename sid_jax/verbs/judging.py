"""Verbs that judge: SID tables by themselves and beside each other, retrievers, and
experiments by what they would need.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from sid_jax.errors import InputError
from sid_jax.verbs.words import NoPrefix, Positional, parse, say


def run_inspect(argv: list[str]) -> None:
    """A SID table is judged: usage, collisions, similarity by depth, category tree."""
    from sid_jax.flows.inspect import inspect_table

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        table: Positional[Path]
        """sids.parquet, its run folder, or another system's item_id,sid file."""
        vectors: str = ""
        """File of item vectors to judge the codes against."""
        items: Path | None = None
        """Items as `sid import` reads them: titles and the category tree."""
        purchases: Path | None = None
        """Columns item_id,purchases; or baskets or sequences as `sid import` has."""
        partial: bool = False
        """Judge the items that these files have, where they lack some of the table."""
        out: Path | None = None
        """The page to write; beside the table if left out."""

    given = parse(Arguments, "inspect", argv, run_inspect)
    inspect_table(
        given.table,
        say,
        vectors=given.vectors,
        items=given.items,
        purchases=given.purchases,
        partial=given.partial,
        out=given.out,
    )


def run_flavours(argv: list[str]) -> None:
    """Two tokenizers of one catalog: what their prefixes join, on one page."""
    from sid_jax.flows.flavours import compare_flavours

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        precision: Positional[Path]
        """Run folder of a tokenizer."""
        discovery: Positional[Path]
        """Run folder of another one, on the same items."""
        item: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
        """Id of a product to show; may be repeated. Some are drawn if left out."""
        out: Path = Path("flavours.html")
        """The page to write."""

    given = parse(Arguments, "flavours", argv, run_flavours)
    folders = (given.precision, given.discovery)
    compare_flavours(folders, given.out, say, items=given.item)


def run_compare(argv: list[str]) -> int:
    """Two versions of SIDs: what moved, and whether it is little enough (else 3)."""
    from sid_jax.flows.compare import StabilityLimits, compare_tables

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        old: Positional[Path]
        """Run folder, .parquet or item_id,sid CSV of the version in use."""
        new: Positional[Path]
        """The same of the version that is to take its place."""
        limits: Annotated[StabilityLimits, NoPrefix] = field(
            default_factory=StabilityLimits
        )
        """What NEW must reach; sid exits with 3 if it does not."""
        changed: Path | None = None
        """File of the items whose text changed; told from the catalogs if left out."""
        purchases: Path | None = None
        """File with item_id,purchases: items counted by them too."""
        align: Path | None = None
        """Write NEW's table with its codes renamed after OLD's, and judge that one."""
        out: Path | None = None
        """The page to write, and figures as .json beside it; beside NEW if left out."""

    given = parse(Arguments, "compare", argv, run_compare)
    verdict = compare_tables(
        given.old,
        given.new,
        say,
        limits=given.limits,
        changed=given.changed,
        purchases=given.purchases,
        align=given.align,
        out=given.out,
    )
    return 0 if verdict.passed else 3


def run_audit(argv: list[str]) -> None:
    """Products whose code says another category than their label."""
    from sid_jax.flows.audit import audit_catalog

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        tables: Positional[tuple[Path, ...]]
        """Run folder, .parquet or item_id,sid CSV; several of one catalog all vote."""
        items: Path | None = None
        """The items, as `sid import` reads them; the run's own if left out."""
        vectors: str = ""
        """File of item vectors: copies and nearest neighbours are told by them."""
        top: int = 100
        """How many suspects to list."""
        out: Path = Path("audit.csv")
        """The list to write; a page is written beside it."""

    given = parse(Arguments, "audit", argv, run_audit)
    audit_catalog(
        given.tables,
        given.out,
        say,
        items=given.items,
        vectors=given.vectors,
        top=given.top,
    )


def run_compile(argv: list[str]) -> int:
    """What an experiment would need on a pod, without one: memory and network."""
    # A TPU's compiler runs anywhere; its devices are asked for nowhere.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from sid_jax.config import read_experiment
    from sid_jax.flows.compile import Sizes, compile_experiment

    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            say(_COMPILE_HELP)
            return 0
        raise InputError(f"name the experiment file first\n\n{_COMPILE_HELP}")
    path, *rest = argv
    experiment = read_experiment(path)

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        config: Annotated[type(experiment), NoPrefix]  # pyright: ignore
        """The experiment."""
        sizes: Annotated[Sizes, NoPrefix]
        """Of the data."""
        topology: str
        """The slice, such as v5e:16x16."""

    default = Arguments(config=experiment, sizes=Sizes(), topology=tyro.MISSING)
    given = parse(Arguments, f"compile {path}", rest, run_compile, default)
    fits = compile_experiment(given.config, given.topology, given.sizes, say)
    return 0 if fits else 3


_COMPILE_HELP = """\
usage: sid compile experiments/FILE.py --topology NAME [--items N] [--any.field VALUE]

What an experiment would need on a pod, without one: memory and network.

  experiments/FILE.py   Python whose get_config() returns a configuration
  --topology NAME       the slice, such as v5e:2x2, v5e:16x16, v5p:4x4x4, v6e:16x16
  --items N             items of the catalog; --retailers, --codebooks, --width likewise
  --any.field VALUE     overrides a field, such as --batch-size 4096 --mesh.rules fsdp

Exits with 3 where a program does not fit a chip's memory."""


def run_evaluate(argv: list[str]) -> None:
    """A retriever is judged on held-out baskets, beside what needs no training."""
    from sid_jax.flows import runs
    from sid_jax.flows.evaluate import evaluate_retriever
    from sid_jax.flows.report import report_run

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        workdir: Positional[Path]
        """Run folder of a retriever."""
        oracle: int = 0
        """Score all SIDs for so many of the requests, to tell what beams lose."""
        ranker: Path | None = None
        """Run of a SASRec on the same baskets, to rank what is retrieved."""

    given = parse(Arguments, "evaluate", argv, run_evaluate)
    evaluate_retriever(given.workdir, say, given.oracle, given.ranker)
    report_run(given.workdir, given.workdir / runs.REPORT)
    say(f"report: {given.workdir / runs.REPORT}")
