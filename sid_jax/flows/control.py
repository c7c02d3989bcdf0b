"""Codes that learn nothing, judged as a tokenizer's are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.config import ControlExperiment
from sid_jax.data.copurchase import CopurchaseConfig
from sid_jax.data.datasets import load
from sid_jax.data.items import split_holdout
from sid_jax.data.purchases import count_purchases
from sid_jax.data.vectors import ItemVectors
from sid_jax.flows.tokenizer import judge_codes
from sid_jax.models.controls import lsh_codes, random_codes


def judge_control(config: ControlExperiment, seed: int) -> dict[str, float]:
    """Its codes' figures, by the names of `judge_codes`; nothing is written.

    Raises:
      InputError: bad data or recipe, or LSH codes that are no power of two.
    """
    catalog, data = load(config.data)
    rows, held = split_holdout(len(catalog), config.holdout)
    alone = replace(config.vectors, copurchase=CopurchaseConfig())  # plain ones do
    recipe = ItemVectors.fit(alone, catalog.take(rows))
    vectors, key = recipe.encode_plain(catalog), jax.random.key(seed)
    if config.kind == "lsh":
        codes = lsh_codes(key, jnp.asarray(vectors), config.codebook_sizes)
    else:
        codes = random_codes(key, len(catalog), config.codebook_sizes)
    return judge_codes(
        np.asarray(codes),
        config.codebook_sizes,
        vectors + recipe.centre,
        catalog,
        count_purchases(data, len(catalog)),
        (rows, held),
    )
