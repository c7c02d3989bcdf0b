"""Retrieval end to end, beside Hugging Face's `generate` with the same T5.

    python experiments/benchmarks/generate.py [--beams 20 50 200] [--requests 8]

Hardware: whatever JAX finds; on two cores of a CPU about ten minutes. Transformers and
PyTorch are measured where they import (`pip install torch transformers`), else left
out. Products are exact float32 on both sides. On a GPU the callback waits for the
device at every step, as whoever uses it does.

TIGER's encoder-decoder at the paper's sizes reads 20 products of four codes and spells
the next one, with random weights, the same on both sides, among random SIDs. Hugging
Face is held to them by `prefix_allowed_tokens_fn` and a dictionary of prefixes. Scores
are first seen to be equal to 1e-4: there the logits are masked to the codes of the
level before the log-softmax, which a side of its own times (`masked`). Then all take
turns, in one order and then in the other; times are medians.

What the parts gave: `free` is `generate` without the constraint; `tiled` is ours with
a copy of the history's keys and values for each beam; `eager` is ours without `jit`,
an operation at a time (measured once).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from train_step import build_t5, find_peers, read_tokens
from turns import take_turns

from sid_jax.models.t5 import T5Config
from sid_jax.models.tiger import TigerConfig, TigerDecoder
from sid_jax.sids.beam import Beams, beam_search
from sid_jax.sids.trie import Trie, build_trie
from sid_jax.sids.vocab import BASKET, PAD, Prompts, Vocab
from sid_jax.typing import Array, NDArray, PyTree

SIZES = (256, 256, 256, 256)
HISTORY = 20  # products
TOLERANCE = 1e-4  # of a log-probability


@dataclass(frozen=True)
class Setting:
    """What is asked of both sides.

    Attributes:
      config: sizes of the T5.
      vocab: token layout.
      params: of the decoder.
      sids: the catalog's, `[N, L]`.
      prompts: the requests.
    """

    config: T5Config
    vocab: Vocab
    params: PyTree
    sids: NDArray
    prompts: Prompts


def make_setting(
    config: T5Config, sizes: tuple[int, ...], count: int, requests: int
) -> Setting:
    """Random weights, SIDs and histories."""
    rng, vocab = np.random.default_rng(0), Vocab(codebook_sizes=sizes)
    sids = rng.integers(0, sizes, (count, len(sizes)), dtype=np.int32)
    bought = sids[rng.integers(0, count, (requests, HISTORY))]
    basket = np.full((requests, 1, len(sizes)), -1)
    prompts = vocab.prompts(np.zeros(requests, int), bought, basket)
    # With targets in place of the basket, as in training.
    model = TigerDecoder(TigerConfig(transformer=config), vocab)
    asked = vocab.prompts(np.zeros(requests, int), bought, bought[:, :1])
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), asked))["params"]
    return Setting(config, vocab, params, sids, prompts)


def our_search(
    setting: Setting,
    num_beams: int,
    tiled: bool = False,
    batch_axis: str | None = None,
) -> Callable[..., Beams]:
    """(parameters, trie, prompts, what is allowed) -> beams.

    Args:
      setting: of the benchmark.
      num_beams: a request.
      tiled: each beam has the history to itself.
      batch_axis: of the mesh in force, along which requests are shared.
    """
    model = TigerDecoder(TigerConfig(transformer=setting.config), setting.vocab)

    def search(params: PyTree, trie: Trie, prompts: Prompts, allowed=None) -> Beams:
        def call(method: str, *args: Any) -> Any:
            return model.apply({"params": params}, *args, method=method)

        def apart(context: Any, state: Any, codes: Array | None, level: int):
            """A beam as a request of its own."""
            shape = (len(context.mask), 1) if codes is None else codes.shape

            def flatten(a: Array) -> Array:
                return a.reshape(shape[0] * shape[1], 1, *a.shape[2:])

            own = jax.tree.map(lambda a: jnp.repeat(a, shape[1], axis=0), context)
            codes = None if codes is None else flatten(codes)
            flat, logits = call("step", own, jax.tree.map(flatten, state), codes, level)
            state = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[2:]), flat)
            return state, logits.reshape(*shape, -1)

        context = call("context", prompts)
        step = apart if tiled else partial(call, "step")
        state = call("start", context)
        told = {"num_beams": num_beams, "batch_axis": batch_axis, "allowed": allowed}
        return beam_search(step, context, state, trie, **told)

    return search


class Peer:
    """Hugging Face's T5 with our weights.

    Attributes:
      masked: whether logits are held to the codes of the level before the log-softmax.
    """

    def __init__(self, peers: dict[str, Any], setting: Setting):
        self._torch = peers["torch"]
        self._setting, self.masked = setting, False
        config, vocab = setting.config, setting.vocab
        told = {"decoder_start_token_id": BASKET, "pad_token_id": PAD}
        model, device = build_t5(peers, config, vocab, **told, eos_token_id=None)
        self._model = model.eval()
        # Transformers 5 ties the head to the input's vectors, whatever is asked for.
        self._model.lm_head = self._torch.nn.Linear(
            config.width, vocab.size, bias=False
        )
        weights = {k: self._torch.tensor(v) for k, v in t5_weights(setting).items()}
        self._model.load_state_dict(weights)
        self._model.to(device)
        self._model.lm_head.register_forward_hook(self._mask)
        rows = read_tokens(setting.prompts)
        self._told = self._torch.tensor(rows, dtype=self._torch.long, device=device)
        tokens = setting.vocab.code_tokens(setting.sids)
        after: dict[tuple[int, ...], set[int]] = {}
        for row in tokens.tolist():
            for level, token in enumerate(row):
                after.setdefault(tuple(row[:level]), set()).add(token)
        self._after = {prefix: sorted(found) for prefix, found in after.items()}
        self._level = 0

    def generate(
        self, num_beams: int, held: bool = True, masked: bool = False
    ) -> tuple[NDArray, NDArray]:
        """Codes and scores of each request's beams.

        Args:
          num_beams: a request.
          held: to the SIDs that exist.
          masked: logits are held to the codes of the level before the log-softmax.
        """
        self.masked, self._level = masked, 0
        levels = len(self._setting.vocab.codebook_sizes)
        with self._torch.inference_mode():
            found = self._model.generate(
                self._told,
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_new_tokens=levels,
                min_new_tokens=levels,
                length_penalty=0.0,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                prefix_allowed_tokens_fn=self._allowed if held else None,
            )
        shape = len(self._told), num_beams
        first = np.asarray(self._setting.vocab.level_offsets)
        codes = found.sequences[:, 1:].cpu().numpy().reshape(*shape, levels) - first
        return codes, found.sequences_scores.cpu().numpy().reshape(shape)

    def _allowed(self, batch: int, prefix: Any) -> list[int]:
        # A prefix that does not exist is a beam's that is out of the race.
        return self._after.get(tuple(prefix[1:].tolist()), [PAD])

    def _mask(self, module: Any, inputs: Any, logits: Any) -> Any:
        if not self.masked:
            return None
        vocab = self._setting.vocab
        first = vocab.level_offsets[self._level]
        end = first + vocab.codebook_sizes[self._level]
        self._level += 1
        logits[..., :first] = -float("inf")
        logits[..., end:] = -float("inf")
        return logits


def t5_weights(setting: Setting) -> dict[str, NDArray]:
    """Our parameters by the names that Hugging Face's T5 gives them."""
    params = jax.tree.map(np.asarray, setting.params)
    # Ours scales queries; T5 has the scale in its weights.
    scale = setting.config.head_width**-0.5
    names = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    found = {f"{name}.weight": params["tokens"]["embedding"] for name in names}
    found["lm_head.weight"] = params["scores"]["embedding"]

    def put(name: str, dense: PyTree, factor: float = 1.0) -> None:
        found[f"{name}.weight"] = factor * dense["kernel"].T

    def put_attention(name: str, attention: PyTree) -> None:
        put(f"{name}.q", attention["queries"], scale)
        for theirs, ours in (("k", "keys"), ("v", "values"), ("o", "out")):
            put(f"{name}.{theirs}", attention[ours])

    halves = {
        "encoder": (("norm", "attention", "SelfAttention"),),
        "decoder": (
            ("norm", "attention", "SelfAttention"),
            ("cross_norm", "cross", "EncDecAttention"),
        ),
    }
    for stack, attentions in halves.items():
        found[f"{stack}.final_layer_norm.weight"] = params[f"{stack}_norm"]["scale"]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[bias] = params[f"{stack}_bias"]["table"]
        for number in range(setting.config.depth):
            block = params[f"{stack}_{number}"]
            layer = f"{stack}.block.{number}.layer"
            for place, (norm, ours, theirs) in enumerate(attentions):
                found[f"{layer}.{place}.layer_norm.weight"] = block[norm]["scale"]
                put_attention(f"{layer}.{place}.{theirs}", block[ours])
            last = f"{layer}.{len(attentions)}"
            found[f"{last}.layer_norm.weight"] = block["mlp"]["norm"]["scale"]
            put(f"{last}.DenseReluDense.wi", block["mlp"]["up"])
            put(f"{last}.DenseReluDense.wo", block["mlp"]["down"])
    return found


