from itertools import product

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.models.repeat import Repeat, RepeatHead, repeat_log_prob

SIZES = (2, 3, 2)
ALL_SIDS = np.asarray(list(product(*map(range, SIZES))))
BATCH, HISTORY, WIDTH = 3, 4, 6


def draw(seed):
    """A history with repeats and gaps, what points into it, tables of a decoder."""
    rng = np.random.default_rng(seed)
    # One request in three without any history.
    present = rng.random((BATCH, HISTORY)) < np.asarray([[0.9], [0.5], [0.0]])
    history = ALL_SIDS[rng.integers(0, 4, (BATCH, HISTORY))]
    history = np.where(present[..., None], history, -1)
    some = present.any(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(present, rng.random(present.shape), 0.0)
        pointer = np.log(weights / weights.sum(axis=1, keepdims=True))
        gate = np.where(some, rng.random((BATCH, 1)), 0.0)
        repeat = Repeat(
            pointer=np.where(present, pointer, -np.inf)[:, None],
            repeat=np.log(gate),
            generate=np.log1p(-gate),
        )
    logits = [
        rng.normal(size=(BATCH, int(np.prod(SIZES[:level])), size)) * 3
        for level, size in enumerate(SIZES)
    ]
    return jax.tree.map(jnp.float32, (repeat, logits)), jnp.asarray(history), present


@jax.jit
def spell(repeat, history, logits):
    """Log-probabilities of all SIDs, level by level, from a decoder's tables."""
    state, codes, total = RepeatHead.start(repeat), None, jnp.zeros((BATCH, 1))
    for level, size in enumerate(SIZES):
        state, mixed = RepeatHead.step(
            repeat, state, history, codes, logits[level], level
        )
        beams = mixed.shape[1]
        total = (total[..., None] + jax.nn.log_softmax(mixed)).reshape(BATCH, -1)
        parents = jnp.repeat(jnp.arange(beams), size)
        state = jax.tree.map(lambda leaf, by=parents: leaf[:, by], state)
        codes = jnp.tile(jnp.arange(size), beams)[None].repeat(BATCH, axis=0)
    return total


def generated_by(logits):
    total = np.zeros((BATCH, 1))
    for table in logits:
        total = (total[..., None] + jax.nn.log_softmax(table)).reshape(BATCH, -1)
    return jnp.float32(total)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_spelling_gives_the_mixture(seed):
    (repeat, logits), history, present = draw(seed)
    generated = generated_by(logits)
    items = jnp.broadcast_to(ALL_SIDS, (BATCH, *ALL_SIDS.shape))
    whole = np.asarray(repeat_log_prob(repeat, history, items, generated))
    np.testing.assert_allclose(spell(repeat, history, logits), whole, atol=1e-4)
    np.testing.assert_allclose(np.exp(whole).sum(axis=1), 1, rtol=1e-5)
    for b, n in product(range(BATCH), range(len(ALL_SIDS))):
        repeated = sum(
            np.exp(repeat.pointer[b, 0, i])
            for i in range(HISTORY)
            if present[b, i] and tuple(history[b, i]) == tuple(ALL_SIDS[n])
        )
        gate = np.exp(repeat.repeat[b, 0])
        wanted = gate * repeated + (1 - gate) * np.exp(generated[b, n])
        np.testing.assert_allclose(np.exp(whole[b, n]), wanted, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_gradients_are_finite_where_nothing_matches(seed):
    (repeat, logits), history, _ = draw(seed)
    gradients = _gradients(repeat, history, logits)
    chex.assert_tree_all_finite(gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@jax.jit
def _gradients(repeat, history, logits):
    def total(shift, logits):
        pointed = jax.tree.map(jnp.add, repeat, shift)
        items = jnp.broadcast_to(ALL_SIDS, (BATCH, *ALL_SIDS.shape))
        generated = jnp.zeros((BATCH, len(ALL_SIDS))) + logits[0][:, 0, :1]
        whole = repeat_log_prob(pointed, history, items, generated)
        return whole.sum() + spell(pointed, history, logits).sum()

    return jax.grad(total, (0, 1))(jax.tree.map(jnp.zeros_like, repeat), logits)


def make_head():
    asking, history = np.random.default_rng(0).normal(size=(2, BATCH, HISTORY, WIDTH))
    # The second SID of the first request may repeat less than the first one.
    present = np.asarray([[True, False, True, True], [False] * 4, [True] * 4])
    present = present[:, None].repeat(2, axis=1)
    present[0, 1, 3] = False
    arguments = jnp.float32(asking[:, :2]), jnp.float32(history), jnp.asarray(present)
    return RepeatHead(), arguments


def test_the_pointer_is_a_distribution_over_what_is_there():
    head, (asking, history, present) = make_head()
    params = nn.unbox(head.init(jax.random.key(0), asking, history, present))
    params["params"]["gate"]["kernel"] += 1.0
    out = jax.jit(head.apply)(params, asking, history, present)
    pointer, some = np.exp(out.pointer), np.asarray(present).any(axis=(1, 2))
    assert out.pointer.shape == (BATCH, 2, HISTORY)
    np.testing.assert_allclose(pointer[some].sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_array_equal(pointer > 0, present)
    np.testing.assert_allclose(np.exp(out.repeat) + np.exp(out.generate), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.exp(out.repeat) > 0, some[:, None].repeat(2, 1))
    assert np.ptp(out.repeat[0]) > 0  # the gate depends on what asks

    # What stands at an absent place is never read; what is there is.
    other = jnp.where(present.any(axis=1)[..., None], history, 100.0)
    chex.assert_trees_all_close(head.apply(params, asking, other, present), out)
    other = head.apply(params, asking, history + jnp.eye(HISTORY, WIDTH), present)
    assert np.abs(np.exp(other.pointer) - pointer)[some].max(axis=(1, 2)).min() > 1e-3


def test_inside_nnx_it_gives_what_linen_gives():
    head, arguments = make_head()
    with nnx.use_eager_sharding(False):  # there is no mesh
        model = nnx.bridge.ToNNX(head, rngs=nnx.Rngs(0)).lazy_init(*arguments)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert params.keys() == {"query", "key", "gate"}
    chex.assert_trees_all_close(
        model(*arguments), head.apply({"params": params}, *arguments)
    )
