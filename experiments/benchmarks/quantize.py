"""Encoding, residual k-means and a quantizer's training step, beside their peers.

    python experiments/benchmarks/quantize.py [--vectors FILE.npy] [--repeats N]

(with OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE unset: FAISS picks its own kernel).

Hardware: a CPU of 2 cores, in about 5 minutes; each side has all cores that the process
may use (`taskset -c 0` gives both one). The peers are compared where they import
(`pip install faiss-cpu vector-quantize-pytorch threadpoolctl`) and left out where not;
FAISS depends on its BLAS kernel, which is printed.

Work is equal: encoding reads the same codebooks, k-means has the same iterations over
all rows, the training step the same batches, start and update rule; the errors of both
sides stand beside the times. `with tables` is FAISS with `use_beam_LUT`. Sides take
turns, in one order and then in the other; ratios are peer over ours, of median wall and
of median process times. On a busy machine wall times say little, and threads that wait
in a loop (OpenMP) count as process time: pin it there to one core, and read the process
times. Without a file the rows are Gaussian with a falling spectrum.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import take_turns

from sid_jax.models.codebooks import Codebooks, lookup, update
from sid_jax.models.kmeans import fit_codebooks
from sid_jax.models.quantizer import beam_quantize, count_usage, quantize

_BLOCK = 1024  # rows encoded at once
_DECAY = 0.99
_STEPS = 10  # training steps timed at once


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; what the peer did is None where it is absent.

    Attributes:
      task: what is done.
      peer: by whom else.
      ours: median wall and process seconds.
      theirs: the same of the peer.
      error: squared error of a row, ours and the peer's.
      agree: share of rows that both sides encode alike, or the largest difference.
    """

    task: str
    peer: str
    ours: tuple[float, float]
    theirs: tuple[float, float] | None
    error: tuple[float, float | None]
    agree: float | None = None


def find_peers() -> dict[str, Any]:
    """The modules of peers that import; a run without any measures ours alone."""
    found = {}
    for name in ("faiss", "torch", "vector_quantize_pytorch"):
        try:
            found[name] = import_module(name)
        except ImportError:
            print(f"{name} is absent: its comparisons are left out")
    return found


def compare_encoding(
    vectors: np.ndarray, codebooks: Codebooks, beams: int, repeats: int, peers: dict
) -> list[Row]:
    """Codes of all rows with `beams` beams, FAISS without and with its tables."""
    pick = jax.jit(
        lambda rows, codebooks: (
            quantize(rows, codebooks).codes
            if beams == 1
            else beam_quantize(rows, codebooks, num_beams=beams).codes
        )
    )
    blocks = [
        jnp.asarray(vectors[i : i + _BLOCK]) for i in range(0, len(vectors), _BLOCK)
    ]

    def encode() -> np.ndarray:
        return np.concatenate(jax.device_get([pick(b, codebooks) for b in blocks]))

    sides, decoded = {"ours": encode}, {}
    decoded["ours"] = np.asarray(jax.jit(lookup)(encode(), codebooks))
    if "faiss" in peers:
        for name, tables in (("faiss", 0), ("faiss with tables", 1)):
            if tables and beams == 1:
                continue
            quantizer = _make_faiss(peers["faiss"], codebooks, beams, tables)
            sides[name] = lambda q=quantizer: q.compute_codes(vectors)
            decoded[name] = quantizer.decode(sides[name]())
    times = take_turns(sides, repeats)
    rows = []
    for name in list(sides)[1:] or [None]:
        same = other = None
        if name is not None:
            near = np.abs(decoded[name] - decoded["ours"]).max(axis=1)
            same, other = float((near < 1e-4).mean()), _error(vectors, decoded[name])
        rows.append(
            Row(
                task=f"encode, beam {beams}",
                peer=name or "faiss",
                ours=times["ours"],
                theirs=times.get(name or ""),
                error=(_error(vectors, decoded["ours"]), other),
                agree=same,
            )
        )
    return rows


