"""`sid compile`: what an experiment would need on a pod, from a compiler alone.

The programs of a run are compiled ahead of time for the chips of a slice, none of which
need be at hand. Only shapes matter, so no data set is read.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sid_jax.config import (
    Experiment,
    PromptConfig,
    RetrieverExperiment,
    RQVAEConfig,
    SASRecConfig,
    TokenizerExperiment,
)
from sid_jax.errors import InputError
from sid_jax.flows.runs import Log
from sid_jax.flows.scorer import answer_program, scorer_task
from sid_jax.flows.speller import search_program
from sid_jax.report.tables import format_rows
from sid_jax.sids.allowance import Allowances, allow_leaves
from sid_jax.sids.trie import build_trie
from sid_jax.sids.vocab import Prompts, Sequences, Vocab
from sid_jax.train.account import COLLECTIVES, Account, compile_program
from sid_jax.train.optimizer import make_optimizer
from sid_jax.train.retriever_task import RetrieverTask
from sid_jax.train.sharding import batch_sharding, make_mesh, use_mesh
from sid_jax.train.step import Task, abstract_state, jit_train_step
from sid_jax.train.tokenizer_task import TokenizerTask
from sid_jax.typing import Int, NDArray, PyTree

MEMORY = {
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5": 95,
    "TPU v6 lite": 32,
}
"""GiB of HBM a chip (cloud.google.com/tpu/docs/system-architecture-tpu-vm)."""

_ENCODED = 4096  # items that a device encodes at once
_DEPTH = 6  # of a category path
_FILE_WIDTH = 768  # of item vectors whose width nothing says
_SET_BYTES = 2**28  # of what retailers carry, kept on a device


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a data set would say.

    Attributes:
      items: in the catalog; the trie holds as many SIDs.
      retailers: each carries a set of its own.
      codebooks: codes a level, of a retriever's SIDs.
      width: of item vectors; 0 is that of the recipe's text and coordinates.
    """

    items: int = 1_000_000
    retailers: int = 100
    codebooks: tuple[int, ...] = (256, 256, 256, 256)
    width: int = 0

    def __post_init__(self):
        for name in ("items", "retailers"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)} must be positive")


def compile_experiment(
    config: Experiment, topology: str, sizes: Sizes, log: Log
) -> bool:
    """Compiles an experiment's programs for a slice; prints what a chip would hold.

    Args:
      config: the experiment; its batch is raised to a multiple of the mesh.
      topology: of the slice, such as `v5e:16x16`.
      sizes: of the data.
      log: takes lines for the user.

    Returns:
      Whether every program fits a chip's memory.

    Raises:
      InputError: no libtpu, no such topology, or the mesh does not fit it.
    """
    devices = find_topology(topology)
    mesh = make_mesh(config.mesh, devices)
    kind = devices[0].device_kind
    memory = int(MEMORY.get(kind, 0) * 2**30)
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    held = f"{memory >> 30} GiB each" if memory else "of unknown memory"
    log(f"{topology}: {len(devices)} x {kind}, {held}")
    config = fit_batch(config, mesh, log)
    log(f"mesh {shape}, rules {config.mesh.rules}, batch {config.batch_size}")
    found: dict[str, Account] = {}
    fits = True
    for name, trace in programs(config, mesh, sizes).items():
        try:
            found[name] = compile_program(trace())
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            fits = False
            log(f"{name} does not fit: {_shorten(str(error))}")
    log(format_accounts(found, memory, len(devices)))
    fits = fits and all(each.peak <= memory for each in found.values() if memory)
    log("every program fits" if fits else "not every program fits")
    return fits


def find_topology(name: str) -> Sequence[Any]:
    """The chips of a slice, as a compiler takes them.

    Raises:
      InputError: no libtpu, or no such topology.
    """
    # Nothing is asked of a machine that has no TPU, and several may ask at once.
    for variable, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_STDERR_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(variable, value)
    # JAX cannot keep a program for devices that are not here.
    jax.config.update("jax_enable_compilation_cache", False)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, platform="tpu").devices
    except (jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"--topology {name}: {_shorten(str(error))}. Want such as v5e:2x2, "
            'v5e:16x16 or v5p:4x4x4, and libtpu: pip install "sid_jax[tpu]"'
        ) from None


def fit_batch(config: Any, mesh: Mesh, log: Log) -> Any:
    """The experiment with batches that divide among the devices, told of if changed."""
    unit = mesh.shape["data"] * config.train.accumulate
    changes: dict[str, Any] = {"batch_size": _raise(config.batch_size, unit)}
    if isinstance(config, RetrieverExperiment):
        size = _raise(config.search.batch_size, mesh.shape["data"])
        changes["search"] = dataclasses.replace(config.search, batch_size=size)
    else:
        size = _raise(config.sampler.batch_size, unit)
        changes["sampler"] = dataclasses.replace(config.sampler, batch_size=size)
        size = _raise(config.pairs.batch_pairs, unit)
        changes["pairs"] = dataclasses.replace(config.pairs, batch_pairs=size)
    if changes["batch_size"] != config.batch_size:
        log(
            f"note: batch_size {config.batch_size} -> {changes['batch_size']}, a "
            f"multiple of {unit}"
        )
    return dataclasses.replace(config, **changes)


