"""BERT's encoder (Devlin et al. 2019): post-norm blocks, learned positions, erf GELU.

    x <- norm(x + attention(x)),  x <- norm(x + down(gelu(up(x))))

Kernels are matrices and heads are split by reshape, as in `transformer.py`.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
from sid_jax.models.transformer import partition
from sid_jax.typing import Array, Bool, Float, Int, typed


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes, by the names that a model's `config.json` has.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: width D.
      num_hidden_layers: blocks.
      num_attention_heads: heads H; D must be a multiple.
      intermediate_size: MLP width F.
      max_position_embeddings: longest text in tokens.
      type_vocab_size: kinds of segment; a text alone is of the first.
      layer_norm_eps: added to the variance.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for name, value in vars(self).items():
            whole = name == "layer_norm_eps" or isinstance(value, int)
            if isinstance(value, bool) or not whole or not value > 0:
                raise InputError(f"{name} must be a positive number: {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )


class Bert(nn.Module):
    """Tokens -> one vector a token.

    Attributes:
      config: sizes.
      dtype: of the matrix products; norms and softmax are in float32 in any case.
    """

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    @typed
    def __call__(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B T D"]:
        """The last block's outputs; of the T tokens of a row the first `lengths` count.

        What follows them has no influence on theirs, and its own outputs mean nothing.
        """
        config = self.config
        word = self._embedding("word", "vocab", config.vocab_size)
        position = self._embedding("position", None, config.max_position_embeddings)
        segment = self._embedding("segment", None, config.type_vocab_size)
        x = jnp.take(word, tokens, axis=0) + position[: tokens.shape[1]] + segment[0]
        x = _norm(config, "norm")(x).astype(self.dtype)
        mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
        for place in range(config.num_hidden_layers):
            x = with_logical_constraint(x, ("batch", None, "embed"))
            x = BertBlock(config, self.dtype, name=f"block_{place}")(x, mask)
        return x

    def _embedding(self, name: str, axis: str | None, size: int) -> Array:
        init = partition(nn.initializers.normal(0.02), (axis, "embed"))
        return self.param(name, init, (size, self.config.hidden_size))


class BertBlock(nn.Module):
    """Attention and MLP, each added to its input and then normed."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    @typed
    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        config = self.config
        width, heads = config.hidden_size, config.num_attention_heads
        split = (*x.shape[:2], heads, width // heads)
        query, key, value = (
            self._dense(name, width, ("embed", "heads"))(x).reshape(split)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bthd,bshd->bhts", query, key).astype(jnp.float32)
        scores = scores * (width // heads) ** -0.5
        # Not -inf: a row without tokens (a batch's filler) would be NaN.
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, value).reshape(x.shape)
        mixed = self._dense("out", width, ("heads", "embed"))(mixed)
        x = _norm(config, "attention_norm")(x + mixed).astype(self.dtype)
        hidden = self._dense("up", config.intermediate_size, ("embed", "mlp"))(x)
        hidden = nn.gelu(hidden, approximate=False)
        hidden = self._dense("down", width, ("mlp", "embed"))(hidden)
        return _norm(config, "mlp_norm")(x + hidden).astype(self.dtype)

    def _dense(self, name: str, width: int, names: tuple[str, str]) -> nn.Dense:
        return nn.Dense(
            width,
            dtype=self.dtype,
            kernel_init=partition(nn.initializers.normal(0.02), names),
            bias_init=partition(nn.initializers.zeros_init(), names[1:]),
            name=name,
        )


def _norm(config: BertConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=config.layer_norm_eps,
        dtype=jnp.float32,
        # A variance as E[x^2] - E[x]^2 loses digits in float32.
        use_fast_variance=False,
        scale_init=partition(nn.initializers.ones_init(), ("embed",)),
        bias_init=partition(nn.initializers.zeros_init(), ("embed",)),
        name=name,
    )
