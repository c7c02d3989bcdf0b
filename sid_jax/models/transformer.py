"""Pre-norm transformer blocks: RMSNorm, rotary positions, SwiGLU, shared-context cache.

A block runs over whole rows (training, prompts) or over the newest token of each beam,
which attends to its request's keys and values, held once and shared by all beams, and
to the few tokens of its own.  Kernels are matrices and heads are split by reshape,
which shards and runs faster on CPU than kernels of rank three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
from sid_jax.typing import Array, Bool, Float, Int, typed

Remat = Literal["none", "dots", "full"]
"""What a block computes anew for its gradient: nothing; all but products with its
matrices; or all, so that it keeps its inputs alone (Chen et al. 2016)."""

_KEPT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a transformer.

    Attributes:
      width: embedding width D.
      depth: number of blocks.
      num_heads: attention heads H; D must be a multiple, D / H even.
      mlp_width: hidden width F of SwiGLU.
      dropout: rate on the output of each half block while training.
      remat: what a block computes anew for its gradient, to save memory.
    """

    width: int = 128
    depth: int = 4
    num_heads: int = 4
    mlp_width: int = 256
    dropout: float = 0.1
    remat: Remat = "none"

    def __post_init__(self):
        for name in ("width", "depth", "num_heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be positive: {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1): {self.dropout}")
        if self.width % (2 * self.num_heads):
            raise InputError(
                f"width {self.width} must be a multiple of twice num_heads "
                f"({self.num_heads})"
            )


@struct.dataclass
class Memory:
    """Keys and values of one block."""

    keys: Float[Array, "B T H Dh"]
    values: Float[Array, "B T H Dh"]


class Block(nn.Module):
    """Attention and MLP, each on a normed input and added to it."""

    config: TransformerConfig

    def setup(self):
        config = self.config
        width = config.width
        self.attention_norm = RMSNorm()
        self.mlp_norm = RMSNorm()
        self.query = dense(width, ("embed", "heads"))
        self.key = dense(width, ("embed", "heads"))
        self.value = dense(width, ("embed", "heads"))
        self.out = dense(width, ("heads", "embed"))
        self.gate = dense(config.mlp_width, ("embed", "mlp"))
        self.up = dense(config.mlp_width, ("embed", "mlp"))
        self.down = dense(width, ("mlp", "embed"))
        self.dropout = nn.Dropout(config.dropout)

    @typed
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T T"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Memory]:
        """Every position of every row; `mask[b, t, s]` lets t see s."""
        run = keep_less(Block._run, self.config.remat) if train else Block._run
        return run(self, x, positions, mask, train)

    def _run(
        self, x: Array, positions: Array, mask: Array, train: bool
    ) -> tuple[Array, Memory]:
        query, memory = self._project(x, positions)
        # Heads come before positions: the two products are plain batched matmuls.
        query, keys, values = (
            a.swapaxes(1, 2) for a in (query, memory.keys, memory.values)
        )
        scores = query @ keys.swapaxes(2, 3)
        weights = masked_softmax(scores, mask[:, None])
        mixed = (weights @ values).swapaxes(1, 2)
        return self._finish(x, mixed, train), memory

    @typed
    def step(
        self,
        x: Float[Array, "B M D"],
        positions: Int[Array, "B M"],
        context: Memory,
        context_mask: Bool[Array, "B T"],
        own: tuple[Float[Array, "B M s H Dh"], Float[Array, "B M s H Dh"]],
    ) -> tuple[
        Float[Array, "B M D"],
        tuple[Float[Array, "B M _ H Dh"], Float[Array, "B M _ H Dh"]],
    ]:
        """One new token of every beam; returns its own keys and values, grown by it."""
        query, new = self._project(x, positions)
        keys = jnp.concatenate([own[0], new.keys[:, :, None]], axis=2)
        values = jnp.concatenate([own[1], new.values[:, :, None]], axis=2)
        shared = jnp.einsum("bmhd,bthd->bhmt", query, context.keys)
        private = jnp.einsum("bmhd,bmshd->bhms", query, keys)
        num_shared = shared.shape[-1]
        mask = jnp.concatenate(
            [context_mask, jnp.ones((len(x), keys.shape[2]), bool)], axis=1
        )
        weights = masked_softmax(
            jnp.concatenate([shared, private], axis=-1), mask[:, None, None]
        )
        mixed = jnp.einsum("bhmt,bthd->bmhd", weights[..., :num_shared], context.values)
        mixed += jnp.einsum("bhms,bmshd->bmhd", weights[..., num_shared:], values)
        return self._finish(x, mixed, train=False), (keys, values)

    def _project(self, x: Array, positions: Array) -> tuple[Array, Memory]:
        normed = self.attention_norm(x)
        split = (*x.shape[:2], self.config.num_heads, -1)
        query, key, value = (
            layer(normed).reshape(split) for layer in (self.query, self.key, self.value)
        )
        scale = query.shape[-1] ** -0.5
        return rotate(query, positions) * scale, Memory(rotate(key, positions), value)

    def _finish(self, x: Array, mixed: Array, train: bool) -> Array:
        x = x + self.dropout(self.out(mixed.reshape(x.shape)), deterministic=not train)
        normed = self.mlp_norm(x)
        hidden = jax.nn.silu(self.gate(normed)) * self.up(normed)
        hidden = with_logical_constraint(hidden, ("batch", None, "mlp"))
        x = x + self.dropout(self.down(hidden), deterministic=not train)
        return with_logical_constraint(x, ("batch", None, "embed"))


