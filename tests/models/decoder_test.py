from dataclasses import replace
from functools import cache, partial
from itertools import product

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.models.flat import FlatConfig, FlatDecoder
from sid_jax.models.hierarchical import HierarchicalConfig, HierarchicalDecoder
from sid_jax.models.repeat import repeat_log_prob
from sid_jax.models.stream import lay_out
from sid_jax.models.t5 import T5Config
from sid_jax.models.tiger import TigerConfig, TigerDecoder
from sid_jax.models.transformer import TransformerConfig
from sid_jax.sids.beam import beam_search
from sid_jax.sids.scoring import code_gains, score_sids
from sid_jax.sids.trie import build_trie
from sid_jax.sids.vocab import BASKET, PAD, Vocab

SIZES = (3, 4, 2)
VOCAB = Vocab(codebook_sizes=SIZES, num_retailers=2)
ALL_SIDS = np.asarray(list(product(*map(range, SIZES))), np.int32)
KINDS = pytest.mark.parametrize("kind", ["flat", "hierarchical", "tiger"])
CAUSAL = pytest.mark.parametrize("kind", ["flat", "hierarchical"])
TRUNK = TransformerConfig(width=8, depth=2, num_heads=2, mlp_width=8)
# History and basket of each request, before they are padded; (0, 3, 0) comes twice.
REQUESTS = [
    ([(1, 2, 1), (0, 3, 0), (1, 2, 1)], [(0, 3, 0)]),
    ([(1, 2, 1)], [(0, 3, 0), (2, 2, 1)]),
    ([], [(0, 0, 0)]),
    ([], []),
    ([(2, 3, 1), (2, 3, 0), (2, 0, 1)], []),
]
HISTORY, BASKET_SLOTS = 4, 2


def requests(kind):
    """What is told before the next item; TIGER reads a basket as the history's end."""
    if kind != "tiger":
        return REQUESTS
    return [(bought + carried, []) for bought, carried in REQUESTS]


def make_prompts(kind, places=None):
    """Prompts of REQUESTS; `places` are those of a history's items, the last ones."""
    history = np.full((len(REQUESTS), HISTORY, len(SIZES)), -1)
    basket = np.full((len(REQUESTS), BASKET_SLOTS, len(SIZES)), -1)
    for b, (bought, carried) in enumerate(requests(kind)):
        at = range(HISTORY - len(bought), HISTORY) if places is None else places[b]
        for place, item in zip(at, bought, strict=True):
            history[b, place] = item
        for place, item in enumerate(carried):
            basket[b, place] = item
    user = np.random.default_rng(4).normal(size=(len(REQUESTS), 3)).astype(np.float32)
    return VOCAB.prompts(np.arange(len(REQUESTS)) % 2, history, basket, user)


def init(module, prompts):
    return nn.unbox(jax.jit(module.init)(jax.random.key(0), prompts))["params"]


def build(kind, vocab, *, repeat=True, sizes=TRUNK):
    if kind == "flat":
        return FlatDecoder(FlatConfig(transformer=sizes, repeat=repeat), vocab)
    if kind == "tiger":
        small = T5Config(width=8, depth=2, num_heads=2, head_width=5, mlp_width=8)
        return TigerDecoder(TigerConfig(transformer=small), vocab)
    config = HierarchicalConfig(trunk=sizes, spell=sizes, tied=False, repeat=repeat)
    return HierarchicalDecoder(config, vocab)


@cache
def make_decoder(kind, repeat):
    """A decoder whose every parameter matters: at the start, its gate does not."""
    module = build(kind, VOCAB, repeat=repeat)
    rng = np.random.default_rng(1)
    return module, jax.tree.map(
        lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape).astype(np.float32),
        init(module, make_prompts(kind)),
    )