def programs(
    config: Experiment, mesh: Mesh, sizes: Sizes
) -> dict[str, Callable[[], Any]]:
    """What a run of an experiment compiles: name -> a function that traces it."""
    if isinstance(config, TokenizerExperiment):
        return _tokenizer_programs(config, mesh, sizes)
    return _retriever_programs(config, mesh, sizes)


def tokenizer_batch(config: TokenizerExperiment, width: int) -> dict[str, Any]:
    """Shapes of a batch, as `TokenizerTask` takes it."""
    shape, rows = jax.ShapeDtypeStruct, config.batch_size
    task, model = config.task, config.model

    def vectors(count: int) -> dict[str, Any]:
        told = ("items", "cells") if config.cells.columns else ("items",)
        part = {name: shape((count,), np.int32) for name in told}
        return part | {"vectors": shape((count, width), np.float32)}

    batch: dict[str, Any] = vectors(rows)
    if config.start.run:
        batch["old"] = shape((rows, len(model.codebook_sizes)), np.int32)
    if task.anchor and isinstance(model, RQVAEConfig):
        batch["anchor"] = shape((rows, model.latent), np.float32)
    if task.taxonomy.weight:
        own = config.sampler.kind == "uniform"
        count = rows if own else config.sampler.batch_size
        told = {"items": shape((count,), np.int32)} if own else vectors(count)
        batch["taxonomy"] = told | {"paths": shape((count, _DEPTH), np.int32)}
    if task.cooccurrence.weight:
        count = 2 * config.pairs.batch_pairs
        batch["pairs"] = vectors(count) | {
            "log_prob": shape((count,), np.float32),
            "excluded": shape((count, count), np.bool_),
        }
    return batch


def retriever_batch(
    config: RetrieverExperiment, num_levels: int, width: int
) -> Prompts | Sequences:
    """Shapes of a batch, as a retriever's task takes it."""
    told, rows = config.prompts, config.batch_size
    if isinstance(told, PromptConfig):
        return asked_batch(config, rows, num_levels, width)
    return _sequences(rows, told.row, num_levels)


def asked_batch(
    config: RetrieverExperiment, rows: int, num_levels: int, width: int
) -> Prompts:
    """Shapes of the prompts of requests."""
    shape, told = jax.ShapeDtypeStruct, config.prompts
    sets = isinstance(told, PromptConfig)
    return Prompts(
        retailers=shape((rows,), np.int32),
        history=shape((rows, told.history, num_levels), np.int32),
        basket=shape((rows, told.basket if sets else 0, num_levels), np.int32),
        user=shape((rows, width), np.float32) if sets and told.user else None,
    )


def format_accounts(found: Mapping[str, Account], memory: int, num_devices: int) -> str:
    """A table of accounts: a chip's bytes, all chips' operations, the network's."""
    rows = {}
    for name, each in found.items():
        rows[name] = {
            "arguments MB": each.arguments / 1e6,
            "results MB": each.results / 1e6,
            "scratch MB": each.scratch / 1e6,
            "of HBM": each.peak / memory if memory else float("nan"),
            "Gflop a chip": each.flops / num_devices / 1e9,
            "network MB": each.moved / 1e6,
            "compiled s": each.seconds,
        }
    lines = [format_rows(rows), "", "collectives, and MB of their results on a chip:"]
    for name, each in found.items():
        told = [
            f"{kind} {count} x, {size / 1e6:.3f}"
            for kind in COLLECTIVES
            for count, size in [each.collectives.get(kind, (0, 0))]
            if count
        ]
        lines.append(f"  {name}: " + ("; ".join(told) or "none"))
    return "\n".join(lines)


def _tokenizer_programs(
    config: TokenizerExperiment, mesh: Mesh, sizes: Sizes
) -> dict[str, Callable[[], Any]]:
    width, split = sizes.width or recipe_width(config), batch_sharding(mesh)
    task = TokenizerTask(config.task, config.model, _blocks(config))
    batch = _on(tokenizer_batch(config, width), split)

    def encode() -> Any:
        state, count = _state(task, config, batch, mesh), _ENCODED * mesh.shape["data"]
        told = [jax.ShapeDtypeStruct((count, width), np.float32)]
        if config.cells.columns:
            told.append(jax.ShapeDtypeStruct((count,), np.int32))
        told = state.params, state.state, *_on(told, split)
        return _trace(jax.jit(task.tokenize), config, mesh, *told)

    return {
        "train step": lambda: _trace_step(task, config, batch, mesh),
        f"encode {_ENCODED:,} a chip": encode,
    }


