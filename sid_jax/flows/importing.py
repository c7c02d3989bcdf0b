"""`sid import`: a user's files become a data set."""

from collections.abc import Callable
from pathlib import Path

from sid_jax.data.importer import import_dataset


def import_files(
    items: Path,
    sequences: Path | None,
    baskets: Path | None,
    *,
    name: str,
    data_dir: str,
    dietary: bool = False,
    runner: str = "",
    beam_options: tuple[str, ...] = (),
    log: Callable[[str], None],
) -> None:
    """Imports and prints what was taken in, skipped or changed."""
    summary = import_dataset(
        items,
        sequences,
        baskets,
        name=name,
        data_dir=data_dir,
        dietary=dietary,
        runner=runner,
        beam_options=beam_options,
    )
    for line in summary.lines():
        log(line)
