"""The blocks of a T5 (Raffel et al. 2020), and a step that shares the history's cache.

RMSNorm before each half block, a bias by relative position that the blocks of a stack
share, ReLU, heads whose width is free of the model's.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
from sid_jax.models.transformer import (
    Memory,
    Remat,
    RMSNorm,
    dense,
    keep_less,
    masked_softmax,
    partition,
)
from sid_jax.typing import Array, Bool, Float, Int, typed

_NUM_BUCKETS, _FARTHEST = 32, 128


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Sizes of an encoder-decoder.

    Attributes:
      width: embedding width D.
      depth: blocks of the encoder, and of the decoder.
      num_heads: attention heads H.
      head_width: of each head; not tied to D / H.
      mlp_width: hidden width F.
      dropout: rate on embeddings, half blocks, attention weights and hidden units.
      remat: what a block computes anew for its gradient, to save memory.
    """

    width: int = 128
    depth: int = 4
    num_heads: int = 6
    head_width: int = 64
    mlp_width: int = 1024
    dropout: float = 0.1
    remat: Remat = "none"

    def __post_init__(self):
        for name in ("width", "depth", "num_heads", "head_width", "mlp_width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be positive: {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1): {self.dropout}")


@struct.dataclass
class CrossMemory:
    """What a block of the decoder keeps of a request.

    Attributes:
      keys, values: of the token that opens the spelling.
      history: of the encoder's outputs.
    """

    keys: Float[Array, "B n H Dh"]
    values: Float[Array, "B n H Dh"]
    history: Memory


