from itertools import product

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sid_jax.errors import InputError
from sid_jax.models.sasrec import SASRec, SASRecConfig, item_rows
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.vocab import Vocab

SIZES = (3, 4)
VOCAB = Vocab(codebook_sizes=SIZES, num_retailers=2)
CODES = np.asarray(list(product(range(3), range(4))), np.int32)[[0, 1, 1, 5, 7, 11]]
TRUNK = TransformerConfig(width=8, depth=2, num_heads=2, mlp_width=8)
HISTORIES = [(0, [3, 1, 4]), (1, [5, 0]), (1, [2, 2, 2, 1])]


def pack(rows, length):
    """`Sequences` with histories of HISTORIES in each row."""
    shape = (len(rows), length)
    retailers, items = np.full(shape, -1), np.full(shape, -1)
    segments = np.zeros(shape, int)
    for row, members in enumerate(rows):
        at = 0
        for number, member in enumerate(members, start=1):
            retailer, bought = HISTORIES[member]
            end = at + 1 + len(bought)
            retailers[row, at], items[row, at + 1 : end] = retailer, bought
            segments[row, at:end] = number
            at = end
    codes = np.where((items >= 0)[..., None], CODES[items], -1)
    return VOCAB.sequences(retailers, codes, items, segments)


def make(kind, **changes):
    config = SASRecConfig(transformer=TRUNK, items=kind, rows=1000, **changes)
    rows, num_rows = item_rows(config, CODES, SIZES)
    module = SASRec(config, num_rows, VOCAB.level_offsets[0])

    def both(module, batch, rows):
        return module.scores(module(batch, rows), rows)

    told = pack([[0]], 5), jnp.asarray(rows)
    init = jax.jit(lambda key: module.init(key, *told, method=both))
    params = nn.unbox(init(jax.random.key(0)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params
    )
    return module, params, jnp.asarray(rows)


@pytest.mark.parametrize("kind", ["atomic", "sid", "prefix"])
def test_a_score_is_the_product_with_the_sum_of_an_items_rows(kind):
    module, params, rows = make(kind)
    outputs = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    told = jnp.asarray(outputs), rows
    found = module.apply({"params": params}, *told, method="scores")
    for row, output in enumerate(outputs):
        for item, own in enumerate(rows):
            vector = sum(params["embedding"][r] for r in own)
            bias = sum(params["bias"][r] for r in own)
            wanted = output @ vector + bias
            np.testing.assert_allclose(found[row, item], wanted, rtol=1e-4, atol=1e-4)


def test_rows_are_shared_as_far_as_the_codes_are():
    sizes = {
        kind: item_rows(SASRecConfig(items=kind, rows=1000), CODES, SIZES)
        for kind in ("atomic", "sid", "prefix")
    }
    assert [size for _, size in sizes.values()] == [len(CODES), 7, 2000]
    for kind, (rows, size) in sizes.items():
        assert (rows >= 0).all() and (rows < size).all(), kind
    for a, b in product(range(len(CODES)), repeat=2):
        same = CODES[a] == CODES[b]
        shared = {kind: rows[a] == rows[b] for kind, (rows, _) in sizes.items()}
        assert shared["atomic"].tolist() == [a == b]
        assert shared["sid"].tolist() == same.tolist()
        assert shared["prefix"].tolist() == np.logical_and.accumulate(same).tolist()


def test_prefixes_spread_evenly_over_their_rows():
    codes = np.asarray(list(product(range(40), repeat=3)), np.int32)
    config = SASRecConfig(items="prefix", rows=100)
    rows, _ = item_rows(config, codes, (40, 40, 40))
    counts = np.bincount(rows[:, 2] - 200, minlength=100)
    # 64,000 balls in 100 bins: 640 each, give or take 25.
    assert counts.min() > 500 and counts.max() < 780


def test_a_packed_history_is_read_as_if_alone():
    module, params, rows = make("sid")
    read = jax.jit(lambda batch: module.apply({"params": params}, batch, rows))
    packed = read(pack([[0, 1], [2]], 9))
    for row, at, member in [(0, 0, 0), (0, 4, 1), (1, 0, 2)]:
        alone = read(pack([[member]], 6))
        size = 1 + len(HISTORIES[member][1])
        np.testing.assert_allclose(
            packed[row, at : at + size], alone[0, :size], atol=1e-4
        )


def test_no_output_sees_what_comes_after_it():
    module, params, rows = make("atomic")

    def read(embedding):
        changed = params | {"embedding": embedding}
        return module.apply({"params": changed}, pack([[0]], 5), rows)[0].sum(axis=1)

    influence = np.abs(jax.jit(jax.jacrev(read))(params["embedding"])).sum(axis=2)
    for position in range(4):
        bought = HISTORIES[0][1]
        assert (influence[position, bought[:position]] > 0).all()
        assert (influence[position, bought[position:]] == 0).all()


def test_bad_settings_are_named():
    with pytest.raises(InputError, match=r"model\.items='sum'"):
        SASRecConfig(items="sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"model\.rows=0"):
        SASRecConfig(items="prefix", rows=0)


def test_inside_nnx_it_gives_what_linen_gives():
    module, _, rows = make("atomic", biased=False)
    batch = pack([[0]], 5)
    with nnx.use_eager_sharding(False):  # there is no mesh
        model = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(batch, rows)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    wanted = jax.jit(module.apply)({"params": params}, batch, rows)
    chex.assert_trees_all_close(model(batch, rows), wanted, atol=1e-5)
