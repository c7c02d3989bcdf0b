"""The search as a TPU would run it, compiled ahead of time on any machine.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python experiments/benchmarks/tpu.py

with libtpu (`pip install ".[tpu]"`) and no TPU: nothing runs, the compiler's own
account is read. Hardware: a core of a CPU, in about a minute.

Two programs, their requests shared by the chips of a slice, trie and parameters whole
on each: `search`, a beam search over a table of logits as in `decode.py`, and
`retrieve`, TIGER's encoder-decoder from prompt to beams as in `generate.py`. The first
holds each request to a mask of its own, the second to one of eight sets of leaves that
every chip has, as a retriever holds what its retailers carry. Printed, a chip: bytes of
arguments, results and scratch, flops, transfers to the host, dynamic shapes,
collectives and loops of the compiled program, and the seconds that compiling took.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from decode import draw_sids
from generate import make_setting, our_search
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sid_jax.models.t5 import T5Config
from sid_jax.report.tables import format_rows
from sid_jax.sids.allowance import Allowances, allow_leaves
from sid_jax.sids.beam import beam_search
from sid_jax.sids.trie import Trie, build_trie
from sid_jax.typing import Array, PyTree

SIGNS = {
    "host": r" (?:infeed|outfeed|send|recv)\("
    r"|custom_call_target=\"[^\"]*(?:callback|host)",
    "dynamic": r"\[<=|,<=| (?:set-dimension-size|dynamic-reshape)\(",
    "collectives": r" (?:all-gather|all-reduce|all-to-all|collective-permute"
    r"|reduce-scatter)(?:-start)?\(",
    "loops": r" while\(",
}


def account(compiled: Any) -> dict[str, float]:
    """What the compiler says of a program, a device."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "arguments MB": memory.argument_size_in_bytes / 1e6,
        "results MB": memory.output_size_in_bytes / 1e6,
        "scratch MB": memory.temp_size_in_bytes / 1e6,
        "Gflop": compiled.cost_analysis()["flops"] / 1e9,
        **{name: len(re.findall(sign, text)) for name, sign in SIGNS.items()},
    }


def compile_for(
    devices: Sequence[Any], program: Callable[..., Any], whole: PyTree, shared: PyTree
) -> dict[str, float]:
    """Compiles `program(whole, shared)`, the leading axes of `shared` split.

    Args:
      devices: those of a slice, none of which need be here.
      program: what runs.
      whole: arrays that each device holds.
      shared: arrays of all requests.
    """
    mesh = Mesh(np.asarray(devices), ("data",))

    def told(tree: PyTree, spec: P) -> PyTree:
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                a.shape, a.dtype, sharding=NamedSharding(mesh, spec)
            ),
            tree,
        )

    with jax.set_mesh(mesh):
        lowered = jax.jit(program).lower(told(whole, P()), told(shared, P("data")))
        began = time.perf_counter()
        compiled = lowered.compile()
    return account(compiled) | {"compiled s": time.perf_counter() - began}


def search_program(
    count: int, size: int, levels: int, batch: int, num_beams: int
) -> tuple[Callable[..., Any], PyTree, PyTree]:
    """A beam search over a table of logits, each request held to a set of its own."""
    trie = build_trie(draw_sids(count, size, levels, "uniform"), (size,) * levels)
    tables = jnp.zeros((levels, size, size))

    def step(tables: Array, state: Array, codes: Array | None, level: int):
        codes = jnp.zeros((len(state), 1), jnp.int32) if codes is None else codes
        return state, tables[level][codes]

    def run(whole: tuple[Array, Trie], shared: tuple[Array, Array]):
        (tables, trie), (state, mask) = whole, shared
        told = {"num_beams": num_beams, "batch_axis": "data", "allowed": mask}
        return beam_search(step, tables, state, trie, **told)

    mask = jax.ShapeDtypeStruct((batch, trie.num_leaves), bool)
    return run, (tables, trie), (jnp.zeros((batch, 1)), mask)


def retrieve_program(
    config: T5Config, count: int, batch: int, num_beams: int
) -> tuple[Callable[..., Any], PyTree, PyTree]:
    """TIGER, from prompts to beams."""
    setting = make_setting(config, (256,) * 4, count, batch)
    trie = build_trie(setting.sids, (256,) * 4)
    search = our_search(setting, num_beams, batch_axis="data")
    sets = jax.eval_shape(
        allow_leaves, trie, jax.ShapeDtypeStruct((8, trie.num_leaves), bool)
    )

    def run(whole: tuple[PyTree, Trie, PyTree], shared: tuple[Any, Array]):
        (params, trie, words), (prompts, rows) = whole, shared
        return search(params, trie, prompts, Allowances(words, rows))

    whole = setting.params, trie, sets.words
    return run, whole, (setting.prompts, np.zeros(batch, np.int32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--count", type=float, default=1e6, help="SIDs")
    given = parser.parse_args()
    topology = topologies.get_topology_desc(
        topology_name=given.topology, platform="tpu"
    )
    devices, count = topology.devices, int(given.count)
    batch = 8 * len(devices)
    programs = {
        "search 4x256": partial(search_program, count, 256, 4, batch, 20),
        "search 8x2048": partial(search_program, count, 2048, 8, batch, 70),
        "retrieve 4x256": partial(retrieve_program, T5Config(), count, batch, 50),
    }
    rows = {name: compile_for(devices, *make()) for name, make in programs.items()}
    print(f"{len(devices)} x {devices[0].device_kind}, {batch} requests, a chip:")
    print(format_rows(rows))


if __name__ == "__main__":
    main()
