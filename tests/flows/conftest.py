"""A tiny shop, imported, and one tokenizer and one retriever trained on it by `sid`."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sid_jax.cli import main
from sid_jax.flows import bulk
from sid_jax.flows.encoding import Tokenizer
from sid_jax.report import plots
from sid_jax.train.progress import read_metrics
from sid_jax.train.retriever_task import RetrieverTask

WORDS = ("green", "black", "sweet", "salted", "whole", "fresh")
KINDS = ("tea", "bread", "milk", "soap")
TIMES = ("time", "input_wait")

EXPERIMENT = """
from dataclasses import replace
from sid_jax.config import *

def get_config():
    config = smoke({kind}(data=DataConfig(name="tiny", data_dir={data!r}), {extra}))
    train = replace(config.train, steps=6, checkpoint_every=2)
    config = replace(config, train=train, mesh=MeshConfig(data=1))
    if isinstance(config, RetrieverExperiment):  # as many beams as there may be SIDs
        search = SearchConfig(num_beams=48, top=60, batch_size=8)
        config = replace(config, search=search)
    return config
"""
TOKENIZER = """
    vectors=VectorConfig(columns=("price", "brand_tier", "stock")),
    task=TokenizerTaskConfig(), model=RQVAEConfig(codebook_sizes=(4, 4, 3)),
"""


@dataclass(frozen=True)
class World:
    """Where everything lies, and the tools that made it.

    Attributes:
      root: the folder of all.
      items, baskets: the files that were imported.
      data: the data sets.
      tokenizer_file, retriever_file: the experiments.
      tokenizer, retriever: run folders, finished.
    """

    root: Path

    items = property(lambda self: self.root / "items.jsonl")
    baskets = property(lambda self: self.root / "baskets.csv")
    data = property(lambda self: self.root / "data")
    tokenizer_file = property(lambda self: self.root / "tokenizer.py")
    retriever_file = property(lambda self: self.root / "retriever.py")
    tokenizer = property(lambda self: self.root / "tok")
    retriever = property(lambda self: self.root / "ret")

    make_items = staticmethod(lambda: make_items())
    make_baskets = staticmethod(lambda: make_baskets())
    write_items = staticmethod(lambda path, items: write_items(path, items))
    write_baskets = staticmethod(lambda path, rows: write_baskets(path, rows))

    def run(self, *words):
        """`sid` in this process; returns its exit code."""
        return main([str(word) for word in words])

    def train(self, kind, folder, *words):
        file = {"tokenizer": self.tokenizer_file, "retriever": self.retriever_file}
        return self.run("train", file[kind], "--workdir", folder, *words)

    def copy(self, kind, folder):
        """A copy of a finished run."""
        return Path(shutil.copytree(getattr(self, kind), folder))

    def values(self, folder):
        """The metrics that a rerun repeats: all but times."""
        return [
            {k: v for k, v in row.items() if k not in TIMES and "per_second" not in k}
            for row in read_metrics(folder / "metrics.jsonl")
        ]

    def interrupt(self, patch, room, name, step):
        """Sends this process a Ctrl-C when a stream is asked for a step."""
        make = getattr(room, name)

        def interrupted(*args, **kwargs):
            stream = make(*args, **kwargs)

            def read(number):
                if number == step:
                    os.kill(os.getpid(), signal.SIGINT)
                return stream(number)

            return read

        patch.setattr(room, name, interrupted)

    def contents(self, folder):
        """All files of a folder, hidden ones too."""
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def import_data(self, data, items=None, baskets=None):
        files = ("--items", items or self.items, "--baskets", baskets or self.baskets)
        return self.run("import", *files, "--name", "tiny", "--data-dir", data)


def make_items():
    """Sixty items; a few are alike in all but their id."""
    rng = np.random.default_rng(1)
    return [
        {
            "item_id": f"i{row:02d}",
            "title": f"{WORDS[row % 6]} {KINDS[row % 4]} {row // 8}",
            "brand": "Own" if row % 3 else "Known",
            "categories": ["shop", "food" if row % 4 < 3 else "home", KINDS[row % 4]],
            "brand_tier": "Private" if row % 3 else "National",
            "price": round(float(rng.uniform(1, 9)), 2),
            "stock": row % 5,
        }
        for row in range(60)
    ]


def make_baskets():
    """Twenty-five households with three to eight baskets at three stores.

    The store `north` sells the first forty items alone.
    """
    rng = np.random.default_rng(2)
    rows = []
    for user in range(25):
        liked = rng.choice(60, 12, replace=False)
        for order in range(3 + user % 6):
            store = ("east", "north", "west")[int(rng.integers(3))]
            items = rng.choice(liked, int(rng.integers(2, 6)), replace=False)
            if store == "north":
                items = items[items < 40]
            ids = [f"i{item:02d}" for item in items] or ["i00"]
            rows.append([f"u{user:02d}", order, store, " ".join(ids)])
    return rows


def write_items(path, items):
    path.write_text("".join(json.dumps(each) + "\n" for each in items))
    return path


def write_baskets(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "order", "retailer_id", "product_ids"])
        writer.writerows(rows)
    return path


@contextmanager
def share_programs(folder):
    """Programs are compiled once for all modules, and none is worth optimizing."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]

    def update(values, plain):
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        jax.config.update("jax_disable_most_optimizations", plain)
        compilation_cache.reset_cache()

    update((str(folder), 0), True)
    try:
        yield
    finally:
        update(before, False)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module", autouse=True)