def measure(
    setting: Setting, peer: Peer | None, num_beams: int, repeats: int, eager: bool
) -> dict[str, float]:
    """Side -> seconds of one batch of requests.

    Raises:
      SystemExit: the two sides' scores differ.
    """
    trie = build_trie(setting.sids, setting.vocab.codebook_sizes)
    told = jax.tree.map(jnp.asarray, (setting.params, trie, setting.prompts))
    sides: dict[str, Callable[[], Any]] = {}
    for name, tiled in (("ours", False), ("tiled", True)):
        search = jax.jit(our_search(setting, num_beams, tiled))
        sides[name] = lambda search=search: jax.block_until_ready(search(*told))
    if peer is not None:
        found, theirs = sides["ours"](), peer.generate(num_beams, masked=True)
        worst = compare(found, *theirs)
        print(f"{num_beams} beams: scores differ by {worst:.1e} at most")
        sides["generate"] = partial(peer.generate, num_beams)
        sides["masked"] = partial(peer.generate, num_beams, masked=True)
        sides["free"] = partial(peer.generate, num_beams, held=False)
    times = {name: wall for name, (wall, _) in take_turns(sides, repeats).items()}
    if eager:
        with jax.disable_jit():
            for _ in range(2):  # once, since each operation is compiled by itself
                began = time.perf_counter()
                jax.block_until_ready(our_search(setting, num_beams)(*told))
                times["eager"] = time.perf_counter() - began
    return times


