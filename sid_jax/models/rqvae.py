"""The tokenizers: RQ-VAE (Lee et al. 2022; Rajput et al. 2023) and residual k-means.

Both are Linen modules with the methods `encode` (item vector -> latent), `decode` and
`__call__` (item vector and codebooks -> codes and reconstruction).  Codebooks are an
argument: a moving average owns them, so they are no parameters of the module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.linen.spmd import with_logical_constraint

from sid_jax.errors import InputError
from sid_jax.models.codebooks import Codebooks
from sid_jax.models.quantizer import (
    Quantized,
    pass_straight,
    quantize,
)
from sid_jax.models.sticky import stick
from sid_jax.models.transformer import partition
from sid_jax.typing import Array, Float, Int, PyTree, typed

# Beside each: residual k-means on Amazon Beauty (experiments/README.md).
GROWING = (128, 256, 512, 1024)
"""1,920 codewords: rho half .65, AMI c1~d1 .42, unique .92, FVU .27. Similarity and
uniqueness in balance."""

TREE = (8, 64, 256, 1024)
"""1,352 codewords: rho half .75, AMI c1~d1 .60, unique .79, FVU .33. A first level as
coarse as top categories: hierarchy first."""

DEEP = (6, 16, 64, 256, 512, 1024)
"""1,878 codewords: rho half .76, AMI c1~d1 .61, unique .93, FVU .30 (fitted on four
fifths of the items). The hierarchy of TREE, and SIDs that are unique."""

UNIFORM = (256, 256, 256, 256)
"""1,024 codewords: rho half .61, AMI c1~d1 .38, unique .94, FVU .32. TIGER's and NEO's
shape."""

SHRINKING = (1024, 512, 256, 128)
"""1,920 codewords: rho half .44, AMI c1~d1 .30, unique .98, FVU .27. PLUM's shape
(arXiv 2510.07784): uniqueness and reconstruction."""


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig:
    """RQ-VAE: an MLP encoder and its mirror image around a residual quantizer.

    Attributes:
      hidden: widths of the encoder's hidden layers.
      latent: width of the quantized latent.
      codebook_sizes: codes a level, K_1 .. K_L; any sizes, growing or shrinking.
      principal: add the MLPs to linear maps, of which the encoder's starts as the
        item vectors' first principal axes and the decoder's as their transpose, while
        the MLPs' last layers start at zero (ours). Training then begins at residual
        k-means on principal components, and the latent is at most as wide as the item
        vectors.
    """

    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    codebook_sizes: tuple[int, ...] = UNIFORM
    principal: bool = False

    def __post_init__(self):
        if min(self.latent, *self.hidden, 1) < 1:
            raise InputError(
                f"model.hidden={self.hidden} and model.latent={self.latent} must be"
                " positive widths"
            )
        _check_sizes(self.codebook_sizes)


@dataclass(frozen=True, kw_only=True)
class ResidualKMeansConfig:
    """Residual k-means on the item vectors themselves: no network, nothing to descend.

    Attributes:
      codebook_sizes: codes a level, K_1 .. K_L; any sizes, growing or shrinking.
    """

    codebook_sizes: tuple[int, ...] = UNIFORM

    def __post_init__(self):
        _check_sizes(self.codebook_sizes)


TokenizerConfig = RQVAEConfig | ResidualKMeansConfig


@struct.dataclass
class TokenizerOutput:
    """Latents, their quantization and the reconstruction of the item vectors."""

    latent: Float[Array, "B D"]
    quantized: Quantized
    reconstruction: Float[Array, "B D_in"]


class RQVAE(nn.Module):
    """Encoder, residual quantizer, decoder; gradients pass the quantizer.

    Attributes:
      config: widths and codebook sizes.
      features: width of the item vectors.
    """

    config: RQVAEConfig
    features: int

    def setup(self):
        hidden, latent = self.config.hidden, self.config.latent
        kind = PrincipalMLP if self.config.principal else MLP
        self.encoder = kind((*hidden, latent))
        self.decoder = kind((*reversed(hidden), self.features))

    @typed
    def encode(self, vectors: Float[Array, "B D_in"]) -> Float[Array, "B D"]:
        return self.encoder(vectors).astype(jnp.float32)

    @typed
    def decode(self, latents: Float[Array, "B D"]) -> Float[Array, "B D_in"]:
        return self.decoder(latents).astype(jnp.float32)

    @typed
    def __call__(
        self,
        vectors: Float[Array, "B D_in"],
        codebooks: Codebooks,
        cells: Int[Array, " B"] | None = None,
        depth: Int[Array, " B"] | None = None,
        *,
        even: float = 0.0,
        old: Int[Array, "B L"] | None = None,
        slack: float = 0.0,
    ) -> TokenizerOutput:
        """Codes and reconstruction of item vectors.

        Args:
          vectors: item vectors.
          codebooks: the codebooks.
          cells: of the items, where the codebooks have blocks.
          depth: levels that each item is reconstructed from, 1 to L; all if None.
          even: `quantize`'s.
          old: SIDs of an earlier version, -1 for items without one, to keep as far as
            `sticky.keep_codes` lets them.
          slack: of `keep_codes`.
        """
        latent = self.encode(vectors)
        quantized = quantize(latent, codebooks, cells, even=even)
        if old is not None:
            quantized = stick(quantized, old, latent, codebooks, slack, cells)
        total = quantized.prefix(depth)
        decoded = self.decode(pass_straight(latent, total))
        return TokenizerOutput(latent, quantized, decoded)


class ResidualKMeans(nn.Module):
    """The tokenizer without a network: latents are the item vectors."""

    config: ResidualKMeansConfig
    features: int

    @typed
    def encode(self, vectors: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return vectors

    @typed
    def decode(self, latents: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return latents

    @typed
    def __call__(
        self,
        vectors: Float[Array, "B D"],
        codebooks: Codebooks,
        cells: Int[Array, " B"] | None = None,
        depth: Int[Array, " B"] | None = None,
        *,
        even: float = 0.0,
        old: Int[Array, "B L"] | None = None,
        slack: float = 0.0,
    ) -> TokenizerOutput:
        """As `RQVAE.__call__`."""
        quantized = quantize(vectors, codebooks, cells, even=even)
        if old is not None:
            quantized = stick(quantized, old, vectors, codebooks, slack, cells)
        return TokenizerOutput(vectors, quantized, quantized.prefix(depth))


def start_at_principal_axes(params: PyTree, vectors: Float[Array, "N D"]) -> PyTree:
    """The parameters of a principal RQ-VAE with its linear maps at their start.

    Args:
      params: of an `RQVAE` whose config is `principal`.
      vectors: a sample of item vectors, centred near zero.

    Raises:
      InputError: a latent wider than the vectors, or than their number.
    """
    width = params["encoder"]["linear"]["kernel"].shape[1]
    if width > min(vectors.shape):
        raise InputError(
            f"model.latent={width} is more than the principal axes of {len(vectors)}"
            f" item vectors of width {vectors.shape[1]}; set a narrower latent, or"
            " model.principal to false"
        )
    # Axes of the covariance: two orders of magnitude less work than of the vectors.
    moment = jnp.matmul(vectors.T, vectors, precision=jax.lax.Precision.HIGHEST)
    _, axes = jnp.linalg.eigh(moment)
    axes = axes[:, ::-1][:, :width]
    started = jax.tree.map(lambda leaf: leaf, params)
    started["encoder"]["linear"]["kernel"] = axes
    started["decoder"]["linear"]["kernel"] = axes.T
    return started


def build_tokenizer(config: TokenizerConfig, features: int) -> RQVAE | ResidualKMeans:
    """The module of a configuration, for item vectors of width `features`."""
    if isinstance(config, RQVAEConfig):
        return RQVAE(config, features)
    return ResidualKMeans(config, features)


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
      widths: of the layers.
      last: initializer of the last layer's kernel.
    """

    widths: Sequence[int]
    last: Any = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B _"]:
        # Inner axes alternate, so that a tensor-parallel mesh splits every other one;
        # the outer ones (item features, latent) are of any size and stay whole.
        inner = [("mlp", "embed")[i % 2] for i in range(len(self.widths) - 1)]
        names = [None, *inner, None]
        for i, width in enumerate(self.widths):
            is_last = i + 1 == len(self.widths)
            start = self.last if is_last else nn.initializers.he_normal()
            x = Linear(width, start, (names[i], names[i + 1]), name=f"Dense_{i}")(x)
            if not is_last:
                x = jax.nn.relu(x)
                x = with_logical_constraint(x, ("batch", names[i + 1]))
        return x


class Linear(nn.Module):
    """A matrix and a bias; it computes in the type of its parameters.

    Attributes:
      width: of the output.
      start: initializer of the kernel.
      names: logical axes of the kernel.
      biased: whether there is a bias.
    """

    width: int
    start: Any
    names: tuple[str | None, str | None] = (None, None)
    biased: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B _"]:
        shape = x.shape[-1], self.width
        kernel = self.param("kernel", partition(self.start, self.names), shape)
        x = x.astype(kernel.dtype) @ kernel
        if self.biased:
            start = partition(nn.initializers.zeros_init(), self.names[1:])
            x = x + self.param("bias", start, shape[1:])
        return x


class PrincipalMLP(nn.Module):
    """A linear map plus an MLP that starts at zero."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B _"]:
        start = nn.initializers.orthogonal()
        linear = Linear(self.widths[-1], start, biased=False, name="linear")
        return linear(x) + MLP(self.widths, nn.initializers.zeros_init(), name="mlp")(x)


def _check_sizes(codebook_sizes: tuple[int, ...]) -> None:
    if not codebook_sizes or min(codebook_sizes) < 1:
        raise InputError(
            f"model.codebook_sizes={codebook_sizes} must be positive numbers of codes,"
            " one a level"
        )
