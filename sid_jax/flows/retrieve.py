"""`sid retrieve`: what a household at a store is offered next, by a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sid_jax.config import RetrieverExperiment, SASRecConfig
from sid_jax.errors import InputError
from sid_jax.flows import runs
from sid_jax.flows.asking import Offer, ask
from sid_jax.flows.corpus import read_retailers
from sid_jax.flows.retriever import Retriever, load_retriever, searching
from sid_jax.flows.serving import is_artifact, load_artifact
from sid_jax.flows.speller import Speller


def retrieve(
    folder: Path,
    *,
    history: Sequence[str] = (),
    basket: Sequence[str] = (),
    retailer: str = "",
    where: Mapping[str, str] | None = None,
    top: int = 10,
    temperature: float | None = None,
    seed: int = 0,
) -> list[Offer]:
    """The best products for one request.

    Args:
      folder: run of a retriever, or what `sid export` made of it.
      history: item ids the household bought, oldest first, as often as it did.
      basket: item ids in the basket so far.
      retailer: the store; may be left out if there is one only.
      where: conditions on attributes, `brand`, or `category`.
      top: at most so many products.
      temperature: in place of the run's `search.temperature`.
      seed: of what is drawn at a temperature.

    Raises:
      InputError: unknown items, retailers, attributes or values, or a temperature for a
        retriever that draws nothing.
    """
    words: dict[str, Any] = {
        "history": history,
        "basket": basket,
        "retailer": retailer,
        "where": where,
        "top": top,
    }
    if is_artifact(folder):
        if temperature is not None:
            raise InputError(
                f"--temperature: {folder} searches as it was exported; set "
                "search.temperature in the run, and export it again"
            )
        artifact = load_artifact(folder)
        told = artifact.told, artifact.catalog, artifact.retailers
        return ask(lambda: artifact, *told, **words, key=jax.random.key(seed))
    config = runs.open_finished(folder, RetrieverExperiment)
    drawing: dict[str, Any] = {"key": jax.random.key(seed)}
    if isinstance(config.model, SASRecConfig):
        if temperature:
            raise InputError(f"--temperature draws SIDs, and {folder} scores items")
        drawing = {}

    def load() -> Retriever:
        retriever = load_retriever(folder)
        if temperature is None or not isinstance(retriever, Speller):
            return retriever
        return searching(retriever, temperature=temperature)

    catalog, retailers = runs.read_catalog(folder), read_retailers(folder)
    return ask(load, config.prompts, catalog, retailers, **words, **drawing)
