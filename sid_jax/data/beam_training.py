"""What training reads of a data set, made on Apache Beam: texts, pairs, sequences.

Transforms of records as `ReadRecords` gives them; they give what the functions of one
machine give, in any order. `sid prepare` writes it to files; in your own pipeline:

    histories = pipeline | ReadRecords("/data/mine/histories/1.0.0")
    pairs = histories | MinePairs(PairConfig(window=1), held_out=2)

Histories are cut into pieces here, and packed into rows where they are trained on: rows
are shuffled in each epoch, and only the lengths of all pieces tell what fits together.
"""

# pyright: reportMissingImports=false

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io import WriteToParquet
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from sid_jax.data.beam import BeamConfig, ReadRecords, running
from sid_jax.data.builders import VERSION
from sid_jax.data.datasets import make_catalog
from sid_jax.data.flavours import make_texts
from sid_jax.data.pairs import PAIRS, PairConfig, pointwise
from sid_jax.data.parquet import seal_parquet
from sid_jax.data.records import open_records
from sid_jax.data.sequences import cut_ranges
from sid_jax.files import assembling

_TEXTS = pa.schema({"item_id": pa.string(), "text": pa.string()})
_SEQUENCES = pa.schema(
    {
        "row": pa.int64(),
        "piece": pa.int64(),
        "retailer": pa.string(),
        "item_ids": pa.list_(pa.string()),
    }
)


def write_training_data(
    folder: Path,
    out: Path,
    *,
    recipe: str,
    title_words: int,
    pairs: PairConfig | None,
    sequences: int,
    held_out: int,
    config: BeamConfig,
) -> None:
    """Writes Parquet files of what is asked for; each is whole or absent.

    They are there once all of them are made.

    Args:
      folder: that of the data set.
      out: where `texts.parquet`, `pairs.parquet` and `sequences-*.parquet` go.
      recipe: of the texts; "" for none.
      title_words: see `make_texts`.
      pairs: what counts as a pair; None for none.
      sequences: items that a piece of a history has at most; 0 for none.
      held_out: baskets of each user that pairs and sequences leave out, from the last.
      config: where the pipeline runs.

    Raises:
      InputError: Beam has no such runner, or the data set is damaged.
      UnwrittenError: the disk is full, or nothing may be written there.
    """
    runner, options = config.open()
    with (
        assembling(out) as out,
        running(),
        beam.Pipeline(runner=runner, options=options) as pipeline,
    ):
        if recipe:
            items = folder / "items" / VERSION
            types = open_records(items).info.metadata["attributes"]
            texts = MakeTexts(types, recipe, title_words)
            _ = (
                pipeline
                | "items" >> ReadRecords(items)
                | texts
                | "texts.parquet" >> _Write(out / "texts", _TEXTS, 1)
            )
        if pairs is not None or sequences:
            histories = pipeline | ReadRecords(folder / "histories" / VERSION)
            if pairs is not None:
                found = histories | MinePairs(pairs, held_out)
                _ = found | "pairs.parquet" >> _Write(out / "pairs", PAIRS, 1)
            if sequences:
                found = histories | CutSequences(sequences, held_out)
                _ = found | "sequences" >> _Write(out / "sequences", _SEQUENCES)


class _Write(beam.PTransform):
    """Writes rows to Parquet with checksums, which Beam's own files have none of."""

    def __init__(self, path: Path, schema: pa.Schema, num_shards: int = 0):
        super().__init__()
        self._path, self._schema, self._num_shards = path, schema, num_shards

    def expand(self, input_or_inputs: PCollection) -> Any:
        files = input_or_inputs | "write" >> WriteToParquet(
            str(self._path),
            self._schema,
            codec="zstd",
            file_name_suffix=".parquet",
            num_shards=self._num_shards,
            shard_name_template="" if self._num_shards else None,
        )
        return files | beam.Reshuffle() | "seal" >> beam.Map(seal_parquet)


class MakeTexts(beam.PTransform):
    """Records of items -> `item_id` and `text` of each: `make_texts`."""

    def __init__(self, types: Mapping[str, str], recipe: str, title_words: int = 0):
        """Takes the types of attributes, of the data set's metadata."""
        super().__init__()
        self._arguments = dict(types), recipe, title_words

    def expand(self, input_or_inputs: PCollection) -> Any:
        return input_or_inputs | "make" >> beam.FlatMap(_make_texts, *self._arguments)


