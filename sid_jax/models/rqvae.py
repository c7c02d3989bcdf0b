"""The tokenizers: RQ-VAE (Lee et al. 2022; Rajput et al. 2023) and residual k-means.

Both are Linen modules with the methods `encode` (item vector -> latent), `decode` and
`__call__` (item vector and codebooks -> codes and reconstruction).  Codebooks are an
argument: a moving average owns them, so they are no parameters of the module.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
from flax import struct

from sid_jax.errors import InputError
from sid_jax.models.codebooks import Codebooks
from sid_jax.models.quantizer import Quantized, quantize
from sid_jax.typing import Array, Float, typed


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig:
    """RQ-VAE: an MLP encoder and its mirror image around a residual quantizer.

    Attributes:
      hidden: widths of the encoder's hidden layers.
      latent: width of the quantized latent.
      codebook_sizes: codes a level, K_1 .. K_L; any sizes, growing or shrinking.
    """

    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)

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

    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)

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
    """Encoder, residual quantizer, decoder; gradients pass straight through.

    Attributes:
      config: widths and codebook sizes.
      features: width of the item vectors.
    """

    config: RQVAEConfig
    features: int

    def setup(self):
        hidden = self.config.hidden
        self.encoder = MLP((*hidden, self.config.latent))
        self.decoder = MLP((*reversed(hidden), self.features))

    @typed
    def encode(self, vectors: Float[Array, "B D_in"]) -> Float[Array, "B D"]:
        return self.encoder(vectors)

    @typed
    def decode(self, latents: Float[Array, "B D"]) -> Float[Array, "B D_in"]:
        return self.decoder(latents)

    @typed
    def __call__(
        self, vectors: Float[Array, "B D_in"], codebooks: Codebooks
    ) -> TokenizerOutput:
        latent = self.encode(vectors)
        quantized = quantize(latent, codebooks)
        # Straight-through: forward the codewords, backward the identity.
        passed = latent + jax.lax.stop_gradient(quantized.total - latent)
        return TokenizerOutput(latent, quantized, self.decode(passed))


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
        self, vectors: Float[Array, "B D"], codebooks: Codebooks
    ) -> TokenizerOutput:
        quantized = quantize(vectors, codebooks)
        return TokenizerOutput(vectors, quantized, quantized.total)


def build_tokenizer(config: TokenizerConfig, features: int) -> RQVAE | ResidualKMeans:
    """The module of a configuration, for item vectors of width `features`."""
    if isinstance(config, RQVAEConfig):
        return RQVAE(config, features)
    return ResidualKMeans(config, features)


class MLP(nn.Module):
    """Dense layers with ReLU between them."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B _"]:
        # Inner axes alternate, so that a tensor-parallel mesh splits every other one;
        # the outer ones (item features, latent) are of any size and stay whole.
        inner = [("mlp", "embed")[i % 2] for i in range(len(self.widths) - 1)]
        names = [None, *inner, None]
        for i, width in enumerate(self.widths):
            kernel = nn.with_logical_partitioning(
                nn.initializers.he_normal(), (names[i], names[i + 1])
            )
            bias = nn.with_logical_partitioning(
                nn.initializers.zeros_init(), (names[i + 1],)
            )
            x = nn.Dense(width, kernel_init=kernel, bias_init=bias)(x)
            if i + 1 < len(self.widths):
                x = jax.nn.relu(x)
        return x


def _check_sizes(codebook_sizes: tuple[int, ...]) -> None:
    if not codebook_sizes or min(codebook_sizes) < 1:
        raise InputError(
            f"model.codebook_sizes={codebook_sizes} must be positive numbers of codes,"
            " one a level"
        )
