"""Training a retriever: what is computed and scored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.errors import InputError
from sid_jax.models.flat import FlatConfig, FlatDecoder
from sid_jax.models.hierarchical import HierarchicalConfig, HierarchicalDecoder
from sid_jax.models.repeat import repeat_log_prob
from sid_jax.models.stream import lay_out
from sid_jax.models.tiger import TigerConfig, TigerDecoder
from sid_jax.sids.scoring import code_gains
from sid_jax.sids.trie import Trie
from sid_jax.sids.vocab import PAD, Prompts, Vocab
from sid_jax.train.step import Aux, Stats, lower_floats
from sid_jax.typing import Array, Float, Key, NDArray, PyTree, typed

RetrieverConfig = FlatConfig | HierarchicalConfig | TigerConfig
_MODULES = {
    FlatConfig: FlatDecoder,
    HierarchicalConfig: HierarchicalDecoder,
    TigerConfig: TigerDecoder,
}


def build_retriever(model: RetrieverConfig, vocab: Vocab) -> Any:
    """The module of a configuration: `context`, `start` and `step` of `decoder.py`."""
    return _MODULES[type(model)](model, vocab)


@dataclass(frozen=True, kw_only=True)
class RetrieverTaskConfig:
    """What a retriever learns from.

    Attributes:
      softmax: over all `codes` of a level, or over the `existing` ones, those that
        follow in some SID of the table (see `sids/scoring.py`); a search follows suit.
      start: of the code embeddings: `random`, or the `codebooks` of the tokenizer, so
        that codes of like meaning begin alike.
      smoothing: share of each code's target that is spread over the codes of its
        softmax (Szegedy et al. 2016).
      level_weights: what each level's loss counts; 1 each if empty.
      negatives: of a retriever that scores items: items drawn a step that its softmax
        is over, beside the target (see `train/scorer_task.py`); 0 takes them all.
      dtype: that the transformer computes in while it trains; what is trained, softmax
        and losses are float32 all the same.
    """

    softmax: Literal["codes", "existing"] = "codes"
    start: Literal["random", "codebooks"] = "random"
    smoothing: float = 0.0
    level_weights: tuple[float, ...] = ()
    negatives: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name, choices in (
            ("softmax", ("codes", "existing")),
            ("start", ("random", "codebooks")),
            ("dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"task.{name}={getattr(self, name)!r}: want one of {choices}"
                )
        if not 0 <= self.smoothing < 1:
            raise InputError(f"task.smoothing={self.smoothing} must be in [0, 1)")
        if self.level_weights and not min(self.level_weights) >= 0:
            raise InputError(
                f"task.level_weights={self.level_weights} has negative ones"
            )
        if self.negatives < 0:
            raise InputError(f"task.negatives={self.negatives} must not be negative")
        if self.negatives and self.smoothing:
            raise InputError(
                f"task.smoothing={self.smoothing} spreads over all items, and "
                f"task.negatives={self.negatives} draws a few; set one of them to 0"
            )


@dataclass(frozen=True, eq=False)
class RetrieverTask:
    """Spell every item that a batch asks for from all that precedes it.

    A batch is `Prompts` or `Sequences`. The loss is the mean over items of their SIDs'
    negative log-likelihood.

    Attributes:
      model: sizes.
      vocab: token layout.
      config: what is learned from.
      trie: the SIDs that exist, for `softmax="existing"`.
      codewords: a level, the vectors of its codes `[K_l, D]`, for `start="codebooks"`;
        levels beyond the last of them start at random.
      before: parameters to go on from, rather than any of that.
    """

    model: RetrieverConfig
    vocab: Vocab
    config: RetrieverTaskConfig = field(default_factory=RetrieverTaskConfig)
    trie: Trie | None = None
    codewords: tuple[Float[NDArray, "_ D"], ...] = ()
    before: PyTree = None

    def __post_init__(self):
        weights, levels = self.config.level_weights, self.vocab.num_levels
        if weights and len(weights) != levels:
            raise InputError(
                f"task.level_weights has {len(weights)} weights for SIDs of {levels} "
                "levels"
            )
        if (self.config.softmax == "existing") != (self.trie is not None):
            raise InputError(
                'softmax="existing" goes with the trie of the SIDs that exist'
            )
        if self.config.negatives:
            raise InputError(
                f"task.negatives={self.config.negatives} is of retrievers that score "
                "items; one that spells them has none"
            )

    @property
    def module(self) -> Any:
        return build_retriever(self.model, self.vocab)

    def init(self, key: Key[Array, ""], batch: PyTree) -> tuple[PyTree, PyTree]:
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        return self.module.init(key, blank)["params"], {}

    def prepare(
        self,
        params: PyTree,
        state: PyTree,
        batches: Iterator[PyTree],
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        if self.before is not None:
            return self.before, state
        if self.config.start == "random":
            return params, state
        tables = {
            name: part | {"embedding": self._start(part["embedding"], key)}
            for name, part in params.items()
            if name in ("tokens", "scores")
        }
        return params | tables, state

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Array, Aux]:
        params, rngs = lower_floats(params, self.config.dtype), {"dropout": key}
        outputs: Any = self.module.apply(
            {"params": params}, batch, train=True, rngs=rngs
        )
        asks, smoothing = outputs.asks, self.config.smoothing
        count = asks.sum().astype(jnp.float32)
        codes = outputs.targets - jnp.asarray(self.vocab.level_offsets)
        codes = jnp.where(asks[..., None], codes, 0)
        gains, means = code_gains(outputs.logits, codes, self.trie)
        gains = jnp.where(asks[..., None], gains, 0)
        metrics = {
            f"loss_{level + 1}": (-gains[..., level].sum(), count)
            for level in range(self.vocab.num_levels)
        }
        tokens = count * self.vocab.num_levels
        metrics["tokens"] = (tokens, jnp.float32(len(asks)))  # learned, an example
        if self.config.level_weights:
            weights = jnp.asarray(self.config.level_weights)
            gains, means = gains * weights, means * weights
        log_prob = gains.sum(axis=-1)
        if outputs.repeat is not None:
            log_prob = repeat_log_prob(
                outputs.repeat, outputs.history, outputs.targets, log_prob
            )
            gate = jnp.exp(outputs.repeat.repeat)
            metrics["repeat"] = ((gate * asks).sum(), count)
        learned = (1 - smoothing) * log_prob + smoothing * means.sum(axis=-1)
        loss = -(learned * asks).sum() / jnp.maximum(count, 1)
        return loss, (metrics, Stats())

    def weight(self, batch: PyTree) -> Float[Array, ""]:
        if isinstance(batch, Prompts):
            asks = batch.basket[..., 0] != PAD
        else:
            asks = lay_out(batch).asks
        return asks.sum().astype(jnp.float32)

    def fold(
        self,
        params: PyTree,
        state: PyTree,
        opt_state: PyTree,
        stats: Stats,
        key: Key[Array, ""],
    ) -> tuple[PyTree, PyTree, PyTree]:
        return params, state, opt_state

    def _start(self, embedding: Array, key: Key[Array, ""]) -> Array:
        """Embeddings `[V, D]` whose codes are like the codewords."""
        sizes = self.vocab.codebook_sizes
        if [len(level) for level in self.codewords] != [*sizes[: len(self.codewords)]]:
            raise InputError(
                f"codebooks of {[len(level) for level in self.codewords]} codes for "
                f"SIDs of {list(sizes)}"
            )
        words = np.concatenate(self.codewords)
        rows = like_rows(words, embedding.shape[1], key)
        first = self.vocab.level_offsets[0]
        return jnp.asarray(embedding).at[first : first + len(rows)].set(rows)


@typed
def like_rows(
    vectors: Float[NDArray, "n E"], width: int, key: Key[Array, ""]
) -> Float[Array, "n D"]:
    """Embeddings of another width that have the inner products of vectors.

    Vectors are projected on their first D right singular vectors, turned at random, so
    that heads share the directions evenly, and scaled to the mean square length of
    random rows, 1.
    """
    words = jnp.asarray(vectors, jnp.float32)
    directions = jnp.linalg.eigh(words.T @ words)[1][:, ::-1][:, :width]
    turn = jax.random.orthogonal(key, width)[: directions.shape[1]]
    rows = words @ directions @ turn
    return rows / jnp.sqrt((rows**2).sum(axis=1).mean())
