"""Texts -> vectors by a sentence encoder (Reimers and Gurevych 2019): BERT and a pool.

    v = mean of the text's token vectors, or that of [CLS]; perhaps v / |v|

Texts are sorted by length and padded to a few static widths with a constant number of
tokens a batch: few programs are compiled, and little is computed on padding.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sid_jax.errors import InputError
from sid_jax.models.bert import Bert
from sid_jax.models.pretrained import read_folder, read_params, read_tokenizer
from sid_jax.typing import Array, Float, Int, NDArray, PyTree, typed

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Widths in tokens that texts are padded to, up to the model's own longest."""

BATCH_TOKENS = 1024
"""What fits a CPU's caches; an accelerator wants many more, such as 65,536."""

_CHUNK = 1 << 14  # texts whose tokens are held as Python objects
_SECONDS = 10  # between lines of progress


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A sentence encoder: pure Flax module, parameters, tokenizer and how to pool.

    Attributes:
      module: the transformer.
      params: its parameters.
      tokenizer: a `tokenizers.Tokenizer` that neither pads nor truncates.
      max_length: tokens of a text that are read, [CLS] and [SEP] counted.
      pooling: `mean` or `cls`.
      normalise: whether vectors are scaled to unit length.
      prefix: what the model wants before every text; "" for most.
      lower: whether texts are lower-cased before the tokenizer sees them.
    """

    module: Bert
    params: PyTree
    tokenizer: Any
    max_length: int
    pooling: str = "mean"
    normalise: bool = False
    prefix: str = ""
    lower: bool = False

    @property
    def width(self) -> int:
        """D of the vectors."""
        return self.module.config.hidden_size

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int = BATCH_TOKENS,
        sharding: NamedSharding | None = None,
        log: Callable[[str], None] | None = None,
    ) -> Float[NDArray, "N D"]:
        """Vectors of texts, in their order; equal texts are computed once.

        Args:
          texts: any strings; an empty one has the vector of [CLS] [SEP].
          batch_tokens: tokens a batch, padding counted.
          sharding: where the rows of a batch lie, such as `batch_sharding(mesh)`; the
            parameters are then copied to all its devices. None: one device.
          log: takes lines of progress and a note if texts are longer than the model
            reads.

        Returns:
          float32 vectors. A text's do not depend on the others but for rounding.
        """
        if batch_tokens < 1:
            raise InputError(f"batch_tokens must be positive: {batch_tokens}")
        unique = list(dict.fromkeys(texts))
        found = np.zeros((len(unique), self.width), np.float32)
        tokens, cut = self._tokenize(unique)
        if cut and log:
            log(
                f"note: {cut:,} of {len(unique):,} texts are longer than the "
                f"{self.max_length} tokens that the encoder reads; the rest of each is "
                "left out"
            )
        params, whole, multiple = self.params, None, 1
        if sharding is not None:
            whole = NamedSharding(sharding.mesh, PartitionSpec())
            params, multiple = jax.device_put(params, whole), sharding.num_devices
        start = noted = time.monotonic()
        total, done, ready = sum(map(len, tokens)), 0, 0
        for rows, batch, lengths in _batches(
            tokens, self.max_length, batch_tokens, multiple
        ):
            if sharding is not None:
                batch, lengths = jax.device_put((batch, lengths), sharding)
            found[rows] = np.asarray(self._run(params, batch, lengths, whole))[
                : len(rows)
            ]
            done, ready = (
                done + sum(len(tokens[row]) for row in rows),
                ready + len(rows),
            )
            now = time.monotonic()
            if log and now - noted >= _SECONDS:
                noted, rate = now, done / (now - start)
                log(
                    f"encoded {ready:,} of {len(unique):,} texts "
                    f"({done / total:.0%} of the tokens, {rate:,.0f} a second), "
                    f"{(total - done) / rate:,.0f} s left"
                )
        place = {text: row for row, text in enumerate(unique)}
        return found[np.asarray([place[text] for text in texts], np.int64)]

    @typed
    def apply(
        self, params: PyTree, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        """Pooled vectors in float32: a pure function, for other people's `jax.jit`."""
        outputs = self.module.apply({"params": params}, tokens, lengths)
        outputs = jnp.asarray(outputs).astype(jnp.float32)
        if self.pooling == "cls":
            pooled = outputs[:, 0]
        else:
            mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
            counts = jnp.maximum(lengths, 1)[:, None]
            pooled = jnp.where(mask[..., None], outputs, 0).sum(axis=1) / counts
        if self.normalise:
            norms = jnp.linalg.norm(pooled, axis=1, keepdims=True)
            pooled = pooled / jnp.maximum(norms, 1e-12)
        return pooled

    def digest(self) -> str:
        """SHA-256 (hex) of all that a text's vector depends on."""
        sha = hashlib.sha256()
        facts = (self.max_length, self.pooling, self.normalise, self.prefix, self.lower)
        sha.update(repr((self.module, facts)).encode())
        sha.update(self.tokenizer.to_str().encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            sha.update(
                f"{jax.tree_util.keystr(path)} {leaf.dtype}{leaf.shape}".encode()
            )
            sha.update(np.ascontiguousarray(leaf).tobytes())
        return sha.hexdigest()

    @cached_property
    def _run(self) -> Callable[..., Array]:
        def run(params, tokens, lengths, whole):
            pooled = self.apply(params, tokens, lengths)
            # On every device of every process, so that each can read all rows.
            return (
                pooled
                if whole is None
                else jax.lax.with_sharding_constraint(pooled, whole)
            )

        return jax.jit(run, static_argnums=3)

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[NDArray], int]:
        """Token ids of each text, and how many texts were cut."""
        tokens, cut = [], 0
        for start in range(0, len(texts), _CHUNK):
            chunk = [self.prefix + text for text in texts[start : start + _CHUNK]]
            chunk = [text.lower() for text in chunk] if self.lower else chunk
            for encoding in self.tokenizer.encode_batch(chunk):
                ids = np.asarray(encoding.ids, np.int32)
                if len(ids) > self.max_length:
                    # As the tokenizer's own truncation: the last token is [SEP].
                    ids, cut = np.append(ids[: self.max_length - 1], ids[-1]), cut + 1
                tokens.append(ids)
        return tokens, cut


