"""`sid prepare`: what training reads of a data set, made past one machine."""

from collections.abc import Callable
from pathlib import Path

from sid_jax.data.datasets import DataConfig, find_folder, is_prepared
from sid_jax.data.importer import need_beam
from sid_jax.data.pairs import PairConfig
from sid_jax.errors import InputError


def prepare(
    data: DataConfig,
    out: Path,
    log: Callable[[str], None],
    *,
    texts: str = "",
    title_words: int = 0,
    pairs: PairConfig | None = None,
    sequences: int = 0,
    held_out: int = 2,
    runner: str = "DirectRunner",
    beam_options: tuple[str, ...] = (),
) -> None:
    """Writes Parquet files on Apache Beam; see `write_training_data`.

    Args:
      data: which data set.
      out: folder of the files.
      log: where lines go.
      texts: a recipe, or "".
      title_words: see `make_texts`.
      pairs: what counts as a pair; None for none.
      sequences: items of a piece of a history, at most; 0 for none.
      held_out: the last baskets of each user, which pairs and sequences leave out.
      runner: that of `BeamConfig`.
      beam_options: those of `BeamConfig`.

    Raises:
      InputError: nothing is asked for, a file of it is there, the data set has no
        histories or is damaged, or Beam is not at hand.
      UnwrittenError: the disk is full, or nothing may be written there.
    """
    wanted = {"texts": texts, "pairs": pairs, "sequences": sequences}
    names = [name for name, given in wanted.items() if given]
    if not names:
        raise InputError("nothing to prepare: give --texts, --pairs or --sequences")
    for name in names:
        if there := sorted(out.glob(f"{name}*.parquet")):
            raise InputError(f"{there[0]} exists; delete it, or choose another --out")
    if min(sequences, held_out, title_words) < 0:
        raise InputError(
            "--sequences, --held-out and --title-words must not be negative"
        )
    need_beam("sid prepare")
    from sid_jax.data.beam import BeamConfig
    from sid_jax.data.beam_training import write_training_data

    folder = find_folder(data)
    if (pairs or sequences) and not is_prepared(folder, "histories"):
        raise InputError(
            f"data set {data.name!r} has items alone: import it with --sequences or "
            "--baskets for pairs or sequences"
        )
    write_training_data(
        folder,
        out,
        recipe=texts,
        title_words=title_words,
        pairs=pairs,
        sequences=sequences,
        held_out=held_out,
        config=BeamConfig(runner=runner, options=beam_options),
    )
    for name in names:
        for path in sorted(out.glob(f"{name}*.parquet")):
            log(f"wrote {path}")
