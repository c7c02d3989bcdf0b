"""A retriever's run: baskets -> a decoder of SIDs -> products."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from sid_jax.config import (
    PromptConfig,
    RetrieverExperiment,
    SASRecConfig,
    write_config,
)
from sid_jax.data.catalog import Interactions
from sid_jax.data.pipeline import Requests, make_requests, prompt_stream
from sid_jax.data.sequences import SequenceConfig, sequence_stream
from sid_jax.errors import InputError
from sid_jax.evals.ranking import mean, ranking_metrics
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.flows.corpus import (
    Corpus,
    find_vectors,
    keep_corpus,
    keep_vectors,
    read_index,
    read_vectors,
)
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.runs import Log
from sid_jax.flows.scorer import Scorer, scorer_task
from sid_jax.flows.speller import Speller
from sid_jax.sids.index import ItemIndex
from sid_jax.sids.table import SidTable
from sid_jax.sids.trie import build_trie
from sid_jax.sids.vocab import Prompts, Sequences, Vocab
from sid_jax.train import hosts
from sid_jax.train.loop import fit, load_params
from sid_jax.train.retriever_task import RetrieverTask
from sid_jax.train.scorer_task import ScorerTask
from sid_jax.train.sharding import MeshConfig, input_share, make_mesh
from sid_jax.typing import Float, Int, NDArray, PyTree

VALIDATION = "validation"
"""Before the names of validation figures in `metrics.jsonl`."""
Retriever = Speller | Scorer
"""What answers requests: `retrieve` is the same of both."""
Kind = TypeVar("Kind", Speller, Scorer)


def train_retriever(config: RetrieverExperiment, folder: Path, log: Log) -> None:
    """Trains a retriever; goes on where it was stopped.

    Nothing is written before data and configuration are found good.

    Raises:
      InputError: bad data or configuration, or the folder holds another run.
    """
    done = runs.open_run(folder, config)
    source = _find_sids(config, folder, done)
    corpus = Corpus.load(config, source)
    index = corpus.index()
    vectors = None
    if _needs_vectors(config):
        begun = None if done is None else folder
        vectors = find_vectors(begun, corpus, Path(config.tokenizer))
    before = _load_start(config, corpus, vectors) if done is None else None

    def begin() -> None:
        if done is None:
            for name in (runs.CATALOG, runs.INDEX, runs.RETAILERS, runs.ITEM_VECTORS):
                (folder / name).unlink(missing_ok=True)  # of a run that never began
            with replacing(folder / runs.SIDS) as temporary:
                shutil.copyfile(source, temporary)
        keep_corpus(folder, corpus)
        if vectors is not None:
            keep_vectors(folder, vectors)
        write_config(folder / runs.CONFIG, config)

    hosts.first(begin)
    if done is not None and done >= config.train.steps:
        log(f"{folder}: already finished at step {done} of {config.train.steps}")
        return
    words = _codewords(config) if done is None and before is None else ()
    told = corpus.vocab, corpus.codes, corpus.table, corpus.bought
    task = _task(config, *told, words)
    task = dataclasses.replace(task, before=before)
    log(
        f"retriever on {len(corpus.train):,} baskets of {len(corpus.data.users):,} "
        f"households at {len(corpus.data.retailers):,} retailers; vocabulary of "
        f"{corpus.vocab.size:,} tokens"
    )
    told = corpus.train, corpus.codes, corpus.vocab
    index_, count = input_share(make_mesh(config.mesh))
    share: dict[str, Any] = {"process": index_, "num_processes": count}
    share["seed"] = config.train.seed
    if isinstance(config.prompts, SequenceConfig):
        stream = sequence_stream(*told, config.prompts, config.batch_size, **share)
    else:
        share["vectors"] = vectors
        stream = prompt_stream(*told, config.prompts, config.batch_size, **share)
    evaluators = {}
    if len(corpus.validation):
        limit = config.search.validation_requests
        requests = choose_requests(config, corpus.data, corpus.validation, limit)
        base = _assemble(config, None, corpus.codes, corpus.table, index, vectors)

        def evaluate(params, state) -> Iterator[tuple[str, float]]:
            found = base.retrieve(requests, params=params)
            answers = [products.items for products, _ in found]
            metrics = ranking_metrics(np.concatenate(answers), requests.targets)
            yield from mean(metrics).items()
            if isinstance(base, Speller):  # beside the training loss: overfitting
                scores = base.score(requests, requests.targets, params)
                yield "loss", -float(np.nanmean(scores))

        evaluators[VALIDATION] = evaluate
    fit(
        task,
        stream,
        config=config.train,
        optimizer=config.optimizer,
        mesh=config.mesh,
        folder=folder,
        evaluators=evaluators,
        describe=corpus.name_items,
        log=log,
    )


def load_retriever(folder: Path) -> Retriever:
    """The retriever of a run; nothing but its folder is read.

    Raises:
      InputError: no retriever's run, or a damaged one.
    """
    config = runs.open_finished(folder, RetrieverExperiment)
    table, index = runs.read_sids(folder / runs.SIDS), read_index(folder)
    catalog = runs.read_catalog(folder)
    vocab = Vocab(
        codebook_sizes=table.manifest.codebook_sizes,
        num_retailers=index.num_retailers,
    )
    rows = table.rows(catalog.item_ids)
    if not np.array_equal(index.leaves, table.leaves()[rows]):
        raise InputError(
            f"{folder}: {runs.INDEX} was not made for the {runs.SIDS} and "
            f"{runs.CATALOG} beside it; train again in a new --workdir"
        )
    codes = table.codes()[rows]
    task = _task(config, vocab, codes, table)
    vectors = None
    if _needs_vectors(config):
        vectors = read_vectors(folder, len(catalog))
    batch = _example(config, vocab, vectors if _tells_users(config) else None)
    mesh = _choose_mesh(config)
    params, _ = load_params(task, batch, folder, mesh=mesh)
    config = dataclasses.replace(config, mesh=mesh)
    return _assemble(config, params, codes, table, index, vectors)


def searching(retriever: Kind, **changes: Any) -> Kind:
    """A retriever with other fields of its `search`."""
    search = dataclasses.replace(retriever.config.search, **changes)
    config = dataclasses.replace(retriever.config, search=search)
    return dataclasses.replace(retriever, config=config)


def choose_requests(
    config: RetrieverExperiment, data: Interactions, baskets: NDArray, limit: int
) -> Requests:
    """Requests for held-out baskets; at most `limit` of them, unless it is 0."""
    seed = config.train.seed
    if 0 < limit < len(baskets):
        rng = np.random.default_rng(seed)
        baskets = np.sort(rng.choice(baskets, limit, replace=False))
    return make_requests(data, baskets, config.prompts, seed=seed)


def _assemble(
    config: RetrieverExperiment,
    params: PyTree,
    codes: Int[NDArray, "N L"],
    table: SidTable,
    index: ItemIndex,
    vectors: Float[NDArray, "N E"] | None,
) -> Retriever:
    vocab = Vocab(
        codebook_sizes=table.manifest.codebook_sizes, num_retailers=index.num_retailers
    )
    if isinstance(config.model, SASRecConfig):
        return Scorer(config, vocab, params, codes, table, index)
    return Speller(config, vocab, params, codes, table, index, vectors)


def _task(
    config: RetrieverExperiment,
    vocab: Vocab,
    codes: Int[NDArray, "N L"],
    table: SidTable,
    bought: Int[NDArray, " N"] | None = None,
    codewords: tuple[NDArray, ...] = (),
) -> RetrieverTask | ScorerTask:
    if isinstance(config.model, SASRecConfig):
        return scorer_task(config, vocab, codes, bought, codewords)
    trie = None
    if config.task.softmax == "existing":
        trie = build_trie(table.sids, vocab.codebook_sizes)
    return RetrieverTask(config.model, vocab, config.task, trie, codewords)


def _codewords(config: RetrieverExperiment) -> tuple[NDArray, ...]:
    """Vectors of each level's codes, from the tokenizer's run, where asked for."""
    if config.task.start != "codebooks":
        return ()
    books = Tokenizer.load(Path(config.tokenizer)).state
    return tuple(
        np.asarray(vectors[:size])
        for vectors, size in zip(books.vectors, books.sizes, strict=True)
    )


def _load_start(
    config: RetrieverExperiment, corpus: Corpus, vectors: NDArray | None
) -> PyTree:
    """Parameters to go on from, on the host: the new run may lie on other devices."""
    if not config.start:
        return None
    folder = Path(config.start)
    before = load_retriever(folder)
    pairs = [
        ("model", before.config.model, config.model),
        ("codebooks", before.vocab.codebook_sizes, corpus.vocab.codebook_sizes),
        ("retailers", before.vocab.num_retailers, corpus.vocab.num_retailers),
        ("prompts.user", _tells_users(before.config), _tells_users(config)),
    ]
    if _tells_users(config) and _tells_users(before.config):
        assert vectors is not None and isinstance(before, Speller)
        assert before.vectors is not None
        widths = before.vectors.shape[1], vectors.shape[1]
        pairs.append(("item vectors of width", *widths))
    if isinstance(config.model, SASRecConfig) and config.model.items == "atomic":
        items = runs.read_catalog(folder).item_ids
        same = items == corpus.catalog.item_ids
        pairs.append(("items", len(items), len(items) if same else "others"))
    for name, was, now in pairs:
        if was != now:
            raise InputError(
                f"start {folder} has {name}={was}, and this run {now}: its parameters "
                'mean something else here; make them the same, or leave start=""'
            )
    return jax.device_get(before.params)


def _tells_users(config: RetrieverExperiment) -> bool:
    return isinstance(config.prompts, PromptConfig) and config.prompts.user


def _needs_vectors(config: RetrieverExperiment) -> bool:
    return _tells_users(config) or config.search.likeness > 0


def _example(
    config: RetrieverExperiment, vocab: Vocab, vectors: Float[NDArray, "N E"] | None
) -> Prompts | Sequences:
    """Shapes of the smallest batch."""
    shape, levels = jax.ShapeDtypeStruct, vocab.num_levels
    if isinstance(config.prompts, SequenceConfig):
        one = shape((1, 2), np.int32)
        return Sequences(shape((1, 2, levels), np.int32), one, one)
    return Prompts(
        retailers=shape((1,), np.int32),
        history=shape((1, config.prompts.history, levels), np.int32),
        basket=shape((1, config.prompts.basket, levels), np.int32),
        user=None if vectors is None else shape((1, vectors.shape[1]), np.float32),
    )


def _find_sids(config: RetrieverExperiment, folder: Path, done: int | None) -> Path:
    """The SID table to learn: the run's own, once it has begun."""
    source, own = Path(config.tokenizer) / runs.SIDS, folder / runs.SIDS
    if done is None:
        if not source.exists():
            raise InputError(
                f"{source}: not there; train a tokenizer first (sid train "
                f"experiments/tokenizer_....py --workdir {source.parent}), or name its "
                "run folder with --tokenizer"
            )
        return source
    if source.exists() and (
        runs.read_sids(own).digest() != runs.read_sids(source).digest()
    ):
        raise InputError(
            f"{source} has other SIDs by now than those that {folder} has learned; "
            "train in a new --workdir"
        )
    return own


def _choose_mesh(config: RetrieverExperiment) -> MeshConfig:
    """The mesh of training, or whatever devices there are if that needs others."""
    try:
        make_mesh(config.mesh)
    except InputError:
        return MeshConfig()
    return config.mesh