class ScannedBlocks(nn.Module):
    """Blocks over whole rows, as a loop over one that is compiled once.

    Parameters of all lie in one array, whose first axis, `layers`, is the block's.
    """

    config: TransformerConfig

    @nn.compact
    @typed
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T T"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], None]:
        """As a `Block`, but that it keeps no memory."""

        def run(block: Block, x: Array, positions: Array, mask: Array):
            return block(x, positions, mask, train=train)[0], None

        same: Any = nn.broadcast
        scan: Any = nn.scan(
            run,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=same,
            length=self.config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(Block(self.config, name="block"), x, positions, mask)


class RMSNorm(nn.Module):
    """x / rms(x) * scale in float32 (Zhang and Sennrich 2019)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        scale = self.param(
            "scale",
            partition(nn.initializers.ones_init(), ("embed",)),
            (x.shape[-1],),
        )
        wide = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
        return (wide * rms * scale).astype(x.dtype)


@typed
def rotate(
    x: Float[Array, "B T H Dh"], positions: Int[Array, "B T"]
) -> Float[Array, "B T H Dh"]:
    """Rotary position embedding (Su et al. 2021), base 10,000, halves paired."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / half)
    angles = positions[..., None, None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = x[..., :half], x[..., half:]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def keep_less(run: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A block's method that keeps for its gradient what `remat` says.

    Args:
      run: of the module, arrays, and at last whether it trains.
      remat: see `Remat`.
    """
    if remat == "none":
        return run

    def again(block: nn.Module, *arrays: Array) -> Any:
        return run(block, *arrays, True)

    kept: Any = nn.remat(again, policy=_KEPT[remat])
    return lambda block, *arguments: kept(block, *arguments[:-1])


def partition(init: Callable, names: tuple[str | None, ...]) -> Callable[..., Any]:
    """An initializer whose parameter carries the logical names of its axes.

    The annotation is the point: a parameter made with it is an array to a type checker,
    not the box that Linen takes off.
    """
    return nn.with_logical_partitioning(init, names)


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Softmax over the last axis in float32, over what the mask lets through."""
    wide = jnp.where(mask, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(wide).astype(scores.dtype)


def dense(
    width: int, names: tuple[str | None, str | None], name: str | None = None
) -> nn.Dense:
    """A matrix, no bias; `names` are the logical axes of its kernel."""
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    return nn.Dense(
        width, use_bias=False, kernel_init=partition(init, names), name=name
    )