def load_encoder(path_or_name: str, *, dtype: Any = jnp.float32) -> TextEncoder:
    """A sentence encoder from a local sentence-transformers folder or the hub.

    Nothing is unpickled: weights are read from `model.safetensors` alone.

    Args:
      path_or_name: the folder; if there is none, the name of a model on the hub.
      dtype: of the matrix products, float32 or bfloat16.

    Raises:
      InputError: a package is missing, or a file is missing, damaged, or of an
        architecture that is not supported; the message names file and field.
    """
    folder = read_folder(path_or_name)
    module = Bert(folder.config, dtype)
    tokenizer = read_tokenizer(folder.transformer / "tokenizer.json", folder.config)
    return TextEncoder(
        module=module,
        params=read_params(folder.transformer / "model.safetensors", module),
        tokenizer=tokenizer,
        max_length=folder.max_length,
        pooling=folder.pooling,
        normalise=folder.normalise,
        prefix=folder.prefix,
        lower=folder.lower,
    )


def _batches(
    tokens: list[NDArray], max_length: int, batch_tokens: int, multiple: int
) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """(rows, padded tokens, lengths), longest texts first: what fits is known at once.

    A batch's width follows from its longest text, its rows from its width; the last
    one's from how many are left, to a power of two.
    """
    lengths = np.asarray([len(each) for each in tokens], np.int32)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        width = min(
            [w for w in WIDTHS if longest <= w < max_length], default=max_length
        )
        size = min(batch_tokens // width, 1 << (len(order) - start - 1).bit_length())
        size = -(-max(size, 1) // multiple) * multiple
        rows = order[start : start + size]
        batch = np.zeros((size, width), np.int32)
        counts = np.zeros(size, np.int32)
        for place, row in enumerate(rows):
            batch[place, : lengths[row]] = tokens[row]
        counts[: len(rows)] = lengths[rows]
        yield rows, batch, counts
        start += size
