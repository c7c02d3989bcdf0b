"""Residual quantization: nearest codewords level by level.

r_0 = z;  c_l = argmin_k ||r_{l-1} - e_{l,k}||^2;  r_l = r_{l-1} - e_{l,c_l};  q = sum_l
e_{l,c_l}.  Nothing here keeps state: what a batch says about the codebooks is returned
(`count_usage`), and `models/codebooks.py` folds it into new ones.
"""

import jax
import jax.numpy as jnp
from flax import struct

from sid_jax.models.codebooks import Codebooks, Usage, allow_blocks, lookup_levels
from sid_jax.typing import Array, Bool, Float, Int, typed


@struct.dataclass
class Quantized:
    """Codes of a batch and what each level left.

    Attributes:
      codes: the SIDs.
      residuals: what level l had to quantize, r_{l-1}.
      codewords: what level l answered, e_{l,c_l}; their sum over L is the quantization.
    """

    codes: Int[Array, "B L"]
    residuals: Float[Array, "B L D"]
    codewords: Float[Array, "B L D"]

    @property
    def total(self) -> Float[Array, "B D"]:
        """The quantization, all levels summed."""
        return self.codewords.sum(axis=1)

    def prefix(self, depth: Int[Array, " B"] | None) -> Float[Array, "B D"]:
        """The first `depth` levels of each row summed; all of them if None."""
        if depth is None:
            return self.total
        kept = jnp.arange(self.codewords.shape[1]) < depth[:, None]
        return jnp.sum(self.codewords * kept[..., None], axis=1)

    @property
    def distances(self) -> Float[Array, " B"]:
        """Squared distance that is left after the last level."""
        return jnp.sum((self.residuals[:, -1] - self.codewords[:, -1]) ** 2, axis=-1)


@typed
def assign(
    residual: Float[Array, "B D"],
    codebook: Float[Array, "K D"],
    size: int,
    allowed: Bool[Array, "B K"] | None = None,
) -> Int[Array, " B"]:
    """Nearest of the first `size` codewords to each residual; ties to the lower code.

    Distances are float32 at the highest matmul precision, whatever the inputs are.
    `allowed` leaves only some codes to each row.
    """
    distances = _distances(residual, codebook, size, allowed)
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


@typed
def assign_evenly(
    residual: Float[Array, "B D"],
    codebook: Float[Array, "K D"],
    size: int,
    allowed: Bool[Array, "B K"] | None = None,
    *,
    epsilon: float,
    iterations: int = 50,
) -> Int[Array, " B"]:
    """The code of each residual in a transport plan that uses all codes evenly.

    Sinkhorn's iterations in the log domain, as LC-Rec (Zheng et al. 2024) has them on
    the last level. The answer depends on the whole batch: for training, not encoding.

    Args:
      residual: rows to assign.
      codebook: codewords.
      size: codewords that are real.
      allowed: codes left to each row.
      epsilon: entropy weight, in units of the batch's largest distance; the smaller,
        the nearer to the cheapest plan (LC-Rec: 0.003).
      iterations: rescalings of rows and columns.
    """
    distances = _distances(residual, codebook, size, allowed)
    distances += jnp.sum(residual.astype(jnp.float32) ** 2, axis=-1, keepdims=True)
    real = jnp.isfinite(distances)
    scale = jnp.max(jnp.where(real, distances, 0.0))
    plan = jnp.where(real, -distances / (epsilon * scale + 1e-12), -jnp.inf)
    column_mass = jnp.log(len(residual) / size)

    def rescale(_, plan):
        columns = jax.nn.logsumexp(plan, axis=0, keepdims=True)
        plan = plan - jnp.where(jnp.isfinite(columns), columns, 0.0) + column_mass
        return plan - jax.nn.logsumexp(plan, axis=1, keepdims=True)

    plan = jax.lax.fori_loop(0, iterations, rescale, plan)
    return jnp.argmax(plan, axis=-1).astype(jnp.int32)


@typed
def quantize(
    vectors: Float[Array, "B D"],
    codebooks: Codebooks,
    cells: Int[Array, " B"] | None = None,
    *,
    even: float = 0.0,
) -> Quantized:
    """Greedy residual quantization of each row.

    Args:
      vectors: rows to quantize.
      codebooks: the codebooks.
      cells: the cell of each row, where the codebooks have blocks.
      even: if positive, `assign_evenly` on the last level with this epsilon.
    """
    residual = vectors.astype(jnp.float32)
    codes, residuals, codewords = [], [], []
    for level, size in enumerate(codebooks.sizes):
        codebook = codebooks.vectors[level]
        allowed = allow_blocks(codebooks, cells) if level == 0 else None
        if even and level + 1 == len(codebooks.sizes):
            code = assign_evenly(residual, codebook, size, allowed, epsilon=even)
        else:
            code = assign(residual, codebook, size, allowed)
        codeword = codebook[code]
        codes.append(code)
        residuals.append(residual)
        codewords.append(codeword)
        residual = residual - codeword
    return Quantized(
        codes=jnp.stack(codes, axis=1),
        residuals=jnp.stack(residuals, axis=1),
        codewords=jnp.stack(codewords, axis=1),
    )


