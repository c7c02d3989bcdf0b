"""`sid embed`: the texts of items become vectors, to train a tokenizer on."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.datasets import DataConfig, load
from sid_jax.data.flavours import make_texts
from sid_jax.data.parsing import read_items
from sid_jax.data.texts import match_texts, read_texts
from sid_jax.data.vector_files import write_vectors
from sid_jax.errors import InputError
from sid_jax.files import writing
from sid_jax.flows.runs import Log
from sid_jax.models.text import BATCH_TOKENS, TextEncoder, load_encoder
from sid_jax.sids.mapped import load_npz, save_npz
from sid_jax.train.sharding import MeshConfig, batch_sharding, make_mesh
from sid_jax.typing import Float, NDArray

_ACCELERATOR_TOKENS = 1 << 16  # a batch; a CPU has the encoder's own default
_PART = 1 << 12  # distinct texts that an interruption may cost


def embed(
    out: Path,
    log: Log,
    *,
    encoder: str,
    recipe: str = "precision",
    items: Path | None = None,
    data: str = "",
    data_dir: str = "",
    source: str = "",
    texts: Path | None = None,
    title_words: int = 0,
) -> None:
    """Encodes the text of every item, on all devices; goes on where it was stopped.

    Args:
      out: the `.parquet` to write, columns item_id and vector.
      log: where lines go.
      encoder: a sentence-transformers folder, or a name on the hub.
      recipe: `precision` or `discovery`; unused where texts are brought.
      items: file as `sid import` reads it.
      data: or the name of a data set, in `data_dir`.
      data_dir: see `DataConfig`.
      source: see `DataConfig`.
      texts: file of item_id and text for exactly these items; without `items` and
        `data`, for those it has.
      title_words: titles are cut to so many words; 0 leaves them whole.

    Raises:
      InputError: a bad file, an encoder that is not supported, or `out` is there.
    """
    if out.suffix != ".parquet":
        raise InputError(f"--out {out}: vectors are written to a .parquet file")
    if out.exists():
        raise InputError(f"--out {out}: exists; delete it, or choose another name")
    if items is not None and data:
        raise InputError("give --items or --data, not both")
    if items is None and not data and texts is None:
        raise InputError("no items: give --items FILE, --data NAME or --texts FILE")
    catalog, notes = None, []
    if items is not None:
        catalog, notes = read_items(items)
    elif data:
        catalog, _ = load(DataConfig(name=data, data_dir=data_dir, source=source))
    ids, words, more = _find_texts(catalog, texts, recipe, title_words)
    for note in (*notes, *more):
        log(f"note: {note}")
    model = load_encoder(encoder)
    log(
        f"{len(set(words)):,} distinct texts of {len(ids):,} items, such as: {words[0]}"
    )
    parts = out.with_name(f".{out.name}.parts")
    vectors = _encode(model, words, parts, log)
    write_vectors(out, ids, vectors)
    shutil.rmtree(parts)
    log(f"{out}: {len(ids):,} vectors of width {model.width}")


def _find_texts(
    catalog: Catalog | None, path: Path | None, recipe: str, title_words: int
) -> tuple[list[str], list[str], list[str]]:
    """Item ids, their texts, and notes."""
    if path is not None:
        brought, notes = read_texts(path)
        ids = list(brought) if catalog is None else catalog.item_ids
        return ids, match_texts(path, brought, ids), notes
    assert catalog is not None
    words = make_texts(catalog, recipe, title_words=title_words)
    empty = words.count("")
    notes = [f"{empty:,} items have no text, and share a vector"] if empty else []
    return catalog.item_ids, words, notes


def _encode(
    model: TextEncoder, texts: Sequence[str], parts: Path, log: Log
) -> Float[NDArray, "N D"]:
    """Vectors of texts; each part is kept under a digest of all that it depends on."""
    sharding = (
        batch_sharding(make_mesh(MeshConfig())) if jax.device_count() > 1 else None
    )
    batch_tokens = BATCH_TOKENS
    if jax.default_backend() != "cpu":
        batch_tokens = _ACCELERATOR_TOKENS * jax.device_count()
    unique = list(dict.fromkeys(texts))
    found, digest = [], model.digest()
    with writing(parts):
        parts.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(unique), _PART):
        chunk = unique[start : start + _PART]
        key = hashlib.sha256(json.dumps([digest, chunk]).encode()).hexdigest()
        path = parts / f"{key[:32]}.npz"
        vectors = _read_part(path, (len(chunk), model.width))
        if vectors is None:
            done = f"part {start // _PART + 1} of {-(-len(unique) // _PART)}: "
            vectors = model.encode(
                chunk,
                batch_tokens=batch_tokens,
                sharding=sharding,
                log=lambda line, done=done: log(done + line),
            )
            save_npz(path, {"vectors": vectors})
        else:
            log(f"{len(chunk):,} texts were encoded before the last run was stopped")
        found.append(vectors)
    place = {text: row for row, text in enumerate(unique)}
    return np.concatenate(found)[[place[text] for text in texts]]


def _read_part(path: Path, shape: tuple[int, int]) -> NDArray | None:
    try:
        vectors = load_npz(path)["vectors"]
    except (InputError, KeyError):  # it is not there, or damaged
        return None
    good = vectors.shape == shape and vectors.dtype == np.float32
    return vectors if good else None
