"""Training a tokenizer: what is computed and scored.

    L = ||x - x^||^2 + beta sum_l ||r_{l-1} - sg[e_l]||^2
        + lambda L_taxonomy + mu L_co-occurrence + alpha ||z - z_before||^2

summed over features and averaged over items (Lee et al. 2022 for the first two terms;
`losses.py` for the others and their sources). Codebooks follow by moving average, so
there is no codebook loss, unless they are asked to learn by gradient.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sid_jax.errors import InputError
from sid_jax.losses import (
    commitment_loss,
    cooccurrence_loss,
    graded_contrastive_loss,
    level_weights,
    reconstruction_loss,
    straight_through_prefixes,
    taxonomy_grades,
)
from sid_jax.models.codebooks import (
    Codebooks,
    make_codebooks,
    restart,
    update,
)
from sid_jax.models.kmeans import fit_codebooks
from sid_jax.models.quantizer import beam_quantize, count_usage, quantize
from sid_jax.models.rqvae import (
    ResidualKMeansConfig,
    RQVAEConfig,
    TokenizerConfig,
    build_tokenizer,
    start_at_principal_axes,
)
from sid_jax.models.sticky import stick
from sid_jax.train.sharding import replicate
from sid_jax.train.step import Aux, Stats, lower_floats
from sid_jax.train.tokenizer_config import TokenizerTaskConfig
from sid_jax.typing import Array, Float, Int, Key, PyTree, typed

_CODEBOOKS = "codebooks"  # among the parameters, where they learn by gradient


@struct.dataclass
class TokenizerStart:
    """A trained tokenizer to go on from.

    Attributes:
      params: its parameters.
      codebooks: its codebooks.
      slack: how much worse an item's old SID may be than the best and yet stay.
    """

    params: PyTree
    codebooks: Codebooks
    slack: float = struct.field(pytree_node=False, default=0.0)


@dataclass(frozen=True)
class TokenizerTask:
    """Reconstruct item vectors through their codes, near their relatives' codes.

    A batch is a dictionary of `vectors` [B, D] and, so far as they are used,
      cells: int [B], where first codes come in blocks;
      anchor: [B, D_latent], the latents of the tokenizer that training started from;
      old: int [B, L], SIDs that it gave, to be kept as far as `slack` lets; else -1;
      taxonomy: `paths` int [b, depth] (`taxonomy_grades`), and `vectors` [b, D] and
        `cells` of these items; without vectors they are those of the batch itself;
      pairs: `vectors` [2n, D], `cells`, `log_prob` [2n] and `excluded` [2n, 2n]
        (`cooccurrence_loss`).
    Reconstruction, codebook statistics and dead codewords are those of `vectors` alone:
    the other streams draw items by neighbourhood. The codebooks live in the state.

    Attributes:
      config: how it learns.
      model: what learns.
      blocks: first codes of each cell; empty for no cells.
      start: where training starts; k-means if None.
    """

    config: TokenizerTaskConfig
    model: TokenizerConfig
    blocks: tuple[int, ...] = ()
    start: TokenizerStart | None = None

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        shape = batch["vectors"].shape
        module = build_tokenizer(self.model, shape[-1])
        width = shape[-1]
        if isinstance(self.model, RQVAEConfig):
            width = self.model.latent
        sizes = self.model.codebook_sizes
        levels = [jnp.zeros((size, width)) for size in sizes]
        codebooks = make_codebooks(levels, self.blocks)
        cells = jnp.zeros(shape[0], jnp.int32) if self.blocks else None
        variables: Any = module.init(key, jnp.zeros(shape), codebooks, cells)
        params = dict(variables.get("params", {}))
        codebooks = _name_axes(codebooks)
        if self._learns_codebooks:
            params[_CODEBOOKS] = codebooks.vectors
        return params, codebooks

    def prepare(
        self,
        params: PyTree,
        state: Codebooks,
        batches: Iterator[PyTree],
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        """Codebooks from residual k-means on the first batches' latents.

        Raises:
          InputError: too few item vectors for the codes or the latent, or a start of
            another shape.
        """
        if self.start is not None:
            return self._go_on(params, state)
        rows, gathered = 0, []
        while rows < self.config.start_rows:
            gathered.append(next(batches))
            rows += len(gathered[-1]["vectors"])

        def whole(parts: Iterable[Array]) -> Array:
            """On every device, so that any mesh starts with the same codebooks."""
            rows = jnp.concatenate([replicate(part) for part in parts])
            return rows[: self.config.start_rows]

        vectors = whole(batch["vectors"] for batch in gathered)
        if len(vectors) < max(state.sizes):
            raise InputError(
                f"start_rows={self.config.start_rows} is less than the codes of the"
                f" largest level ({max(state.sizes)}); ten rows a code make a good"
                " start"
            )
        if isinstance(self.model, RQVAEConfig) and self.model.principal:
            params = start_at_principal_axes(params, vectors)
        encode = jax.jit(self.encode)
        cells = whole(batch["cells"] for batch in gathered) if self.blocks else None
        codebooks = fit_codebooks(
            key,
            whole(encode(params, batch["vectors"]) for batch in gathered),
            state.sizes,
            iterations=self.config.start_iterations,
            blocks=self.blocks,
            cells=None if cells is None else np.asarray(cells),
        )
        if self._learns_codebooks:
            params = params | {_CODEBOOKS: codebooks.vectors}
        return params, codebooks

    def loss(
        self, params: PyTree, state: Codebooks, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        vectors, cells = batch["vectors"], batch.get("cells")
        params = lower_floats(params, self.config.dtype, but=_CODEBOOKS)
        codebooks = self._current(params, state)
        rows, num_levels = jnp.float32(len(vectors)), len(state.sizes)
        depth = None
        if self.config.progressive:
            depth = jax.random.randint(key, (len(vectors),), 1, num_levels + 1)
        output = self._apply(
            params,
            vectors,
            codebooks,
            cells,
            depth,
            even=self.config.even,
            old=batch.get("old"),
            slack=self.start.slack if self.start else 0.0,
        )
        quantized = output.quantized
        reconstruction = reconstruction_loss(vectors, output.reconstruction)
        commitment = commitment_loss(output.latent, quantized.codewords)
        metrics = {
            "reconstruction": (reconstruction.sum(), rows),
            "commitment": (commitment.sum(), rows),
        }
        loss = reconstruction.mean() + self.config.commitment * commitment.mean()
        if self._learns_codebooks:
            left = jax.lax.stop_gradient(quantized.residuals) - quantized.codewords
            loss += jnp.sum(left**2, axis=(1, 2)).mean()
        if self.config.anchor:
            moved = reconstruction_loss(batch["anchor"], output.latent)
            metrics["anchor"] = (moved.sum(), rows)
            loss += self.config.anchor * moved.mean()
        for name in ("taxonomy", "pairs"):
            if name in batch:
                term, found = self._contrast(
                    name, params, codebooks, batch[name], output
                )
                loss, metrics = loss + term, metrics | found
        usage = count_usage(quantized, state)
        for level, size in enumerate(state.sizes):
            used = (usage.counts[level] > 0).sum()
            metrics[f"batch_usage_{level + 1}"] = (used, jnp.float32(size))
        stats = Stats(sums=usage, rows=(quantized.residuals, cells))
        return loss, (metrics, jax.lax.stop_gradient(stats))

    def weight(self, batch: PyTree) -> Float[Array, ""]:
        return jnp.float32(len(batch["vectors"]))

    def fold(
        self,
        params: PyTree,
        state: Codebooks,
        opt_state: PyTree,
        stats: Stats,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        if isinstance(self.model, ResidualKMeansConfig):
            return params, state, opt_state  # the k-means start is all there is
        residuals, cells = stats.rows
        moved = update(state, stats.sums, decay=self.config.decay)
        if self._learns_codebooks:
            # The average only counts what is used; the optimizer moves the codewords.
            moved = replace(moved, vectors=params[_CODEBOOKS])
        # In a batch of few rows a code: a tenth of what an even use would give.
        even = len(residuals) / max(state.sizes)
        below = min(self.config.restart_below, 0.1 * even)
        fresh = restart(moved, residuals, key, cells, below=below)
        young = moved.updates <= self.config.restart_steps
        chosen = jax.tree.map(lambda a, b: jnp.where(young, a, b), fresh, moved)
        still = jnp.arange(len(state.sizes)) < self.config.frozen
        vectors = jnp.where(still[:, None, None], state.vectors, chosen.vectors)
        chosen = replace(chosen, vectors=vectors)
        if self._learns_codebooks:
            params = params | {_CODEBOOKS: vectors}
        return params, chosen, opt_state

    @typed
    def encode(
        self, params: PyTree, vectors: Float[Array, "B D_in"]
    ) -> Float[Array, "B D"]:
        """Latents of item vectors."""
        return self._apply(params, vectors, method="encode")

    @typed
    def tokenize(
        self,
        params: PyTree,
        state: Codebooks,
        vectors: Float[Array, "B D"],
        cells: Int[Array, " B"] | None = None,
        old: Int[Array, "B L"] | None = None,
        slack: float | Float[Array, ""] = 0.0,
    ) -> tuple[Int[Array, "B L"], Float[Array, " B"], Float[Array, "B L D"]]:
        """Codes, squared distances left in the latent, reconstructions by depth.

        Reconstruction l decodes the first l + 1 codewords. Rows that have an `old` SID
        (-1 where not) keep as much of it as `sticky.keep_codes` lets them.
        """
        latent = self.encode(params, vectors)
        if self.config.beams > 1:
            beams = self.config.beams
            quantized = beam_quantize(latent, state, cells, num_beams=beams)
        else:
            quantized = quantize(latent, state, cells)
        if old is not None:
            quantized = stick(quantized, old, latent, state, slack, cells)
        prefixes = jnp.cumsum(quantized.codewords, axis=1)
        decoded = [
            self._apply(params, prefixes[:, level], method="decode")
            for level in range(len(state.sizes))
        ]
        return quantized.codes, quantized.distances, jnp.stack(decoded, axis=1)

    @property
    def _learns_codebooks(self) -> bool:
        return self.config.codebooks == "gradient" and isinstance(
            self.model, RQVAEConfig
        )

    def _current(self, params: PyTree, state: Codebooks) -> Codebooks:
        if self._learns_codebooks:
            return replace(state, vectors=params[_CODEBOOKS])
        return state

    def _contrast(
        self,
        name: str,
        params: PyTree,
        codebooks: Codebooks,
        items: PyTree,
        output: Any,
    ) -> tuple[Array, dict[str, Any]]:
        """A contrastive term, weighted, and its mean over items by level."""
        latent, quantized = output.latent, output.quantized
        if "vectors" in items:
            latent = self.encode(params, items["vectors"])
            quantized = quantize(latent, codebooks, items.get("cells"))
        prefixes = straight_through_prefixes(latent, quantized.codewords)
        if name == "taxonomy":
            term, paths = self.config.taxonomy, items["paths"]
            grades = taxonomy_grades(paths, sibling=term.sibling, cousin=term.cousin)
            values, anchors = graded_contrastive_loss(
                prefixes, grades, paths[:, 0] >= 0, temperature=term.temperature
            )
            count = anchors.sum().astype(jnp.float32)
        else:
            term, name = self.config.cooccurrence, "cooccurrence"
            values = cooccurrence_loss(
                prefixes,
                items["log_prob"],
                items["excluded"],
                temperature=term.temperature,
            )
            count = jnp.float32(len(values))
        weights = jnp.asarray(level_weights(values.shape[1], term.base))
        total = jnp.sum(values * weights)
        return term.weight * total / jnp.maximum(count, 1), {name: (total, count)}

    def _go_on(self, params: PyTree, state: Codebooks) -> tuple[PyTree, PyTree]:
        start: Any = self.start
        there = _shapes(start.params, start.codebooks)
        here = _shapes(params, state)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise InputError(
                    f"the tokenizer to start from has another shape: {name} is "
                    f"{there.get(name)} there and {here.get(name)} here; give model "
                    "and item vectors the settings of its config.json"
                )
        codebooks = replace(start.codebooks, updates=jnp.zeros((), jnp.int32))
        return start.params, codebooks

    def _apply(
        self, params: PyTree, *args: Any, method: Any = None, **kwargs: Any
    ) -> Any:
        plain = {key: value for key, value in params.items() if key != _CODEBOOKS}
        module = build_tokenizer(self.model, self._features(plain, args[0]))
        return module.apply({"params": plain}, *args, method=method, **kwargs)

    def _features(self, params: PyTree, rows: Array) -> int:
        """Width of the item vectors: that of the encoder's first kernel."""
        if isinstance(self.model, ResidualKMeansConfig):
            return rows.shape[-1]
        encoder = params["encoder"]
        if self.model.principal:
            return encoder["linear"]["kernel"].shape[0]
        return encoder["Dense_0"]["kernel"].shape[0]


def _name_axes(codebooks: Codebooks) -> Any:
    """The codebooks with the logical names of their axes, in boxes."""
    names = ("levels", "codes", None)
    boxed = {
        each: nn.LogicallyPartitioned(leaf, names[: leaf.ndim])
        for each, leaf in vars(codebooks).items()
        if each in ("vectors", "counts", "sums")
    }
    return replace(codebooks, **boxed)


def _shapes(params: PyTree, codebooks: Codebooks) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path((params, codebooks))
    named = {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
    return named | {"codebook_sizes": codebooks.sizes, "blocks": codebooks.blocks}
