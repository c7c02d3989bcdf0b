"""What is computed and scored: training a tokenizer, training a retriever."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sid_jax.errors import InputError
from sid_jax.losses import code_log_prob, commitment_loss, reconstruction_loss
from sid_jax.models.codebooks import Codebooks, make_codebooks, restart, update
from sid_jax.models.decoder import DecoderConfig, SidDecoder
from sid_jax.models.kmeans import fit_codebooks
from sid_jax.models.quantizer import count_usage, quantize
from sid_jax.models.repeat import repeat_log_prob
from sid_jax.models.rqvae import (
    ResidualKMeansConfig,
    RQVAEConfig,
    TokenizerConfig,
    build_tokenizer,
)
from sid_jax.sids.vocab import PAD, Vocab
from sid_jax.train.step import Aux
from sid_jax.typing import Array, Float, Int, Key, PyTree, typed


@dataclass(frozen=True, kw_only=True)
class TokenizerTaskConfig:
    """How a tokenizer learns.

    Attributes:
      commitment: weight beta of the commitment loss.
      decay: of the codebooks' moving average.
      start_rows: item vectors that the k-means start reads, at most.
      start_iterations: its Lloyd steps, a level.
      restart_below: a codeword whose moving count of rows a batch is lower is dead;
        never more than a tenth of what even use would give, B / 10 K.
      restart_steps: dead codewords restart during so many first steps; the codes then
        settle.
    """

    commitment: float = 0.25
    decay: float = 0.99
    start_rows: int = 20_480
    start_iterations: int = 20
    restart_below: float = 0.1
    restart_steps: int = 1_000_000

    def __post_init__(self):
        least = {
            "commitment": 0,
            "start_rows": 1,
            "start_iterations": 1,
            "restart_below": 0,
            "restart_steps": 0,
        }
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise InputError(
                    f"task.{name}={getattr(self, name)} must be at least {value}"
                )
        if not 0 <= self.decay < 1:
            raise InputError(f"task.decay={self.decay} must be in [0, 1)")


@dataclass(frozen=True)
class TokenizerTask:
    """Reconstruct item vectors through their codes.

    A batch is `{"vectors": [B, D]}`.  The codebooks live in the state.

    L = ||x - x^||^2 + beta sum_l ||r_{l-1} - sg[e_l]||^2, summed over features (Lee et
    al. 2022); the codebooks follow by moving average, so there is no codebook loss.
    """

    config: TokenizerTaskConfig
    model: TokenizerConfig

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        module = build_tokenizer(self.model, batch["vectors"].shape[-1])
        width = self._latent(batch)
        sizes = self.model.codebook_sizes
        codebooks = make_codebooks([jnp.zeros((size, width)) for size in sizes])
        shape = batch["vectors"].shape
        variables = module.init(key, jnp.zeros(shape), codebooks)
        return variables.get("params", {}), codebooks

    def prepare(
        self,
        params: PyTree,
        state: Codebooks,
        batches: Iterator[PyTree],
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        """Codebooks from residual k-means on the first batches' latents."""
        rows, gathered = 0, []
        while rows < self.config.start_rows:
            gathered.append(self.encode(params, next(batches)["vectors"]))
            rows += len(gathered[-1])
        vectors = jnp.concatenate(gathered)[: self.config.start_rows]
        if len(vectors) < max(state.sizes):
            raise InputError(
                f"start_rows={self.config.start_rows} is less than the codes of the"
                f" largest level ({max(state.sizes)}); ten rows a code make a good"
                " start"
            )
        iterations = self.config.start_iterations
        return params, fit_codebooks(key, vectors, state.sizes, iterations=iterations)

    def loss(
        self, params: PyTree, state: Codebooks, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        vectors = batch["vectors"]
        module = build_tokenizer(self.model, vectors.shape[-1])
        output = _apply(module, params, vectors, state)
        rows = jnp.float32(len(vectors))
        reconstruction = reconstruction_loss(vectors, output.reconstruction)
        commitment = commitment_loss(output.latent, output.quantized.codewords)
        usage = count_usage(output.quantized, state)
        metrics = {
            "reconstruction": (reconstruction.sum(), rows),
            "commitment": (commitment.sum(), rows),
        }
        for level, size in enumerate(state.sizes):
            used = (usage.counts[level] > 0).sum()
            metrics[f"batch_usage_{level + 1}"] = (used, jnp.float32(size))
        stats = (usage, jax.lax.stop_gradient(output.quantized.residuals))
        loss = reconstruction.mean() + self.config.commitment * commitment.mean()
        return loss, (metrics, stats)

    def fold(
        self,
        params: PyTree,
        state: Codebooks,
        opt_state: PyTree,
        stats: PyTree,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        if isinstance(self.model, ResidualKMeansConfig):
            return params, state, opt_state  # the k-means start is all there is
        usage, residuals = stats
        moved = update(state, usage, decay=self.config.decay)
        # In a batch of few rows a code: a tenth of what an even use would give.
        even = len(residuals) / max(state.sizes)
        below = min(self.config.restart_below, 0.1 * even)
        fresh = restart(moved, residuals, key, below=below)
        young = moved.updates <= self.config.restart_steps
        chosen = jax.tree.map(lambda a, b: jnp.where(young, a, b), fresh, moved)
        return params, chosen, opt_state

    @typed
    def encode(
        self, params: PyTree, vectors: Float[Array, "B D_in"]
    ) -> Float[Array, "B D"]:
        """Latents of item vectors."""
        module = build_tokenizer(self.model, vectors.shape[-1])
        return _apply(module, params, vectors, method="encode")

    @typed
    def tokenize(
        self, params: PyTree, state: Codebooks, vectors: Float[Array, "B D"]
    ) -> tuple[Int[Array, "B L"], Float[Array, " B"], Float[Array, "B L D"]]:
        """Codes, squared distances left in the latent, reconstructions by depth.

        Reconstruction l decodes the first l + 1 codewords.
        """
        module = build_tokenizer(self.model, vectors.shape[-1])
        quantized = quantize(self.encode(params, vectors), state)
        prefixes = jnp.cumsum(quantized.codewords, axis=1)
        decoded = [
            _apply(module, params, prefixes[:, level], method="decode")
            for level in range(len(state.sizes))
        ]
        return quantized.codes, quantized.distances, jnp.stack(decoded, axis=1)

    def _latent(self, batch: PyTree) -> int:
        if isinstance(self.model, RQVAEConfig):
            return self.model.latent
        return batch["vectors"].shape[-1]


@dataclass(frozen=True)
class RetrieverTask:
    """Spell every product of a basket from retailer, history and the basket so far.

    A batch is `Prompts`. The loss is the mean over basket items of their SIDs' negative
    log-likelihood.
    """

    model: DecoderConfig
    vocab: Vocab

    @property
    def module(self) -> SidDecoder:
        return SidDecoder(self.model, self.vocab)

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        prompts = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), batch)
        return self.module.init(key, prompts)["params"], {}

    def prepare(
        self,
        params: PyTree,
        state: PyTree,
        batches: Iterator[PyTree],
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        return params, state

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        rngs = {"dropout": key}
        outputs = _apply(self.module, params, batch, train=True, rngs=rngs)
        valid = batch.basket[:, :, 0] != PAD
        count = valid.sum().astype(jnp.float32)
        metrics = {}
        log_prob = jnp.zeros(valid.shape)
        for level, offset in enumerate(self.vocab.level_offsets):
            codes = jnp.where(valid, batch.basket[:, :, level] - offset, 0)
            gain = code_log_prob(outputs.logits[level], codes)
            metrics[f"loss_{level + 1}"] = (-(gain * valid).sum(), count)
            log_prob += gain
        if outputs.repeat is not None:
            log_prob = repeat_log_prob(
                outputs.repeat, batch.history, batch.basket, log_prob
            )
            gate = jnp.exp(outputs.repeat.repeat)
            metrics["repeat"] = ((gate * valid).sum(), count)
        loss = -(log_prob * valid).sum() / jnp.maximum(count, 1)
        return loss, (metrics, {})

    def fold(
        self,
        params: PyTree,
        state: PyTree,
        opt_state: PyTree,
        stats: PyTree,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        return params, state, opt_state


def _apply(module: nn.Module, params: PyTree, *args: Any, **kwargs: Any) -> Any:
    """`module.apply`; its declared type allows for mutated state, of which none is."""
    return module.apply({"params": params}, *args, **kwargs)