def programs_are_shared(programs):
    with share_programs(programs):
        yield


# One of each kind of page, and tests of pictures themselves.
LOOKED_AT = {
    "audit_test",
    "compare_test",
    "evaluate_test",
    "flavours_test",
    "inspect_test",
    "quickstart_test",
    "report_test",
}


@pytest.fixture(autouse=True)
def pictures_are_drawn_where_they_are_looked_at(request, monkeypatch):
    """Elsewhere a page has empty ones, since drawing is much of a short run."""
    if request.path.stem not in LOOKED_AT:
        monkeypatch.setattr(plots, "data_uri", lambda figure, form="svg": "data:,")


@pytest.fixture(scope="session")
def world(tmp_path_factory, programs):
    root = tmp_path_factory.mktemp("world")
    world = World(root)
    write_items(world.items, make_items())
    write_baskets(world.baskets, make_baskets())
    tokenizer = f"tokenizer={str(world.tokenizer)!r}"
    for path, kind, extra in (
        (world.tokenizer_file, "TokenizerExperiment", TOKENIZER),
        (world.retriever_file, "RetrieverExperiment", tokenizer),
    ):
        path.write_text(EXPERIMENT.format(kind=kind, data=str(world.data), extra=extra))
    assert world.import_data(world.data) == 0
    with share_programs(programs):
        assert world.train("tokenizer", world.tokenizer) == 0
        assert world.train("retriever", world.retriever) == 0
    return world


@pytest.fixture(scope="session")
def score_all():
    """Log p(SID | request) of every SID of the table, by the training loss alone.

    It is the loss of a basket that ends in the SID, less that of the basket without.
    """

    def score(retriever, requests):
        model = retriever.config.model
        still = dataclasses.replace(model.transformer, dropout=0.0)
        model = dataclasses.replace(model, transformer=still)
        task = RetrieverTask(model, retriever.vocab)
        size = retriever.config.prompts.basket
        sids = retriever.table.sids
        prompts, counts = [], []
        for row in range(len(requests)):
            basket = [retriever.codes[i] for i in requests.basket[row] if i >= 0]
            basket = basket[-size:]
            history = [
                retriever.codes[i] if i >= 0 else np.full(sids.shape[1], -1)
                for i in requests.history[row]
            ]
            for last in (*([sid] for sid in sids), []):
                items = [*basket, *last]
                counts.append(len(items))
                absent = [np.full(sids.shape[1], -1)] * (size + 1 - len(items))
                prompts.append((requests.retailers[row], history, items + absent))
        retailers, histories, baskets = map(np.asarray, zip(*prompts, strict=True))
        batch = retriever.vocab.prompts(retailers, histories, baskets)

        def total(one, count):
            one = jax.tree.map(lambda leaf: leaf[None], one)
            loss, _ = task.loss(retriever.params, {}, one, jax.random.key(0))
            return -loss * count

        sums = np.asarray(
            jax.jit(jax.vmap(total))(batch, np.asarray(counts, np.float32))
        )
        sums = sums.reshape(len(requests), len(sids) + 1)
        return sums[:, :-1] - sums[:, -1:]

    return score


@pytest.fixture(scope="module")
def model(world):
    return Tokenizer.load(world.tokenizer)


@pytest.fixture
def encode_parts(model, monkeypatch):
    """`encode_parts` by the tokenizer of the world, loaded once; gives what is said."""

    def run(items, out, model=model, **words):
        monkeypatch.setattr(Tokenizer, "load", lambda folder, vectors="": model)
        lines = []
        bulk.encode_parts(Path("tok"), items, out, lines.append, **words)
        return lines

    return run
