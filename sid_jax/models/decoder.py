"""SID decoders behind one step contract: `step(context, state, codes, level)`.

p(SID | prompt) = prod_l p(c_l | prompt, c_<l), with scores for each level over its own
codes only.  How a prompt is read is each decoder's own, in `flat.py`, `hierarchical.py`
and `tiger.py`; how a beam's codes run through the blocks that spell is here.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import struct

from sid_jax.models.repeat import Repeat, RepeatHead, RepeatState
from sid_jax.models.stream import Stream, TokenEmbedding
from sid_jax.models.transformer import Memory, RMSNorm
from sid_jax.sids.trie import Trie
from sid_jax.typing import Array, Bool, Float, Int, typed


@struct.dataclass
class Context:
    """A request's prompt, computed once and shared by its beams.

    Attributes:
      memories: keys and values that spelling attends to, a block.
      mask: which of them are real.
      length: place of the first code: how many positions come before.
      first: output that spells level 1.
      repeat: which of the history's items is bought again `[B, 1, ...]`; or None.
      history: tokens of the history's items.
      trie: the SIDs that exist, for a repeat beside a softmax over their codes.
    """

    memories: tuple[Memory, ...]
    mask: Bool[Array, "B T"]
    length: Int[Array, " B"]
    first: Float[Array, "B D"]
    repeat: Repeat | None
    history: Int[Array, "B S L"]
    trie: Trie | None = None


@struct.dataclass
class State:
    """What a beam alone has.

    Attributes:
      own: keys and values of its own codes, a block: `[B, M, codes so far, H, Dh]`.
      repeat: the repeat head's part; or None.
    """

    own: tuple[tuple[Array, Array], ...]
    repeat: RepeatState | None


@struct.dataclass
class Outputs:
    """What the asking positions of a batch say of the item after them.

    Attributes:
      logits: a level, the scores of its codes `[B, n, K_l]`.
      targets: tokens of the item that is asked for.
      asks: whether there is one.
      repeat: which of the history's items is bought again `[B, n, ...]`; or None.
      history: tokens of the history's items.
    """

    logits: list[Array]
    targets: Int[Array, "B n L"]
    asks: Bool[Array, "B n"]
    repeat: Repeat | None
    history: Int[Array, "B S L"]


@typed
def start_beam(context: Context, head: RepeatHead | None) -> State:
    """State of the one beam that has spelled nothing."""
    own = tuple(
        (memory.keys[:, None, :0], memory.values[:, None, :0])
        for memory in context.memories
    )
    repeat = None
    if head is not None and context.repeat is not None:
        repeat = head.start(context.repeat, context.trie)
    return State(own, repeat)


def spell_next(
    context: Context,
    state: State,
    codes: Array | None,
    level: int,
    *,
    tokens: TokenEmbedding,
    blocks: Sequence[Any],
    norm: RMSNorm,
    scores: TokenEmbedding,
    head: RepeatHead | None,
) -> tuple[State, Array]:
    """Logits `[B, M, K_l]` of a level given the codes `[B, M]` chosen one level before.

    Args:
      context: of the request.
      state: of its beams.
      codes: None at level 0.
      level: which level is scored.
      tokens: what codes are read by.
      blocks: what they run through, each with a `step` as `transformer.Block` has.
      norm: after the last block.
      scores: what codes are scored by.
      head: the repeat head, if there is one.
    """
    if codes is None:
        logits, own = scores.logits(context.first[:, None], level), state.own
    else:
        x = tokens(codes + tokens.vocab.level_offsets[level - 1])
        positions = jnp.broadcast_to(context.length[:, None] + level - 1, codes.shape)
        own = []
        for block, memory, mine in zip(
            blocks, context.memories, state.own, strict=True
        ):
            x, mine = block.step(x, positions, memory, context.mask, mine)
            own.append(mine)
        logits = scores.logits(norm(x), level)
    repeat = state.repeat
    if head is not None and repeat is not None and context.repeat is not None:
        history = context.history - jnp.asarray(tokens.vocab.level_offsets)
        repeat, logits = head.step(
            context.repeat, repeat, history, codes, logits, level, context.trie
        )
    return State(tuple(own), repeat), logits


def point(
    head: RepeatHead | None,
    stream: Stream,
    items: Float[Array, "B T D"],
    asking: Float[Array, "B n D"],
    pointable: Bool[Array, "B n S"],
) -> Repeat | None:
    """The repeat head on a stream, from outputs at its positions and asking ones."""
    if head is None:
        return None
    return head(asking, items[:, slice(*stream.history)], pointable)


@typed
def last_real(outputs: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> Array:
    """Output at each row's last real position, `[B, 1, D]`."""
    last = jnp.where(real, jnp.arange(real.shape[1]), -1).max(axis=1)
    return jnp.take_along_axis(outputs, last[:, None, None], axis=1)
