"""The (retailer, SID) index of a marketplace: its bytes, and what an answer costs.

    python experiments/benchmarks/index.py [--items 1e5 1e7] [--retailers 1000]

Each retailer carries 1% of the items, drawn anew, with sales and whether each is in
stock; an item's SID is one of as many leaves as there are items, so that many SIDs have
several. Hardware: two cores of a CPU, for ten million items some minutes, and 10 GiB
while the index is built.

Printed for each number of items: entries; bytes of the index, and how much memory a
process takes more once it has read it from its file; what a batch of 32 requests of 70
beams takes (first = 1): its products among those in stock; and the leaves of one
retailer, which is what an allowance is made from.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from turns import take_turns

from sid_jax.report.tables import format_rows
from sid_jax.sids.index import ItemIndex, build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.typing import NDArray

BATCH, BEAMS, TOP = 32, 70, 50
SHARE = 0.01  # of the items that a retailer carries
_MEMORY = """
import os, sys
from sid_jax.sids.index_file import load_index
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
before = resident()
index = load_index(sys.argv[1])
print(resident() - before)
"""


def make_index(items: int, retailers: int, seed: int = 0) -> ItemIndex:
    """Random SIDs, assortments, sales and stock."""
    rng = np.random.default_rng(seed)
    carried = max(round(SHARE * items), 1)
    drawn = [
        rng.choice(items, carried, replace=False, shuffle=False).astype(np.int32)
        for _ in range(retailers)
    ]
    count = carried * retailers
    return build_index(
        leaves=np.unique(rng.integers(0, items, items), return_inverse=True)[1],
        retailers=np.repeat(np.arange(retailers, dtype=np.int32), carried),
        items=np.concatenate(drawn),
        sales=rng.geometric(0.2, count).astype(np.float32),
        num_retailers=retailers,
        columns={"in_stock": rng.random(count) < 0.9},
    )


def index_bytes(index: ItemIndex) -> int:
    """Bytes of all of its arrays."""
    arrays = (index.leaves, index.starts, index.items, index.sales)
    return sum(each.nbytes for each in (*arrays, *index.columns.values()))


def make_beams(index: ItemIndex, seed: int = 1) -> tuple[NDArray, NDArray, NDArray]:
    """Retailers, and leaves and scores of beams that the retailers can answer."""
    rng = np.random.default_rng(seed)
    retailers = rng.integers(0, index.num_retailers, BATCH)
    leaves = np.stack([_some(index.leaves_at(int(each)), rng) for each in retailers])
    scores = -np.sort(rng.exponential(5, leaves.shape).astype(np.float32), axis=1)
    return retailers, leaves.astype(np.int32), scores


def _some(leaves: NDArray, rng: np.random.Generator) -> NDArray:
    return rng.choice(leaves, BEAMS, replace=len(leaves) < BEAMS)


def measure(items: int, retailers: int, repeats: int) -> dict[str, float]:
    """Figures of one size."""
    index = make_index(items, retailers)
    told = {"entries": len(index.items), "MB": index_bytes(index) / 1e6}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.npz"
        save_index(path, index)
        words = [sys.executable, "-c", _MEMORY, str(path)]
        told["resident MB"] = int(subprocess.check_output(words)) / 1e6
        index = load_index(path)
    asked, leaves, scores = make_beams(index)
    answer = partial(
        index.products,
        leaves,
        scores,
        np.ones(leaves.shape, bool),
        asked,
        top=TOP,
        entry_mask=index.columns["in_stock"],
    )
    sides = {"answer": answer, "leaves": partial(index.leaves_at, int(asked[0]))}
    times = take_turns(sides, repeats)
    return told | {f"{name} ms": 1e3 * wall for name, (wall, _) in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--retailers", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    rows, first = {}, None
    for items in map(int, given.items):
        row = measure(items, given.retailers, given.repeats)
        first = first or row["answer ms"]
        rows[f"{items:,}"] = row | {"answer x": row["answer ms"] / first}
    print(format_rows(rows))


if __name__ == "__main__":
    main()
