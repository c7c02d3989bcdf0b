"""A training step of each retriever, beside Hugging Face's T5 in PyTorch.

    taskset -c 0 python experiments/benchmarks/train_step.py [--repeats N]

Hardware: one core of a CPU, in about 5 minutes; without `taskset` each side has all
cores that the process may use. On a GPU, all sides on it (PyTorch needs its own CUDA),
give `--steps 20`, so that a turn is not the wait for one step. T5 is measured where it
imports (`pip install torch transformers`) and left out where not.

All sides learn from the same households: lengths drawn like Amazon Beauty's (5 to 50
purchases, 3 of 4 below 9), random SIDs of three codes. A step is forward, backward and
an AdamW update in float32, with dropout. What counts is how many products are learned a
second, each of them once an epoch as a target that all before it explains: the packed
decoders learn every product of a row in one pass; TIGER and T5 learn one for each
window of the last 20. Sides take turns, in one order and then in the other; times are
medians. Rates are by processor time on a CPU, where wall times say little if others
work too, and by wall time on a GPU. Float32 as each library means it: on a GPU, JAX
multiplies matrices in TF32 by default, and PyTorch is told to.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from turns import take_turns

from sid_jax.config import (
    FlatConfig,
    HierarchicalConfig,
    PromptConfig,
    SASRecConfig,
    SequenceConfig,
    T5Config,
    TigerConfig,
    TransformerConfig,
)
from sid_jax.data.catalog import Interactions
from sid_jax.data.pipeline import prompt_stream
from sid_jax.data.sequences import sequence_stream
from sid_jax.models.sasrec import item_rows
from sid_jax.sids.vocab import Prompts, Sequences, Vocab
from sid_jax.train.retriever_task import RetrieverTask
from sid_jax.train.scorer_task import ScorerTask
from sid_jax.typing import NDArray

SIZES = (256, 256, 256)
ITEMS = 12_101
SMALL = TransformerConfig(width=128, depth=2, num_heads=4, mlp_width=256, dropout=0.2)
T5 = T5Config(width=128, depth=4, num_heads=6, head_width=64, mlp_width=1024)
WINDOWS = PromptConfig(history=20, basket=1, decay=0.5)  # what TIGER and T5 are told


@dataclass(frozen=True)
class Side:
    """What is measured.

    Attributes:
      run: does so many steps; the last loss.
      products: targets of a step.
      parameters: how many.
    """

    run: Callable[[int], float]
    products: float
    parameters: int


def make_data(households: int, seed: int = 0) -> Interactions:
    """Purchases of one product each, of random products."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(4 + rng.geometric(0.22, households), 50)
    user = np.repeat(np.arange(households), lengths)
    items = rng.integers(0, ITEMS, len(user))
    return Interactions.from_baskets(
        user=[f"u{each}" for each in user],
        time=np.arange(len(user)),
        baskets=[[int(item)] for item in items],
    )


def make_codes() -> NDArray:
    """A random SID for each product."""
    rng = np.random.default_rng(1)
    return rng.integers(0, SIZES, (ITEMS, len(SIZES))).astype(np.int32)


def our_side(name: str, data: Interactions, rows: int) -> Side:
    """A step of a retriever of this library, batches drawn before.

    Args:
      name: of `MODELS`.
      data: what is learned.
      rows: packed rows a step; windows for TIGER.
    """
    model, vocab, codes = MODELS[name], Vocab(codebook_sizes=SIZES), make_codes()
    if isinstance(model, TigerConfig):
        stream = prompt_stream(data, codes, vocab, WINDOWS, rows, seed=0)
    else:
        prompts = SequenceConfig(history=50, row=64)
        stream = sequence_stream(data, codes, vocab, prompts, rows, seed=0)
    if isinstance(model, SASRecConfig):
        table = item_rows(model, codes, SIZES)
        task = ScorerTask(model, *table, vocab.level_offsets[0])
    else:
        task = RetrieverTask(model, vocab)
    batches = [stream(step) for step in range(4)]
    params = nn.unbox(task.init(jax.random.key(0), batches[0])[0])
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(params, opt_state, batch, key):
        loss, grads = jax.value_and_grad(
            lambda p: task.loss(p, {}, batch, key), has_aux=True
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss[0]

    state, done = [params, optimizer.init(params)], [0]

    def run(steps: int = 1) -> float:
        loss = jax.numpy.nan
        for _ in range(steps):
            key = jax.random.key(done[0])
            *state[:], loss = step(*state, batches[done[0] % 4], key)
            done[0] += 1
        return float(loss)

    counts = [count_targets(batch) for batch in batches]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Side(run, float(np.mean(counts)), size)


def count_targets(batch: Prompts | Sequences) -> int:
    """Products that a batch asks for."""
    if isinstance(batch, Prompts):
        return int((batch.basket[..., 0] > 0).sum())
    same = batch.segments[:, 1:] == batch.segments[:, :-1]
    return int((same & (batch.items[:, 1:] >= 0)).sum())


def build_t5(
    peers: dict[str, Any], config: T5Config, vocab: Vocab, **told: Any
) -> tuple[Any, str]:
    """Hugging Face's T5 of these sizes, and the device that it lies on: ours.

    Args:
      peers: PyTorch, which gets the cores that this process may use, and Transformers.
      config: sizes.
      vocab: token layout.
      told: what else its configuration says.
    """
    torch, transformers = peers["torch"], peers["transformers"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=vocab.size,
            d_model=config.width,
            d_kv=config.head_width,
            d_ff=config.mlp_width,
            num_layers=config.depth,
            num_decoder_layers=config.depth,
            num_heads=config.num_heads,
            dropout_rate=config.dropout,
            feed_forward_proj="relu",
            tie_word_embeddings=False,
            **told,
        )
    )
    return model.to(device), device


