import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sid_jax.errors import InputError
from sid_jax.models.codebooks import make_codebooks
from sid_jax.models.quantizer import quantize
from sid_jax.models.rqvae import ResidualKMeansConfig, RQVAEConfig, build_tokenizer

ROWS, FEATURES = 6, 5
SIZES = (4, 2)
CONFIG = RQVAEConfig(hidden=(7,), latent=3, codebook_sizes=SIZES)
KMEANS = ResidualKMeansConfig(codebook_sizes=SIZES)


def make(config):
    rng = np.random.default_rng(0)
    width = config.latent if isinstance(config, RQVAEConfig) else FEATURES
    levels = [jnp.float32(rng.normal(size=(size, width))) for size in SIZES]
    vectors = jnp.float32(rng.normal(size=(ROWS, FEATURES)))
    return build_tokenizer(config, FEATURES), vectors, make_codebooks(levels)


def test_it_decodes_what_the_codes_say_alone():
    module, vectors, codebooks = make(CONFIG)
    variables = module.init(jax.random.key(0), vectors, codebooks)
    latent = module.apply(variables, vectors, method="encode")
    output = module.apply(variables, vectors, codebooks)
    assert output.latent.shape == (ROWS, 3)
    assert output.reconstruction.shape == (ROWS, FEATURES)
    np.testing.assert_array_equal(output.latent, latent)
    chex.assert_trees_all_close(output.quantized, quantize(latent, codebooks))
    decoded = module.apply(variables, output.quantized.total, method="decode")
    np.testing.assert_allclose(output.reconstruction, decoded, atol=1e-6)


def test_gradients_pass_straight_through_the_quantizer():
    module, vectors, codebooks = make(CONFIG)
    params = nn.unbox(module.init(jax.random.key(0), vectors, codebooks))["params"]
    weights = jax.random.normal(jax.random.key(1), (ROWS, FEATURES))

    def loss(params, vectors):
        output = module.apply({"params": params}, vectors, codebooks)
        return (weights * output.reconstruction**2).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(params, vectors)

    # The chain rule by hand, with the identity where the quantizer stands.
    def encode(params, vectors):
        return module.apply({"params": params}, vectors, method="encode")

    def decoded_loss(params, total):
        decoded = module.apply({"params": params}, total, method="decode")
        return (weights * decoded**2).sum()

    latent, back = jax.vjp(encode, params, vectors)
    total = quantize(latent, codebooks).total
    assert np.abs(total - latent).max() > 0.1
    of_decoder, at_total = jax.grad(decoded_loss, (0, 1))(params, total)
    of_encoder, of_vectors = back(at_total)
    wanted = jax.tree.map(jnp.add, of_decoder, of_encoder), of_vectors
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_residual_kmeans_is_its_codebooks():
    module, vectors, codebooks = make(KMEANS)
    assert module.init(jax.random.key(0), vectors, codebooks) == {}
    output = module.apply({}, vectors, codebooks)
    np.testing.assert_array_equal(output.latent, vectors)
    np.testing.assert_array_equal(output.reconstruction, output.quantized.total)
    chex.assert_trees_all_equal(output.quantized, quantize(vectors, codebooks))
    for method in ("encode", "decode"):
        same = module.apply({}, vectors, method=method)
        np.testing.assert_array_equal(same, vectors)


def test_hidden_layers_are_mirrored():
    config = RQVAEConfig(hidden=(8, 6), latent=3, codebook_sizes=SIZES)
    module, vectors, codebooks = make(config)
    params = nn.unbox(
        jax.eval_shape(module.init, jax.random.key(0), vectors, codebooks)
    )
    widths = {
        side: [layer["kernel"].shape for _, layer in sorted(layers.items())]
        for side, layers in params["params"].items()
    }
    assert widths["encoder"] == [(FEATURES, 8), (8, 6), (6, 3)]
    assert widths["decoder"] == [(3, 6), (6, 8), (8, FEATURES)]


@pytest.mark.parametrize("config", [CONFIG, KMEANS], ids=lambda c: type(c).__name__)
def test_inside_nnx_it_gives_what_linen_gives(config):
    module, vectors, codebooks = make(config)
    with nnx.use_eager_sharding(False):  # there is no mesh
        model = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(vectors, codebooks)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert params.keys() == ({"encoder", "decoder"} if config is CONFIG else set())
    chex.assert_trees_all_close(
        model(vectors, codebooks),
        module.apply({"params": params}, vectors, codebooks),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: RQVAEConfig(codebook_sizes=(0, 8)),
        lambda: RQVAEConfig(codebook_sizes=()),
        lambda: ResidualKMeansConfig(codebook_sizes=(-4, 8)),
        lambda: RQVAEConfig(latent=0),
        lambda: RQVAEConfig(hidden=(8, 0)),
    ],
)
def test_sizes_that_make_no_tokenizer_are_refused(make):
    with pytest.raises(InputError, match=r"model\.(codebook_sizes|hidden)"):
        make()
