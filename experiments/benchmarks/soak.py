"""A soak: one process trains for as long as another one serves what changes meanwhile.

    python experiments/benchmarks/soak.py [--minutes 30] [--workdir DIR]

Hardware: any CPU. On a made-up shop a tokenizer and a retriever are trained, and the
retriever exported with room. Then, for as long as asked:

- a process trains the retriever further, evaluates and saves every few steps. Told to
  stop (SIGTERM), three times in the first third of the time, it saves, is judged on the
  test baskets and ends with 0; another one goes on from its checkpoint;
- this process answers from several threads, while another thread puts the next version
  of the catalog, its SIDs, its stores and their allowances in place of the last one.

Each answer is checked against the version that it was asked of: as many as requests,
products of this catalog alone, under their SIDs, carried by the store and in the mask,
none twice. What the first version answered at the start, it answers at the end. Nothing
may be compiled after the start. The trainer's metrics must hold each step once.

Memory (RSS), threads and open files of both processes are sampled each second, those of
the last trainer alone. A third of the samples is warm-up; through the rest a line is
laid, and memory is flat where that line rises by less than 2% or 16 MB, whatever is
more. (Of less than five minutes nothing is said.) What TensorStore leaks at each save
is left out. Exit code 1 if anything is wrong.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import tensorstore
from shop import make_configs, make_shop

from sid_jax.data.datasets import save
from sid_jax.data.pipeline import Requests
from sid_jax.flows.evaluate import evaluate_retriever
from sid_jax.flows.export import export_retriever
from sid_jax.flows.retriever import load_retriever
from sid_jax.flows.serving import Artifact, load_artifact
from sid_jax.flows.train import Interrupted, train
from sid_jax.sids.index import Products, build_index
from sid_jax.sids.table import SidTable
from sid_jax.train.loop import checkpoint_step
from sid_jax.train.progress import read_metrics
from sid_jax.typing import NDArray

FIRST, EVERY = 200, 100  # steps before the export, and between lines and checkpoints
STOPS = (0.1, 0.2, 0.3)  # of the time, when the trainer is told to stop
GRACE = 120  # seconds that it may take, on a machine that is busy
THREADS = 3
SHORT = 300  # samples, below which no rise is judged
SAMPLED = ("MB", "threads", "files")
COMPILED = "/jax/core/compile/backend_compile_duration"


def train_on(root: Path, steps: int = 10**9) -> None:
    """Trains the retriever until it is told to stop, and judges it then."""
    config = make_configs(root)[1]
    told = replace(config.train, steps=steps, log_every=EVERY, checkpoint_every=EVERY)
    told = replace(told, eval_every=2 * EVERY)
    # TensorStore (0.1.86) never frees what this gives, and Orbax asks at every save: 15
    # to 25 kB, which would hide what we lose.
    tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []
    try:
        train(replace(config, train=told), root / "retriever", be_silent)
    except Interrupted:
        evaluate_retriever(root / "retriever", be_silent)


def be_silent(line: str) -> None:
    """Takes lines for a user who is not there."""


def say(line: str) -> None:
    """Takes lines for a user who may read them in a file."""
    print(line, flush=True)


class Trainer:
    """A process that trains beside this one."""

    def __init__(self, root: Path):
        line = [sys.executable, __file__, "--train", str(root)]
        with (root / "trainer.txt").open("a") as said:
            self.process = subprocess.Popen(line, stdout=said, stderr=said)
        self._lines, self._begin = root / "retriever" / "metrics.jsonl", time.time()
        self.samples: list[tuple[float, int, int]] = []

    def stop(self) -> list[str]:
        """Faults of its end; before its first line it has nothing to save."""
        end = time.monotonic() + GRACE
        while self._lines.stat().st_mtime < self._begin and time.monotonic() < end:
            time.sleep(0.1)
        self.process.terminate()
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return [f"the trainer did not end in {GRACE} s after SIGTERM"]
        return [f"the trainer ended with {code}"] if code else []


class Versions:
    """The artifact that answers now, and the next ones of it."""

    def __init__(self, first: Artifact, seed: int):
        self.first = self.now = first
        self.seed, self.count = seed, 0

    def swap(self) -> None:
        """Three quarters of the items, one in five under another SID, other stores."""
        first, self.count = self.first, self.count + 1
        rng = np.random.default_rng([self.seed, self.count])
        num_items, num_stores = len(first.codes), first.index.num_retailers
        rows = np.sort(rng.permutation(num_items)[: 3 * num_items // 4])
        catalog, codes = first.catalog.take(rows), first.codes[rows].copy()
        codes[::5, -1] = rng.integers(0, first.trie.codebook_sizes[-1], len(codes[::5]))
        table = SidTable.build(catalog.item_ids, codes, None, first.table.manifest)
        carried = np.flatnonzero(rng.random(num_stores * len(rows)) < 0.3)
        stores, items = np.divmod(carried, len(rows))
        sold = rng.integers(0, 9, len(items))
        index = build_index(table.leaves(), stores, items, sold, num_stores)
        self.now = first.renew(catalog, table, index)


def make_requests(artifact: Artifact, rng: np.random.Generator) -> Requests:
    """One to ten households of a version's catalog, at stores of all kinds."""
    count, num_items = int(rng.integers(1, 11)), len(artifact.codes)
    history = rng.integers(-1, num_items, (count, artifact.told.history), np.int32)
    none = np.full((count, 1), -1, np.int32)
    return Requests(
        users=np.zeros(count, np.int32),
        retailers=rng.integers(0, artifact.index.num_retailers, count, np.int32),
        history=history,
        basket=rng.integers(-1, num_items, (count, 2), np.int32),
        targets=none,
        owned=history,
        owned_counts=(history >= 0).astype(np.int32),
    )