def compare_kmeans(
    vectors: np.ndarray,
    sizes: tuple[int, ...],
    iterations: int,
    repeats: int,
    peers: dict,
) -> Row:
    """Residual k-means over all rows; the error is that of greedy codes."""
    rows, books = jnp.asarray(vectors), {}

    def ours() -> None:
        fitted = fit_codebooks(jax.random.key(0), rows, sizes, iterations=iterations)
        books["ours"] = jax.block_until_ready(fitted)

    sides: dict[str, Callable[[], Any]] = {"ours": ours}
    if "faiss" in peers:
        faiss = peers["faiss"]

        def theirs() -> None:
            quantizer = faiss.ResidualQuantizer(vectors.shape[1], _bits(faiss, sizes))
            quantizer.train_type = (
                faiss.ResidualQuantizer.Train_default
                | faiss.ResidualQuantizer.Skip_codebook_tables
            )
            quantizer.max_beam_size = 1
            quantizer.cp.niter = iterations
            quantizer.cp.max_points_per_centroid = len(vectors)  # all rows
            quantizer.train(vectors)
            books["faiss"] = quantizer

        sides["faiss"] = theirs
    times = take_turns(sides, repeats)
    found = jax.jit(lambda x, books: quantize(x, books).codes)(rows, books["ours"])
    error = _error(vectors, np.asarray(jax.jit(lookup)(found, books["ours"])))
    other = None
    if "faiss" in books:
        quantizer = books["faiss"]
        other = _error(vectors, quantizer.decode(quantizer.compute_codes(vectors)))
    return Row(
        task=f"k-means, {iterations} iterations",
        peer="faiss",
        ours=times["ours"],
        theirs=times.get("faiss"),
        error=(error, other),
    )


