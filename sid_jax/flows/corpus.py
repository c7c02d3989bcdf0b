"""What a retriever learns from: baskets in three parts, SIDs, what each store sold."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sid_jax.config import RetrieverExperiment
from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.datasets import load
from sid_jax.data.items import split_holdout
from sid_jax.data.pipeline import split_last, without_items
from sid_jax.data.vector_files import UNREADABLE
from sid_jax.errors import InputError
from sid_jax.evals.baselines import StoreSales, count_sales
from sid_jax.files import read_json, write_json
from sid_jax.flows import runs
from sid_jax.flows.encoding import Tokenizer
from sid_jax.sids.index import ItemIndex, build_index
from sid_jax.sids.index_file import load_index, save_index
from sid_jax.sids.mapped import load_npz, save_npz
from sid_jax.sids.table import SidTable
from sid_jax.sids.vocab import Prompts, Sequences, Vocab
from sid_jax.typing import Bool, Float, Int, NDArray

_TOLD = ("history", "basket", "tokens")  # of a batch: tokens of items


@dataclass(frozen=True)
class Corpus:
    """Baskets in three parts, and what each item is called in SIDs.

    Attributes:
      catalog: the items.
      data: all baskets.
      train: those to learn from.
      sold: `train`, and in it the items that are held out from learning.
      validation: indices in `data` of each household's last basket but one.
      test: indices in `data` of each household's last basket.
      table: the SID table; codes and leaves are by row of the catalog.
      held: marks the items that are held out; none if None.
    """

    catalog: Catalog
    data: Interactions
    train: Interactions
    sold: Interactions
    validation: Int[NDArray, " B1"]
    test: Int[NDArray, " B2"]
    table: SidTable
    held: Bool[NDArray, " N"] | None = None

    @classmethod
    def load(cls, config: RetrieverExperiment, sids: Path) -> "Corpus":
        """Reads the data set and splits it: last basket for test, the one before for
        validation, so far as a household has another left to train on.

        Raises:
          InputError: no histories, none to hold out, or items without a SID.
        """
        catalog, data = load(config.data)
        if data is None:
            raise InputError(
                f"data set {config.data.name!r} has items alone; a retriever learns "
                "from histories: import it with --sequences or --baskets"
            )
        table = runs.read_sids(sids)
        rest, test = split_last(data)
        if not len(test):
            raise InputError(
                f"data set {config.data.name!r}: no household has two baskets, so none "
                "can be held out; a retriever learns from what is bought again"
            )
        sold, last = split_last(rest)
        # `rest` leaves out baskets of `data`, so its indices are not those of `data`.
        kept = np.setdiff1d(np.arange(len(data)), test)
        _, rows = split_holdout(len(catalog), config.holdout)
        held = None if rows is None else np.isin(np.arange(len(catalog)), rows)
        return cls(
            catalog=catalog,
            data=data,
            train=sold if held is None else without_items(sold, held),
            sold=sold,
            validation=kept[last],
            test=test,
            table=table,
            held=held,
        )

    @cached_property
    def rows(self) -> Int[NDArray, " N"]:
        """Row in the SID table of each item of the catalog.

        Raises:
          InputError: some have no SID.
        """
        try:
            return self.table.rows(self.catalog.item_ids)
        except InputError as error:
            raise InputError(
                f"the SID table is not of this data set: {error}; or name the "
                "tokenizer's run on this data set with --tokenizer"
            ) from None

    @cached_property
    def codes(self) -> Int[NDArray, "N L"]:
        return self.table.codes()[self.rows]

    @cached_property
    def store(self) -> StoreSales:
        """What each retailer sold in the training baskets."""
        retailers = np.repeat(self.train.retailer, np.diff(self.train.offsets))
        return count_sales(retailers, self.train.items, len(self.data.retailers))

    @cached_property
    def unseen(self) -> StoreSales:
        """The items held out that each retailer carries, all alike."""
        held = np.zeros(len(self.catalog), bool) if self.held is None else self.held
        retailers = np.repeat(self.sold.retailer, np.diff(self.sold.offsets))
        lines = np.stack([retailers, self.sold.items])[:, held[self.sold.items]]
        retailers, items = np.unique(lines, axis=1)
        return count_sales(retailers, items, len(self.data.retailers))

    @cached_property
    def bought(self) -> Int[NDArray, " N"]:
        """How often each item was bought in the training baskets."""
        return np.bincount(self.train.items, minlength=len(self.catalog))

    @property
    def vocab(self) -> Vocab:
        return Vocab(
            codebook_sizes=self.table.manifest.codebook_sizes,
            num_retailers=len(self.data.retailers),
        )

    def index(self) -> ItemIndex:
        """(retailer, SID) -> products, from the training baskets.

        Items held out are carried where they were sold, and have no sales.
        """
        stores = self.store, self.unseen
        return build_index(
            self.table.leaves()[self.rows],
            np.concatenate([store.retailers for store in stores]),
            np.concatenate([store.items for store in stores]),
            np.concatenate([self.store.sales, 0 * self.unseen.sales]),
            len(self.data.retailers),
        )

    def name_items(self, batch: Prompts | Sequences) -> list[str]:
        """Ids of the items whose SIDs stand in a batch to learn from."""
        width = self.table.sids.shape[1]
        told = [getattr(batch, name) for name in _TOLD if hasattr(batch, name)]
        told = np.concatenate([each.reshape(-1, width) for each in told])
        tokens = np.unique(told, axis=0)
        spelled = np.concatenate([self.vocab.code_tokens(self.codes), tokens])
        _, numbers = np.unique(spelled, axis=0, return_inverse=True)
        num_items = len(self.catalog)
        there = np.isin(numbers[:num_items], numbers[num_items:])
        return [self.catalog.item_ids[row] for row in np.flatnonzero(there)]


def keep_corpus(folder: Path, corpus: Corpus) -> None:
    """Writes what a run carries of its data set, so far as it is not there already.

    Raises:
      InputError: the data set is another by now.
    """
    runs.keep_catalog(folder, corpus.catalog)
    index, retailers = corpus.index(), list(corpus.data.retailers)
    if not (folder / runs.INDEX).exists():
        save_index(folder / runs.INDEX, index)
    if not (folder / runs.RETAILERS).exists():
        write_json(folder / runs.RETAILERS, {"retailers": retailers})
    pairs = zip(vars(read_index(folder)).values(), vars(index).values(), strict=True)
    same = all(np.array_equal(there, now) for there, now in pairs)
    if not same or read_retailers(folder) != retailers:
        raise InputError(
            f"{folder / runs.INDEX}: the data set has other training baskets by now "
            "than when this run began; train in a new --workdir"
        )


def find_vectors(
    folder: Path | None, corpus: Corpus, tokenizer: Path
) -> Float[NDArray, "N E"]:
    """Vectors of the items as their tokenizer reads them, float16: a run's, or anew.

    Args:
      folder: of a run that has begun; None if it has not.
      corpus: with the items.
      tokenizer: run folder of the tokenizer of their SIDs.

    Raises:
      InputError: the run has none, and no tokenizer of its SIDs is at hand; or they are
        damaged.
    """
    if folder is not None and _find_vectors(folder).exists():
        return read_vectors(folder, len(corpus.catalog))
    try:
        recipe = Tokenizer.load_maker(tokenizer, corpus.table).recipe
    except InputError as error:
        raise InputError(
            f"prompts.user and search.likeness need item vectors: {error}; name the "
            "run of the SIDs' tokenizer with --tokenizer, or leave both out"
        ) from None
    return recipe.encode(corpus.catalog).astype(np.float16)


def keep_vectors(folder: Path, vectors: Float[NDArray, "N E"]) -> None:
    """Writes a run's item vectors, if they are not there already."""
    path = _find_vectors(folder)
    if not path.exists():
        save_npz(path, {"vectors": vectors})


