"""Beam search held to a trie, beside STATIC (YouTube, arXiv 2602.22647).

    python experiments/benchmarks/decode.py [--static DIR] [--counts 1e5 1e6 1e7]

DIR is a checkout of github.com/youtube/static-constraint-decoding; without it ours is
measured alone. Hardware: whatever JAX finds; on two cores of a CPU ten minutes with the
default counts, and 6 GiB.

Both sides search the same random SIDs by the same random logits: a row of a table for
each code before. Their answers are first seen to be the same, beam by beam, then they
take turns, in one order and then in the other; times are medians, a step each. A step
holds what no search goes without: to look the logits up and to normalize them. `bare`
does that alone, and the overhead is what a search adds to it. Bytes are those of all
arrays of the index; STATIC's are its six, dense tables included. `held` is how many
times as long a step of ours takes where each request is held to one of eight sets of an
eighth of the SIDs, which STATIC cannot.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import take_turns

from sid_jax.sids.allowance import Allowances, lift
from sid_jax.sids.beam import beam_search
from sid_jax.sids.trie import build_trie, sorted_columns
from sid_jax.typing import Array, NDArray

SHAPES = ((256, 4, 32, 20), (2048, 8, 2, 70))  # codes, levels, requests, beams
KINDS = ("uniform", "zipf")


@dataclass(frozen=True)
class Side:
    """A search that is ready to run.

    Attributes:
      run: the codes of all beams, int32 `[B, M, L]`.
      build_s: seconds that its index took, from sorted SIDs.
      bytes: of its arrays.
    """

    run: Callable[[], Array]
    build_s: float
    bytes: int


def draw_sids(count: int, size: int, levels: int, kind: str, seed: int = 0) -> NDArray:
    """About `count` different SIDs, sorted; Zipf's codes fall off by their rank."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        sids = rng.integers(0, size, (count, levels), dtype=np.int32)
    else:
        share = 1 / np.arange(1, size + 1)
        rank = np.searchsorted(
            np.cumsum(share / share.sum()), rng.random((count, levels))
        )
        names = np.stack([rng.permutation(size) for _ in range(levels)])
        sids = names[np.arange(levels), np.minimum(rank, size - 1)].astype(np.int32)
    # A trie sorts them, and drops what is double.
    columns = sorted_columns(build_trie(sids, (size,) * levels))
    return np.stack(columns, axis=1).astype(np.int32)


