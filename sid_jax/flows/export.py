"""`sid export`: a retriever's search as one serialized program, and its tables."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from sid_jax import __version__
from sid_jax.data.catalog import write_catalog
from sid_jax.errors import InputError
from sid_jax.files import replacing, write_json
from sid_jax.flows import runs, serving
from sid_jax.flows.corpus import read_retailers
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.runs import Log
from sid_jax.flows.speller import Speller
from sid_jax.plain import to_plain
from sid_jax.sids.allowance import Allowances, allow_leaves
from sid_jax.sids.index_file import save_index
from sid_jax.sids.table import write_table
from sid_jax.sids.trie import Trie
from sid_jax.sids.update import make_room
from sid_jax.sids.vocab import Prompts

PLATFORMS = ("cpu", "cuda", "tpu")


def export_retriever(
    folder: Path,
    out: Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    batch_size: int | None = None,
    room: float = 0.0,
    log: Log = print,
) -> None:
    """Writes a folder that `serving.load_artifact` answers from.

    Args:
      folder: run of a retriever that spells.
      out: the folder to write; one that was exported before is replaced.
      platforms: what the program is to run on.
      batch_size: requests of a call; the run's `search.batch_size` if None.
      room: share of SIDs more that fit without another program (`Artifact.renew`), and
        of those under any one prefix.
      log: takes lines for the user.

    Raises:
      InputError: a retriever that scores, an unknown platform, a negative room, or
        `out` holds something else.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise InputError(
            f"--platforms {' '.join(unknown)}: want some of {', '.join(PLATFORMS)}"
        )
    if out.exists() and not serving.may_replace(out):
        raise InputError(f"--out {out} is there, and no export; choose another folder")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size must be positive: {batch_size}")
    serving.need_flatbuffers()
    retriever = load_retriever(folder)
    if not isinstance(retriever, Speller):
        raise InputError(f"{folder} scores items; what is exported is a search of SIDs")
    search = retriever.search
    size = batch_size or search.batch_size
    search = dataclasses.replace(search, batch_size=size)
    trie = make_room(retriever.trie, room) if room else retriever.trie
    program = _lower(retriever, trie, size, platforms)
    manifest = {
        "format": serving.FORMAT,
        "sid_jax": __version__,
        "jax": jax.__version__,
        "platforms": list(platforms),
        "sizes": list(trie.codebook_sizes),
        "max_slots": list(trie.max_slots),
        "bounds": len(trie.bounds),
        "dense": trie.dense,
        "prompts": to_plain(retriever.told),
        "search": to_plain(search),
        "seed": retriever.seed,
        "retailers": read_retailers(folder),
        "vectors": retriever.vectors is not None,
        "table": retriever.table.digest(),
    }
    with replacing(out) as temporary:
        temporary.mkdir()
        (temporary / serving.PROGRAM).write_bytes(program.serialize())
        arrays = jax.tree.leaves((retriever.params, trie))
        np.savez(temporary / serving.ARRAYS, *map(np.asarray, arrays))
        write_catalog(temporary / serving.CATALOG, runs.read_catalog(folder))
        write_table(temporary / serving.SIDS, retriever.table)
        save_index(temporary / serving.INDEX, retriever.index)
        if retriever.vectors is not None:
            np.save(temporary / serving.VECTORS, retriever.vectors)
        names = [path.name for path in sorted(temporary.iterdir())]
        manifest["sha256"] = {
            name: serving.file_digest(temporary / name) for name in names
        }
        write_json(temporary / serving.MANIFEST, manifest)
    log(
        f"{out}: {size} requests a call on {', '.join(platforms)}; answers with "
        f"sid_jax.flows.serving.load_artifact, or sid retrieve {out}"
    )


def _lower(
    retriever: Speller, trie: Trie, size: int, platforms: Sequence[str]
) -> export.Exported:
    """The program, which takes the leaves of parameters and trie first."""
    program = retriever.program()
    arrays, structure = jax.tree.flatten((retriever.params, trie))

    def search(arrays, told, words, rows, key):
        params, trie = jax.tree.unflatten(structure, arrays)
        allowed = Allowances(tuple(words), rows)
        prompts, key = Prompts(**told), jax.random.wrap_key_data(key)
        return vars(program(params, trie, prompts, allowed, key))

    def shaped(tree):
        return jax.tree.map(
            lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), tree
        )

    blank = retriever.blank_prompts(size)
    told = {name: each for name, each in vars(blank).items() if each is not None}
    mask = jax.ShapeDtypeStruct((size, trie.num_leaves), bool)
    allowed = jax.eval_shape(allow_leaves, trie, mask)
    key = shaped(jax.random.key_data(jax.random.key(0)))
    rows = jax.ShapeDtypeStruct((size,), np.int32)
    shapes = shaped(arrays), shaped(told), shaped(list(allowed.words)), rows, key
    return export.export(jax.jit(search), platforms=list(platforms))(*shapes)
