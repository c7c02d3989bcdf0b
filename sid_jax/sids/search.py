"""How products are retrieved: what a search and the ranking of answers depend on."""

from dataclasses import dataclass

from sid_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How products are retrieved.

    Attributes:
      num_beams: beams M of a search, and so the most SIDs of an answer.
      top: products of an answer.
      owned: whether what the household has bought before may be answered; without it,
        a search is held to the SIDs of what is new to the household.
      temperature: above 0, SIDs are drawn without replacement, each code's logits
        divided by it and the softmax over what may be answered (near 0, code by code,
        the likeliest one); 0 searches for the likeliest SIDs.
      likeness: b: products found are ranked by log-probability + b cos(v, u), v the
        product's vector and u that of the last ones, as in `evals.baselines.nearest`.
      batch_size: requests that are searched at once.
      max_requests: requests of an evaluation; 0 for all.
      validation_requests: requests of an evaluation while training; 0 for all.
    """

    num_beams: int = 50
    top: int = 50
    owned: bool = True
    temperature: float = 0.0
    likeness: float = 0.0
    batch_size: int = 128
    max_requests: int = 0
    validation_requests: int = 512

    def __post_init__(self):
        for name in ("num_beams", "top", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"search.{name} must be positive")
        for name in ("temperature", "likeness"):
            value = getattr(self, name)
            if value and not 1e-6 <= value < float("inf"):
                raise InputError(f"search.{name}={value} must be 0, or at least 1e-6")
