"""Error propagation: where products land whose text is cut to two words of the title.

    sid sweep experiments/ablation_tokenizer.py --workdir runs/ablation --only growing-
    python experiments/benchmarks/sparse_text.py runs/ablation/growing-kmeans-0 \
        runs/ablation/growing-rqvae-0 runs/ablation/growing-taxonomy-0 --encoder MODEL

Each run is a tokenizer whose vectors come from a file that `sid embed --encoder MODEL`
wrote. Its items are encoded again from the cut text, by the same encoder. Printed, a
row a run: share of the items whose cut text gets the same first codes, and
fragmentation and agreement with the category tree of cut, whole and naturally short
texts (titles of at most `--short` words).
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.flavours import cut_words
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.intrinsic import judge_subsets
from sid_jax.evals.propagation import error_propagation, short_rows
from sid_jax.flows import runs
from sid_jax.flows.encoding import Tokenizer
from sid_jax.models.text import load_encoder
from sid_jax.report.tables import format_rows

SHOWN = ("fragmentation@1", "ami_d1@1", "ami_d2@1", "fvu")


def measure(
    folders: Sequence[Path], catalog: Catalog, cut: str, short: int = 3
) -> dict[str, dict[str, float]]:
    """Run -> figures. `cut` is a file with the vectors of the cut texts."""
    tree = Taxonomy.from_paths(catalog.categories)
    few = short_rows(catalog.titles, short)
    rows = {}
    for folder in folders:
        whole = Tokenizer.load(folder).encode(catalog)
        sparse = Tokenizer.load(folder, cut).encode(catalog)
        sizes = Tokenizer.load(folder).task.model.codebook_sizes
        found = error_propagation(
            whole.codes,
            sparse.codes,
            tree,
            whole.vectors,
            whole.errors,
        )
        if len(few):
            subsets = {"all": np.arange(len(catalog)), "short": few}
            told = judge_subsets(
                whole.codes,
                sizes,
                subsets,
                whole.vectors,
                errors=whole.errors,
                taxonomy=tree,
            )
            wanted = {f"{part}/{name}" for part in subsets for name in SHOWN}
            found |= {name: told[name] for name in told if name in wanted}
        rows[folder.name] = found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--short", type=int, default=3)
    given = parser.parse_args()
    catalog = runs.read_catalog(given.runs[0])
    vectors = load_encoder(given.encoder).encode(cut_words(catalog.titles, 2))
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.npz"
        np.savez(cut, ids=catalog.item_ids, vectors=vectors)
        try:
            print(format_rows(measure(given.runs, catalog, str(cut), given.short)))
        except InputError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
