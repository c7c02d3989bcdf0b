"""The catalog held against its codes: items whose neighbours carry another label.

A label is an item's node of the category tree. Neighbours vote: items that share a
prefix of the SID, level by level, or the nearest by vector (the baseline). Of the votes
n_j at level l, with n = sum_j n_j, the share of label j is smoothed towards the level
above (interpolated back-off, as in Jelinek and Mercer 1980; Witten and Bell 1991):

    p_l(j) = (n_j + a p_{l-1}(j)) / (n + a),    p_0 = shares in the whole catalog

and voters (several tokenizers) are averaged. At depth d of the tree an item's label y
and the branch that its neighbours prefer are compared, and what speaks against y adds
up, a near disagreement for less than a far one:

    confidence = sum_d w^(d - top) [preferred_d != y_d] max(0, log p_0(y_d) / p(y_d))

The ratio is that of two explanations: the label was drawn at random from the catalog's,
or it was given to such an item. The formula is ours. Copies of an item never vote on
it, and together have the vote of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.errors import InputError
from sid_jax.typing import Bool, Float, Int, NDArray, typed

_BLOCK = 2048  # items whose shares of every label are held at once
_NEAR = 1e-4  # distance of two copies' vectors, as a share of their length

Voter = Callable[[NDArray], list[NDArray]]
"""Item rows [B] -> their neighbours' votes [B, J] by level, coarse to fine."""


@dataclass(frozen=True, eq=False)
class Ballots:
    """Who votes for what.

    Attributes:
      nodes: taxonomy nodes of the J labels in use.
      label: the label of each item, a place in `nodes`; -1 where it is unknown.
      copies: the group of copies that each item belongs to.
      weight: its vote: one is shared by its group; 0 where the label is unknown.
    """

    nodes: Int[NDArray, " J"]
    label: Int[NDArray, " N"]
    copies: Int[NDArray, " N"]
    weight: Float[NDArray, " N"]


@dataclass(frozen=True, eq=False)
class Suspects:
    """Items that their neighbours would label otherwise, most suspect first.

    Attributes:
      rows: of the items; ties to the lower row.
      confidence: natural logarithm of weighed odds, above 0.
      suggested: the node that the neighbours prefer, as deep as they agree.
      share: the neighbours' share for that branch where it first parts from the label.
      own: their share for the label's branch at the same depth.
      flagged: share >= majority and own <= minority.
    """

    rows: Int[NDArray, " S"]
    confidence: Float[NDArray, " S"]
    suggested: Int[NDArray, " S"]
    share: Float[NDArray, " S"]
    own: Float[NDArray, " S"]
    flagged: Bool[NDArray, " S"]

    def __len__(self) -> int:
        return len(self.rows)


@typed
def group_copies(
    codes: Int[NDArray, "N L"],
    titles: Sequence[str] | None = None,
    vectors: Float[NDArray, "N D"] | None = None,
) -> Int[NDArray, " N"]:
    """Groups of items that are one product listed twice.

    Copies have one SID, and titles that are equal but for case, blanks and signs, or
    vectors nearer than 1e-4 of their length. Copies of a copy are copies.
    """
    count = len(codes)
    _, sid = np.unique(codes, axis=0, return_inverse=True)
    sid = sid.reshape(-1)
    edges = []
    if titles is not None:
        names = ["".join(filter(str.isalnum, title.casefold())) for title in titles]
        _, name = np.unique(np.asarray(names, dtype=object), return_inverse=True)
        order = np.lexsort((name, sid))
        left, right = order[:-1], order[1:]
        named = np.asarray([bool(each) for each in names], bool)
        same = (sid[left] == sid[right]) & (name[left] == name[right]) & named[left]
        edges.append((left[same], right[same]))
    if vectors is not None:
        # Near vectors have near projections: neighbours in that order are compared.
        line = np.random.default_rng(0).normal(size=vectors.shape[1])
        order = np.lexsort((np.einsum("nd,d->n", vectors, line), sid))
        left, right = order[:-1], order[1:]
        gap = np.linalg.norm(vectors[left] - vectors[right], axis=1)
        reach = _NEAR * np.linalg.norm(vectors[left], axis=1)
        same = (sid[left] == sid[right]) & (gap <= reach)
        edges.append((left[same], right[same]))
    if not edges:
        return np.arange(count)
    rows, columns = (np.concatenate(each) for each in zip(*edges, strict=True))
    graph: Any = sparse.coo_matrix(
        (np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count)
    )
    return connected_components(graph, directed=False)[1].astype(np.int64)


@typed
def cast_ballots(
    taxonomy: Taxonomy, copies: Int[NDArray, " N"] | None = None
) -> Ballots:
    """The votes of a catalog's labels; without `copies`, every item has its own.

    Raises:
      InputError: as many copies as items are not given.
    """
    leaf = taxonomy.leaf
    copies = np.arange(len(leaf)) if copies is None else copies
    if len(copies) != len(leaf):
        raise InputError(f"{len(copies)} groups of copies for {len(leaf)} items")
    known = leaf >= 0
    nodes = np.unique(leaf[known])
    label = np.where(known, np.searchsorted(nodes, leaf), -1)
    _, copies = np.unique(copies, return_inverse=True)
    crowd = np.bincount(copies[known], minlength=len(leaf) + 1)[copies]
    weight = np.where(known, 1 / np.maximum(crowd, 1), 0.0)
    return Ballots(nodes, label, copies, weight)