@partial(jax.jit, static_argnums=(0, 1))
def spell(kind, repeat, params, prompts):
    """Log-probability of every SID, code by code, through `step`: [B, SIDs, L]."""
    module, _ = make_decoder(kind, repeat)
    call = partial(module.apply, {"params": params})
    context = call(prompts, method="context")
    state = call(context, method="start")
    gains, codes, beams = [], None, 1
    for level, size in enumerate(SIZES):
        state, logits = call(context, state, codes, level, method="step")
        assert logits.shape == (len(prompts.retailers), beams, size)
        gain = jax.nn.log_softmax(logits).reshape(len(logits), beams * size, 1)
        gains.append(jnp.repeat(gain, len(ALL_SIDS) // (beams * size), axis=1))
        parents = jnp.repeat(jnp.arange(beams), size)
        state = jax.tree.map(lambda leaf, by=parents: leaf[:, by], state)
        codes = jnp.tile(jnp.arange(size), beams)[None].repeat(len(logits), axis=0)
        beams *= size
    return jnp.concatenate(gains, axis=2)


@partial(jax.jit, static_argnums=(0, 1))
def teach(kind, repeat, params, prompts):
    """Log-probabilities of a basket's codes [B, S_b, L] and SIDs, and the pointer."""
    module, _ = make_decoder(kind, repeat)
    outputs = module.apply({"params": params}, prompts)
    gains, _ = code_gains(outputs.logits, _codes(prompts.basket))
    total = gains.sum(axis=-1)
    if outputs.repeat is not None:
        total = repeat_log_prob(outputs.repeat, prompts.history, prompts.basket, total)
    return gains, total, outputs.repeat


def append_all(prompts):
    """Each request once for each SID, put in the first free slot of its basket.

    Slots are one more than `prompts` has.
    """
    count = (prompts.basket[..., 0] != PAD).sum(axis=1).repeat(len(ALL_SIDS))
    many = jax.tree.map(lambda leaf: leaf.repeat(len(ALL_SIDS), axis=0), prompts)
    basket = np.pad(many.basket, ((0, 0), (0, 1), (0, 0)))
    sids = np.tile(VOCAB.code_tokens(ALL_SIDS), (len(prompts.retailers), 1))
    basket[np.arange(len(basket)), count] = sids
    return replace(many, basket=basket), count


def teach_all(kind, repeat, prompts):
    """What the teacher-forced pass gives every SID as the next product."""
    many, count = append_all(prompts)
    outputs = teach(kind, repeat, make_decoder(kind, repeat)[1], many)
    shape = (len(prompts.retailers), len(ALL_SIDS))
    return jax.tree.map(
        lambda leaf: np.asarray(leaf)[np.arange(len(count)), count].reshape(
            *shape, *leaf.shape[2:]
        ),
        outputs,
    )


@cache
def taught(kind, repeat):
    return teach_all(kind, repeat, make_prompts(kind))


@cache
def spelled(kind, repeat):
    return np.asarray(
        spell(kind, repeat, make_decoder(kind, repeat)[1], make_prompts(kind))
    )


@KINDS
def test_spelling_step_by_step_is_the_teacher_forced_pass(kind):
    gains, total, _ = taught(kind, False)
    np.testing.assert_allclose(spelled(kind, False), gains, atol=1e-4)
    np.testing.assert_allclose(gains.sum(axis=2), total, atol=1e-5)
    assert np.ptp(gains, axis=(0, 1)).min() > 0.5  # no two codes look alike


@CAUSAL
def test_spelling_with_the_repeat_head_is_the_teacher_forced_mixture(kind):
    _, total, _ = taught(kind, True)
    gains = spelled(kind, True)
    np.testing.assert_allclose(gains.sum(axis=2), total, atol=1e-4)
    # Level by level: p(c | prefix) = p(prefix and c) / p(prefix).
    joint = np.exp(total).reshape(len(REQUESTS), *SIZES)
    for level in range(len(SIZES)):
        longer = joint.sum(axis=tuple(range(level + 2, len(SIZES) + 1)), keepdims=True)
        shorter = longer.sum(axis=level + 1, keepdims=True)
        wanted = np.broadcast_to(np.log(longer / shorter), joint.shape)
        wanted = wanted.reshape(gains.shape[:2])
        np.testing.assert_allclose(gains[..., level], wanted, atol=1e-4)


@KINDS
@pytest.mark.parametrize("repeat", [False, True])
def test_the_probabilities_of_all_sids_sum_to_one(kind, repeat):
    np.testing.assert_allclose(
        np.exp(taught(kind, repeat)[1]).sum(axis=1), 1, rtol=1e-4
    )
    total = spelled(kind, repeat).sum(axis=2)
    np.testing.assert_allclose(np.exp(total).sum(axis=1), 1, rtol=1e-4)


@KINDS
def test_given_sids_score_what_spelling_gives_them(kind):
    module, params = make_decoder(kind, True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(ALL_SIDS), (len(REQUESTS), 5))

    @jax.jit
    def score(params, prompts, codes):
        call = partial(module.apply, {"params": params})
        context = call(prompts, method="context")
        state = call(context, method="start")
        return score_sids(partial(call, method="step"), context, state, codes)

    found = score(params, make_prompts(kind), jnp.asarray(ALL_SIDS[chosen]))
    wanted = np.take_along_axis(spelled(kind, True).sum(axis=2), chosen, axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@KINDS
def test_a_households_vector_changes_its_own_answer_alone(kind):
    _, params = make_decoder(kind, False)
    prompts = make_prompts(kind)
    other = prompts.user.copy()
    other[1] = 0
    found = spell(kind, False, params, replace(prompts, user=other))
    changed = np.abs(found - spelled(kind, False)).max(axis=(1, 2))
    assert changed[1] > 1e-2
    np.testing.assert_allclose(np.delete(changed, 1), 0, atol=1e-5)
    # None says as little as a vector of zeros.
    none = spell(kind, False, params, replace(prompts, user=None))
    np.testing.assert_allclose(none[1], found[1], atol=1e-5)


@CAUSAL
def test_the_mixture_is_what_its_equation_says(kind):
    gains, total, repeat = taught(kind, True)
    history = make_prompts(kind).history
    for b, (bought, _) in enumerate(REQUESTS):
        for n, sid in enumerate(ALL_SIDS):
            same = (history[b] == VOCAB.code_tokens(sid)).all(axis=1)
            repeated = sum(np.exp(a) for a in repeat.pointer[b, n][same])
            gate = np.exp(repeat.repeat[b, n])
            wanted = gate * repeated + (1 - gate) * np.exp(gains[b, n].sum())
            np.testing.assert_allclose(np.exp(total[b, n]), wanted, rtol=1e-4)
            assert (gate == 0) == (not bought)


@CAUSAL
def test_the_mixture_over_sids_that_exist(kind):
    """p(SID) = g a(SID) + (1 - g) prod p(c_l), each p over the codes that exist."""
    module, params = make_decoder(kind, True)
    bought = {sid for history, basket in REQUESTS for sid in (*history, *basket)}
    rest = [sid for sid in map(tuple, ALL_SIDS.tolist()) if sid not in bought]
    sids = np.asarray(sorted([*bought, *rest[::4]]), np.int32)
    trie = build_trie(sids, SIZES)
    prompts = make_prompts(kind)

    @jax.jit
    def ask(params, prompts):
        call = partial(module.apply, {"params": params})
        context = call(prompts, method="context").replace(trie=trie)
        state = call(context, method="start")
        step = partial(call, method="step")
        every = jnp.broadcast_to(jnp.asarray(sids), (len(REQUESTS), *sids.shape))
        told = {"num_beams": len(sids), "softmax": "existing"}
        beams = beam_search(step, context, state, trie, **told)
        return score_sids(step, context, state, every, trie), beams, context.repeat

    scores, beams, repeat = jax.device_get(ask(params, prompts))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)
    found = np.take_along_axis(scores, beams.leaves, axis=1)
    np.testing.assert_allclose(beams.scores, found, atol=1e-4)
    # The decoder's own part, from what a decoder without the head would spell.
    many, count = append_all(prompts)
    outputs = jax.jit(module.apply)({"params": params}, many)
    at = np.arange(len(count)), count
    shape = (len(REQUESTS), len(ALL_SIDS))
    logits = [np.asarray(each)[at].reshape(*shape, -1) for each in outputs.logits]
    rows = [int(np.ravel_multi_index(sid, SIZES)) for sid in sids]
    logits = [jnp.asarray(each[:, rows]) for each in logits]
    every = jnp.broadcast_to(jnp.asarray(sids), (len(REQUESTS), *sids.shape))
    gains, *_ = jax.jit(code_gains)(logits, every, trie)
    own = np.exp(np.asarray(gains).sum(axis=2))
    for b in range(len(REQUESTS)):
        for n, sid in enumerate(sids):
            same = (prompts.history[b] == VOCAB.code_tokens(sid)).all(axis=1)
            repeated = np.exp(repeat.pointer[b, 0][same]).sum()
            gate = np.exp(repeat.repeat[b, 0])
            wanted = gate * repeated + (1 - gate) * own[b, n]
            np.testing.assert_allclose(np.exp(scores[b, n]), wanted, rtol=1e-3)


@CAUSAL
def test_no_output_sees_what_comes_after_it(kind):
    # Output (j, level) is read at code 7, which no prompt holds, so that the gradient
    # with respect to a token's embedding comes through the input alone.
    vocab = Vocab(codebook_sizes=(8, 8), num_retailers=1)
    prompts = vocab.prompts(
        np.zeros(1, int),
        np.asarray([[[0, 0], [1, 1]]]),
        np.asarray([[[2, 2], [3, 3], [4, 4]]]),
    )
    module = build(kind, vocab)
    params = init(module, prompts)
    params["repeat"]["gate"]["kernel"] += 1.0

    @jax.jit
    @jax.jacrev
    def influence(embedding):
        tokens = {"tokens": params["tokens"] | {"embedding": embedding}}
        outputs = module.apply({"params": params | tokens}, prompts)
        read = jnp.stack([level[0, :, 7] for level in outputs.logits], axis=1)
        return read, outputs.repeat.repeat[0], outputs.repeat.pointer[0, :, 0]

    read, gate, pointer = (
        np.abs(each).sum(axis=-1) for each in influence(params["tokens"]["embedding"])
    )
    basket = prompts.basket[0].ravel()
    before = [prompts.retailers[0], *prompts.history.ravel(), BASKET]
    for j, level in product(range(3), range(2)):
        seen, coming = [*before, *basket[: j * 2 + level]], basket[j * 2 + level :]
        for each in (read[j, level], *((gate[j], pointer[j]) if level == 0 else ())):
            assert (each[seen] > 0).all()
            assert (each[coming] == 0).all()


@KINDS
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_it_changes_nothing_where_absent_items_stand(kind, data):
    places = [
        sorted(data.draw(st.permutations(range(HISTORY)))[: len(bought)])
        for bought, _ in requests(kind)
    ]
    prompts = make_prompts(kind, places)
    np.testing.assert_allclose(
        teach_all(kind, True, prompts)[1], taught(kind, True)[1], atol=1e-4
    )
    _, params = make_decoder(kind, True)
    np.testing.assert_allclose(
        spell(kind, True, params, prompts), spelled(kind, True), atol=1e-4
    )


@KINDS
def test_it_changes_nothing_how_many_absent_items_there_are(kind):
    prompts = make_prompts(kind)
    wider = replace(
        prompts,
        history=np.pad(prompts.history, ((0, 0), (2, 1), (0, 0))),
        basket=np.pad(prompts.basket, ((0, 0), (0, 2), (0, 0))),
    )
    _, params = make_decoder(kind, True)
    np.testing.assert_allclose(
        spell(kind, True, params, wider), spelled(kind, True), atol=1e-4
    )


@KINDS
def test_no_value_or_gradient_is_nan_when_nothing_is_there(kind):
    _, params = make_decoder(kind, True)

    @jax.jit
    @jax.value_and_grad
    def total(params):
        prompts = jax.tree.map(jnp.asarray, make_prompts(kind))
        return teach(kind, True, params, prompts)[1].sum()

    value, gradient = total(params)
    chex.assert_tree_all_finite((value, gradient))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@partial(jax.jit, static_argnames=("kind", "num_beams"))
def search(kind, params, trie, prompts, allowed, *, num_beams):
    call = partial(make_decoder(kind, True)[0].apply, {"params": params})
    context = call(prompts, method="context")
    return beam_search(
        partial(call, method="step"),
        context,
        call(context, method="start"),
        trie,
        num_beams=num_beams,
        allowed=allowed,
    )


def pack(histories, rows, length):
    """Sequences that hold histories of (retailer, SIDs); `rows` says which where."""
    shape = (len(rows), length)
    retailers, segments = np.full(shape, -1), np.zeros(shape, int)
    codes = np.full((*shape, len(SIZES)), -1)
    for row, members in enumerate(rows):
        at = 0
        for number, member in enumerate(members, start=1):
            retailer, bought = histories[member]
            retailers[row, at] = retailer
            end = at + 1 + len(bought)
            codes[row, at + 1 : end] = bought
            segments[row, at:end] = number
            at = end
    return VOCAB.sequences(
        retailers, codes, np.where(codes[..., 0] < 0, -1, 0), segments
    )


@CAUSAL
@pytest.mark.parametrize("repeat", [False, True])
def test_every_position_of_a_packed_history_spells_what_its_prompt_spells(kind, repeat):
    rng = np.random.default_rng(0)
    few = rng.integers(0, SIZES, (3, len(SIZES)))  # some are bought again
    histories = [
        (retailer, few[rng.integers(0, len(few), length)])
        for retailer, length in [(0, 3), (1, 2), (0, 1), (1, 4)]
    ]
    packed = pack(histories, rows=[[3, 1], [2, 0]], length=9)
    module, params = make_decoder(kind, repeat)
    outputs = jax.jit(module.apply)({"params": params}, packed)
    assert outputs.asks.sum() == sum(len(bought) for _, bought in histories)
    asked = [
        (member, n) for member in (3, 1, 2, 0) for n in range(len(histories[member][1]))
    ]
    prompts = VOCAB.prompts(
        np.asarray([histories[member][0] for member, _ in asked]),
        np.stack([_last(histories[member][1][:n], 4) for member, n in asked]),
        np.zeros((len(asked), 0, len(SIZES)), int),
    )
    gains, _ = code_gains(outputs.logits, _codes(outputs.targets))
    if repeat:  # a SID at a time: what is repeated is not spelled
        gains = repeat_log_prob(
            outputs.repeat, outputs.history, outputs.targets, gains.sum(axis=-1)
        )[..., None]
    spelled_ = np.asarray(spell(kind, repeat, params, prompts))
    wanted = [
        spelled_[row, np.ravel_multi_index(histories[member][1][n], SIZES)]
        for row, (member, n) in enumerate(asked)
    ]
    wanted = np.sum(wanted, axis=1, keepdims=True) if repeat else wanted
    np.testing.assert_allclose(gains[outputs.asks], wanted, atol=1e-4)


def _codes(tokens):
    return jnp.where(tokens == PAD, 0, tokens - jnp.asarray(VOCAB.level_offsets))


def _last(items, length):
    return np.pad(items, ((length - len(items), 0), (0, 0)), constant_values=-1)


@KINDS
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_beam_search_is_exhaustive_scoring(kind, data):
    # A catalog of 11 SIDs under other names: tries of one shape, and one program.
    names = [np.asarray(data.draw(st.permutations(range(size)))) for size in SIZES]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    some = ALL_SIDS[np.random.default_rng(0).choice(len(ALL_SIDS), 11, replace=False)]
    renamed = np.stack(
        [name[codes] for name, codes in zip(names, some.T, strict=True)], axis=1
    )
    rows = np.sort(np.ravel_multi_index(renamed.T, SIZES))
    trie = build_trie(ALL_SIDS[rows], SIZES)
    allowed = rng.random((len(REQUESTS), len(rows))) < 0.7

    beams = search(  # as many beams as SIDs: nothing is pruned
        kind,
        make_decoder(kind, True)[1],
        trie,
        make_prompts(kind),
        jnp.asarray(allowed),
        num_beams=11,
    )
    scores = np.where(allowed, taught(kind, True)[1][:, rows], -np.inf)
    order = np.argsort(-scores, axis=1)
    wanted = np.take_along_axis(scores, order, axis=1)
    valid = np.isfinite(wanted)
    np.testing.assert_array_equal(beams.valid, valid)
    np.testing.assert_allclose(
        np.asarray(beams.scores)[valid], wanted[valid], atol=1e-4
    )
    leaves = np.asarray(beams.leaves)[valid]
    np.testing.assert_array_equal(leaves, order[valid])
    np.testing.assert_array_equal(
        np.asarray(beams.codes)[valid], ALL_SIDS[rows[leaves]]
    )


@KINDS
def test_inside_nnx_it_gives_what_linen_gives(kind):
    module = build(kind, VOCAB, sizes=replace(TRUNK, depth=1))
    prompts = make_prompts(kind)

    @nnx.jit
    def start(prompts):
        return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(prompts)

    with nnx.use_eager_sharding(False):  # there is no mesh
        model = start(prompts)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert "tokens" in params
    wanted = jax.jit(module.apply)({"params": params}, prompts)
    found = nnx.jit(lambda model, prompts: model(prompts))(model, prompts)
    chex.assert_trees_all_close(found, wanted, atol=1e-5)


def test_a_store_is_no_item_to_point_at_however_short_sids_are():
    vocab = Vocab(codebook_sizes=(4,), num_retailers=1)
    retailers, items = np.asarray([[0, -1, -1]]), np.asarray([[-1, 2, 3]])
    packed = vocab.sequences(retailers, items[..., None], items, np.ones((1, 3), int))
    assert lay_out(packed).pointable[0].tolist() == [[False, False], [False, True]]
    told = np.zeros(1, int), np.asarray([[[-1], [2]]]), np.asarray([[[3]]])
    assert lay_out(vocab.prompts(*told)).pointable[0].tolist() == [[False, True]]
