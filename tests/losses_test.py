import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.losses import code_log_prob, commitment_loss, reconstruction_loss

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_reconstruction_is_summed_over_features(seed):
    vectors, other = np.random.default_rng(seed).normal(size=(2, 5, 3))
    vectors, other = jnp.float32(vectors), jnp.float32(other)
    loss = reconstruction_loss(vectors, other)
    np.testing.assert_allclose(loss, np.linalg.norm(vectors - other, axis=1) ** 2, 1e-4)
    wider = [jnp.pad(each, ((0, 0), (0, 4))) for each in (vectors, other)]
    np.testing.assert_allclose(reconstruction_loss(*wider), loss, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_commitment_pulls_the_latent_to_every_level_and_no_codeword(seed):
    rng = np.random.default_rng(seed)
    latent = jnp.float32(rng.normal(size=(4, 3)))
    codewords = jnp.float32(rng.normal(size=(4, 2, 3)))
    first = latent - codewords[:, 0]
    second = first - codewords[:, 1]
    wanted = (first**2).sum(axis=1) + (second**2).sum(axis=1)
    np.testing.assert_allclose(commitment_loss(latent, codewords), wanted, rtol=1e-4)
    of_latent, of_codewords = jax.grad(
        lambda *args: commitment_loss(*args).sum(), (0, 1)
    )(latent, codewords)
    np.testing.assert_allclose(of_latent, 2 * (first + second), rtol=1e-4, atol=1e-5)
    assert (of_codewords == 0).all()


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(-50, 50))
def test_log_probabilities_are_those_of_a_distribution(seed, shift):
    logits = jnp.float32(np.random.default_rng(seed).normal(size=(3, 4, 6)) * 5)
    codes = jnp.tile(jnp.arange(4), (3, 1))
    wanted = np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
    found = code_log_prob(logits + shift, codes)
    np.testing.assert_allclose(found, wanted[:, range(4), range(4)], atol=1e-4)
    everything = [code_log_prob(logits, jnp.full((3, 4), code)) for code in range(6)]
    np.testing.assert_allclose(np.exp(everything).sum(axis=0), 1, rtol=1e-5)
    assert code_log_prob(logits.astype(jnp.bfloat16), codes).dtype == jnp.float32
