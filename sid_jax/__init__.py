"""sid_jax: Semantic IDs for recommendation, in JAX and Flax."""

__version__ = "0.1.0"