def answer(
    artifact: Artifact, requests: Requests, mask: NDArray | None = None
) -> Products:
    """The products of all requests."""
    parts = [vars(found) for found, _ in artifact.retrieve(requests, item_mask=mask)]
    return Products(*(np.concatenate([p[name] for p in parts]) for name in parts[0]))


def find_faults(
    artifact: Artifact, requests: Requests, found: Products, mask: NDArray | None
) -> list[str]:
    """What is wrong with answers, by the version that they are of."""
    if len(found.items) != len(requests):
        return [f"{len(found.items)} answers to {len(requests)} requests"]
    faults, index = [], artifact.index
    for row, (store, items) in enumerate(
        zip(requests.retailers, found.items, strict=True)
    ):
        items, leaves = items[items >= 0], found.leaves[row][items >= 0]
        carried = index.items[index.starts[store] : index.starts[store + 1]]
        if not len(items):
            faults.append("no product")
        elif items.max() >= len(artifact.codes):
            faults.append("a product of another catalog")
        elif (artifact.table.sids[leaves] != artifact.codes[items]).any():
            faults.append("a product under a SID that is not its own")
        elif not np.isin(items, carried).all():
            faults.append("a product that the store does not carry")
        elif np.isin(items, requests.basket[row]).any():
            faults.append("a product of the basket")
        elif mask is not None and not mask[items].all():
            faults.append("a product outside the mask")
        elif len(np.unique(items)) < len(items):
            faults.append("a product twice")
    return faults


