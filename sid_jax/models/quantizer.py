"""Residual quantization: nearest codewords level by level.

r_0 = z;  c_l = argmin_k ||r_{l-1} - e_{l,k}||^2;  r_l = r_{l-1} - e_{l,c_l};  q = sum_l
e_{l,c_l}.  Nothing here keeps state: what a batch says about the codebooks is returned
(`count_usage`), and `models/codebooks.py` folds it into new ones.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from sid_jax.models.codebooks import Codebooks, Usage, allow_blocks, lookup_levels
from sid_jax.typing import Array, Bool, Float, Int, typed

_CLOSED = float(jnp.finfo(jnp.float32).max)  # distance of codes of another cell
_GROUP = 16  # candidates of a beam whose minimum is looked at first


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
    return _least(_distances(residual, codebook, size, allowed))[1]


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
    is closer to its SID, at more work; its first codes are no longer simply the nearest
    ones. Ties go to the better beam, then the lower code.

    With q the sum of a partial code's codewords, ||z - q - e||^2 is ||z - q||^2, known
    from the level before, plus ||e||^2 - 2 z'e + 2 q'e. The last term is a sum of inner
    products between codewords, looked up in a table for each pair of levels: only z'e
    costs a product of B rows by K codewords, and it is the same for all beams.
    """
    rows = vectors.astype(jnp.float32)
    books = [codebooks.vectors[i, :size] for i, size in enumerate(codebooks.sizes)]
    distances = jnp.zeros((len(rows), 1))  # of partial codes, less the row's square
    codes = jnp.zeros((len(rows), 1, 0), jnp.int32)
    for level, (size, book) in enumerate(zip(codebooks.sizes, books, strict=True)):
        allowed = allow_blocks(codebooks, cells) if level == 0 else None
        # Large, not infinite: `_smallest` marks with infinity what it has taken.
        alone = _distances(rows, book, size, allowed, _CLOSED)
        grown = distances[..., None] + alone[:, None]
        for earlier in range(level):
            table = 2 * _dots(books[earlier], book)
            grown = grown + table[codes[..., earlier]]
        distances, best = _smallest(grown.reshape(len(rows), -1), num_beams)
        parent, code = best // size, best % size
        parents = jnp.take_along_axis(codes, parent[..., None], axis=1)
        codes = jnp.concatenate([parents, code[..., None]], axis=-1)
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
def count_usage(quantized: Quantized, codebooks: Codebooks) -> Usage:
    """Counts and sums of the residuals that each codeword got."""
    largest = codebooks.vectors.shape[1]
    counts, sums = [], []
    for level, size in enumerate(codebooks.sizes):
        count, moment = sum_by_code(
            quantized.codes[:, level], quantized.residuals[:, level], size
        )
        counts.append(jnp.pad(count, (0, largest - size)))
        sums.append(jnp.pad(moment, ((0, largest - size), (0, 0))))
    return Usage(counts=jnp.stack(counts), sums=jnp.stack(sums))


@typed
def sum_by_code(
    codes: Int[Array, " B"],
    rows: Float[Array, "B D"],
    size: int,
    weights: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, " K"], Float[Array, "K D"]]:
    """How many rows each of `size` codes got, and their sums; both weighted, if asked.

    On accelerators a product with one-hot codes rather than a scatter: it is what they
    are fast at, over a sharded batch it becomes one reduction, and it adds in the same
    order on every run. A CPU adds row by row, in order too, and 25 times faster than by
    that product.
    """
    weights = jnp.ones(len(codes)) if weights is None else weights
    return jax.lax.platform_dependent(
        codes,
        rows.astype(jnp.float32),
        weights,
        cpu=partial(_sum_by_scatter, size),
        default=partial(_sum_by_product, size),
    )


def _sum_by_scatter(
    size: int, codes: Array, rows: Array, weights: Array
) -> tuple[Array, Array]:
    counts = jax.ops.segment_sum(weights, codes, size)
    return counts, jax.ops.segment_sum(rows * weights[:, None], codes, size)


def _sum_by_product(
    size: int, codes: Array, rows: Array, weights: Array
) -> tuple[Array, Array]:
    one_hot = jax.nn.one_hot(codes, size) * weights[:, None]
    moment = jnp.matmul(one_hot.T, rows, precision=jax.lax.Precision.HIGHEST)
    return one_hot.sum(axis=0), moment


def _distances(
    residual: Array,
    codebook: Array,
    size: int,
    allowed: Array | None,
    closed: float = float("inf"),
) -> Float[Array, "B size"]:
    """Squared distances to the first `size` codewords, less the residual's own square.

    Where a code is not allowed, `closed` stands.
    """
    codebook = codebook[:size].astype(jnp.float32)
    distances = jnp.sum(codebook**2, axis=-1) - 2 * _dots(residual, codebook)
    if allowed is None:
        return distances
    return jnp.where(allowed[:, :size], distances, closed)


def _dots(residual: Array, codebook: Array) -> Array:
    residual = residual.astype(jnp.float32)
    return jnp.matmul(residual, codebook.T, precision=jax.lax.Precision.HIGHEST)


def _least(values: Array) -> tuple[Array, Array]:
    """The least value of each row and where it first stands.

    Two plain reductions, which XLA vectorises on a CPU, three times as fast as argmin,
    which it does not.
    """
    least = values.min(axis=-1)
    last = values.shape[-1] - 1  # also the answer where a row is not a number
    places = jnp.arange(last + 1, dtype=jnp.int32)
    return least, jnp.where(values == least[:, None], places, last).min(axis=-1)


def _smallest(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` least values of each row in order, and where they stand.

    Ties go to the lower place, as in `lax.top_k`, which a CPU runs at half the speed:
    the answer lies in the `count` groups of neighbours that have the least minima.
    Values are finite.
    """
    count = min(count, values.shape[-1])
    if values.shape[-1] <= 2 * count * _GROUP:
        return _pick(values, count)
    short = -values.shape[-1] % _GROUP
    padded = jnp.pad(values, ((0, 0), (0, short)), constant_values=_CLOSED)
    groups = padded.reshape(len(values), -1, _GROUP)
    _, near = _pick(groups.min(axis=-1), count)
    near = jnp.sort(near, axis=-1)[..., None]
    among = jnp.take_along_axis(groups, near, axis=1).reshape(len(values), -1)
    places = (near * _GROUP + jnp.arange(_GROUP)).reshape(len(values), -1)
    least, at = _pick(among, count)
    return least, jnp.take_along_axis(places, at, axis=-1)


def _pick(values: Array, count: int) -> tuple[Array, Array]:
    """`_smallest`, one minimum after the other."""
    least, at = [], []
    for _ in range(count):
        value, place = _least(values)
        least.append(value)
        at.append(place)
        taken = jnp.arange(values.shape[-1]) == place[:, None]
        values = jnp.where(taken, jnp.inf, values)
    return jnp.stack(least, axis=-1), jnp.stack(at, axis=-1)
