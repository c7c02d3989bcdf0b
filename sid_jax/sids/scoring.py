"""Log-probabilities of given SIDs, under the softmax that they are searched by.

    log p(SID) = sum_l log softmax(logits_l)[c_l],

the softmax over all `codes` of a level, or over the `existing` ones: those that follow
c_<l in some SID of the trie. Over the existing ones the SIDs share all probability, and
a model need not learn which there are: a code without siblings costs nothing. (A
hierarchical softmax over the catalog; compare Morin and Bengio 2005.)
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from sid_jax.sids.trie import Trie, child_slots, descend, score_slots
from sid_jax.typing import Array, Float, Int, PyTree, typed

Softmax = Literal["codes", "existing", "allowed"]
"""What the softmax of a level is over; `allowed` is for a search alone."""


@typed
def code_gains(
    logits: Sequence[Array],
    codes: Int[Array, "*b L"],
    trie: Trie | None = None,
) -> tuple[Float[Array, "*b L"], Float[Array, "*b L"]]:
    """Log-probability of each code of given SIDs, from logits after its prefix. Pure.

    Args:
      logits: a level, the scores of its codes `[*b, K_l]`.
      codes: SIDs; codes must lie in their codebooks.
      trie: the SIDs that exist, to take each softmax over them; over all codes if None.

    Returns:
      The log-probability of each code, -inf from where an SID leaves the trie; and the
      mean of the log-probabilities of all codes that the softmax is over.
    """
    gains, means = [], []
    left = jnp.zeros(codes.shape[:-1], bool)
    nodes = None if trie is None else trie.root(left.shape)
    for level, scores in enumerate(logits):
        scores, code = scores.astype(jnp.float32), codes[..., level]
        if trie is None or nodes is None:
            every = jax.nn.log_softmax(scores)
            gains.append(jnp.take_along_axis(every, code[..., None], axis=-1)[..., 0])
            means.append(every.mean(axis=-1))
            continue
        _, tokens, exists = child_slots(trie, level, nodes)
        slots = score_slots(trie, level, scores, tokens)
        total = jax.nn.logsumexp(slots, axis=-1, where=exists)
        hit = (tokens == code[..., None]) & exists
        left |= ~hit.any(axis=-1)
        # Sums over what exists, rather than infinities, have gradients.
        own = jnp.where(hit, slots, 0).sum(axis=-1) - total
        gains.append(jnp.where(left, -jnp.inf, own))
        mean = jnp.where(exists, slots, 0).sum(axis=-1) / exists.sum(axis=-1) - total
        means.append(mean)
        nodes, _ = descend(trie, level, nodes, code)
    return jnp.stack(gains, axis=-1), jnp.stack(means, axis=-1)


@typed
def score_sids(
    step: Any,
    context: PyTree,
    state: PyTree,
    codes: Int[Array, "B n L"],
    trie: Trie | None = None,
) -> Float[Array, "B n"]:
    """Log-probability of given SIDs, each spelled code by code. Pure.

    What `beam_search` finds, it scores the same; here nothing is searched, so that
    scoring every SID of a table, some at a time, tells what a search has lost.

    Args:
      step: as of `beam_search`.
      context: as of `beam_search`.
      state: as of `beam_search`.
      codes: n SIDs a request; codes must lie in their codebooks.
      trie: as of `code_gains`.
    """
    state, first = step(context, state, None, 0)
    count = codes.shape[1]
    state, first = jax.tree.map(lambda a: a.repeat(count, axis=1), (state, first))
    logits = [first]
    for level in range(1, codes.shape[2]):
        state, scores = step(context, state, codes[:, :, level - 1], level)
        logits.append(scores)
    return code_gains(logits, codes, trie)[0].sum(axis=-1)
