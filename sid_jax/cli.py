"""The `sid` command: verbs that parse and call a flow."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sid_jax import __version__
from sid_jax.errors import InputError

Positional = tyro.conf.Positional
NoPrefix = tyro.conf.arg(name="")


def main(argv: list[str] | None = None) -> int:
    """Runs a verb. Returns 0; 2 for bad input; 130 when interrupted; 1 otherwise."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name not in VERBS:
        print(f"sid: no verb {name!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    try:
        VERBS[name](rest)
    except SystemExit as stop:  # tyro's: help was asked for, or the words are wrong
        return stop.code if isinstance(stop.code, int) else 2
    except InputError as error:
        print(f"sid {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nsid {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"sid {name}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        return _stop(name, error)
    return 0


def run_quickstart(argv: list[str]) -> None:
    """A real grocery catalog becomes Semantic IDs, and products are retrieved."""
    from sid_jax.flows.quickstart import QuickstartConfig, quickstart

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        config: Annotated[QuickstartConfig, NoPrefix]
        """The two experiments."""
        workdir: Path = Path("runs/quickstart")
        """Where everything goes; run again to go on."""

    default = Arguments(config=QuickstartConfig())
    arguments = _parse(Arguments, "quickstart", argv, run_quickstart, default)
    quickstart(arguments.config, arguments.workdir, _log)


def run_import(argv: list[str]) -> None:
    """Your own catalog, and sequences or baskets, become a data set."""
    from sid_jax.flows.importing import import_files

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        items: Path
        """CSV, JSON lines or Parquet (.gz too): item_id, title, brand, categories."""
        name: str
        """What to call it: small letters, digits and _."""
        sequences: Path | None = None
        """Lines of: user_id item_id item_id ..., oldest first."""
        baskets: Path | None = None
        """user_id, a time or order column, product_ids; retailer_id if there is one."""
        data_dir: str = ""
        """Folder of data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if empty."""

    given = _parse(Arguments, "import", argv, run_import)
    import_files(
        given.items,
        given.sequences,
        given.baskets,
        name=given.name,
        data_dir=given.data_dir,
        log=_log,
    )


def run_train(argv: list[str]) -> None:
    """An experiment file is trained, judged and reported."""
    from sid_jax.config import read_experiment
    from sid_jax.flows.train import train

    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            _log(_TRAIN_HELP)
            return
        raise InputError(f"name the experiment file first\n\n{_TRAIN_HELP}")
    path, *rest = argv
    experiment = read_experiment(path)

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        config: Annotated[type(experiment), NoPrefix]  # pyright: ignore
        """The experiment."""
        workdir: Path
        """The run folder; run again to go on."""

    default = Arguments(config=experiment, workdir=tyro.MISSING)
    given = _parse(Arguments, f"train {path}", rest, run_train, default)
    train(given.config, given.workdir, _log)


_TRAIN_HELP = """\
usage: sid train experiments/FILE.py --workdir DIR [--any.field VALUE ...]

An experiment file is trained, judged and reported.

  experiments/FILE.py   Python whose get_config() returns a configuration
  --workdir DIR         the run folder; run the same command again to go on
  --any.field VALUE     overrides a field, such as --train.steps 500 --data.name mine

`sid train experiments/FILE.py --help` lists an experiment's fields."""


def run_encode(argv: list[str]) -> None:
    """A file of items gets Semantic IDs from a trained tokenizer."""
    from sid_jax.flows.encode import encode_file

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        tokenizer: Path
        """Run folder of the tokenizer."""
        items: Path
        """Items as `sid import` reads them."""
        out: Path = Path("sids.parquet")
        """The SID table to write."""
        extend: Path | None = None
        """A SID table to add to: its items keep their SIDs."""
        vectors: str = ""
        """The items' vectors, where the tokenizer was trained on such a file."""

    given = _parse(Arguments, "encode", argv, run_encode)
    encode_file(
        given.tokenizer,
        given.items,
        given.out,
        _log,
        extend=given.extend,
        vectors=given.vectors,
    )


def run_inspect(argv: list[str]) -> None:
    """A SID table is judged by itself: usage, collisions, similarity by depth."""
    from sid_jax.flows.inspect import inspect_table

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        table: Positional[Path]
        """sids.parquet, the run folder with it, or another system's item_id,sid CSV."""
        vectors: str = ""
        """File of item vectors to judge the codes against."""
        out: Path | None = None
        """The page to write; beside the table if left out."""

    given = _parse(Arguments, "inspect", argv, run_inspect)
    inspect_table(given.table, _log, vectors=given.vectors, out=given.out)


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

    given = _parse(Arguments, "audit", argv, run_audit)
    audit_catalog(
        given.tables,
        given.out,
        _log,
        items=given.items,
        vectors=given.vectors,
        top=given.top,
    )


def run_evaluate(argv: list[str]) -> None:
    """A retriever is judged on held-out baskets, beside three baselines."""
    from sid_jax.flows import runs
    from sid_jax.flows.evaluate import evaluate_retriever
    from sid_jax.flows.report import report_run

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        workdir: Positional[Path]
        """Run folder of a retriever."""

    given = _parse(Arguments, "evaluate", argv, run_evaluate)
    evaluate_retriever(given.workdir, _log)
    report_run(given.workdir, given.workdir / runs.REPORT)
    _log(f"report: {given.workdir / runs.REPORT}")


def run_retrieve(argv: list[str]) -> None:
    """Products for a household at a store."""
    from sid_jax.flows.retrieve import retrieve

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        workdir: Positional[Path]
        """Run folder of a retriever."""
        history: str = ""
        """Item ids the household bought, oldest first: ID,ID,ID."""
        basket: str = ""
        """Item ids in the basket so far: ID,ID."""
        retailer: str = ""
        """The store; may be left out if there is one only."""
        where: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
        """A condition such as brand_tier=Private or category=BREAD; may be repeated."""
        top: int = 10
        """How many products."""

    given = _parse(Arguments, "retrieve", argv, run_retrieve)
    conditions = {}
    for each in given.where:
        key, equals, value = each.partition("=")
        if not (key and equals and value):
            raise InputError(f"--where {each!r}: want attribute=value")
        if conditions.get(key, value) != value:
            raise InputError(
                f"--where: {key} is given twice ({conditions[key]} and {value}); "
                "give each key once"
            )
        conditions[key] = value
    offers = retrieve(
        given.workdir,
        history=_split(given.history),
        basket=_split(given.basket),
        retailer=given.retailer,
        where=conditions,
        top=given.top,
    )
    for rank, offer in enumerate(offers, 1):
        _log(
            f"{rank:>3}  {offer.score:8.3f}  {offer.sid:<18} {offer.item_id:<12} "
            f"{offer.title}  [{offer.category}]"
        )
    if not offers:
        _log("nothing: the store carries no other product that meets the conditions")


VERBS: dict[str, Callable[[list[str]], None]] = {
    "quickstart": run_quickstart,
    "import": run_import,
    "train": run_train,
    "encode": run_encode,
    "inspect": run_inspect,
    "audit": run_audit,
    "evaluate": run_evaluate,
    "retrieve": run_retrieve,
}


def _overview() -> str:
    lines = [
        "sid: Semantic IDs for recommendation, in JAX and Flax",
        "",
        "usage: sid VERB ...        (sid VERB --help explains a verb)",
        "",
    ]
    lines += [f"  {name:<12}{verb.__doc__}" for name, verb in VERBS.items()]
    return "\n".join(lines)


def _parse(kind: Any, name: str, argv: list[str], verb: Callable, default=None) -> Any:
    return tyro.cli(
        kind,
        prog=f"sid {name}",
        description=verb.__doc__,
        args=argv,
        default=default,
        # A union field keeps the class that the experiment chose.
        config=(tyro.conf.AvoidSubcommands,),
    )


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _log(line: str) -> None:
    print(line, flush=True)


def _stop(name: str, error: Exception) -> int:
    """An interrupted run ends as its signal asks; anything else is a fault of ours."""
    from sid_jax.flows.train import Interrupted

    if isinstance(error, Interrupted):
        print(f"\nsid {name}: {error}", file=sys.stderr)
        return 130 if error.signal.name == "SIGINT" else 0
    if os.environ.get("SID_TRACEBACK"):
        raise error
    print(
        f"sid {name}: {type(error).__name__}: {error}\n"
        "This is a fault of sid_jax: please report it with the traceback that "
        "SID_TRACEBACK=1 shows.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