@typed
def prefix_votes(codes: Int[NDArray, "N L"], ballots: Ballots) -> Voter:
    """Votes of the items that share the first 1, 2, .. L codes; own copies left out."""
    levels = []
    for group in prefix_groups(codes):
        # A group's votes less those that an item's own copies cast in it.
        span = int(ballots.copies.max(initial=0)) + 1
        _, pair = np.unique(group * span + ballots.copies, return_inverse=True)
        levels.append((group, _tally(group, ballots), pair, _tally(pair, ballots)))

    def vote(rows: NDArray) -> list[NDArray]:
        return [
            np.maximum(whole[group[rows]].toarray() - own[pair[rows]].toarray(), 0.0)
            for group, whole, pair, own in levels
        ]

    return vote


@typed
def neighbour_votes(
    neighbours: Int[NDArray, "N k"],
    ballots: Ballots,
    weights: Float[NDArray, "N k"] | None = None,
) -> Voter:
    """Votes of listed neighbours, as one level; own copies and rows < 0 left out."""

    def vote(rows: NDArray) -> list[NDArray]:
        near = neighbours[rows]
        cast = np.where(near >= 0, ballots.weight[near], 0.0)
        cast = np.where(
            ballots.copies[near] == ballots.copies[rows][:, None], 0.0, cast
        )
        if weights is not None:
            cast = cast * np.maximum(weights[rows], 0.0)
        votes = np.zeros((len(rows), len(ballots.nodes)))
        place = np.broadcast_to(np.arange(len(rows))[:, None], near.shape)
        kept = cast > 0
        np.add.at(votes, (place[kept], ballots.label[near][kept]), cast[kept])
        return [votes]

    return vote


