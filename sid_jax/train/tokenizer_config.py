"""How a tokenizer learns: the settings of `TokenizerTask`."""

from dataclasses import dataclass, field
from typing import Literal

from sid_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TaxonomyTerm:
    """The pull of the category tree (`losses.graded_contrastive_loss`).

    Attributes:
      weight: lambda; 0 for none. Instacart's is 0.01.
      temperature: of the softmax over cosines.
      sibling: grade of leaves under one parent; of the same leaf it is 1.
      cousin: grade of leaves under one grandparent; 0 ends relatedness at siblings.
      base: level l weighs base^-l, so coarse levels weigh more if it is above 1.
    """

    weight: float = 0.0
    temperature: float = 0.1
    sibling: float = 0.5
    cousin: float = 0.25
    base: float = 2.0

    def __post_init__(self):
        _check_term("task.taxonomy", self)
        for name in ("sibling", "cousin"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"task.taxonomy.{name}={getattr(self, name)} must be from 0 to 1"
                )


@dataclass(frozen=True, kw_only=True)
class CooccurrenceTerm:
    """The pull of what is bought together (`losses.cooccurrence_loss`).

    Attributes:
      weight: mu; 0 for none.
      temperature: of the softmax over cosines.
      base: level l weighs base^-l; below 1, deep levels weigh more. Complements are no
        substitutes: at the first level the two terms would pull against each other.
    """

    weight: float = 0.0
    temperature: float = 0.1
    base: float = 0.5

    def __post_init__(self):
        _check_term("task.cooccurrence", self)


@dataclass(frozen=True, kw_only=True)
class TokenizerTaskConfig:
    """How a tokenizer learns.

    Attributes:
      commitment: weight beta of the commitment loss.
      taxonomy: the pull of the category tree.
      cooccurrence: the pull of what is bought together.
      anchor: weight alpha of the squared distance to the latents of the tokenizer that
        training started from (DACT, arXiv 2603.29705).
      progressive: reconstruct from the first r levels, r drawn evenly from 1 to L for
        each item (PLUM, arXiv 2510.07784), so that prefixes reconstruct by themselves.
      codebooks: `average` moves them by moving average; `gradient` by the optimizer,
        with the codebook loss ||sg[r_{l-1}] - e_l||^2.
      decay: of the codebooks' moving average.
      even: if positive, training assigns the last level by Sinkhorn's iterations with
        this epsilon (LC-Rec: 0.003), which uses its codes evenly.
      frozen: first levels whose codewords do not move.
      beams: partial codes kept in encoding, as FAISS does; 1 is greedy. Training is
        always greedy.
      start_rows: item vectors that the k-means start reads, at most.
      start_iterations: its Lloyd steps, a level.
      restart_below: a codeword whose moving count of rows a batch is lower is dead;
        never more than a tenth of what even use would give, B / 10 K.
      restart_steps: dead codewords restart during so many first steps; the codes then
        settle.
      dtype: that encoder and decoder compute in while they train; what is trained,
        distances and losses are float32 all the same.
    """

    commitment: float = 0.25
    taxonomy: TaxonomyTerm = field(default_factory=TaxonomyTerm)
    cooccurrence: CooccurrenceTerm = field(default_factory=CooccurrenceTerm)
    anchor: float = 0.0
    progressive: bool = False
    codebooks: Literal["average", "gradient"] = "average"
    decay: float = 0.99
    even: float = 0.0
    frozen: int = 0
    beams: int = 1
    start_rows: int = 20_480
    start_iterations: int = 20
    restart_below: float = 0.1
    restart_steps: int = 1_000_000
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        least = {
            "commitment": 0,
            "anchor": 0,
            "even": 0,
            "frozen": 0,
            "beams": 1,
            "start_rows": 1,
            "start_iterations": 1,
            "restart_below": 0,
            "restart_steps": 0,
        }
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise InputError(
                    f"task.{name}={getattr(self, name)} must be at least {value}"
                )
        if not 0 <= self.decay < 1:
            raise InputError(f"task.decay={self.decay} must be in [0, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"task.dtype={self.dtype!r}: float32 or bfloat16")


def _check_term(name: str, term: TaxonomyTerm | CooccurrenceTerm) -> None:
    if not 0 <= term.weight < float("inf"):
        raise InputError(f"{name}.weight={term.weight} must be at least 0")
    for each in ("temperature", "base"):
        if not 0 < getattr(term, each) < float("inf"):
            raise InputError(f"{name}.{each}={getattr(term, each)} must be above 0")