class MinePairs(beam.PTransform):
    """Records of histories -> pairs of item ids: those of `mine_pairs`.

    Gives `left` and `right`, the lesser id first; `count`; `pmi`, in nats.
    """

    def __init__(self, config: PairConfig, held_out: int = 0):
        """Takes what a pair is, and how many baskets of each user are left out."""
        super().__init__()
        self._config, self._held_out = config, held_out

    def expand(self, input_or_inputs: PCollection) -> Any:
        config = self._config
        counted: Any = input_or_inputs | "count" >> beam.FlatMap(
            _count_near, config.window, config.max_basket, self._held_out
        ).with_outputs("units", main="stripes")
        units = AsSingleton(counted.units | "units" >> beam.CombineGlobally(sum))
        sides: Any = (
            counted.stripes
            | "together" >> beam.CombinePerKey(_add_up)
            | "turn"
            >> beam.FlatMap(_turn, config.min_support).with_outputs(
                "alone", main="pairs"
            )
        )
        return (
            {"pairs": sides.pairs, "alone": sides.alone}
            | "by right" >> beam.CoGroupByKey()
            | "rate" >> beam.FlatMap(_rate, units, config.min_pmi)
        )


class CutSequences(beam.PTransform):
    """Records of histories -> the pieces that `sequence_stream` packs into rows.

    Gives `row`, that of the user; `piece`, its number in the history; `retailer`, that
    of the last item; `item_ids`, oldest first, two at least. By row, then piece, they
    stand in the order of `cut_histories`.
    """

    def __init__(self, length: int, held_out: int = 0):
        """Takes the most items of a piece, and baskets of each user left out."""
        super().__init__()
        self._arguments = length, held_out

    def expand(self, input_or_inputs: PCollection) -> Any:
        return input_or_inputs | "cut" >> beam.FlatMap(_cut, *self._arguments)


def _make_texts(
    record: dict[str, Any], types: Mapping[str, str], recipe: str, title_words: int
) -> Iterator[dict[str, str]]:
    catalog = make_catalog([record], types)
    texts = make_texts(catalog, recipe, title_words=title_words)
    for item_id, text in zip(catalog.item_ids, texts, strict=True):
        yield {"item_id": item_id, "text": text}


def _baskets_of(record: dict[str, Any], held_out: int) -> list[tuple[str, list[str]]]:
    """Retailer and items of a user's training baskets; one at least is left."""
    items = [item_id.decode() for item_id in record["item_ids"]]
    stops = np.cumsum(record["sizes"])
    baskets = [
        (retailer.decode(), items[stop - size : stop])
        for retailer, size, stop in zip(
            record["retailers"], record["sizes"], stops, strict=True
        )
    ]
    return baskets[: max(len(baskets) - held_out, 1)]


def _count_near(
    record: dict[str, Any], window: int, max_basket: int, held_out: int
) -> Iterator[Any]:
    """(item, stripe) of each item of a user; units, by their tag.

    A stripe counts the item itself, and those near it whose ids are greater (Lin and
    Dyer 2010). Far fewer values meet than by pairs, but a worker has to hold all that
    an item was bought with.
    """
    short = [
        items for _, items in _baskets_of(record, held_out) if len(items) <= max_basket
    ]
    stripes: dict[str, Counter[str]] = defaultdict(Counter)
    units = 0
    for at, first in enumerate(short):
        near = short[max(at - window, 0) : at + window + 1]
        units += len(near)
        for item in first:
            stripes[item][item] += len(near)
            for second in near:
                stripes[item].update(other for other in second if item < other)
    yield TaggedOutput("units", units)
    yield from stripes.items()


def _add_up(stripes: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for stripe in stripes:
        total.update(stripe)
    return total


def _turn(found: tuple[str, Counter[str]], min_support: int) -> Iterator[Any]:
    """(right, (left, count, how often left occurs)); that of each item, by its tag."""
    left, stripe = found
    alone = stripe[left]
    yield TaggedOutput("alone", (left, alone))
    for right, count in stripe.items():
        if count >= min_support and right != left:
            yield right, (left, count, alone)


def _rate(
    joined: tuple[str, dict[str, Iterable]], units: int, min_pmi: float
) -> Iterator[dict[str, Any]]:
    right, sides = joined
    (alone,), found = sides["alone"], list(sides["pairs"])
    if found:
        lefts, counts, others = zip(*found, strict=True)
        pmi = pointwise(np.asarray(counts), np.asarray(others), alone, units)
        for left, count, value in zip(lefts, counts, pmi.tolist(), strict=True):
            if value >= min_pmi:
                yield {"left": left, "right": right, "count": count, "pmi": value}


def _cut(record: dict[str, Any], length: int, held_out: int) -> Iterator[dict]:
    baskets = _baskets_of(record, held_out)
    items = [item for _, basket in baskets for item in basket]
    stores = [store for store, basket in baskets for _ in basket]
    ends = np.asarray([len(items)])
    for piece, (start, end) in enumerate(
        zip(*cut_ranges(np.zeros_like(ends), ends, length), strict=True)
    ):
        if end - start > 1:
            yield {
                "row": int(record["row"]),
                "piece": piece,
                "retailer": stores[end - 1],
                "item_ids": items[start:end],
            }