def read_tokens(prompts: Prompts) -> NDArray:
    """What an encoder reads of prompts, `[B, 1 + S * L]`: the retailer, the history."""
    history = prompts.history.reshape(len(prompts.history), -1)
    return np.concatenate([prompts.retailers[:, None], history], axis=1)


def their_side(peers: dict[str, Any], data: Interactions, rows: int) -> Side:
    """A step of T5ForConditionalGeneration on the windows that TIGER reads."""
    torch = peers["torch"]
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    vocab = Vocab(codebook_sizes=SIZES)
    stream = prompt_stream(data, make_codes(), vocab, WINDOWS, rows, seed=0)
    model, device = build_t5(peers, T5, vocab, decoder_start_token_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = []
    for step in range(4):
        batch = stream(step)
        told = read_tokens(batch)
        batches.append(
            {
                "input_ids": torch.tensor(told, dtype=torch.long, device=device),
                "attention_mask": torch.tensor(told != 0, device=device).long(),
                "labels": torch.tensor(batch.basket[:, 0], device=device).long(),
            }
        )
    done = [0]

    def run(steps: int = 1) -> float:
        model.train()
        loss = torch.tensor(float("nan"))
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(**batches[done[0] % 4]).loss
            loss.backward()
            optimizer.step()
            done[0] += 1
        return loss.item()

    size = sum(each.numel() for each in model.parameters())
    return Side(run, float(rows), size)


MODELS = {
    "hierarchical": HierarchicalConfig(
        trunk=SMALL,
        spell=TransformerConfig(width=128, depth=1, num_heads=4, mlp_width=256),
    ),
    "flat": FlatConfig(transformer=SMALL),
    "sasrec": SASRecConfig(transformer=SMALL),
    "tiger": TigerConfig(transformer=T5),
}


def find_peers() -> dict[str, Any]:
    """PyTorch and Transformers, or nothing."""
    try:
        return {name: import_module(name) for name in ("torch", "transformers")}
    except ImportError as error:
        print(f"{error.name} is absent: T5 is left out")
        return {}


def format_rows(
    sides: dict[str, Side], times: dict[str, tuple[float, float]], steps: int = 1
) -> list[str]:
    """The table: products a second, and how many times TIGER's.

    Args:
      sides: what was measured.
      times: wall and processor seconds of so many steps.
      steps: of a turn.
    """
    which = int(jax.default_backend() == "cpu")
    lines = [
        f"{'':14}{'parameters':>12}{'products':>10}{'ms a step':>11}{'CPU ms':>9}"
        f"{'a CPU s' if which else 'a second':>11}{'TIGER = 1':>11}"
    ]
    base = sides["tiger"].products / times["tiger"][which]
    for name, side in sides.items():
        wall, cpu = (1e3 * each / steps for each in times[name])
        rate = side.products / times[name][which]
        lines.append(
            f"{name:14}{side.parameters:12,}{side.products:10.0f}{wall:11.2f}{cpu:9.2f}"
            f"{rate * steps:11.0f}{rate / base:11.2f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--rows", type=int, default=32, help="packed rows a step")
    parser.add_argument("--windows", type=int, default=256, help="TIGER's, T5's")
    given = parser.parse_args()
    data, peers = make_data(3000), find_peers()
    sides = {
        name: our_side(name, data, given.windows if name == "tiger" else given.rows)
        for name in MODELS
    }
    if peers:
        sides["T5 (PyTorch)"] = their_side(peers, data, given.windows)
    turns = {name: partial(side.run, given.steps) for name, side in sides.items()}
    print(f"on {jax.devices()[0].device_kind}")
    times = take_turns(turns, given.repeats)
    print("\n".join(format_rows(sides, times, given.steps)))


if __name__ == "__main__":
    main()
