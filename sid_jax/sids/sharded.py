"""A trie too large for one device, in parts of consecutive first codes.

Each device searches its part for every request. Level by level they agree on the beams
that are among the best of all, so that the answer is that of the whole trie, ties
included; what passes between them is scores, and at the end the answers. (Over codes
that exist or are allowed, the first level's total is added up in parts, and may round
otherwise.)
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sid_jax.errors import InputError
from sid_jax.sids.beam import Beams, Step, beam_search, gather_beams
from sid_jax.sids.scoring import Softmax
from sid_jax.sids.trie import Trie, build_trie, sorted_columns, trie_of_columns
from sid_jax.sids.update import fit_trie, trie_sizes
from sid_jax.typing import Array, Bool, Int, NDArray, PyTree, UInt, typed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShardedTrie:
    """Parts of a trie, stacked; lay it out along a mesh axis by `jax.device_put`.

    Attributes:
      parts: arrays of each leading with `[D]`.
      first: int32 `[D]`, the leaf of the whole that each part's first one is.
      num_leaves: of the whole.
    """

    parts: Trie
    first: Array
    num_leaves: int = field(metadata={"static": True})


@typed
def shard_trie(
    sids: Int[NDArray, "_ L"] | UInt[NDArray, "_ L"],
    codebook_sizes: tuple[int, ...],
    num_parts: int,
) -> ShardedTrie:
    """Cuts a trie at first codes into parts of about as many SIDs.

    Arguments and errors as in `build_trie`.

    Raises:
      InputError: fewer first codes than parts, too.
    """
    if num_parts < 1:
        raise InputError(f"num_parts={num_parts} must be positive")
    whole = build_trie(sids, codebook_sizes)
    columns, count = sorted_columns(whole), whole.num_leaves
    starts = np.flatnonzero(np.diff(columns[0].astype(np.int64), prepend=-1))
    if len(starts) < num_parts:
        raise InputError(
            f"{num_parts} parts of SIDs that begin with {len(starts)} different codes:"
            " a first code is not cut"
        )
    # The start that is nearest to each even share, further on than the one before.
    cuts = [0]
    for part in range(1, num_parts):
        even = np.argmin(np.abs(starts - part * count / num_parts))
        least, most = cuts[-1] + 1, len(starts) - (num_parts - part)
        cuts.append(int(np.clip(even, least, most)))
    first = starts[cuts]
    ends = np.append(first[1:], count)
    parts = [
        trie_of_columns(
            [each[start:end] for each in columns], codebook_sizes, whole.tail, dense=0
        )
        for start, end in zip(first, ends, strict=True)
    ]
    sizes = np.max([trie_sizes(part) for part in parts], axis=0).tolist()
    slots = tuple(np.max([part.max_slots for part in parts], axis=0).tolist())
    parts = [fit_trie(part, sizes, slots) for part in parts]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts)
    return ShardedTrie(stacked, jnp.asarray(first.astype(np.int32)), count)


@typed
def sharded_beam_search(
    step: Step,
    context: PyTree,
    state: PyTree,
    trie: ShardedTrie,
    *,
    num_beams: int,
    mesh: Mesh,
    axis: str,
    allowed: Bool[Array, "B U"] | None = None,
    softmax: Softmax = "codes",
) -> Beams:
    """`beam_search` over the parts of a trie, one a device along a mesh axis. Pure.

    Args:
      step: as there.
      context: as there; on every device.
      state: as there; on every device.
      trie: the SIDs that exist, in parts.
      num_beams: M, of the answer.
      mesh: the devices.
      axis: of the mesh; as many devices along it as parts.
      allowed: the leaves of the whole trie that each request may reach.
      softmax: as there.

    Raises:
      InputError: as there; other devices than parts.
    """
    if mesh.shape[axis] != len(trie.first):
        raise InputError(
            f"{len(trie.first)} parts for {mesh.shape[axis]} devices along {axis!r}"
        )

    if allowed is not None and allowed.shape[1] != trie.num_leaves:
        raise InputError(
            f"allowed has {allowed.shape[1]} leaves, the trie {trie.num_leaves}"
        )

    def search(context, state, trie: ShardedTrie, allowed):
        part, first = jax.tree.map(lambda a: a[0], trie.parts), trie.first[0]
        if allowed is not None:
            # Leaves past the part's own are never reached.
            padded = jnp.pad(allowed, ((0, 0), (0, part.num_leaves)))
            allowed = lax.dynamic_slice_in_dim(padded, first, part.num_leaves, axis=1)
        found = beam_search(
            step,
            context,
            state,
            part,
            num_beams=num_beams,
            allowed=allowed,
            softmax=softmax,
            axis=axis,
        )
        found = replace(found, leaves=jnp.where(found.valid, found.leaves + first, -1))
        every = lax.all_gather(found, axis)
        flat = jax.tree.map(
            lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, *a.shape[3:]), every
        )
        best = lax.top_k(flat.scores, num_beams)[1]
        return jax.tree.map(lambda rows: gather_beams(rows, best), flat)

    run = jax.shard_map(
        search,
        mesh=mesh,
        in_specs=(P(), P(), P(axis), P()),
        out_specs=P(),
        axis_names={axis},
        check_vma=False,
    )
    return run(context, state, trie, allowed)
