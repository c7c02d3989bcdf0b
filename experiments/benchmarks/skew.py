"""A tenth of the catalog is new: what a retriever loses, and what each way back costs.

    python experiments/benchmarks/skew.py --workdir runs/skew [--few N] [--seeds 0]

after `sid embed` (see `tokenizer_retrieval_beauty.py`). Hardware: one core of a CPU, in
some hours a seed.

Whole category paths are left out of the old version, with all that was bought of them
(`data/perturb.py`). The old tokenizer and the old retriever learn the old version; each
way then answers the test baskets of the whole catalog:

- `stale`: the old codes, new items coded by the old tokenizer; the retriever as it was;
- `stale, tuned`: the same, the retriever tuned for a few steps on the new baskets;
- `naive`: codes of a new tokenizer as they come, the old retriever tuned on them;
- `aligned`: the same codes, renamed after the old ones level by level (SID staleness,
  arXiv 2604.13273), the old retriever tuned on them;
- `warm`: codes of a tokenizer that goes on from the old one, an item keeping its code
  where that costs little; the old retriever tuned on them;
- `anew`: the new codes, and a retriever trained on them from the start.

Printed: how many steps the retriever took, the share of old items whose SID stayed,
and recall@10 and NDCG@10 at item level: of all targets, of old items, of new ones.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from sid_jax.config import (
    RetrieverExperiment,
    TokenizerExperiment,
    WarmStartConfig,
    read_experiment,
)
from sid_jax.data.datasets import find_root, load, save
from sid_jax.data.perturb import ChangedCatalog, change_catalog
from sid_jax.data.pipeline import without_items
from sid_jax.evals.align import align_codes, rename
from sid_jax.evals.ranking import mean, ranking_metrics
from sid_jax.flows.corpus import Corpus
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.retriever import choose_requests, load_retriever, train_retriever
from sid_jax.flows.tokenizer import train_tokenizer
from sid_jax.report.tables import average, format_rows
from sid_jax.sids.table import SidTable, read_table, write_table
from sid_jax.typing import NDArray

EXPERIMENTS = Path(__file__).parents[1]
DATA = ("skew_old", "skew_new")


def measure(
    tokenizer: TokenizerExperiment,
    retriever: RetrieverExperiment,
    folder: Path,
    few: int,
    seed: int,
    log=print,
) -> dict[str, dict[str, float]]:
    """Way -> figures."""
    catalog, data = load(tokenizer.data)
    assert data is not None
    changed = change_catalog(catalog, seed, edited=0)
    new = np.isin(np.arange(len(catalog)), changed.added)
    root = find_root(tokenizer.data.data_dir)
    before = without_items(data, new)
    place = np.cumsum(~new) - 1
    before = replace(before, items=place[before.items].astype(np.int32))
    save(DATA[0], (changed.old, before), root)
    save(DATA[1], (changed.new, data), root)
    old, now = (replace(tokenizer.data, name=name, source="") for name in DATA)
    tables = _make_tables(tokenizer, changed, folder, old, now, log)

    def train(name: str, sids: str, steps: int, **changes) -> Path:
        config = replace(
            retriever,
            tokenizer=str(folder / sids),
            data=changes.pop("data", now),
            train=replace(retriever.train, steps=steps, eval_every=0),
            **changes,
        )
        train_retriever(config, folder / name, log)
        return folder / name

    all_ = retriever.train.steps
    first = str(train("retriever", "tokenizer", all_, data=old))
    rate = retriever.optimizer.learning_rate
    # A rate of next to nothing: as it was.
    still = replace(retriever.optimizer, learning_rate=rate * 1e-9)
    runs = {
        "stale": (train("stale", "stale_sids", 1, start=first, optimizer=still), 0),
        "stale, tuned": (train("tuned", "stale_sids", few, start=first), few),
        "naive": (train("naive", "new_sids", few, start=first), few),
        "aligned": (train("aligned", "aligned_sids", few, start=first), few),
        "warm": (train("warm", "warm_sids", few, start=first), few),
        # The same codes; it may start from their codebooks, which a table lacks.
        "anew": (train("anew", "new_tokenizer", all_), all_),
    }
    was = tables["old"].codes()
    kept = np.flatnonzero(~new)
    rows = {}
    for name, (run, steps) in runs.items():
        codes = read_table(run / "sids.parquet").codes()[kept]
        rows[name] = {"steps": steps, "kept": float((codes == was).all(1).mean())}
        rows[name] |= _judge(run, new)
    return rows


def _make_tables(
    tokenizer: TokenizerExperiment,
    changed: ChangedCatalog,
    folder: Path,
    old,
    now,
    log,
) -> dict[str, SidTable]:
    """The SIDs of each way, `NAME_sids/sids.parquet`, and the old ones."""
    first, free, warm = (folder / f"{x}tokenizer" for x in ("", "new_", "warm_"))
    before = train_tokenizer(replace(tokenizer, data=old), first, log)
    anew = train_tokenizer(replace(tokenizer, data=now), free, log)
    start = WarmStartConfig(run=str(first), slack=0.3)
    onward = train_tokenizer(replace(tokenizer, data=now, start=start), warm, log)
    frozen = Tokenizer.load(first)
    codes = frozen.encode(changed.new).codes.copy()
    kept = np.setdiff1d(np.arange(len(changed.new)), changed.added)
    codes[kept] = before.codes()
    sizes = tokenizer.model.codebook_sizes
    names = align_codes(before.codes(), anew.codes()[kept], sizes, sizes)
    found = {
        "stale": codes,
        "new": anew.codes(),
        "aligned": rename(anew.codes(), names),
        "warm": onward.codes(),
    }
    tables = {"old": before}
    for name, each in found.items():
        tables[name] = SidTable.build(
            changed.new.item_ids, each, None, replace(before.manifest, catalog="")
        )
        (folder / f"{name}_sids").mkdir(parents=True, exist_ok=True)
        write_table(folder / f"{name}_sids" / "sids.parquet", tables[name])
    return tables


def _judge(run: Path, new: NDArray) -> dict[str, float]:
    """Test figures: all targets, those of old items, those of new ones."""
    retriever = load_retriever(run)
    config = retriever.config
    corpus = Corpus.load(config, run / "sids.parquet")
    limit = config.search.max_requests
    requests = choose_requests(config, corpus.data, corpus.test, limit)
    found = np.concatenate([p.items for p, _ in retriever.retrieve(requests)])
    targets, figures = requests.targets, {}
    is_new = new[np.maximum(targets, 0)]
    parts = {
        "all": targets,
        "old": np.where(is_new, -1, targets),
        "new": np.where(is_new, targets, -1),
    }
    for part, wanted in parts.items():
        values = mean(ranking_metrics(found, wanted, (10,)))
        figures[f"{part} R@10"] = values["recall@10"]
        figures[f"{part} N@10"] = values["ndcg@10"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--few", type=int, default=320, help="steps of tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    tokenizer = read_experiment(EXPERIMENTS / "tokenizer_retrieval_beauty.py")
    retriever = read_experiment(EXPERIMENTS / "retriever_hierarchical_beauty.py")
    assert isinstance(tokenizer, TokenizerExperiment)
    assert isinstance(retriever, RetrieverExperiment)
    # Items are found by their codes alone: those of an old version have no vectors.
    search = replace(retriever.search, likeness=0.0)
    retriever = replace(retriever, search=search)
    found = []
    for seed in given.seeds:
        train = replace(retriever.train, seed=seed)
        asked = replace(retriever, train=train)
        told = replace(tokenizer, train=replace(tokenizer.train, seed=seed))
        folder = given.workdir / f"seed{seed}"
        found.append(measure(told, asked, folder, given.few, seed))
        print(f"seed {seed}")
        print(format_rows(found[-1]), flush=True)
    if len(found) > 1:
        print("mean")
        print(format_rows(average(found)))


if __name__ == "__main__":
    main()