@typed
def beam_quantize(
    vectors: Float[Array, "B D"],
    codebooks: Codebooks,
    cells: Int[Array, " B"] | None = None,
    *,
    num_beams: int,
) -> Quantized:
    """Residual quantization that keeps the best partial codes of each row.

    Level by level the `num_beams` partial codes of least distance go on, as in additive
    quantization (Babenko and Lempitsky 2014) and FAISS; one beam is `quantize`. A row
    is closer to its SID, at `num_beams` times the work; its first codes are no longer
    simply the nearest ones. Ties go to the better beam, then the lower code.
    """
    residual = vectors.astype(jnp.float32)[:, None]  # of each partial code [B, M, D]
    codes = jnp.zeros((len(vectors), 1, 0), jnp.int32)
    closed = jnp.zeros((len(vectors), 1), bool)  # partial codes of another cell
    rows = jnp.arange(len(vectors))[:, None]
    for level, size in enumerate(codebooks.sizes):
        codebook = codebooks.vectors[level, :size]
        squares = jnp.sum(residual**2, axis=-1, keepdims=True)
        left = squares + jnp.sum(codebook**2, axis=-1) - 2 * _dots(residual, codebook)
        left = jnp.where(closed[..., None], jnp.inf, left)
        allowed = allow_blocks(codebooks, cells) if level == 0 else None
        if allowed is not None:
            left = jnp.where(allowed[:, None, :size], left, jnp.inf)
        kept = min(num_beams, left.shape[1] * size)
        gain, best = jax.lax.top_k(-left.reshape(len(vectors), -1), kept)
        closed = jnp.isneginf(gain)
        parent, code = best // size, best % size
        codes = jnp.concatenate([codes[rows, parent], code[..., None]], axis=-1)
        residual = residual[rows, parent] - codebook[code]
    return quantize_as(vectors, codes[:, 0], codebooks)  # of least distance


@typed
def quantize_as(
    vectors: Float[Array, "B D"], codes: Int[Array, "B L"], codebooks: Codebooks
) -> Quantized:
    """What given codes say of each row, and what each level then had to quantize."""
    codewords = lookup_levels(codes, codebooks)
    ends = jnp.cumsum(codewords, axis=1)
    residuals = vectors.astype(jnp.float32)[:, None] - (ends - codewords)
    return Quantized(codes=codes, residuals=residuals, codewords=codewords)


@typed
def pass_straight(
    latent: Float[Array, "B D"], total: Float[Array, "B D"]
) -> Float[Array, "B D"]:
    """Forward `total`, backward the identity (Bengio et al. 2013)."""
    return latent + jax.lax.stop_gradient(total - latent)


@typed
def pass_rotated(
    latent: Float[Array, "B D"], total: Float[Array, "B D"]
) -> Float[Array, "B D"]:
    """Forward `total`, backward the rotation and scaling that maps latent to it.

    The rotation trick (Fifty et al. 2024): with e^ and q^ of unit length and
    w = (e^ + q^) / ||e^ + q^||, it returns (||q|| / ||e||) (e - 2 w w'e + 2 q^ e^'e),
    constant but for e. Where either vector is near zero or they are nearly opposite the
    rotation is not defined, and the gradient passes straight.
    """
    e, q = jax.lax.stop_gradient((latent, total))
    e_norm = jnp.linalg.norm(e, axis=-1, keepdims=True)
    q_norm = jnp.linalg.norm(q, axis=-1, keepdims=True)
    e_unit, q_unit = e / jnp.maximum(e_norm, 1e-6), q / jnp.maximum(q_norm, 1e-6)
    middle = e_unit + q_unit
    width = jnp.linalg.norm(middle, axis=-1, keepdims=True)
    w = middle / jnp.maximum(width, 1e-6)
    along = jnp.sum(latent * w, axis=-1, keepdims=True)
    length = jnp.sum(latent * e_unit, axis=-1, keepdims=True)
    turned = (q_norm / jnp.maximum(e_norm, 1e-6)) * (
        latent - 2 * w * along + 2 * q_unit * length
    )
    defined = (jnp.minimum(e_norm, q_norm) > 1e-6) & (width > 1e-3)
    return jnp.where(defined, turned, pass_straight(latent, total))


@typed
def count_usage(quantized: Quantized, codebooks: Codebooks) -> Usage:
    """Counts and sums of the residuals that each codeword got.

    A product with one-hot codes rather than a scatter: over a sharded batch it becomes
    one reduction, and it adds in the same order on every run.
    """
    largest = codebooks.vectors.shape[1]
    counts, sums = [], []
    for level, size in enumerate(codebooks.sizes):
        one_hot = jax.nn.one_hot(quantized.codes[:, level], size)
        moment = jnp.matmul(
            one_hot.T,
            quantized.residuals[:, level],
            precision=jax.lax.Precision.HIGHEST,
        )
        counts.append(jnp.pad(one_hot.sum(axis=0), (0, largest - size)))
        sums.append(jnp.pad(moment, ((0, largest - size), (0, 0))))
    return Usage(counts=jnp.stack(counts), sums=jnp.stack(sums))


def _distances(
    residual: Array, codebook: Array, size: int, allowed: Array | None
) -> Float[Array, "B K"]:
    """Squared distances less the residual's own square; +inf where not allowed."""
    codebook = codebook.astype(jnp.float32)
    distances = jnp.sum(codebook**2, axis=-1) - 2 * _dots(residual, codebook)
    real = jnp.arange(len(codebook)) < size
    if allowed is not None:
        real = real & allowed
    return jnp.where(real, distances, jnp.inf)


def _dots(residual: Array, codebook: Array) -> Array:
    residual = residual.astype(jnp.float32)
    return jnp.matmul(residual, codebook.T, precision=jax.lax.Precision.HIGHEST)