def read_vectors(folder: Path, num_items: int) -> Float[NDArray, "N E"]:
    """A run's item vectors.

    Raises:
      InputError: they are not there, damaged, or of another number of items.
    """
    path = _find_vectors(folder)
    try:
        if path.suffix == ".npy":
            vectors = np.load(path, allow_pickle=False)
        else:
            vectors = load_npz(path)["vectors"]
    except (*UNREADABLE, KeyError) as error:
        raise InputError(f"{path}: not readable ({error}). {runs.ANEW}") from None
    if vectors.ndim != 2 or len(vectors) != num_items or vectors.dtype != np.float16:
        raise InputError(
            f"{path} holds {vectors.dtype}{list(vectors.shape)}, not float16 vectors "
            f"of {num_items} items. {runs.ANEW}"
        )
    return vectors


def read_retailers(folder: Path) -> list[str]:
    """Names of a run's retailers, by index.

    Raises:
      InputError: they are not there, or damaged.
    """
    path = folder / runs.RETAILERS
    try:
        told = read_json(path)
        # It was a list alone once.
        told = told["retailers"] if isinstance(told, dict) else told
        return [str(name) for name in told]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not readable ({error}). {runs.ANEW}") from None


def read_index(folder: Path) -> ItemIndex:
    """A run's index of products.

    Raises:
      InputError: it is not there, or damaged.
    """
    try:
        return load_index(folder / runs.INDEX)
    except InputError as error:
        raise InputError(f"{error}. {runs.ANEW}") from None


def _find_vectors(folder: Path) -> Path:
    """Where a run's item vectors lie, or are to; older ones have no checksum."""
    path = folder / runs.ITEM_VECTORS
    before = path.with_suffix(".npy")
    return before if before.exists() and not path.exists() else path