def rank_suspects(
    taxonomy: Taxonomy,
    ballots: Ballots,
    voters: Sequence[Voter],
    *,
    smoothing: float = 4.0,
    decay: float = 0.5,
    majority: float = 0.8,
    minority: float = 0.05,
) -> Suspects:
    """Every item that its neighbours would label otherwise.

    Args:
      taxonomy: the category tree, with the labels to judge.
      ballots: of `cast_ballots`.
      voters: of `prefix_votes` or `neighbour_votes`; their shares are averaged.
      smoothing: a: how many votes the level above counts for.
      decay: w: weight of a depth of the tree against the one above it.
      majority: least share of the preferred branch to flag an item.
      minority: largest share of the label's branch to flag it.

    Returns:
      The suspects; none where fewer than two labels are in use.

    Raises:
      InputError: a setting out of range, or no voter.
    """
    if not voters:
        raise InputError("an audit needs neighbours: give one voter or more")
    if not (smoothing > 0 and 0 <= decay <= 1):
        raise InputError("an audit needs smoothing > 0 and a decay from 0 to 1")
    labelled = np.flatnonzero(ballots.label >= 0)
    if len(ballots.nodes) < 2:
        labelled = labelled[:0]
    branches = branch_table(taxonomy, ballots.nodes)
    found = [
        _judge(rows, ballots, branches, voters, smoothing, decay)
        for rows in np.array_split(labelled, -(-len(labelled) // _BLOCK) or 1)
    ]
    confidence, suggested, share, own = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((labelled, -confidence))
    order = order[confidence[order] > 0]
    share, own = share[order], own[order]
    return Suspects(
        rows=labelled[order],
        confidence=confidence[order],
        suggested=suggested[order],
        share=share,
        own=own,
        flagged=(share >= majority) & (own <= minority),
    )


@typed
def nearest_neighbours(
    vectors: Float[NDArray, "N D"], k: int
) -> tuple[Int[NDArray, "N k"], Float[NDArray, "N k"]]:
    """The k nearest other items of each by cosine of the centred vectors, best first.

    Padded with -1 (cosine 0) where there are fewer; ties to the lower row.
    """
    units = vectors - vectors.mean(axis=0)
    length = np.linalg.norm(units, axis=1, keepdims=True)
    units = (units / np.where(length > 0, length, 1)).astype(np.float32)
    count = len(units)
    rows = np.full((count, k), -1, np.int64)
    cosines = np.zeros((count, k), np.float32)
    most = min(k, count - 1)
    for start in range(0, count if most > 0 else 0, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, count))
        away = -(units[block] @ units.T)
        away[np.arange(len(block)), block] = np.inf
        near = np.argpartition(away, most - 1, axis=1)[:, :most]
        far = np.take_along_axis(away, near, 1)
        order = np.lexsort((near, far), axis=1)
        rows[block, :most] = np.take_along_axis(near, order, 1)
        cosines[block, :most] = -np.take_along_axis(far, order, 1)
    return rows, cosines


@typed
def prefix_neighbours(
    codes: Int[NDArray, "N L"],
    ballots: Ballots,
    rows: Int[NDArray, " S"],
    k: int,
    *,
    vectors: Float[NDArray, "N D"] | None = None,
    at_least: int = 5,
) -> tuple[Int[NDArray, " S"], Int[NDArray, "S k"]]:
    """What a suspect is shown beside: labelled items under its longest crowded prefix.

    Args:
      codes: SIDs of all items.
      ballots: of the same items.
      rows: the suspects.
      k: neighbours a suspect.
      vectors: the nearest come first by them; otherwise the deepest shared prefix.
      at_least: votes that a prefix must hold, own copies left out, or the next shorter
        one is taken.

    Returns:
      Levels of that prefix (0: no prefix is shared so often), and item rows, one of a
      group of copies, padded with -1.
    """
    depths = np.zeros(len(rows), np.int64)
    shown = np.full((len(rows), k), -1, np.int64)
    for place, row in enumerate(rows):
        shared = np.cumprod(codes == codes[row], axis=1).sum(axis=1)
        may = (ballots.label >= 0) & (ballots.copies != ballots.copies[row])
        for depth in range(codes.shape[1], 0, -1):
            near = np.flatnonzero(may & (shared >= depth))
            _, first = np.unique(ballots.copies[near], return_index=True)
            if len(first) >= at_least:
                near = near[np.sort(first)]
                away = -shared[near].astype(np.float64)
                if vectors is not None:
                    away = np.linalg.norm(vectors[near] - vectors[row], axis=1)
                near = near[np.lexsort((near, away))][:k]
                depths[place], shown[place, : len(near)] = depth, near
                break
    return depths, shown


@typed
def prefix_groups(codes: Int[NDArray, "N L"]) -> list[NDArray]:
    """The group of each item, level by level: items share 1, 2, .. L first codes."""
    groups, group = [], np.zeros(len(codes), np.int64)
    for column in codes.T:
        span = int(column.max(initial=0)) + 1
        _, group = np.unique(group * span + column, return_inverse=True)
        groups.append(group.astype(np.int64))
    return groups


@typed
def branch_table(taxonomy: Taxonomy, nodes: Int[NDArray, " J"]) -> Int[NDArray, "J _"]:
    """The branch of each label at each depth from the first at which labels differ.

    A label above a depth is its own branch there, so every label has one.
    """
    table = taxonomy.ancestors()[nodes]
    table = np.where(table < 0, nodes[:, None], table)
    varied = np.flatnonzero((table != table[:1]).any(axis=0))
    return table[:, varied[0] :] if len(varied) else table[:, :0]


def _judge(
    rows: NDArray,
    ballots: Ballots,
    branches: NDArray,
    voters: Sequence[Voter],
    smoothing: float,
    decay: float,
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Confidence, suggested node, and shares of the two branches, of a block."""
    count, label, place = len(ballots.nodes), ballots.label[rows], np.arange(len(rows))
    suggested = ballots.nodes[label] if len(rows) else np.zeros(0, np.int64)
    confidence, share, own = np.zeros((3, len(rows)))
    if not len(rows):
        return confidence, suggested, share, own
    cast = np.flatnonzero(ballots.weight > 0)
    total = np.bincount(ballots.label[cast], ballots.weight[cast], count)
    # Without the item's own vote, but one spread over all: no label is impossible.
    prior = np.repeat(total[None], len(rows), axis=0)
    prior[place, label] -= ballots.weight[rows]
    prior = (np.maximum(prior, 0) + 1 / count) / total.sum()
    shares = np.zeros_like(prior)
    for voter in voters:
        level = prior
        for votes in voter(rows):
            cast = votes.sum(axis=1, keepdims=True)
            level = (votes + smoothing * level) / (cast + smoothing)
        shares += level / len(voters)
    alive = np.ones_like(shares, bool)
    parted = np.zeros(len(rows), bool)
    deepens, before = np.ones(len(rows), bool), np.ones(len(rows))
    for step, branch in enumerate(branches.T):
        nodes, column = np.unique(branch, return_inverse=True)
        member: Any = sparse.csr_matrix(
            (np.ones(count), (np.arange(count), column)), shape=(count, len(nodes))
        )
        best = np.argmax((shares * alive) @ member, axis=1)
        alive &= column[None] == best[:, None]
        whole, mine = shares @ member, column[label]
        here, against = whole[place, best], best != mine
        odds = np.log((prior @ member)[place, mine] / whole[place, mine])
        confidence += np.where(against, decay**step * np.maximum(odds, 0), 0.0)
        first = against & ~parted
        share = np.where(first, here, share)
        own = np.where(first, whole[place, mine], own)
        deepens &= ~parted | (here >= before / 2)
        suggested = np.where(deepens | first, nodes[best], suggested)
        parted, before = parted | against, here
    return confidence, suggested, share, own


def _tally(group: NDArray, ballots: Ballots) -> Any:
    """Votes of groups for labels, as a sparse matrix."""
    cast = np.flatnonzero(ballots.weight > 0)
    shape = (int(group.max(initial=-1)) + 1, len(ballots.nodes))
    entries = (ballots.weight[cast], (group[cast], ballots.label[cast]))
    return sparse.coo_matrix(entries, shape=shape).tocsr()
