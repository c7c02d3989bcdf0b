"""`sid import` and `sid train`, killed at any moment and started again, to the end.

A moment is a line that the run has said, a file that it has begun under a temporary
name, so that kills fall into saves and renames, any one or one of what it ends with, or
some seconds after its start.
"""

import json
import os
import random
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import jax
import pytest

from sid_jax.flows import runs

KILLS = 20
STEPS = ("--train.steps", 24, "--train.log-every", 1, "--train.checkpoint-every", 2)
EVALUATED = ("--train.eval-every", 6)
ENDS = {
    "tokenizer": (runs.VECTORS, runs.CATALOG, runs.CONFIG, runs.SIDS, runs.REPORT),
    "retriever": (runs.SIDS, runs.INDEX, runs.SAMPLES, runs.SLICES, runs.REPORT),
}
CHILD = """
import json, sys
from sid_jax.cli import main
sys.exit(next(filter(None, map(main, json.loads(sys.argv[1]))), 0))
"""


class Shop:
    """A folder with data that is imported there and a run that learns from them."""

    def __init__(self, world, kind, root):
        self.root, self.run, self.said = root, root / "run", root / "said.txt"
        data = ("--data-dir", root / "data", "--name", "tiny")
        files = ("--items", world.items, "--baskets", world.baskets)
        file = {"tokenizer": world.tokenizer_file, "retriever": world.retriever_file}
        words = ("--workdir", self.run, "--data.data-dir", root / "data", *STEPS)
        words += EVALUATED if kind == "retriever" else ()
        lines = ("import", *files, *data), ("train", file[kind], *words)
        self.ends = ENDS[kind]
        self.words = json.dumps([[str(word) for word in line] for line in lines])
        root.mkdir()

    def start(self):
        folder = jax.config.jax_compilation_cache_dir
        told = {"JAX_COMPILATION_CACHE_DIR": folder, "PYTHONUNBUFFERED": "1"}
        told |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with self.said.open("w") as file:
            return subprocess.Popen(
                [sys.executable, "-c", CHILD, self.words],
                stdout=file,
                stderr=file,
                env=os.environ | told,
                cwd=Path(runs.__file__).parents[2],
            )

    def kill(self, rng):
        """Starts, and kills at some moment; whether it was alive then."""
        left = [name for name in self.ends if not (self.run / name).exists()]
        moment = rng.choice(["line", "file", "time", "end", "end"])
        name, number = rng.choice(left or [runs.REPORT]), rng.randint(1, 16)
        child, begin, seen = self.start(), time.monotonic(), set()
        while child.poll() is None:
            if moment == "line" and self.said.read_text().count("\n") >= number:
                break
            if moment == "file" and len(seen) >= number:
                break
            if moment == "time" and time.monotonic() - begin > 2 * number:
                break
            if moment == "end" and list(self.run.glob(f".{Path(name).stem}.*")):
                break
            if moment == "file":
                seen |= set(map(str, temporary(self.root)))
            time.sleep(0.001)
        time.sleep(rng.choice([0, 0, 0.01, 0.5]) * rng.random())
        child.kill()
        assert child.wait(60) in (0, -9), self.said.read_text()
        last = self.said.read_text().strip().splitlines()[-1:]
        print(f"{child.returncode} at {moment} {number} {name}: {last}", flush=True)
        return child.returncode == -9

    def finish(self):
        assert self.start().wait(300) == 0, self.said.read_text()
        assert "damaged" not in self.said.read_text()

    def state(self):
        """Step -> checksum of each array, optimizer included, of each checkpoint."""
        return {
            int(path.name): json.loads(next(path.glob("config/*")).read_text())
            for path in (self.run / "checkpoints").iterdir()
        }

    def products(self):
        """Everything else that lies in the run's folder, byte for byte."""
        files = (path for path in self.run.rglob("*") if path.is_file())
        left = {runs.METRICS, runs.REPORT, "checkpoints"}
        found = {path.relative_to(self.run): path.read_bytes() for path in files}
        found = {k: v for k, v in found.items() if k.parts[0] not in left}
        here = str(self.root).encode()
        return {str(name): text.replace(here, b"") for name, text in found.items()}


def temporary(root):
    """What is there under names that are not to stay."""
    marks = (".partial", "incomplete", "orbax-checkpoint-tmp")
    found = (Path(at) / each for at, *names in os.walk(root) for each in chain(*names))
    return [path for path in found if any(mark in path.name for mark in marks)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_what_is_killed_anywhere_is_what_nobody_killed(world, tmp_path, kind):
    rng, kills, shops = random.Random(kind), 0, 0
    alone = Shop(world, kind, tmp_path / "alone")
    alone.finish()
    while kills < KILLS:
        shop, shops = Shop(world, kind, tmp_path / f"{shops}"), shops + 1
        while kills < KILLS and shop.kill(rng):
            kills += 1
        shop.finish()
        assert not temporary(shop.root)
        assert shop.state() == alone.state()
        assert world.values(shop.run) == world.values(alone.run)
        found, wanted = shop.products(), alone.products()
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
        assert (shop.run / runs.REPORT).exists()
        print(f"{kind}: {kills} kills in {shops} runs")
