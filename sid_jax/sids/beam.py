"""Beam search held to the SIDs of a trie, exact and jit-able, over any step function.

A beam's score is the sum over levels of log softmax(logits)[code], the softmax taken
over all K codes of the level before any constraint, or over those that exist after its
prefix (see `scoring.py`); only the child slots of a beam's node are scored, as STATIC
does (arXiv 2602.22647). Ties go to the lower leaf.

With a key, SIDs are drawn without replacement rather than the best taken (stochastic
beam search, Kool et al. 2019): each candidate's log-probability is raised by Gumbel
noise, conditioned top-down on its parent's raised one being the largest below it, so
that the M largest are a sample of M leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from sid_jax.errors import InputError
from sid_jax.sids.allowance import (
    Allowances,
    allow_leaves,
    allowed_slots,
    check_allowances,
)
from sid_jax.sids.scoring import Softmax
from sid_jax.sids.trie import Trie, child_slots, enter, score_slots
from sid_jax.typing import Array, Bool, Float, Key, PyTree, typed

_BLOCK = 16  # values whose best one stands for them at first

Step = Callable[[PyTree, PyTree, Array | None, int], tuple[PyTree, Array]]
"""`step(context, state, codes, level) -> (state, logits [B, M_l, K_l])`.

`level` is a Python int. `context` is shared by the beams of a request; every leaf of
`state` leads with `[B, M_l]` and comes gathered by parent. `codes` `[B, M_l]` are those
just chosen at level - 1; None at level 0, where M_0 = 1. Fillers carry codes within
range. The step adds no mask.
"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The best SIDs of each request, best first; fillers (`valid` False) come last.

    Attributes:
      codes: int32 `[B, M, L]`; -1 in a filler.
      scores: float32 `[B, M]` log-probabilities, raised by noise if drawn; -inf for a
        filler.
      leaves: int32 `[B, M]` rows of the sorted SID table; -1 for a filler.
      valid: bool `[B, M]`.
    """

    codes: Array
    scores: Array
    leaves: Array
    valid: Array


@typed
def beam_search(
    step: Step,
    context: PyTree,
    state: PyTree,
    trie: Trie,
    *,
    num_beams: int,
    allowed: Allowances | Bool[Array, "B U"] | None = None,
    softmax: Softmax = "codes",
    temperature: float | int | Float[Array, ""] = 1.0,
    key: Key[Array, ""] | None = None,
    axis: str | None = None,
    batch_axis: str | None = None,
) -> Beams:
    """Searches the trie for each request's best SIDs. Pure; the caller jits it.

    M_0 = 1 and M_{l+1} = min(num_beams, M_l * trie.max_slots[l]) beams are alive.
    The result is that of scoring every SID whenever num_beams is at least the number
    of nodes at each inner depth; a beam of probability 0 is a filler.

    Args:
      step: scores the next code of each beam.
      context: what the beams of a request share, such as the history's keys and values.
      state: a beam's own arrays, each leading with `[B, 1]`.
      trie: the SIDs that exist.
      num_beams: M, of the answer; may exceed what there is to find.
      allowed: the leaves that each request may reach, as sets that requests share or as
        a mask; all when None.
      softmax: what each is over: all `codes` of the level, the `existing` ones after
        the prefix, as in training by it, or those `allowed` of them.
      temperature: what each code's logits are divided by, above 0.
      key: draws SIDs without replacement, in the order drawn, instead of the best. It
        asks for softmax="allowed": what is drawn from is then a distribution over the
        allowed leaves.
      axis: the mesh axis along which each device has a part of the trie, of other first
        codes, as from `sharded.shard_trie`; under `jax.shard_map`. A device answers
        those of its leaves that are among the best of all.
      batch_axis: the mesh axis along which devices share the requests, of the mesh in
        force (`jax.set_mesh`): each then ranks its own. Without it, the answer is the
        same, and XLA may have every device rank all.

    Raises:
      InputError: shapes that disagree with the trie, num_beams < 1, no such softmax, or
        one that cannot be drawn from.
    """
    if num_beams < 1:
        raise InputError(f"num_beams must be >= 1: {num_beams}")
    if softmax not in get_args(Softmax):
        raise InputError(f"softmax={softmax!r}: want one of {get_args(Softmax)}")
    if key is not None and softmax != "allowed":
        raise InputError(f'drawing SIDs asks for softmax="allowed", not {softmax!r}')
    if key is not None and axis is not None:
        raise InputError("SIDs are not drawn from a trie in parts")
    if batch_axis is not None:
        mesh = jax.sharding.get_abstract_mesh()
        if axis is not None or batch_axis not in mesh.axis_names:
            raise InputError(
                f"batch_axis={batch_axis!r}: want an axis of the mesh that jax.set_mesh"
                f" puts in force, which has {mesh.axis_names}, and no `axis` beside it"
            )
    if allowed is not None and not isinstance(allowed, Allowances):
        if allowed.shape[1] != trie.num_leaves:
            raise InputError(
                f"allowed has {allowed.shape[1]} leaves, the trie {trie.num_leaves}"
            )
        allowed = allow_leaves(trie, allowed)
    if allowed is not None:
        check_allowances(allowed, trie)

    state, logits = step(context, state, None, 0)
    _check_batch(len(logits), allowed, batch_axis)
    nodes = trie.root((len(logits), 1))
    codes = jnp.zeros((len(logits), 1, 0), jnp.int32)
    likely = scores = jnp.zeros((len(logits), 1), jnp.float32)
    if key is not None:
        scores = jax.random.gumbel(key, scores.shape)
    for level, size in enumerate(trie.codebook_sizes):
        asked = *nodes.first.shape, size
        if logits.shape != asked:
            raise InputError(
                f"level {level}: step gave logits {logits.shape}, the trie asks for"
                f" {asked}"
            )
        places, tokens, exists = child_slots(trie, level, nodes)
        alive = exists
        if allowed is not None:
            told = trie, level, places, tokens, nodes.end
            alive = exists & allowed_slots(allowed, *told)
        over = {"codes": None, "existing": exists, "allowed": alive}[softmax]
        logits = logits.astype(jnp.float32) / temperature
        slots = score_slots(trie, level, logits, tokens)
        gains = _gains(logits, slots, alive, over, axis if level == 0 else None)
        candidates = raised = likely[..., None] + gains
        if key is not None:
            raised = _raise(jax.random.fold_in(key, level), candidates, scores)
        candidates, raised = (
            each.reshape(len(scores), -1) for each in (candidates, raised)
        )
        width = min(num_beams, candidates.shape[1])
        scores, chosen = _rank(raised, width, batch_axis)
        is_inner = level + 1 < trie.num_levels
        if is_inner:
            # Ties: top_k prefers the lower position. Kept in the order of positions,
            # living beams are in the order of nodes (by induction: parents are, and
            # slots ascend), so the lower position is the lower node, and at the last
            # level, whose answer stays in the order of scores, the lower leaf.
            chosen = jnp.sort(chosen, axis=1)
            scores = _flat_take(raised, chosen)
        if axis is not None:
            scores = _best_of_all(scores, num_beams, axis)
        likely = _flat_take(candidates, chosen)
        likely = jnp.where(scores > -jnp.inf, likely, -jnp.inf)
        parents = chosen // trie.max_slots[level]
        found = _flat_take(places, chosen)
        last = _flat_take(tokens, chosen)
        codes = jnp.concatenate([gather_beams(codes, parents), last[..., None]], axis=2)
        if is_inner:
            nodes = enter(trie, level, found, gather_beams(nodes.end, parents))
            state = jax.tree.map(lambda leaf, by=parents: gather_beams(leaf, by), state)
            state, logits = step(context, state, last, level + 1)
    return _answer(codes, found, scores, num_beams)


def _check_batch(
    batch: int, allowed: Allowances | None, batch_axis: str | None
) -> None:
    """Raises InputError where a batch has other sets, or does not divide."""
    if allowed is not None:
        sets = len(allowed.words[0] if allowed.rows is None else allowed.rows)
        if sets != batch:
            raise InputError(f"allowed is for {sets} requests, and there are {batch}")
    if batch_axis is not None:
        devices = jax.sharding.get_abstract_mesh().shape[batch_axis]
        if batch % devices:
            raise InputError(
                f"{batch} requests do not divide among the {devices} devices of "
                f"batch_axis={batch_axis!r}"
            )


def _gains(
    logits: Array, slots: Array, alive: Array, over: Array | None, axis: str | None
) -> Array:
    """Log-probabilities of the child slots; -inf where none is alive.

    The softmax is over all codes (`logits`), or over the slots `over`, along `axis` if
    given.
    """
    if over is not None:
        logits = jnp.where(over, slots, -jnp.inf)
    total = jax.nn.logsumexp(logits, axis=2, keepdims=True)
    if over is not None and axis is not None:
        parts = lax.all_gather(total, axis)
        total = jax.nn.logsumexp(parts, axis=0)
    return jnp.where(alive & (slots > -jnp.inf), slots - total, -jnp.inf)


def _raise(key: Array, likely: Array, parents: Array) -> Array:
    """Gumbel-raised log-probabilities of children, the largest being their parent's.

    Kool et al. 2019, appendix B.3: draws of Gumbel(likely) whose maximum Z was moved to
    the parent's T, by -log(exp(-T) - exp(-Z) + exp(-G)).
    """
    drawn = likely + jax.random.gumbel(key, likely.shape)
    largest = drawn.max(axis=-1, keepdims=True)
    alive = likely > -jnp.inf
    below = jnp.where(alive, drawn - largest, -1.0)
    top = parents[..., None]
    v = top - jnp.where(alive, drawn, 0.0) + jnp.log1p(-jnp.exp(below))
    moved = top - jnp.maximum(v, 0) - jnp.log1p(jnp.exp(-jnp.abs(v)))
    return jnp.where(alive, moved, -jnp.inf)


def _rank(values: Array, k: int, batch_axis: str | None) -> tuple[Array, Array]:
    """The k best values of each request, and where they stand."""
    if batch_axis is None:
        return _top_k(values, k)
    # XLA's partitioner knows of no batch in a top-k, but on TPU.
    split = P(batch_axis)
    return jax.shard_map(lambda own: _top_k(own, k), in_specs=split, out_specs=split)(
        values
    )


def _top_k(values: Array, k: int) -> tuple[Array, Array]:
    """`lax.top_k`, of blocks first where there is much to choose from.

    The k best values lie in the k blocks whose best are the best, ties included: one of
    a block that was left out has k before it, larger or as large and further left.
    """
    batch, count = values.shape
    if count < 4 * _BLOCK * k:
        return lax.top_k(values, k)
    padded = jnp.pad(values, ((0, 0), (0, -count % _BLOCK)), constant_values=-jnp.inf)
    best = padded.reshape(batch, -1, _BLOCK).max(axis=2)
    blocks = jnp.sort(lax.top_k(best, k)[1], axis=1)
    places = (blocks[..., None] * _BLOCK + jnp.arange(_BLOCK)).reshape(batch, -1)
    found, at = lax.top_k(_flat_take(padded, places), k)
    return found, _flat_take(places, at)


def _best_of_all(scores: Array, num_beams: int, axis: str) -> Array:
    """Scores that are among the best along an axis; -inf in place of the others.

    A device that comes before has the lower leaves, and wins ties.
    """
    every = jnp.moveaxis(lax.all_gather(scores, axis), 0, 1)
    batch, devices, width = every.shape
    best = lax.top_k(every.reshape(batch, -1), min(num_beams, devices * width))[1]
    none = jnp.zeros((batch, devices * width), bool)
    kept = none.at[jnp.arange(batch)[:, None], best].set(True)
    kept = kept.reshape(every.shape)[:, lax.axis_index(axis)]
    return jnp.where(kept, scores, -jnp.inf)


def gather_beams(values: Array, parents: Array) -> Array:
    """Each beam takes its parent's row."""
    return jax.vmap(lambda rows, at: rows[at])(values, parents)


def _flat_take(values: Array, positions: Array) -> Array:
    """Takes a request's values by position, whatever the shape of either."""
    flat = values.reshape(len(values), -1)
    return jax.vmap(lambda row, at: row[at])(flat, positions)


def _answer(codes: Array, leaves: Array, scores: Array, num_beams: int) -> Beams:
    valid = scores > -jnp.inf
    fill = ((0, 0), (0, num_beams - scores.shape[1]))
    return Beams(
        codes=jnp.pad(
            jnp.where(valid[..., None], codes, -1), (*fill, (0, 0)), constant_values=-1
        ),
        scores=jnp.pad(
            jnp.where(valid, scores, -jnp.inf), fill, constant_values=-jnp.inf
        ),
        leaves=jnp.pad(jnp.where(valid, leaves, -1), fill, constant_values=-1),
        valid=jnp.pad(valid, fill),
    )
