"""A retriever that was exported: it answers without the code of its model.

A folder holds the compiled search as a serialized `jax.export` program, the arrays that
it takes (parameters and trie), the SID table, the catalog, the index, and a manifest.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from beartype.door import is_bearable
from jax import export
from jax.sharding import SingleDeviceSharding

from sid_jax.data.catalog import Catalog, read_catalog
from sid_jax.data.pipeline import PromptConfig, Requests, SequenceConfig
from sid_jax.errors import InputError
from sid_jax.files import hash_file, read_json
from sid_jax.flows.answering import Answerer
from sid_jax.plain import from_plain
from sid_jax.sids.allowance import AllowanceCache, Allowances, allow_leaves
from sid_jax.sids.beam import Beams
from sid_jax.sids.index import ItemIndex
from sid_jax.sids.index_file import load_index
from sid_jax.sids.mapped import load_npz
from sid_jax.sids.search import SearchConfig
from sid_jax.sids.table import SidTable, read_table
from sid_jax.sids.trie import Trie
from sid_jax.sids.update import refit_trie
from sid_jax.sids.vocab import Vocab
from sid_jax.typing import Array, Bool, Float, Int, Key, NDArray, PyTree

FORMAT = 1
MANIFEST, PROGRAM, ARRAYS = "manifest.json", "search.bin", "arrays.npz"
CATALOG, SIDS, INDEX = "catalog.parquet", "sids.parquet", "index.npz"
VECTORS = "item_vectors.npy"
_FIELDS = {
    "platforms": list[str],
    "sizes": list[int],
    "max_slots": list[int],
    "bounds": int,
    "dense": int,
    "seed": int,
    "retailers": list[str],
    "vectors": bool,
    "sha256": dict[str, str],
}
_FILES = {PROGRAM, ARRAYS, CATALOG, SIDS, INDEX, VECTORS}


@dataclass(frozen=True)
class Artifact(Answerer):
    """Requests -> products by an exported program, whose batches are of one size.

    Any number of threads may ask at a time.

    Attributes:
      told: what a prompt tells.
      search: how products are retrieved.
      seed: of what is drawn.
      catalog: the items, whose rows `codes` and `index` are of.
      retailers: names, by index.
      arrays: what the program takes first.
      trie: the last of them.
      program: (arrays, prompts, words, rows, key data) -> beams' arrays by name.
    """

    told: PromptConfig | SequenceConfig
    search: SearchConfig
    seed: int
    vocab: Vocab
    codes: Int[NDArray, "N L"]
    table: SidTable
    index: ItemIndex
    vectors: Float[NDArray, "N E"] | None
    catalog: Catalog
    retailers: tuple[str, ...]
    arrays: list[Array]
    trie: Trie
    program: Callable[..., dict[str, Array]]

    shares = 1

    def renew(
        self,
        catalog: Catalog,
        table: SidTable,
        index: ItemIndex,
        vectors: Float[NDArray, "N E"] | None = None,
    ) -> "Artifact":
        """The next version of the catalog, by the same compiled program.

        SIDs that came or went find room in arrays of the same shapes (`sid export
        --room`). This version goes on answering: whoever serves has both, and lets go
        of the one that nobody asks any longer.

        Args:
          catalog: the items.
          table: the SID of each of them, among others; of the same tokenizer.
          index: what each retailer carries: item rows are the catalog's, leaves the
            table's, and retailers stand in the order of `retailers`.
          vectors: of the items, where this version has some.

        Raises:
          InputError: another tokenizer or number of retailers, vectors missing or too
            many, items without a SID, an index of others, or no room.
        """
        if table.manifest.codebook_sizes != self.trie.codebook_sizes:
            raise InputError(
                f"SIDs of codebooks {table.manifest.codebook_sizes}, but the program "
                f"spells {self.trie.codebook_sizes}"
            )
        makers = {each.manifest.tokenizer for each in (table, self.table)} - {""}
        if len(makers) > 1:
            raise InputError(
                "the SIDs are of another tokenizer: a retriever spells those that it "
                "has learned"
            )
        leaves = table.leaves()[table.rows(catalog.item_ids)]
        if not np.array_equal(index.leaves, leaves):
            raise InputError(
                "the index is not of this catalog and table: the leaf of item row i "
                "must be that of the catalog's item i"
            )
        if index.num_retailers != self.index.num_retailers:
            raise InputError(
                f"an index of {index.num_retailers} retailers, but the program knows "
                f"{self.index.num_retailers}"
            )
        wanted = None if self.vectors is None else (len(leaves), self.vectors.shape[1])
        if (None if vectors is None else vectors.shape) != wanted:
            raise InputError(f"vectors: want {wanted or 'none'}, one a catalog's item")
        trie = refit_trie(self.trie, table.sids)
        held = len(jax.tree.leaves(self.trie))
        return replace(
            self,
            codes=table.sids[leaves],
            table=table,
            index=index,
            vectors=vectors,
            catalog=catalog,
            arrays=[*self.arrays[:-held], *jax.tree.leaves(trie)],
            trie=trie,
        )

    def _find(
        self,
        requests: Requests,
        item_mask: Bool[NDArray, "*b N"] | None,
        params: PyTree | None,
        key: Key[jax.Array, ""],
    ) -> Beams:
        if params is not None:
            raise InputError("an exported retriever has its own parameters alone")
        count = len(requests)
        rows = np.minimum(np.arange(self.search.batch_size), count - 1)
        full = requests.take(rows)
        if item_mask is not None and item_mask.ndim == 2:
            item_mask = item_mask[rows]
        told = {
            name: each
            for name, each in vars(self._prompts(full)).items()
            if each is not None
        }
        data = jax.random.key_data(key)
        with self._allow(full, item_mask) as allowed:
            words, rows = list(allowed.words), allowed.rows
            found = self.program(self.arrays, told, words, rows, data)
        # Cut on the host: on a device each count would be a program of its own.
        cut: dict[str, Any] = {k: np.asarray(v)[:count] for k, v in found.items()}
        return Beams(**cut)

    @contextmanager
    def _allow(
        self, requests: Requests, item_mask: Bool[NDArray, "*b N"] | None
    ) -> Iterator[Allowances]:
        """What each request is held to, for a block that begins the search."""
        if item_mask is None:
            stores = requests.retailers.tolist()
            with self._stores.lend(stores, self.index.leaves_at) as allowed:
                yield allowed
            return
        leaves = self.trie.num_leaves
        mask = self.index.allowed(requests.retailers, item_mask, leaves)
        own = np.arange(len(mask), dtype=np.int32)
        yield replace(self._lift(self.trie, mask), rows=own)

    @cached_property
    def _stores(self) -> AllowanceCache:
        return AllowanceCache(self.trie, self.search.batch_size, _here())

    @cached_property
    def _lift(self) -> Callable[[Trie, NDArray], Allowances]:
        # As the cache's sets lie, or the program compiles once more for masks.
        return jax.jit(allow_leaves, out_shardings=_here())


def is_artifact(folder: str | Path) -> bool:
    """Whether the folder has a manifest, as `sid export` writes."""
    return (Path(folder) / MANIFEST).is_file()


def may_replace(folder: Path) -> bool:
    """Whether `sid export` wrote the folder, and nothing else lies in it."""
    try:
        manifest = _read_manifest(folder)
    except InputError:
        return False
    known = {MANIFEST, *manifest["sha256"]}
    return all(path.name in known for path in folder.iterdir())


def load_artifact(folder: str | Path, *, mapped: bool = False) -> Artifact:
    """Reads what `sid export` wrote.

    Args:
      folder: that of the export.
      mapped: the index stays in its file, whose pages processes share; the folder must
        then not be written over in place while it is served (`sid export` does not).

    Raises:
      InputError: a file is absent or damaged, or the program is for other devices.
    """
    folder = Path(folder)
    need_flatbuffers()
    manifest = _read_manifest(folder)
    platforms = manifest["platforms"]
    here = export.default_export_platform()
    if here not in platforms:
        raise InputError(
            f"{folder} was exported for {', '.join(platforms)}, and here is {here}: "
            f"export it again with --platforms {' '.join([*platforms, here])}"
        )
    sealed = manifest["sha256"]
    needed = _FILES - (set() if manifest["vectors"] else {VECTORS})
    if not needed <= sealed.keys() <= _FILES:
        raise InputError(
            f"{folder / MANIFEST}: tells of {', '.join(sorted(sealed))}, not of "
            f"{', '.join(sorted(needed))}; `sid export` writes the folder anew"
        )
    for name, digest in sealed.items():
        if file_digest(folder / name) != digest:
            raise InputError(
                f"{folder / name} is damaged; `sid export` writes the folder anew"
            )
    table, catalog = read_table(folder / SIDS), read_catalog(folder / CATALOG)
    try:
        held = load_npz(folder / ARRAYS)
        arrays = [jax.numpy.asarray(held[f"arr_{n}"]) for n in range(len(held))]
        program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
        vectors = None
        if manifest["vectors"]:
            vectors = np.load(folder / VECTORS, allow_pickle=False)
        sizes, slots = (tuple(manifest[name]) for name in ("sizes", "max_slots"))
        levels, bounds = len(sizes), int(manifest["bounds"])
        trie = Trie(
            tokens=tuple(arrays[-levels - bounds : -bounds]),
            bounds=tuple(arrays[-bounds:]),
            codebook_sizes=sizes,
            max_slots=slots,
            dense=int(manifest["dense"]),
        )
        told = from_plain(PromptConfig | SequenceConfig, manifest["prompts"], "prompts")
        search = from_plain(SearchConfig, manifest["search"], "search")
        retailers = tuple(manifest["retailers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: not readable ({error}); `sid export` writes it anew"
        ) from None
    # Its digest was compared above.
    index = load_index(folder / INDEX, mapped=mapped, check=False)
    return Artifact(
        told=told,
        search=search,
        seed=int(manifest["seed"]),
        vocab=Vocab(codebook_sizes=sizes, num_retailers=len(retailers)),
        codes=table.codes()[table.rows(catalog.item_ids)],
        table=table,
        index=index,
        vectors=vectors,
        catalog=catalog,
        retailers=retailers,
        arrays=arrays,
        trie=trie,
        program=jax.jit(program.call),
    )


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; empty where there is none."""
    return hash_file(path) if path.is_file() else ""


def need_flatbuffers() -> None:
    """Raises InputError where what programs are written with is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(
            "exported programs are written with flatbuffers; install it with: pip "
            'install "sid_jax[export]"'
        )


def _here() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.devices()[0])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
        version = manifest["format"]
        for name, kind in _FIELDS.items():
            if not is_bearable(manifest[name], kind):
                raise ValueError(f"{name} is {manifest[name]!r:.80}, not {kind}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not readable ({error!r}); name a folder that `sid export` wrote"
        ) from None
    if version != FORMAT:
        raise InputError(
            f"{path}: format {version}, but this version of sid_jax reads {FORMAT}; "
            "export the retriever again"
        )
    return manifest
