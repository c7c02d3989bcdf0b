"""The `sid` command: verbs that parse and call a flow."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sid_jax import __version__
from sid_jax.errors import InputError

Positional = tyro.conf.Positional
NoPrefix = tyro.conf.arg(name="")


def main(argv: list[str] | None = None) -> int:
    """Runs a verb.

    Returns:
      0; 2 for bad input; 3 where `sid compare` finds that a limit is missed; 130 when
      interrupted; 1 otherwise.
    """
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
        return VERBS[name](rest) or 0
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
        dietary: bool = False
        """Add what titles say of diets (vegan, gluten_free, ...) as attributes."""

    given = _parse(Arguments, "import", argv, run_import)
    import_files(
        given.items,
        given.sequences,
        given.baskets,
        name=given.name,
        data_dir=given.data_dir,
        dietary=given.dietary,
        log=_log,
    )


def run_embed(argv: list[str]) -> None:
    """The texts of items become vectors, to train on with --vectors.file."""
    from sid_jax.flows.embedding import embed

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        encoder: str
        """A sentence-transformers folder, or the name of one on the hub."""
        items: Path | None = None
        """Items as `sid import` reads them."""
        data: str = ""
        """Or a data set by its name."""
        data_dir: str = ""
        """Folder of data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if empty."""
        recipe: Literal["precision", "discovery"] = "precision"
        """All of an item's text, or without brand, package size and praise."""
        texts: Path | None = None
        """A file of item_id and text to encode instead."""
        title_words: int = 0
        """Cut titles to so many words; 0 leaves them whole."""
        out: Path = Path("vectors.parquet")
        """The vectors to write."""

    given = _parse(Arguments, "embed", argv, run_embed)
    embed(
        given.out,
        _log,
        encoder=given.encoder,
        recipe=given.recipe,
        items=given.items,
        data=given.data,
        data_dir=given.data_dir,
        texts=given.texts,
        title_words=given.title_words,
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

    given = _parse(Arguments, "inspect", argv, run_inspect)
    inspect_table(
        given.table,
        _log,
        vectors=given.vectors,
        items=given.items,
        purchases=given.purchases,
        partial=given.partial,
        out=given.out,
    )


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

    given = _parse(Arguments, "compare", argv, run_compare)
    verdict = compare_tables(
        given.old,
        given.new,
        _log,
        limits=given.limits,
        changed=given.changed,
        purchases=given.purchases,
        align=given.align,
        out=given.out,
    )
    return 0 if verdict.passed else 3


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

    given = _parse(Arguments, "flavours", argv, run_flavours)
    folders = (given.precision, given.discovery)
    compare_flavours(folders, given.out, _log, items=given.item)


VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "quickstart": run_quickstart,
    "import": run_import,
    "embed": run_embed,
    "train": run_train,
    "encode": run_encode,
    "inspect": run_inspect,
    "compare": run_compare,
    "flavours": run_flavours,
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