def _retriever_programs(
    config: RetrieverExperiment, mesh: Mesh, sizes: Sizes
) -> dict[str, Callable[[], Any]]:
    vocab = Vocab(codebook_sizes=sizes.codebooks, num_retailers=sizes.retailers)
    sids, size = draw_sids(sizes), config.search.batch_size
    shapes = vocab.num_levels, sizes.width or _FILE_WIDTH
    split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    batch = _on(retriever_batch(config, *shapes), split)
    if isinstance(config.model, SASRecConfig):
        task = scorer_task(config, vocab, sids, np.ones(len(sids), np.int64))
        program = jax.jit(
            answer_program(task, jax.numpy.asarray(task.rows)), static_argnums=3
        )
        asked = _sequences(size, config.prompts.history + 1, vocab.num_levels)
        eligible = jax.ShapeDtypeStruct((size, len(sids)), np.float32)
        told = *_on((asked, eligible), split), min(config.search.top, len(sids))
    else:
        trie = build_trie(sids, sizes.codebooks)
        existing = trie if config.task.softmax == "existing" else None
        task = RetrieverTask(config.model, vocab, config.task, existing)
        axis = "data" if mesh.shape["data"] > 1 else None
        program = jax.jit(search_program(config, vocab, axis))
        held = min(sizes.retailers, max(_SET_BYTES * 8 // trie.num_leaves, size))
        mask = jax.ShapeDtypeStruct((held, trie.num_leaves), np.bool_)
        words = _on(jax.eval_shape(allow_leaves, trie, mask).words, whole)
        rows = jax.ShapeDtypeStruct((size,), np.int32)
        prompts, rows = _on((asked_batch(config, size, *shapes), rows), split)
        told = _on(trie, whole), prompts, Allowances(words, rows), _key(mesh)

    def answer() -> Any:
        params = _state(task, config, batch, mesh).params
        return _trace(program, config, mesh, params, *told)

    return {
        "train step": lambda: _trace_step(task, config, batch, mesh),
        f"answer {size:,}": answer,
    }


def draw_sids(sizes: Sizes) -> Int[NDArray, "U L"]:
    """Different SIDs, evenly drawn, in order.

    Raises:
      InputError: there are fewer than items.
    """
    room = math.prod(sizes.codebooks)
    if room < sizes.items:
        raise InputError(
            f"--codebooks {sizes.codebooks} spell {room:,} SIDs, fewer than --items "
            f"{sizes.items:,}"
        )
    rng = np.random.default_rng(0)
    numbers = np.zeros(0, np.int64)
    while len(numbers) < sizes.items:
        more = rng.integers(0, room, 2 * sizes.items)
        numbers = np.unique(np.concatenate([numbers, more]))
    numbers = np.sort(rng.choice(numbers, sizes.items, replace=False))
    return np.stack(np.unravel_index(numbers, sizes.codebooks), axis=1).astype(np.int32)


def recipe_width(config: TokenizerExperiment) -> int:
    """Width of item vectors by their recipe, at most."""
    recipe = config.vectors
    near = (
        sum(width for width, _ in recipe.neighbours.blocks)
        if recipe.neighbours.k
        else 0
    )
    own = _FILE_WIDTH if recipe.file else recipe.dim
    columns = len(recipe.columns) * max(recipe.max_values + 2, recipe.num_bins + 1)
    return own + columns + near + recipe.copurchase.dim


def _blocks(config: TokenizerExperiment) -> tuple[int, ...]:
    first = config.model.codebook_sizes[0]
    return (first - first // 2, first // 2) if config.cells.columns else ()


def _sequences(rows: int, width: int, num_levels: int) -> Sequences:
    each = jax.ShapeDtypeStruct((rows, width), np.int32)
    return Sequences(
        jax.ShapeDtypeStruct((rows, width, num_levels), np.int32), each, each
    )


def _trace_step(task: Task, config: Experiment, batch: PyTree, mesh: Mesh) -> Any:
    transform, schedule = make_optimizer(config.optimizer, config.train.steps)
    state = _state(task, config, batch, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jit_train_step(
        task, transform, schedule, shardings, mesh, config.train.accumulate
    )
    return _trace(step, config, mesh, state, batch, _key(mesh))


def _trace(program: Any, config: Experiment, mesh: Mesh, *args: Any) -> Any:
    with use_mesh(mesh, config.mesh.rules):
        return program.trace(*args)


def _state(task: Task, config: Experiment, batch: PyTree, mesh: Mesh) -> Any:
    transform, _ = make_optimizer(config.optimizer, config.train.steps)
    return abstract_state(task, transform, batch, mesh, config.mesh.rules)


def _on(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Shapes of arrays that lie so."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=sharding), tree
    )


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return _on(key, NamedSharding(mesh, PartitionSpec()))


def _raise(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _shorten(text: str) -> str:
    return " ".join(text.split())[:300]