class Server:
    """Threads that ask, one that swaps, and a tally of what they did."""

    def __init__(self, artifact: Artifact, seed: int):
        self.versions, self.seed = Versions(artifact, seed), seed
        self.tally, self.faults = Counter(), Counter()
        self._over, self._lock = threading.Event(), threading.Lock()
        self._compiled = 0
        rng = np.random.default_rng(seed)
        self.asked = [make_requests(artifact, rng) for _ in range(4)]
        self.answered = [answer(artifact, each) for each in self.asked]

    def start(self) -> None:
        """Compiles what there is to compile, then begins."""
        for _ in range(2):
            for masked in (0.0, 1.0):
                self._ask(np.random.default_rng(0), masked)
            self.versions.swap()
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        works = [self._swap, *[self._ask] * THREADS]
        self._threads = [
            threading.Thread(target=self._guard, args=(work, number))
            for number, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, and asks the first version again."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        jax.monitoring.unregister_event_duration_listener(self._hear)
        for requests, wanted in zip(self.asked, self.answered, strict=True):
            found = answer(self.versions.first, requests)
            for name, before in vars(wanted).items():
                if not np.array_equal(getattr(found, name), before):
                    self.faults["the first version answers otherwise"] += 1
        if self._compiled:
            self.faults["a program compiled while serving"] = self._compiled

    def _hear(self, event: str, duration_secs: float, **_: object) -> None:
        self._compiled += event == COMPILED

    def _guard(self, work, number: int) -> None:
        rng = np.random.default_rng([self.seed, number])
        while not self._over.is_set():
            try:
                work(rng)
            except Exception as error:  # an answer that is lost
                with self._lock:
                    self.faults[f"{type(error).__name__}: {error}"[:200]] += 1
                time.sleep(0.1)

    def _swap(self, _: np.random.Generator) -> None:
        self.versions.swap()
        self.tally["swaps"] += 1
        self._over.wait(0.2)

    def _ask(self, rng: np.random.Generator, masked: float = 0.3) -> None:
        version = self.versions.now
        requests = make_requests(version, rng)
        masked = rng.random() < masked
        mask = rng.random(len(version.codes)) < 0.9 if masked else None
        found = answer(version, requests, mask)
        faults = find_faults(version, requests, found, mask)
        with self._lock:
            self.tally["requests"] += len(requests)
            self.faults.update(faults)


def sample(process: int) -> tuple[float, int, int]:
    """Memory in MB, threads and open files of a process (Linux).

    Raises:
      ProcessLookupError: it has ended, or just ends and holds no memory any more.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        told = dict(line.split(":", 1) for line in lines)
        files = len(os.listdir(f"/proc/{process}/fd"))
        return int(told["VmRSS"].split()[0]) / 1024, int(told["Threads"]), files
    except (FileNotFoundError, PermissionError, KeyError) as error:
        raise ProcessLookupError(f"process {process} has ended") from error


def judge_samples(samples: list[tuple[float, int, int]]) -> tuple[list[str], list[str]]:
    """Rows of the table, and faults, of a process's samples after its warm-up."""
    values = np.asarray(samples[len(samples) // 3 :], float)
    rows, faults = [], []
    for name, column in zip(SAMPLED, values.T, strict=True):
        few = len(column) < 2
        slope = 0 if few else np.polyfit(np.arange(len(column)), column, 1)[0]
        rise = float(slope * (len(column) - 1))
        told = (column[0], column[-1], column.max(), rise)
        rows.append(f"{name:>8}" + "".join(f"{each:10.1f}" for each in told))
        most = max(16.0, 0.02 * column[0]) if name == "MB" else 4.0
        if rise > most and len(samples) >= SHORT:
            faults.append(f"{name} rise by {rise:.1f}, more than {most:.1f}")
    return rows, faults


def check_metrics(root: Path) -> tuple[int, list[str]]:
    """The last step, and what is wrong with the lines of the run that was trained."""
    rows, faults = read_metrics(root / "retriever" / "metrics.jsonl"), []
    last = checkpoint_step(root / "retriever") or 0
    for name, every in (("loss", EVERY), ("validation/recall@10", 2 * EVERY)):
        steps = [row["step"] for row in rows if name in row]
        if steps != list(range(every, last + 1, every)):
            faults.append(f"{name} of steps {steps[:3]} to {steps[-3:]}, not to {last}")
    if sum("beam_yield" in row for row in rows) < 2 or last <= FIRST:
        faults.append(f"the run came to step {last} and was hardly judged")
    return last, faults


def soak(
    root: Path, seconds: float, seed: int = 0, log=be_silent
) -> tuple[list[str], list[str]]:
    """Lines of the table, and faults; an empty list if all went well.

    `log` takes a line a minute.
    """
    save("shop", make_shop(seed), root / "data")
    tokenizer, _ = make_configs(root)
    train(tokenizer, root / "tokenizer", be_silent)
    train_on(root, FIRST)
    served = root / "served"
    export_retriever(
        root / "retriever", served, platforms=["cpu"], room=1.0, log=be_silent
    )
    server, trainer = Server(load_artifact(served), seed), Trainer(root)
    samples, faults, stops = [], [], list(STOPS)
    server.start()
    try:
        begin = time.monotonic()
        while (spent := time.monotonic() - begin) < seconds:
            if stops and spent > stops[0] * seconds:
                faults += trainer.stop()
                trainer, stops = Trainer(root), stops[1:]
            time.sleep(1)
            try:
                trainer.samples.append(sample(trainer.process.pid))
            except ProcessLookupError:
                faults.append(f"the trainer ended: {root / 'trainer.txt'}")
                break
            samples.append(sample(os.getpid()))
            if len(samples) % 60 == 0:
                log(
                    f"{spent / 60:.0f} of {seconds / 60:.0f} min: "
                    f"{server.tally['requests']:,} requests, server at "
                    f"{samples[-1][0]:.0f} MB, trainer at {trainer.samples[-1][0]:.0f}"
                )
    finally:
        faults += trainer.stop()
        server.stop()
    faults += [f"{count} x {name}" for name, count in server.faults.items()]
    last, more = check_metrics(root)
    faults += more
    if seconds >= SHORT and len(trainer.samples) < seconds / 3:
        faults.append("the last trainer was hardly seen: too busy a machine")
    load_retriever(root / "retriever")  # its last checkpoint is whole
    lines = [
        f"{seconds / 60:.1f} min: {server.tally['requests']:,} requests by {THREADS} "
        f"threads, {server.tally['swaps']:,} swaps, {last - FIRST:,} steps of training "
        f"with {len(STOPS)} stops",
        " " * 16 + "".join(f"{name:>10}" for name in ("warm", "end", "most", "rise")),
    ]
    for name, found in (("server", samples), ("trainer", trainer.samples)):
        rows, more = judge_samples(found)
        lines += [f"{name:<8}{row}" for row in rows]
        faults += [f"{name}: {each}" for each in more]
    return lines, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, help="kept; a temporary folder if none")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train_on(given.train)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = given.workdir or Path(folder)
        lines, faults = soak(root, 60 * given.minutes, given.seed, say)
    print("\n".join(lines))
    print("\n".join(f"WRONG: {fault}" for fault in faults) or "nothing is wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
