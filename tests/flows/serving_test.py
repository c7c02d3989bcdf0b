"""An exported retriever takes the next version of its catalog; the old one stays."""

from dataclasses import replace

import numpy as np
import pytest

from sid_jax.data.pipeline import Requests
from sid_jax.errors import InputError
from sid_jax.flows.export import export_retriever
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.serving import load_artifact
from sid_jax.sids.index import build_index
from sid_jax.sids.table import SidTable
from sid_jax.sids.trie import build_trie


@pytest.fixture(scope="module")
def served(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "served"
    export_retriever(
        world.retriever, out, platforms=["cpu"], batch_size=4, room=1.0, log=str
    )
    return load_artifact(out)


def next_version(artifact, seed=0):
    """Half of the items, some of them under other SIDs; each at one store or more."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(artifact.codes))[: len(artifact.codes) // 2])
    catalog, codes = artifact.catalog.take(rows), artifact.codes[rows].copy()
    sizes = artifact.trie.codebook_sizes
    codes[::3] = rng.integers(0, sizes, (len(codes[::3]), len(sizes)))
    table = SidTable.build(catalog.item_ids, codes, None, artifact.table.manifest)
    stores, items = np.divmod(
        np.flatnonzero(rng.random(3 * len(rows)) < 0.7), len(rows)
    )
    index = build_index(table.leaves(), stores, items, np.ones(len(items)), 3)
    return catalog, table, index


def ask(artifact, each, mask=None):
    """Answers to requests of nobody, and of households with a history."""
    rng, count = np.random.default_rng(1), 4
    history = rng.integers(0, len(artifact.codes), (count, each.told.history), np.int32)
    history[0] = -1
    requests = Requests(
        users=np.zeros(count, np.int32),
        retailers=np.arange(count, dtype=np.int32) % 3,
        history=history,
        basket=np.full((count, 1), -1, np.int32),
        targets=np.full((count, 1), -1, np.int32),
        owned=history,
        owned_counts=np.ones_like(history),
    )
    return next(each.retrieve(requests, item_mask=mask))[0]


@pytest.mark.parametrize("masked", [False, True])
def test_the_next_version_answers_as_one_that_was_built_for_it(world, served, masked):
    before = ask(served, served)
    catalog, table, index = next_version(served)
    renewed = served.renew(catalog, table, index)
    mask = np.arange(len(catalog)) % 2 == 0 if masked else None
    found = ask(renewed, renewed, mask)
    live = load_retriever(world.retriever)
    fresh = replace(live, codes=renewed.codes, table=table, index=index)
    wanted = ask(renewed, fresh, mask)
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4)
    assert (found.items >= 0).any()
    assert renewed.program is served.program and served.program._cache_size() == 1
    after = ask(served, served)  # the old version beside it
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_what_does_not_fit_is_refused(served):
    catalog, table, index = next_version(served)
    other = replace(table.manifest, codebook_sizes=(9, *table.manifest.codebook_sizes))
    with pytest.raises(InputError, match=r"SIDs of codebooks \(9, "):
        served.renew(catalog, replace(table, manifest=other), index)
    made = [
        replace(each, manifest=replace(each.manifest, tokenizer=name))
        for each, name in ((served.table, "one"), (table, "another"))
    ]
    with pytest.raises(InputError, match="are of another tokenizer"):
        replace(served, table=made[0]).renew(catalog, made[1], index)
    with pytest.raises(InputError, match="the leaf of item row i"):
        served.renew(catalog, table, replace(index, leaves=index.leaves[::-1]))
    with pytest.raises(InputError, match="2 retailers, but the program knows 3"):
        served.renew(catalog, table, replace(index, starts=index.starts[:-1]))
    with pytest.raises(InputError, match="vectors: want none"):
        served.renew(catalog, table, index, np.zeros((len(catalog), 2), np.float32))
    with pytest.raises(InputError, match="have no SID"):
        served.renew(served.catalog, table, index)
    rng, sizes = np.random.default_rng(0), served.trie.codebook_sizes
    many = np.unique(rng.integers(0, sizes, (9999, len(sizes))), axis=0)
    names = [f"x{n}" for n in range(len(many))]
    table = SidTable.build(names, many, None, table.manifest)
    columns = dict.fromkeys(("title", "brand"), [""] * len(many))
    catalog = type(catalog).from_columns(names, **columns)
    zeros = np.zeros(len(many), int)
    index = build_index(table.leaves(), zeros, np.arange(len(many)), zeros, 3)
    tight = replace(served, trie=build_trie(served.table.sids, sizes))
    with pytest.raises(InputError, match=r"no room at level .*`sid export --room`"):
        tight.renew(catalog, table, index)
