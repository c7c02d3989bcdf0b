"""Codes that learn nothing, judged as a tokenizer's are, and kept to retrieve by."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax import __version__
from sid_jax.config import ControlExperiment
from sid_jax.data.copurchase import CopurchaseConfig
from sid_jax.data.datasets import load
from sid_jax.data.items import split_holdout
from sid_jax.data.purchases import count_purchases
from sid_jax.data.vectors import ItemVectors
from sid_jax.flows import runs
from sid_jax.flows.tokenizer import judge_codes
from sid_jax.models.controls import lsh_codes, random_codes
from sid_jax.sids.table import Manifest, SidTable, write_table


def judge_control(
    config: ControlExperiment, seed: int, folder: Path
) -> dict[str, float]:
    """Its codes' figures, by the names of `judge_codes`.

    The folder then holds their `sids.parquet`, all that a retriever needs which does
    not start from codebooks.

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
    codes = np.asarray(codes)
    name = f"{config.kind} codes, seed {seed}"
    manifest = Manifest(
        codebook_sizes=config.codebook_sizes,
        tokenizer=name,
        catalog=catalog.digest(),
        created_by=f"sid_jax {__version__}",
    )
    table = SidTable.build(catalog.item_ids, codes, None, manifest)
    write_table(folder / runs.SIDS, table)
    return judge_codes(
        codes,
        config.codebook_sizes,
        vectors + recipe.centre,
        catalog,
        count_purchases(data, len(catalog)),
        (rows, held),
    )
