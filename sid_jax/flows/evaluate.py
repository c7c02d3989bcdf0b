"""`sid evaluate`: a retriever on held-out baskets, beside what needs no training."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sid_jax.config import RetrieverExperiment
from sid_jax.data.pipeline import Requests, last_items
from sid_jax.errors import InputError
from sid_jax.evals.baselines import LAST, nearest, popular, repeats, rule
from sid_jax.evals.ranking import (
    bootstrap_interval,
    contains,
    mean,
    pack,
    ranking_metrics,
    ranking_values,
)
from sid_jax.files import replacing
from sid_jax.flows import runs
from sid_jax.flows.cold import judge_unseen, unseen_tables
from sid_jax.flows.corpus import Corpus, keep_corpus
from sid_jax.flows.encoding import Tokenizer
from sid_jax.flows.figures import format_table
from sid_jax.flows.ranker import load_ranker, rank
from sid_jax.flows.retriever import Retriever, choose_requests, load_retriever
from sid_jax.flows.runs import Log
from sid_jax.flows.samples import write_samples
from sid_jax.flows.slicing import (
    describe_answers,
    slice_answers,
    slice_panels,
    slice_tables,
)
from sid_jax.flows.speller import Speller
from sid_jax.report.pictures import bars
from sid_jax.report.plots import save
from sid_jax.sids.beam import Beams
from sid_jax.sids.index import Products
from sid_jax.train import hosts
from sid_jax.train.loop import checkpoint_step
from sid_jax.train.progress import MetricsLog
from sid_jax.typing import NDArray

MODEL = "sid_jax"
RULE, NEAREST = "rule: repeats, popular", "like the last products"
BASELINES = ("popular at the store", "household repeats", RULE, NEAREST)
"""The last one needs the tokenizer's run, for the item vectors, and is left out without
it.
"""
VIEWS = {
    "item": "all targets, item by item",
    "sid": "all targets, SID by SID: each list's different SIDs",
    "repeat": "targets the household had bought before",
    "new": "targets new to the household",
}
_DEPTH = 4  # products per place of a list that its different SIDs are taken from
_SHOWN = 10


def evaluate_retriever(
    folder: Path, log: Log, oracle: int = 0, ranker: Path | None = None
) -> dict[str, float]:
    """Judges a run on its held-out test baskets; prints the table.

    Targets that the store's training baskets never held count as misses, for the model
    and the baselines alike. Adds a line to `metrics.jsonl`, at the step of the
    checkpoint; writes `samples.jsonl` and a picture of recall by slice, `slices.png`.

    Args:
      folder: the run.
      log: takes lines for the user.
      oracle: requests for which every SID is scored as well, to tell what the beams
        lose; the first ones of the test.
      ranker: run of a SASRec that ranks what is retrieved (`flows/ranker.py`); that
        and its own answers stand beside the model's.

    Returns:
      `view/system/metric` -> value.

    Raises:
      InputError: no retriever's run, a damaged one, or its data set is another by now.
    """
    if oracle < 0:
        raise InputError(f"--oracle must not be negative: {oracle}")
    retriever = load_retriever(folder)
    config = retriever.config
    step = checkpoint_step(folder) or 0
    if step < config.train.steps:
        log(f"note: {folder} stands at step {step} of {config.train.steps}")
    runs.read_rows(folder)  # damaged ones are told of before the work
    rankers = {}
    if ranker is not None:
        rankers[ranker.resolve().name] = load_ranker(ranker, config)
    if config.search.temperature and (oracle or rankers):
        raise InputError(
            f"search.temperature={config.search.temperature} draws SIDs, whose scores "
            "are then no log-probabilities: leave --oracle and --ranker out, or set it "
            "to 0"
        )
    corpus = Corpus.load(config, folder / runs.SIDS)
    hosts.first(keep_corpus, folder, corpus)
    limit = config.search.max_requests
    requests = choose_requests(config, corpus.data, corpus.test, limit)
    top = config.search.top
    found = _answer(retriever, requests, _DEPTH * top, log)
    answers = found.items
    vectors, plain = _find_vectors(retriever, corpus, log)
    lists = {MODEL: answers}
    for name, scorer in rankers.items():
        told = choose_requests(scorer.config, corpus.data, corpus.test, limit)
        lists[f"ranked by {name}"] = rank(scorer, told, found).items
        lists[f"{name} alone"] = _answer(scorer, told, _DEPTH * top, log).items
    lists |= _baselines(config, corpus, requests, vectors, _DEPTH * top)
    leaf_of = np.append(retriever.index.leaves, -1)
    values = {}
    for name, items in lists.items():
        for view, figures in _judge(requests, items, leaf_of, top).items():
            values |= {f"{view}/{name}/{key}": value for key, value in figures.items()}
    values |= slice_answers(corpus, requests, lists)
    values |= describe_answers(corpus, lists, requests)
    if corpus.held is not None:
        alone = _answer_unseen(retriever, corpus, requests, plain, log)
        values |= judge_unseen(corpus, requests, lists, alone)
    recalls = ranking_values(answers[:, :top], requests.targets, ks=(10,))["recall@10"]
    values["item/low"], values["item/high"] = bootstrap_interval(recalls)
    if oracle:
        values |= _compare_exact(retriever, requests, oracle, log)
    values["beam_yield"] = float(np.mean(found.beam_yield))
    values["carried"] = _carried(corpus, requests)

    def write() -> None:
        write_samples(folder, corpus, requests, found)
        with replacing(folder / runs.SLICES) as temporary:
            save(bars(slice_panels(values, drawn_systems(values))), temporary, "png")
        metrics = MetricsLog(folder / runs.METRICS, None)
        metrics.write(step, values | _search_fields(config))
        metrics.close()

    hosts.first(write)
    log(format_values(values, len(requests)))
    return values


def is_judged(folder: Path) -> bool:
    """Whether the last evaluation of a run is of its last checkpoint and its search.

    Raises:
      InputError: no retriever's run, or a damaged one.
    """
    config = runs.open_finished(folder, RetrieverExperiment)
    judged = read_judgement(folder)
    if not judged or not (folder / runs.SAMPLES).exists():
        return False
    now = {"step": checkpoint_step(folder), **_search_fields(config)}
    # Older versions had none of these.
    judged = {"search/temperature": 0.0, "search/likeness": 0.0} | judged
    return all(judged.get(name) == value for name, value in now.items())


def read_judgement(folder: Path) -> dict[str, float]:
    """The figures of a run's last evaluation, as `evaluate_retriever` returns them;
    empty if there was none.

    Raises:
      InputError: the metrics are damaged.
    """
    judged = [row for row in runs.read_rows(folder) if "beam_yield" in row]
    last = judged[-1] if judged else {}
    return {k: float("nan") if v is None else v for k, v in last.items()}


def format_values(values: dict[str, float], num_requests: int) -> str:
    """The figures of an evaluation as a table in text."""
    columns = [f"{m}@{k}" for k in (5, 10, 50) for m in ("recall", "ndcg")] + ["mrr"]
    lines = [f"{num_requests:,} held-out baskets"]
    for view, meaning in shown_views(values).items():
        lines += ["", meaning, " " * 24 + "".join(f"{each:>11}" for each in columns)]
        for name in shown_systems(values):
            row = [values[f"{view}/{name}/{column}"] for column in columns]
            lines.append(f"{name:<24}" + "".join(f"{value:11.4f}" for value in row))
    tables = [*slice_tables(values, drawn_systems(values)), *unseen_tables(values)]
    lines += ["", *map(format_table, tables)]
    if "oracle/requests" in values:
        lines += [
            f"of all SIDs' best 10 the beams find {values['oracle/shared@10']:.1%}; "
            f"item recall@10 {values['oracle/beam/recall@10']:.4f} by beams, "
            f"{values['oracle/exact/recall@10']:.4f} by scoring all "
            f"({int(values['oracle/requests']):,} baskets)",
            "",
        ]
    low, high = values["item/low"], values["item/high"]
    lines += [
        "",
        f"95% interval of {MODEL}'s item recall@10 over households: "
        f"{low:.4f} to {high:.4f}",
        f"beam yield {values['beam_yield']:.3f} (beams with a product to offer); "
        f"{values['carried']:.1%} of the targets were ever sold at the store before",
    ]
    return "\n".join(lines)


def shown_views(values: dict[str, float]) -> dict[str, str]:
    """`VIEWS` that have a target: where nobody buys again, there are no repeats."""

    def has_targets(view: str) -> bool:
        recall = values.get(f"{view}/{MODEL}/recall@10")
        return recall is not None and math.isfinite(recall)

    return {view: VIEWS[view] for view in VIEWS if has_targets(view)}


def shown_systems(values: dict[str, float]) -> list[str]:
    """The model, a ranker and the baselines, so far as an evaluation had them."""
    parts = [key.split("/") for key in values if key.startswith("item/")]
    return [part[1] for part in parts if part[2:] == ["mrr"]]


def drawn_systems(values: dict[str, float]) -> tuple[str, str]:
    """The systems whose slices are shown: the model, and the best of the baselines."""
    others = [name for name in shown_systems(values) if name in BASELINES]
    return MODEL, max(others, key=lambda name: values[f"item/{name}/recall@10"])


def _search_fields(config: RetrieverExperiment) -> dict[str, float]:
    """What an evaluation depends on and a run may change."""
    names = ("num_beams", "top", "owned", "max_requests", "temperature", "likeness")
    return {f"search/{name}": float(getattr(config.search, name)) for name in names}


def _answer(retriever: Retriever, requests: Requests, top: int, log: Log) -> Products:
    """The products of all requests."""
    parts, done = [], 0
    for products, _ in retriever.retrieve(requests, top=top):
        parts.append(products)
        done += len(products.items)
        if len(parts) % 5 == 0 or done == len(requests):
            log(f"retrieved for {done:,}/{len(requests):,} requests")
    columns = zip(*(vars(each).values() for each in parts), strict=True)
    return Products(*map(np.concatenate, columns))


def _compare_exact(
    retriever: Retriever, requests: Requests, number: int, log: Log
) -> dict[str, float]:
    """Figures of beams and of all SIDs scored, on the same requests; `oracle/...`."""
    if not isinstance(retriever, Speller):
        raise InputError("--oracle: this retriever scores every product as it is")
    requests = requests.take(np.arange(min(number, len(requests))))
    log(
        f"scoring all {len(retriever.table.sids):,} SIDs for {len(requests):,} requests"
    )
    pairs = zip(
        _one_by_one(retriever.retrieve(requests)),
        _one_by_one(retriever.exact(requests)),
        strict=True,
    )
    items, shared = {"beam": [], "exact": []}, []
    for (found, leaves), (wanted, best) in pairs:
        items["beam"].append(found)
        items["exact"].append(wanted)
        best = best[:_SHOWN][best[:_SHOWN] >= 0]
        shared.append(np.isin(best, leaves[:_SHOWN]).mean() if len(best) else 1.0)
    values = {"oracle/requests": len(requests), "oracle/shared@10": np.mean(shared)}
    for name, lists in items.items():
        figures = mean(ranking_metrics(np.stack(lists), requests.targets))
        values |= {f"oracle/{name}/{key}": value for key, value in figures.items()}
    return {name: float(value) for name, value in values.items()}


def _one_by_one(answers: Iterator[tuple[Products, Beams]]) -> Iterator[tuple]:
    for products, beams in answers:
        yield from zip(products.items, beams.leaves, strict=True)


def _find_vectors(
    retriever: Retriever, corpus: Corpus, log: Log
) -> tuple[NDArray, NDArray] | tuple[None, None]:
    """Vectors of the items by the tokenizer of the retriever's SIDs, if it is there,
    and their plain columns, which know nothing of purchases.
    """
    folder = Path(retriever.config.tokenizer)
    try:
        tokenizer = Tokenizer.load_maker(folder, retriever.table)
        vectors = tokenizer.recipe.encode(corpus.catalog)
    except InputError as error:
        log(f"note: {NEAREST!r} is left out, since it needs the tokenizer: {error}")
        return None, None
    return vectors, vectors[:, : tokenizer.recipe.plain]


def _baselines(
    config: RetrieverExperiment,
    corpus: Corpus,
    requests: Requests,
    vectors: NDArray | None,
    top: int,
) -> dict[str, NDArray]:
    store, retailers = corpus.store, requests.retailers
    exclude, owned = _exclude(config, requests), (requests.owned, requests.owned_counts)
    answers = [
        popular(store, retailers, top, exclude),
        repeats(store, retailers, owned, top, exclude),
        rule(store, retailers, owned, top, exclude),
    ]
    if vectors is not None:
        last = last_items(requests, LAST)
        answers.append(nearest(store, retailers, vectors, last, top, exclude))
    return dict(zip(BASELINES, answers, strict=False))


def _exclude(config: RetrieverExperiment, requests: Requests) -> NDArray:
    """What no list may hold."""
    if config.search.owned:
        return requests.basket
    return np.concatenate([requests.basket, requests.owned], axis=1)


def _answer_unseen(
    retriever: Retriever,
    corpus: Corpus,
    requests: Requests,
    plain: NDArray | None,
    log: Log,
) -> dict[str, NDArray]:
    """Lists of held-out products alone: the model's, and by plain vectors."""
    assert corpus.held is not None
    log(f"retrieving among the {corpus.held.sum():,} products held out")
    answers = retriever.retrieve(requests, item_mask=corpus.held)
    found = {MODEL: np.concatenate([products.items for products, _ in answers])}
    if plain is not None:
        found[NEAREST] = nearest(
            corpus.unseen,
            requests.retailers,
            plain,
            last_items(requests, LAST),
            retriever.config.search.top,
            _exclude(retriever.config, requests),
        )
    return found


def _judge(
    requests: Requests, deep: NDArray, leaf_of: NDArray, top: int
) -> dict[str, dict[str, float]]:
    """Figures by view; one rule for all systems turns a list into its SIDs."""
    targets, items = requests.targets, deep[:, :top]
    sids = leaf_of[deep]
    owned = contains(requests.owned, targets)
    views = {
        "item": (items, targets),
        "sid": (pack(sids, sids >= 0, None, top), leaf_of[targets]),
        "repeat": (items, np.where(owned, targets, -1)),
        "new": (items, np.where(owned, -1, targets)),
    }
    return {
        view: mean(ranking_metrics(found.astype(np.int32), wanted.astype(np.int32)))
        for view, (found, wanted) in views.items()
    }


def _carried(corpus: Corpus, requests: Requests) -> float:
    sold = corpus.store.of(requests.retailers, np.maximum(requests.targets, 0))
    return float(np.mean(sold[requests.targets >= 0] > 0))
