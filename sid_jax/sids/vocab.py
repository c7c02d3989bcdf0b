"""SIDs <-> decoder tokens: the token layout, the prompt layout, the written form.

Tokens are laid out as `pad | basket | retailers | level 1 codes | level 2 codes | ...`.
A prompt says retailer, history, basket mark, basket; an absent item is `PAD`, wherever
it stands: a model masks it and counts positions over what is there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray, typed

PAD = 0
BASKET = 1
_NUM_SPECIAL = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """What a retriever is asked: who, what was bought, what lies in the basket.

    Attributes:
      retailers: token of each request's retailer, int32 `[B]`.
      history: tokens of the household's items, int32 `[B, S, L]`; PAD where absent.
      basket: tokens of the basket so far, in order, int32 `[B, S_b, L]`; PAD where
        absent. In training: of the items to predict, each from those before it.
      user: a vector of each household, float32 `[B, E]`; or None.
    """

    retailers: Any
    history: Any
    basket: Any
    user: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sequences:
    """Whole histories to learn from, those of several households packed into a row.

    Attributes:
      tokens: int32 `[B, T, L]`; of an item, the tokens of its SID; of the retailer that
        opens a household's history, PAD and at the last level its token; PAD past a
        row's end.
      items: rows of the catalog, int32 `[B, T]`; -1 where there is no item.
      segments: which household a position is of, int32 `[B, T]`: 1, 2, ... in a row, 0
        past its end.
    """

    tokens: Any
    items: Any
    segments: Any


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Token layout of a decoder over SIDs.

    Attributes:
      codebook_sizes: codes a level, K_1 .. K_L.
      num_retailers: retailers R.
    """

    codebook_sizes: tuple[int, ...]
    num_retailers: int = 1

    def __post_init__(self):
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise InputError(
                f"codebook_sizes must be positive and not empty: {self.codebook_sizes}"
            )
        if self.num_retailers < 1:
            raise InputError(f"num_retailers must be >= 1: {self.num_retailers}")

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def level_offsets(self) -> tuple[int, ...]:
        """Token of code 0, a level."""
        first = _NUM_SPECIAL + self.num_retailers
        return tuple(accumulate(self.codebook_sizes[:-1], initial=first))

    @property
    def size(self) -> int:
        """Number of tokens V."""
        return _NUM_SPECIAL + self.num_retailers + sum(self.codebook_sizes)

    @typed
    def retailer_tokens(self, retailers: Int[NDArray, "*b"]) -> Int[NDArray, "*b"]:
        """Tokens of retailer indices.

        Raises:
          InputError: an index outside 0 .. R - 1.
        """
        outside = retailers[(retailers < 0) | (retailers >= self.num_retailers)]
        if outside.size:
            raise InputError(
                f"retailer {outside[0]} is outside 0..{self.num_retailers - 1}: the "
                "vocabulary was made for other retailers"
            )
        return (retailers + _NUM_SPECIAL).astype(np.int32)

    @typed
    def code_tokens(self, codes: Int[NDArray, "*b L"]) -> Int[NDArray, "*b L"]:
        """Tokens of SIDs; an item of negative codes is absent and gives PAD.

        Raises:
          InputError: a code outside its codebook.
        """
        outside = np.argwhere(codes >= np.asarray(self.codebook_sizes))
        if len(outside):
            code, level = codes[tuple(outside[0])], outside[0, -1]
            raise InputError(
                f"code {code} at level {level + 1} is outside 0.."
                f"{self.codebook_sizes[level] - 1}: the SIDs are of another tokenizer"
            )
        tokens = codes + np.asarray(self.level_offsets, np.int32)
        return np.where(codes >= 0, tokens, PAD).astype(np.int32)

    @typed
    def prompts(
        self,
        retailers: Int[NDArray, " B"],
        history: Int[NDArray, "B S L"],
        basket: Int[NDArray, "B S_b L"],
        user: Float[NDArray, "B E"] | None = None,
    ) -> Prompts:
        """Prompts from retailer indices and codes; absent items have negative codes."""
        return Prompts(
            retailers=self.retailer_tokens(retailers),
            history=self.code_tokens(history),
            basket=self.code_tokens(basket),
            user=user,
        )

    @typed
    def sequences(
        self,
        retailers: Int[NDArray, "B T"],
        codes: Int[NDArray, "B T L"],
        items: Int[NDArray, "B T"],
        segments: Int[NDArray, "B T"],
    ) -> Sequences:
        """Packed histories; where there is no retailer or item, they are negative."""
        tokens = self.code_tokens(codes)
        opens = retailers >= 0
        opening = self.retailer_tokens(np.maximum(retailers, 0))
        tokens[..., -1] = np.where(opens, opening, tokens[..., -1])
        return Sequences(tokens, items.astype(np.int32), segments.astype(np.int32))


def format_sid(codes: Iterable[int]) -> str:
    """`(35, 7, 120, 184)` -> `35_7_120_184`."""
    return "_".join(str(int(code)) for code in codes)


def parse_sid(text: str) -> tuple[int, ...]:
    """`35_7_120_184` -> `(35, 7, 120, 184)`; `-` is also taken as a separator.

    Raises:
      InputError: the text is no SID.
    """
    if not re.fullmatch(r"\d{1,9}([_-]\d{1,9})*", text, flags=re.ASCII):
        raise InputError(f"not a SID: {text!r} (want codes such as 35_7_120_184)")
    return tuple(int(code) for code in re.split("[_-]", text))