class EncoderBlock(nn.Module):
    """Attention to every token of the history, and an MLP."""

    config: T5Config

    def setup(self):
        self.norm = RMSNorm()
        self.attention = Attention(self.config)
        self.mlp = MLP(self.config)

    @typed
    def __call__(
        self,
        x: Float[Array, "B T D"],
        bias: Float[Array, "B H T T"],
        mask: Bool[Array, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        run = EncoderBlock._run
        run = keep_less(run, self.config.remat) if train else run
        return run(self, x, bias, mask, train)

    def _run(self, x: Array, bias: Array, mask: Array, train: bool) -> Array:
        normed = self.norm(x)
        memory = self.attention.memory(normed)
        query = self.attention.query(normed)
        scores = jnp.einsum("bthd,bshd->bhts", query, memory.keys) + bias
        weights = self.attention.weights(scores, mask[:, None, None], train)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, memory.values)
        x = x + self.attention.join(mixed, train)
        return self.mlp(x, train=train)


class DecoderBlock(nn.Module):
    """Attention to the codes before, attention to the history, and an MLP.

    Attributes:
      config: sizes.
      bias: by relative position among codes.
    """

    config: T5Config
    bias: "RelativeBias"

    def setup(self):
        self.norm = RMSNorm()
        self.attention = Attention(self.config)
        self.cross_norm = RMSNorm()
        self.cross = Attention(self.config)
        self.mlp = MLP(self.config)

    @typed
    def __call__(
        self,
        x: Float[Array, "B n L D"],
        history: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B n L D"], CrossMemory]:
        """Every code of n items; what a search keeps of the opening token."""
        run = DecoderBlock._run
        run = keep_less(run, self.config.remat) if train else run
        return run(self, x, history, mask, train)

    def _run(
        self, x: Array, history: Array, mask: Array, train: bool
    ) -> tuple[Array, CrossMemory]:
        length = jnp.arange(x.shape[2])
        normed = self.norm(x)
        memory = self.attention.memory(normed)
        query = self.attention.query(normed)
        scores = jnp.einsum("bnlhd,bnshd->bnhls", query, memory.keys)
        scores += self.bias((length[None, :] - length[:, None])[None])[:, None]
        weights = self.attention.weights(scores, length <= length[:, None], train)
        mixed = jnp.einsum("bnhls,bnshd->bnlhd", weights, memory.values)
        x = x + self.attention.join(mixed, train)
        told = self.cross.memory(history)
        query = self.cross.query(self.cross_norm(x))
        scores = jnp.einsum("bnlhd,bthd->bnhlt", query, told.keys)
        weights = self.cross.weights(scores, mask[:, None, None, None], train)
        mixed = jnp.einsum("bnhlt,bthd->bnlhd", weights, told.values)
        x = x + self.cross.join(mixed, train)
        kept = CrossMemory(memory.keys[:, :, 0], memory.values[:, :, 0], told)
        return self.mlp(x, train=train), kept

    @typed
    def step(
        self,
        x: Float[Array, "B M D"],
        positions: Int[Array, "B M"],
        memory: CrossMemory,
        mask: Bool[Array, "B T"],
        own: tuple[Float[Array, "B M s H Dh"], Float[Array, "B M s H Dh"]],
    ) -> tuple[
        Float[Array, "B M D"],
        tuple[Float[Array, "B M _ H Dh"], Float[Array, "B M _ H Dh"]],
    ]:
        """One new code of every beam; returns its own keys and values, grown by it."""
        normed = self.norm(x)
        new = self.attention.memory(normed)
        grown = (
            jnp.concatenate([own[0], new.keys[:, :, None]], axis=2),
            jnp.concatenate([own[1], new.values[:, :, None]], axis=2),
        )
        keys, values = (
            jnp.concatenate(
                [jnp.broadcast_to(first[:, None], (*x.shape[:2], *first.shape[1:])), a],
                axis=2,
            )
            for first, a in zip((memory.keys, memory.values), grown, strict=True)
        )
        places = jnp.arange(keys.shape[2])
        scores = jnp.einsum("bmhd,bmshd->bmhs", self.attention.query(normed), keys)
        bias = self.bias((places - positions[..., None])[:, :, None])
        scores += jnp.moveaxis(bias, 1, 2)[:, :, :, 0]
        weights = self.attention.weights(scores, jnp.ones(1, bool), False)
        mixed = jnp.einsum("bmhs,bmshd->bmhd", weights, values)
        x = x + self.attention.join(mixed, False)
        query = self.cross.query(self.cross_norm(x))
        scores = jnp.einsum("bmhd,bthd->bmht", query, memory.history.keys)
        weights = self.cross.weights(scores, mask[:, None, None], False)
        mixed = jnp.einsum("bmht,bthd->bmhd", weights, memory.history.values)
        x = x + self.cross.join(mixed, False)
        return self.mlp(x), grown


class Attention(nn.Module):
    """The projections of one attention; T5 does not scale its scores."""

    config: T5Config

    def setup(self):
        inner = self.config.num_heads * self.config.head_width
        self.queries = dense(inner, ("embed", "heads"))
        self.keys = dense(inner, ("embed", "heads"))
        self.values = dense(inner, ("embed", "heads"))
        self.out = dense(self.config.width, ("heads", "embed"))
        self.dropout = nn.Dropout(self.config.dropout)

    def query(self, x: Array) -> Float[Array, "*b H Dh"]:
        # The scale only sets the start: T5 puts it into the initializer.
        return self._split(self.queries(x)) * self.config.head_width**-0.5

    def memory(self, x: Array) -> Memory:
        return Memory(self._split(self.keys(x)), self._split(self.values(x)))

    def weights(self, scores: Array, mask: Array, train: bool) -> Array:
        weights = masked_softmax(scores, mask)
        return self.dropout(weights, deterministic=not train)

    def join(self, mixed: Array, train: bool) -> Array:
        joined = self.out(mixed.reshape(*mixed.shape[:-2], -1))
        return self.dropout(joined, deterministic=not train)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_width)


class MLP(nn.Module):
    """Norm, ReLU layer and its way back, added to the input."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b D"], *, train: bool = False
    ) -> Float[Array, "*b D"]:
        drop = nn.Dropout(self.config.dropout, deterministic=not train)
        normed = RMSNorm(name="norm")(x)
        hidden = dense(self.config.mlp_width, ("embed", "mlp"), "up")(normed)
        between = (None,) * (x.ndim - 2)
        hidden = with_logical_constraint(hidden, ("batch", *between, "mlp"))
        hidden = drop(jax.nn.relu(hidden))
        x = x + drop(dense(self.config.width, ("mlp", "embed"), "down")(hidden))
        return with_logical_constraint(x, ("batch", *between, "embed"))


class RelativeBias(nn.Module):
    """A learned number a head by how far a key lies from a query (Raffel et al. 2020).

    Attributes:
      num_heads: H.
      two_sided: keys after the query have buckets of their own.
    """

    num_heads: int
    two_sided: bool

    @nn.compact
    def __call__(self, distance: Int[Array, "B T S"]) -> Float[Array, "B H T S"]:
        """Bias of keys that stand so many positions after their query."""
        table = self.param(
            "table",
            partition(nn.initializers.normal(0.02), (None, "heads")),
            (_NUM_BUCKETS, self.num_heads),
        )
        buckets = relative_buckets(distance, two_sided=self.two_sided)
        return jnp.moveaxis(jnp.asarray(table)[buckets], -1, 1)


@typed
def relative_buckets(
    distance: Int[Array, "*b"], *, two_sided: bool
) -> Int[Array, "*b"]:
    """T5's buckets: one for each near distance; far ones share by logarithm."""
    count, first = _NUM_BUCKETS, jnp.zeros_like(distance)
    if two_sided:
        count //= 2
        first = jnp.where(distance > 0, count, 0)
        away = jnp.abs(distance)
    else:
        away = jnp.maximum(-distance, 0)
    exact = count // 2
    ratio = jnp.log(jnp.maximum(away, exact) / exact) / np.log(_FARTHEST / exact)
    far = exact + (ratio * (count - exact)).astype(jnp.int32)
    return first + jnp.where(away < exact, away, jnp.minimum(far, count - 1))