def compare_step(
    vectors: np.ndarray, codebooks: Codebooks, batch: int, repeats: int, peers: dict
) -> Row:
    """Codes, gradient of the commitment, moving averages; seconds of one step.

    The error is that of the batches after the first steps from one start, on both
    sides; `agree` is the largest difference of a coordinate of a codeword by then.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(vectors), batch, replace=False) for _ in range(_STEPS)]
    batches = [vectors[rows] for rows in drawn]
    ready = [jnp.asarray(each) for each in batches]
    state, after = {"ours": codebooks}, {}

    @jax.jit
    def step(codebooks: Codebooks, rows: jax.Array):
        def commit(rows):
            quantized = quantize(rows, codebooks)
            fixed = jax.lax.stop_gradient(quantized.codewords)
            return jnp.mean((quantized.residuals - fixed) ** 2), quantized

        gradient, quantized = jax.grad(commit, has_aux=True)(rows)
        usage = count_usage(quantized, codebooks)
        return update(codebooks, usage, decay=_DECAY), gradient

    def ours() -> None:
        for rows in ready:
            state["ours"], gradient = step(state["ours"], rows)
        jax.block_until_ready((state["ours"], gradient))

    sides: dict[str, Callable[[], Any]] = {"ours": ours}
    ours()
    after["ours"] = np.asarray(state["ours"].vectors)
    if {"torch", "vector_quantize_pytorch"} <= set(peers) and len(
        set(codebooks.sizes)
    ) == 1:
        theirs, read = _make_torch(peers, codebooks, batches)
        sides["peer"] = theirs
        theirs()
        after["peer"] = read()
    taken = take_turns(sides, repeats).items()
    times = {name: (wall / _STEPS, cpu / _STEPS) for name, (wall, cpu) in taken}
    rows = np.concatenate(batches)
    errors = {}
    for name, books in after.items():
        moved = replace(codebooks, vectors=jnp.asarray(books))
        total = jax.jit(lambda x, books: quantize(x, books).total)(rows, moved)
        errors[name] = _error(rows, np.asarray(total))
    agree = None
    if "peer" in after:
        agree = float(np.abs(after["ours"] - after["peer"]).max())
    return Row(
        task=f"training step, batch {batch}",
        peer="vector-quantize-pytorch",
        ours=times["ours"],
        theirs=times.get("peer"),
        error=(errors["ours"], errors.get("peer")),
        agree=agree,
    )


def _make_faiss(faiss: Any, codebooks: Codebooks, beams: int, tables: int) -> Any:
    """FAISS's quantizer with these codebooks."""
    sizes = codebooks.sizes
    flat = [np.asarray(codebooks.vectors[i, :size]) for i, size in enumerate(sizes)]
    quantizer = faiss.ResidualQuantizer(flat[0].shape[1], _bits(faiss, sizes))
    faiss.copy_array_to_vector(np.concatenate(flat).ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    quantizer.max_beam_size = beams
    quantizer.use_beam_LUT = tables
    quantizer.compute_codebook_tables()
    return quantizer


def _bits(faiss: Any, sizes: tuple[int, ...]) -> Any:
    bits = np.log2(sizes).astype(np.uint64)
    if (2**bits != np.asarray(sizes)).any():
        raise SystemExit(f"FAISS needs powers of two for --sizes, not {sizes}")
    found = faiss.UInt64Vector()
    faiss.copy_array_to_vector(bits, found)
    return found


def _make_torch(
    peers: dict, codebooks: Codebooks, batches: list[np.ndarray]
) -> tuple[Callable[[], None], Callable[[], np.ndarray]]:
    """Steps of vector-quantize-pytorch from these codebooks, and how to read them."""
    torch = peers["torch"]
    module = peers["vector_quantize_pytorch"].ResidualVQ(
        dim=batches[0].shape[1],
        num_quantizers=len(codebooks.sizes),
        codebook_size=codebooks.sizes[0],
        decay=_DECAY,
        rotation_trick=False,
        threshold_ema_dead_code=0,
    )
    for layer, vectors in zip(module.layers, codebooks.vectors, strict=True):
        start = torch.tensor(np.asarray(vectors))[None]
        layer._codebook.embed.data.copy_(start)
        layer._codebook.embed_avg.data.copy_(start)
        layer._codebook.cluster_size.data.fill_(1.0)
    module.train()
    ready = [torch.tensor(each)[None] for each in batches]

    def run() -> None:
        for rows in ready:
            rows = rows.clone().requires_grad_()
            _, _, commitment = module(rows)
            commitment.mean().backward()

    def read() -> np.ndarray:
        books = [layer._codebook.embed[0].detach() for layer in module.layers]
        return torch.stack(books).numpy()

    return run, read


def _error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    return float(((vectors - decoded) ** 2).sum(axis=1, dtype=np.float64).mean())


def describe_machine() -> str:
    """Cores, versions and BLAS kernels; FAISS and torch are to be imported before."""
    versions = []
    for name in ("jax", "faiss-cpu", "torch", "vector-quantize-pytorch"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    try:
        pools = import_module("threadpoolctl").threadpool_info()
        blas = [
            f"{Path(pool['filepath']).name}: {pool.get('architecture', '?')}"
            for pool in pools
            if pool["user_api"] == "blas"
        ]
    except ImportError:
        blas = ["unknown (threadpoolctl is absent)"]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores; {', '.join(versions)}; BLAS kernels {', '.join(blas)}"


def draw_vectors(num_rows: int, width: int) -> np.ndarray:
    """Gaussian rows whose coordinates have variance 1, 1/2, 1/3, ..., mixed."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, width + 1) ** -0.5
    turn, _ = np.linalg.qr(rng.normal(size=(width, width)))
    return ((rng.normal(size=(num_rows, width)) * scales) @ turn).astype(np.float32)


def measure(
    vectors: np.ndarray,
    sizes: tuple[int, ...],
    *,
    beams: tuple[int, ...] = (1, 5),
    iterations: int = 20,
    batch: int = 4096,
    repeats: int = 5,
    peers: dict[str, Any] | None = None,
) -> Iterator[Row]:
    """All comparisons on these rows, in the same process."""
    peers = peers or {}
    threads = len(os.sched_getaffinity(0))  # XLA's number
    if "faiss" in peers:
        peers["faiss"].omp_set_num_threads(threads)
    if "torch" in peers:
        peers["torch"].set_num_threads(threads)
    codebooks = fit_codebooks(jax.random.key(0), jnp.asarray(vectors), sizes)
    for each in beams:
        yield from compare_encoding(vectors, codebooks, each, repeats, peers)
    yield compare_kmeans(vectors, sizes, iterations, max(repeats // 2, 1), peers)
    yield compare_step(vectors, codebooks, batch, repeats, peers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantizers side by side.")
    parser.add_argument("--vectors", type=Path, help=".npy of [N, D]; random without")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256] * 4)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    peers = find_peers()
    if given.vectors:
        vectors = np.ascontiguousarray(np.load(given.vectors)[: given.rows], np.float32)
    else:
        vectors = draw_vectors(given.rows, given.width)
    print(describe_machine())
    print(f"{len(vectors)} rows of {vectors.shape[1]}, codes {given.sizes}")
    for row in measure(
        vectors,
        tuple(given.sizes),
        iterations=given.iterations,
        batch=min(given.batch, len(vectors)),
        repeats=given.repeats,
        peers=peers,
    ):
        wall, cpu = row.ours
        told = f"{row.task:<26} ours {wall:.4f} s (process {cpu:.4f})"
        told += f", error {row.error[0]:.5f}"
        print(told, flush=True)
        if row.theirs is not None:
            agree = "" if row.agree is None else f", agreement {row.agree:.2g}"
            print(
                f"  {row.peer:<24} {row.theirs[0]:.4f} s (process {row.theirs[1]:.4f})"
                f", error {row.error[1]:.5f}{agree}; ratio {row.theirs[0] / wall:.2f}"
                f" (process time {row.theirs[1] / cpu:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
