"""Planted flips, found from the codes of residual k-means and from the raw vectors.

    python experiments/benchmarks/audit.py --data ITEMS [--vectors FILE] [--sample N]

ITEMS is a file as `sid import` reads it (Amazon Beauty, say). Labels are flipped before
anything reads them, and the vectors leave the category path out. Printed, by kind of
flip, mean over seeds: precision@k (k = number planted, so it is recall as well),
recall@2k and average precision, of kNN on the vectors, of one tokenizer's codes, and of
several tokenizers that vote together.

precision@k of 5% far flips, seeds 0-2 (kNN / 1 / 4 tokenizers of 32,128,256,512 codes):
Beauty, TF-IDF of title and brand .695 / .598 / .660
12,000 Instacart products, TF-IDF .439 / .376 / .435
Real errors of the catalog count as misses, and hold all three down: of Beauty's first
suspects without any flip, a lip liner is filed under Hair Care and a shampoo under
Face Cleansers; Instacart has departments `missing` and `other`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.data.importer import read_items
from sid_jax.data.taxonomy import Taxonomy
from sid_jax.data.vectors import ItemVectors, VectorConfig
from sid_jax.errors import InputError
from sid_jax.evals.audit import (
    cast_ballots,
    group_copies,
    nearest_neighbours,
    neighbour_votes,
    prefix_votes,
    rank_suspects,
)
from sid_jax.evals.flips import KINDS, plant_flips, score_audit
from sid_jax.models.kmeans import fit_codebooks
from sid_jax.models.quantizer import quantize


def measure(
    catalog,
    vectors: np.ndarray,
    *,
    sizes: tuple[int, ...],
    voters: int = 4,
    k: int = 50,
    share: float = 0.05,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> dict[tuple[str, str], dict[str, float]]:
    """(kind, method) -> mean figures; a kind that the tree has not is left out."""
    truth = Taxonomy.from_paths(catalog.categories)
    codes = [_tokenize(vectors, sizes, seed) for seed in range(voters)]
    copies = group_copies(codes[0], catalog.titles, vectors)
    near, cosine = nearest_neighbours(vectors, k)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for kind in KINDS:
        for seed in seeds:
            try:
                paths, planted = plant_flips(truth, share, kind, seed)
            except InputError:
                continue
            wrong = Taxonomy.from_paths(paths)
            ballots = cast_ballots(wrong, copies)
            prefixes = [prefix_votes(each, ballots) for each in codes]
            methods = {
                f"kNN, k = {k}": [neighbour_votes(near, ballots, cosine)],
                "codes of 1 tokenizer": prefixes[:1],
                f"codes of {voters} tokenizers": prefixes,
            }
            for name, voting in methods.items():
                suspects = rank_suspects(wrong, ballots, voting)
                confidence = np.zeros(len(paths))
                confidence[suspects.rows] = suspects.confidence
                figures = score_audit(confidence, planted)
                if suspects.flagged.any():
                    right = np.isin(suspects.rows[suspects.flagged], planted)
                    figures["flagged precision"] = float(right.mean())
                    figures["flagged recall"] = float(right.sum() / len(planted))
                found.setdefault((kind, name), []).append(figures)
    return {
        key: {name: float(np.mean([r.get(name, 0) for r in runs])) for name in runs[0]}
        for key, runs in found.items()
    }


def _tokenize(vectors: np.ndarray, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    rows = jnp.asarray(vectors)
    books = fit_codebooks(jax.random.key(seed), rows, sizes)
    blocks = [quantize(rows[i : i + 4096], books) for i in range(0, len(rows), 4096)]
    return np.concatenate([np.asarray(each.codes) for each in blocks])


def main() -> None:
    parser = argparse.ArgumentParser(description="Planted flips, found.")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--vectors", default="", help="a file; TF-IDF if left out")
    parser.add_argument("--sample", type=int, default=0, help="items; 0 for all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 256, 512])
    parser.add_argument("--voters", type=int, default=4)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    catalog, _ = read_items(given.data)
    if 0 < given.sample < len(catalog):
        rows = np.random.default_rng(0).choice(len(catalog), given.sample, False)
        catalog = catalog.take(np.sort(rows))
    recipe = VectorConfig(file=given.vectors, text=("title", "brand"), dim=128)
    vectors = ItemVectors.fit(recipe, catalog).encode(catalog)
    figures = measure(
        catalog,
        vectors,
        sizes=tuple(given.sizes),
        voters=given.voters,
        k=given.neighbours,
        seeds=tuple(range(given.seeds)),
    )
    for (kind, name), row in figures.items():
        told = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
        print(f"{kind:<8} {name:<22} {told}")


if __name__ == "__main__":
    main()
