"""Verbs that answer with products, or make what does."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from sid_jax.errors import InputError
from sid_jax.verbs.words import Positional, parse, say


def run_retrieve(argv: list[str]) -> None:
    """Products for a household at a store."""
    from sid_jax.flows.retrieve import retrieve

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        workdir: Positional[Path]
        """Run folder of a retriever, or what `sid export` made of it."""
        history: str = ""
        """Item ids the household bought, oldest first: ID,ID,ID."""
        basket: str = ""
        """Item ids in the basket so far: ID,ID."""
        retailer: str = ""
        """The store; may be left out if there is one only."""
        where: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
        """A condition such as brand_tier=Private or category=BREAD; may be repeated."""
        top: int = 10
        """How many products."""
        temperature: float | None = None
        """Draw SIDs at this temperature, for variety; 0 searches the likeliest."""
        seed: int = 0
        """Of what is drawn."""

    given = parse(Arguments, "retrieve", argv, run_retrieve)
    conditions = {}
    for each in given.where:
        key, equals, value = each.partition("=")
        if not (key and equals and value):
            raise InputError(f"--where {each!r}: want attribute=value")
        if conditions.get(key, value) != value:
            raise InputError(
                f"--where: {key} is given twice ({conditions[key]} and {value}); "
                "give each key once"
            )
        conditions[key] = value
    offers = retrieve(
        given.workdir,
        history=_split(given.history),
        basket=_split(given.basket),
        retailer=given.retailer,
        where=conditions,
        top=given.top,
        temperature=given.temperature,
        seed=given.seed,
    )
    for rank, offer in enumerate(offers, 1):
        say(
            f"{rank:>3}  {offer.score:8.3f}  {offer.sid:<18} {offer.item_id:<12} "
            f"{offer.title}  [{offer.category}]"
        )
    if not offers:
        say("nothing: the store carries no other product that meets the conditions")


def run_export(argv: list[str]) -> None:
    """A retriever as one program and its tables, to serve without its model's code."""
    from sid_jax.flows.export import PLATFORMS, export_retriever

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        workdir: Positional[Path]
        """Run folder of a retriever that spells."""
        out: Path
        """The folder to write."""
        platforms: tuple[str, ...] = PLATFORMS
        """What it is to run on."""
        batch_size: int | None = None
        """Requests of a call; the run's `search.batch_size` if left out."""
        room: float = 0.0
        """Share of SIDs more, in all and under any one prefix, that fit without another
        program, as the catalog grows."""

    given = parse(Arguments, "export", argv, run_export)
    export_retriever(
        given.workdir,
        given.out,
        platforms=given.platforms,
        batch_size=given.batch_size,
        room=given.room,
        log=say,
    )


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
