import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.data.catalog import Catalog
from sid_jax.data.cells import CellConfig, Cells
from sid_jax.errors import InputError
from sid_jax.sids.beam import beam_search
from sid_jax.sids.index import build_index
from sid_jax.sids.predicate import allowed_leaves
from sid_jax.sids.table import Manifest, SidTable
from sid_jax.sids.trie import build_trie

SIZES = (8, 3, 5)


def _draw(seed, num_items=40):
    """A catalog in cells, its table (codes within the blocks), and who carries what."""
    rng = np.random.default_rng(seed)
    values = {
        "tier": rng.choice(["Private", "National", "Other"], num_items),
        "vegan": rng.choice([True, None], num_items),
    }
    catalog = Catalog.from_columns(
        [str(i) for i in range(num_items)],
        attributes={name: each.tolist() for name, each in values.items()},
    )
    config = CellConfig(columns=("tier", "vegan"), min_items=1)
    cells = Cells.fit(config, catalog, SIZES[0])
    of = cells.of(catalog)
    sizes = np.asarray(cells.sizes)
    first = (np.cumsum(sizes) - sizes)[of] + rng.integers(sizes[of])
    rest = [rng.integers(size, size=num_items) for size in SIZES[1:]]
    codes = np.stack([first, *rest], axis=1).astype(np.int32)
    manifest = Manifest(codebook_sizes=SIZES)
    table = SidTable.build(catalog.item_ids, codes, None, manifest)
    lines = rng.integers([2, num_items], size=(30, 2))
    index = build_index(
        table.leaves(), *lines.T.astype(np.int32), np.ones(len(lines)), 2
    )
    return catalog, cells, table, index


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_the_leaves_are_those_of_the_allowed_first_codes(seed):
    rng = np.random.default_rng(seed)
    sids = np.stack([rng.integers(size, size=20) for size in SIZES], axis=1)
    trie = build_trie(sids, SIZES)
    mask = rng.random((3, SIZES[0])) < 0.5
    leaves = np.unique(sids, axis=0)
    expected = mask[:, leaves[:, 0]]
    np.testing.assert_array_equal(
        jax.jit(allowed_leaves)(trie, jnp.asarray(mask)), expected
    )


@settings(deadline=None, max_examples=4)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["Private", "National"]), st.booleans()
)
def test_an_exact_mask_is_the_index_check(seed, tier, vegan):
    catalog, cells, table, index = _draw(seed)
    conditions = {"tier": tier} | ({"vegan": "true"} if vegan else {})
    allowed = cells.allow(conditions)
    assert allowed.exact
    satisfying = catalog.where(conditions)
    trie = build_trie(table.sids, SIZES)
    mask = jnp.asarray(np.broadcast_to(allowed.codes, (2, SIZES[0])))
    leaves = np.asarray(jax.jit(allowed_leaves)(trie, mask))
    by_items = np.zeros(len(table.sids), bool)
    by_items[table.leaves()[satisfying]] = True
    np.testing.assert_array_equal(leaves, np.stack([by_items] * 2))
    retailers = np.arange(2)
    np.testing.assert_array_equal(
        index.allowed(retailers) & leaves[:, : index.num_leaves],
        index.allowed(retailers, satisfying),
    )


def test_a_search_finds_satisfying_items_alone():
    catalog, cells, table, _ = _draw(0)
    trie = build_trie(table.sids, SIZES)

    def step(context, state, codes, level):
        width = 1 if codes is None else codes.shape[1]
        return state, jnp.zeros((1, width, SIZES[level]))

    @jax.jit
    def search(mask):
        leaves = allowed_leaves(trie, mask)
        return beam_search(step, None, None, trie, num_beams=40, allowed=leaves)

    beams = search(jnp.asarray(cells.allow({"vegan": "true"}).codes[None]))
    found = np.asarray(beams.leaves)[np.asarray(beams.valid)]
    satisfying = np.flatnonzero(catalog.where({"vegan": "true"}))
    assert sorted(found) == sorted(set(table.leaves()[satisfying]))


def test_refuses_another_first_level():
    trie = build_trie(np.zeros((1, 3), int), SIZES)
    with pytest.raises(InputError, match="over 7 first codes, but the trie has 8"):
        allowed_leaves(trie, jnp.zeros((1, 7), bool))