def compare(beams: Beams, codes: NDArray, scores: NDArray) -> float:
    """The largest difference of scores.

    Beams whose scores are as close as that may have changed places, or one of them
    stand outside: codes are compared where neighbours lie further apart.

    Raises:
      SystemExit: scores differ by more than the tolerance, or codes differ.
    """
    ours = np.asarray(beams.scores)
    worst = float(np.abs(ours - scores).max())
    if not worst <= TOLERANCE:  # nor if it is no number
        raise SystemExit(f"the scores differ by {worst}")
    gaps = -np.diff(ours, axis=1, append=-np.inf) > 2 * TOLERANCE
    apart = gaps & np.roll(gaps, 1, axis=1)
    apart[:, -1] = False  # the next one is not known
    if (np.asarray(beams.codes) != codes).any(axis=2)[apart].any():
        raise SystemExit("the beams differ")
    return worst


def format_row(num_beams: int, times: dict[str, float]) -> str:
    """A row of the table: milliseconds, and how many times ours."""
    told = "".join(
        f"{1e3 * took:11.1f} ({took / times['ours']:5.1f})" for took in times.values()
    )
    return f"{num_beams:<7}{told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--count", type=float, default=1e5, help="SIDs")
    parser.add_argument("--repeats", type=int, default=6)
    given = parser.parse_args()
    # On both sides, float32 as it is: PyTorch's default. JAX's on a GPU is TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    setting = make_setting(T5Config(), SIZES, int(given.count), given.requests)
    peers = find_peers()
    peer = Peer(peers, setting) if peers else None
    print(
        f"on {jax.devices()[0].device_kind}; ms for {given.requests} requests (ours=1)"
    )
    for place, num_beams in enumerate(given.beams):
        times = measure(setting, peer, num_beams, given.repeats, eager=place == 0)
        if place == 0:
            print("beams  " + "".join(f"{name:>19}" for name in times))
        print(format_row(num_beams, times), flush=True)


if __name__ == "__main__":
    main()
