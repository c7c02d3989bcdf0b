"""Verbs that make something: data sets, vectors, trained runs, SID tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sid_jax.errors import InputError
from sid_jax.verbs.words import NoPrefix, Positional, parse, parse_share, say


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
    arguments = parse(Arguments, "quickstart", argv, run_quickstart, default)
    quickstart(arguments.config, arguments.workdir, say)


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
        runner: str = ""
        """Import on Apache Beam: DirectRunner, FlinkRunner, SparkRunner, ...; a path
        may then be a quoted pattern of files, such as 'items-*.parquet'."""
        beam_options: tuple[str, ...] = ()
        """Options of the runner, such as direct_num_workers=4."""

    given = parse(Arguments, "import", argv, run_import)
    import_files(
        given.items,
        given.sequences,
        given.baskets,
        name=given.name,
        data_dir=given.data_dir,
        dietary=given.dietary,
        runner=given.runner,
        beam_options=given.beam_options,
        log=say,
    )


def run_prepare(argv: list[str]) -> None:
    """Texts, pairs or sequences of a data set, made past one machine (Apache Beam)."""
    from sid_jax.config import DataConfig, PairConfig
    from sid_jax.flows.preparing import prepare

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        data: str
        """A data set by its name."""
        data_dir: str = ""
        """Folder of data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if empty."""
        source: str = ""
        """Folder of the files that a built-in data set is built from, on first use."""
        out: Path
        """Folder to write Parquet files to."""
        texts: Literal["", "precision", "discovery"] = ""
        """Cleaned texts of items, for sid embed --texts."""
        title_words: int = 0
        """Cut titles to so many words; 0 leaves them whole."""
        pairs: bool = False
        """Items bought together, for --pairs.file of a tokenizer."""
        min_support: int = PairConfig.min_support
        """Occurrences together that a pair has at least."""
        min_pmi: float = PairConfig.min_pmi
        """Pointwise mutual information that it has at least."""
        window: int = PairConfig.window
        """0 looks within baskets; n also at a user's baskets at most n apart."""
        max_basket: int = PairConfig.max_basket
        """Longer baskets are left out."""
        sequences: int = 0
        """Histories, cut into pieces of at most so many items."""
        held_out: int = 2
        """The last baskets of each user, left out: the judges' own."""
        runner: str = "DirectRunner"
        """Where it runs: DirectRunner, FlinkRunner, SparkRunner, ..."""
        beam_options: tuple[str, ...] = ()
        """Options of the runner, such as direct_num_workers=4."""

    given = parse(Arguments, "prepare", argv, run_prepare)
    mined = PairConfig(
        min_support=given.min_support,
        min_pmi=given.min_pmi,
        window=given.window,
        max_basket=given.max_basket,
    )
    prepare(
        DataConfig(name=given.data, data_dir=given.data_dir, source=given.source),
        given.out,
        say,
        texts=given.texts,
        title_words=given.title_words,
        pairs=mined if given.pairs else None,
        sequences=given.sequences,
        held_out=given.held_out,
        runner=given.runner,
        beam_options=given.beam_options,
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
        source: str = ""
        """Folder of the files that a built-in data set is built from, on first use."""
        recipe: Literal["precision", "discovery"] = "precision"
        """All of an item's text, or without brand, package size and praise."""
        texts: Path | None = None
        """A file of item_id and text to encode instead."""
        title_words: int = 0
        """Cut titles to so many words; 0 leaves them whole."""
        out: Path = Path("vectors.parquet")
        """The vectors to write."""

    given = parse(Arguments, "embed", argv, run_embed)
    embed(
        given.out,
        say,
        encoder=given.encoder,
        recipe=given.recipe,
        items=given.items,
        data=given.data,
        data_dir=given.data_dir,
        source=given.source,
        texts=given.texts,
        title_words=given.title_words,
    )


def run_train(argv: list[str]) -> None:
    """An experiment file is trained, judged and reported."""
    from sid_jax.config import read_experiment
    from sid_jax.flows.train import join, train

    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            say(_TRAIN_HELP)
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
    rest = _spell_profile(rest)
    given = parse(Arguments, f"train {path}", rest, run_train, default)
    join()
    train(given.config, given.workdir, say)


def _spell_profile(words: list[str]) -> list[str]:
    """`--profile [N]` as the field that it stands for."""
    if "--profile" not in words:
        return words
    place = words.index("--profile")
    given = words[place + 1 : place + 2]
    number = [] if given and given[0].isdecimal() else [_TRACED]
    return [*words[:place], "--train.profile", *number, *words[place + 1 :]]


_TRACED = "5"  # steps

_TRAIN_HELP = """\
usage: sid train experiments/FILE.py --workdir DIR [--any.field VALUE ...]

An experiment file is trained, judged and reported.

  experiments/FILE.py   Python whose get_config() returns a configuration
  --workdir DIR         the run folder; run the same command again to go on
  --profile [N]         traces N steps (5) with jax.profiler into DIR/profile
  --any.field VALUE     overrides a field, such as --train.steps 500 --data.name mine

`sid train experiments/FILE.py --help` lists an experiment's fields."""


def run_sweep(argv: list[str]) -> None:
    """Variants of an experiment are trained with several seeds, into one table."""
    from sid_jax.flows.sweep import sweep

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        file: Positional[Path]
        """Python file whose get_variants() returns configurations by name."""
        workdir: Path
        """Where the runs and the table go; run again to go on."""
        seeds: tuple[int, ...] = (0,)
        """Each variant is trained with each of them."""
        only: str = ""
        """Only the variants whose name has this in it."""

    given = parse(Arguments, "sweep", argv, run_sweep)
    sweep(given.file, given.workdir, say, seeds=given.seeds, only=given.only)


def run_encode(argv: list[str]) -> None:
    """A file of items gets Semantic IDs from a trained tokenizer."""
    from sid_jax.flows.bulk import PART_ROWS, encode_parts
    from sid_jax.flows.encode import encode_file

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        tokenizer: Path
        """Run folder of the tokenizer."""
        items: Path
        """Items as `sid import` reads them; into a folder, also a folder of such."""
        out: Path = Path("sids.parquet")
        """The SID table to write. NAME.parquet: one file, of items that fit into
        memory. A folder: parts of any number of items; run again to go on."""
        extend: Path | None = None
        """A SID table to add to: its items keep their SIDs."""
        vectors: str = ""
        """The items' vectors, where the tokenizer was trained on such a file; into a
        folder, in the order of the items."""
        part_rows: int = PART_ROWS
        """Into a folder: items of a part, at most. Memory grows with it."""
        host: str = ""
        """Into a folder: which of the hosts that share it this is, such as 0/4 to 3/4;
        if empty, as the launcher has it (SLURM, Open MPI, JAX_PROCESS_ID)."""

    given = parse(Arguments, "encode", argv, run_encode)
    if given.out.suffix:
        encode_file(
            given.tokenizer,
            given.items,
            given.out,
            say,
            extend=given.extend,
            vectors=given.vectors,
        )
        return
    if given.extend is not None:
        raise InputError(
            "--extend adds to one file: give --out NAME.parquet, or encode the new "
            "items into a folder of their own"
        )
    encode_parts(
        given.tokenizer,
        given.items,
        given.out,
        say,
        vectors=given.vectors,
        part_rows=given.part_rows,
        host=parse_share(given.host) if given.host else None,
    )
