"""The repeat head: a product bought again is pointed at, not spelled.

RepeatNet (Ren et al. 2019) over Semantic IDs:

    p(SID) = g sum_i a_i [SID_i = SID] + (1 - g) prod_l p(c_l | c_<l),

where a attends to the S items of the history and g is the chance of a repeat, both from
the output that starts a SID.  While a SID is spelled, the mixture is taken apart level
by level: a prefix keeps what it was generated with, and the items that still match it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from sid_jax.sids.trie import Nodes, Trie, descend, existing_codes
from sid_jax.typing import Array, Bool, Float, Int, typed


@struct.dataclass
class Repeat:
    """Where a SID may be repeated from.

    Attributes:
      pointer: log a; -inf at absent items.
      repeat: log g; -inf without a history.
      generate: log (1 - g).
    """

    pointer: Float[Array, "B n S"]
    repeat: Float[Array, "B n"]
    generate: Float[Array, "B n"]


@struct.dataclass
class RepeatState:
    """What a beam's prefix leaves.

    Attributes:
      generated: log-probability with which the prefix was generated.
      options: of the codes that may come next, given the prefix.
      matches: history items that share the prefix.
      nodes: the prefix's node in the trie of the SIDs that exist; or None.
    """

    generated: Float[Array, "B M"]
    options: Float[Array, "B M K"]
    matches: Bool[Array, "B M S"]
    nodes: Nodes | None


class RepeatHead(nn.Module):
    """Attention to the history and a gate."""

    @nn.compact
    @typed
    def __call__(
        self,
        asking: Float[Array, "B n D"],
        history: Float[Array, "B S D"],
        present: Bool[Array, "B n S"],
    ) -> Repeat:
        """The pointer and the gate of n SIDs, from the outputs that start them.

        Args:
          asking: outputs that start a SID.
          history: outputs at the history's items.
          present: the items that each SID may repeat.
        """
        width = history.shape[-1]
        matrix = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), ("embed", "heads")
        )
        vector = nn.with_logical_partitioning(
            nn.initializers.zeros_init(), ("embed", None)
        )
        query = nn.Dense(width, use_bias=False, kernel_init=matrix, name="query")
        key = nn.Dense(width, use_bias=False, kernel_init=matrix, name="key")
        gate = nn.Dense(1, kernel_init=vector, name="gate")(asking)[..., 0]
        scores = query(asking) @ key(history).swapaxes(1, 2) * width**-0.5
        scores = scores.astype(jnp.float32)
        some = present.any(axis=2)
        # Without a history nothing is masked, which keeps the softmax finite; the gate
        # is shut, and the pointer is cleared below.
        scores = jnp.where(present | ~some[..., None], scores, -jnp.inf)
        pointer = jax.nn.log_softmax(scores)
        gate = gate.astype(jnp.float32)
        return Repeat(
            pointer=jnp.where(present, pointer, -jnp.inf),
            repeat=jnp.where(some, jax.nn.log_sigmoid(gate), -jnp.inf),
            generate=jnp.where(some, jax.nn.log_sigmoid(-gate), 0.0),
        )

    @staticmethod
    def start(repeat: Repeat, trie: Trie | None = None) -> RepeatState:
        """State of the one beam that has spelled nothing."""
        return RepeatState(
            generated=repeat.generate,
            options=jnp.zeros((*repeat.generate.shape, 0)),
            matches=jnp.isfinite(repeat.pointer),
            nodes=None if trie is None else trie.root(repeat.generate.shape),
        )

    @staticmethod
    @typed
    def step(
        repeat: Repeat,
        state: RepeatState,
        history: Int[Array, "B S L"],
        codes: Int[Array, "B M"] | None,
        logits: Float[Array, "B M K"],
        level: int,
        trie: Trie | None = None,
    ) -> tuple[RepeatState, Float[Array, "B M K"]]:
        """Mixes the history into a level's logits.

        Args:
          repeat: pointer and gate of the request, n = 1.
          state: what the prefixes left before `codes`.
          history: codes of the history's items.
          codes: chosen one level before; None at level 0.
          logits: the decoder's own scores.
          level: which level is scored.
          trie: the SIDs that exist, where the decoder's softmax is over their codes.

        Returns:
          The state, and log-probabilities of prefix and code together: a softmax over
          the codes is the mixture's conditional.
        """
        generated, matches, nodes = state.generated, state.matches, state.nodes
        if codes is not None:
            picked = jnp.take_along_axis(state.options, codes[..., None], axis=2)
            generated = generated + picked[..., 0]
            matches &= history[:, None, :, level - 1] == codes[..., None]
        logits = logits.astype(jnp.float32)
        if trie is not None and nodes is not None:
            if codes is not None:
                nodes, _ = descend(trie, level - 1, nodes, codes)
            there = existing_codes(trie, level, nodes)
            logits = jnp.where(there, logits, -jnp.inf)
        options = jax.nn.log_softmax(logits)
        weights = jnp.where(matches, jnp.exp(repeat.pointer), 0.0)
        hot = jax.nn.one_hot(history[:, :, level], logits.shape[-1])
        repeated = _log(jnp.einsum("bms,bsk->bmk", weights, hot))
        mixed = jnp.logaddexp(
            generated[..., None] + options, repeat.repeat[..., None] + repeated
        )
        return RepeatState(generated, options, matches, nodes), mixed


@typed
def repeat_log_prob(
    repeat: Repeat,
    history: Int[Array, "B S L"],
    items: Int[Array, "B n L"],
    generated: Float[Array, "B n"],
) -> Float[Array, "B n"]:
    """Log-probability of whole SIDs under the mixture.

    Args:
      repeat: pointer and gate.
      history: tokens or codes of the history's items.
      items: those of the SIDs that are asked for.
      generated: log-probability with which the decoder spells them.
    """
    same = (history[:, None] == items[:, :, None]).all(axis=-1)
    weights = jnp.where(same, jnp.exp(repeat.pointer), 0.0).sum(axis=-1)
    spelled = repeat.generate + generated
    return jnp.logaddexp(spelled, repeat.repeat + _log(weights))


def _log(weights: Array) -> Array:
    """Log, -inf at 0, whose gradient is finite where nothing matches."""
    return jnp.where(weights > 0, jnp.log(jnp.maximum(weights, 1e-30)), -jnp.inf)