def our_sides(
    sids: NDArray, tables: Array, shape: tuple[int, int, int, int]
) -> tuple[Side, Side]:
    """Ours, free and held to sets."""
    size, levels, batch, beams = shape
    began = time.perf_counter()
    trie = jax.block_until_ready(build_trie(sids, (size,) * levels))
    took = time.perf_counter() - began
    draw = np.random.default_rng(2).integers
    words = (8, -(-trie.num_leaves // 32))
    eighth = np.bitwise_and.reduce(draw(0, 2**32, (3, *words), np.uint32))
    held = Allowances(lift(trie, jnp.asarray(eighth)), jnp.arange(batch) % 8)

    def step(tables: Array, state: Array, codes: Array | None, level: int):
        codes = jnp.zeros((batch, 1), jnp.int32) if codes is None else codes
        return state, tables[level][codes]

    @jax.jit
    def search(tables: Array, trie, allowed):
        told = tables, jnp.zeros((batch, 1)), trie
        return beam_search(step, *told, num_beams=beams, allowed=allowed).codes

    return (
        Side(lambda: search(tables, trie, None), took, _bytes(trie)),
        Side(lambda: search(tables, trie, held), took, _bytes(held)),
    )


def static_side(
    static: dict[str, Any],
    sids: NDArray,
    tables: Array,
    shape: tuple[int, int, int, int],
) -> Side:
    size, levels, batch, beams = shape
    began = time.perf_counter()
    built = static["csr_utils"].build_static_index(sids, size, dense_lookup_layers=2)
    took = time.perf_counter() - began
    packed, starts, branches, *dense = built
    arrays = [jnp.asarray(each) for each in (packed, starts, *dense)]
    harness = static["decoding_jax"].sparse_transition_jax.__wrapped__

    @jax.jit
    def search(tables: Array, key: Array, arrays: list[Array]):
        level = iter(range(levels))

        def model(codes: Array, key: Array):
            return tables[next(level)][codes[:, 0]][:, None], key

        told = batch, beams, beams, 0, levels, size, branches
        return harness(model, key, *told, *arrays, d_dense=2)

    key = jax.random.PRNGKey(0)
    return Side(lambda: search(tables, key, arrays), took, _bytes(arrays))


def bare_side(tables: Array, shape: tuple[int, int, int, int]) -> Side:
    """What no search goes without: logits of every beam, and what they add up to."""
    size, levels, batch, beams = shape
    rng = np.random.default_rng(0)
    codes = jnp.asarray(rng.integers(0, size, (levels, batch, beams)))

    @jax.jit
    def run(tables: Array, codes: Array):
        first = jax.nn.logsumexp(tables[0][codes[0, :, :1]], axis=-1)
        rest = [
            jax.nn.logsumexp(tables[level][codes[level]], axis=-1)
            for level in range(1, levels)
        ]
        return first, rest

    return Side(lambda: run(tables, codes), 0.0, 0)


def measure(
    static: dict[str, Any],
    count: int,
    kind: str,
    shape: tuple[int, int, int, int],
    repeats: int,
) -> str:
    """A row of the table."""
    size, levels, _, _ = shape
    sids = draw_sids(count, size, levels, kind)
    draw = np.random.default_rng(1)
    tables = jnp.asarray(4 * draw.random((levels, size, size), np.float32))
    ours, held = our_sides(sids, tables, shape)
    sides = {"ours": ours, "held": held, "bare": bare_side(tables, shape)}
    if static:
        sides["static"] = static_side(static, sids, tables, shape)
        found = [np.asarray(sides[each].run()) for each in ("ours", "static")]
        if (found[0] != found[1]).any():
            raise SystemExit(f"{count:.0e} {kind} {shape}: the beams differ")
    turns = {
        name: lambda side=side: jax.block_until_ready(side.run())
        for name, side in sides.items()
    }
    wall = {name: took for name, (took, _) in take_turns(turns, repeats).items()}
    step = {name: 1e3 * took / levels for name, took in wall.items()}
    over = {name: took - step["bare"] for name, took in step.items()}
    row = f"{levels}x{size:<5}{kind:9}{len(sids):<11,}{step['bare']:7.3f}"
    row += f"{step['held'] / step['ours']:7.2f}"
    for name in ("ours", "static"):
        if name in sides:
            side = sides[name]
            row += f"{step[name]:9.3f}{over[name]:8.3f}{side.build_s:8.2f}"
            row += f"{side.bytes / len(sids):8.1f}"
    if static:
        row += (
            f"{step['static'] / step['ours']:8.2f}{over['static'] / over['ours']:8.2f}"
        )
        row += f"{sides['static'].bytes / sides['ours'].bytes:8.1f}"
    return row


def find_static(folder: Path | None) -> dict[str, Any]:
    """STATIC's modules, or nothing."""
    if folder is None:
        print("STATIC is absent (--static DIR): ours is measured alone")
        return {}
    sys.path.append(str(folder))
    names = ("csr_utils", "decoding_jax")
    return {name: importlib.import_module(f"static_decoding.{name}") for name in names}


def _bytes(arrays: Any) -> int:
    return sum(each.nbytes for each in jax.tree.leaves(arrays))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--static", type=Path)
    parser.add_argument("--counts", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    static = find_static(given.static)
    print(f"on {jax.devices()[0].device_kind}; ms a step, s to build, bytes a SID")
    head = (
        f"{'SIDs':16}{'':9}{'bare':>7}{'held':>7}"
        + f"{'ours':>9}{'over':>8}{'build':>8}{'bytes':>8}"
    )
    if static:
        head += f"{'STATIC':>9}{'over':>8}{'build':>8}{'bytes':>8}"
        head += f"{'step x':>8}{'over x':>8}{'bytes x':>8}"
    print(head)
    for shape in SHAPES:
        for kind in KINDS:
            for count in given.counts:
                row = measure(static, int(count), kind, shape, given.repeats)
                print(row, flush=True)


if __name__ == "__main__":
    main()
