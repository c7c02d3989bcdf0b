"""`sid train` in several processes, which find each other over gloo."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sid_jax.flows import runs
from sid_jax.sids.table import read_table
from sid_jax.train.progress import read_metrics


class Launch:
    """`sid train` in as many processes as asked for, each with some devices."""

    def __init__(self, world, kind, folder, count, devices, *words, last=()):
        file = {"tokenizer": world.tokenizer_file, "retriever": world.retriever_file}
        words = ("train", file[kind], "--workdir", folder, *words)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = re.sub(r"--xla_force_host\S*", "", os.environ["XLA_FLAGS"])
        told = os.environ | {
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "sid_jax.cli", *map(str, words)]
                + list(last) * (index == count - 1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=told | {"JAX_PROCESS_ID": str(index)},
                cwd=runs.__file__.removesuffix("/sid_jax/flows/runs.py"),
            )
            for index in range(count)
        ]

    def read_until(self, start):
        """Reads what the first process says up to a line that begins so."""
        stream = self.processes[0].stdout
        assert stream is not None
        said = []
        for line in stream:
            said.append(line)
            if line.startswith(start):
                return
        told = [each.communicate(timeout=300) for each in self.processes]
        raise AssertionError("".join(said), told)

    def finish(self, code=0):
        """Waits for all; returns what each printed."""
        told = [each.communicate(timeout=300) for each in self.processes]
        codes = [each.returncode for each in self.processes]
        assert codes == [code] * len(codes), (codes, told)
        return ["".join(each) for each in told]


def losses(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def sums(folder):
    """The checksum of each array in the last checkpoint."""
    last = folder / "checkpoints" / f"{runs.checkpoint_step(folder)}"
    return json.loads(next(last.glob("config/*")).read_text())["checksums"]


def digest(folder):
    return read_table(folder / "sids.parquet").digest()


def test_two_processes_train_what_one_does(world, tmp_path):
    told = Launch(world, "tokenizer", tmp_path, 2, 1, "--mesh.data", 2).finish()
    found, wanted = losses(tmp_path), losses(world.tokenizer)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)
    assert found.keys() == wanted.keys()
    assert read_table(tmp_path / "sids.parquet").sids.shape[1] == 3
    assert (tmp_path / "report.html").exists()
    # One speaks and writes: nothing is there twice, nothing is left half-written.
    assert "report: " in told[0] and "report: " not in told[1]
    assert sum("codes/fvu" in row for row in read_metrics(tmp_path / runs.METRICS)) == 1
    assert not list(tmp_path.rglob("*.partial*"))


LOST = ("another process, or the way to it, was lost", "another task died")
LONG = ("--train.steps", 300, "--train.log-every", 1, "--train.checkpoint-every", 40)
GENTLE = ("--optimizer.name", "sgd", "--optimizer.learning-rate", 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_a_run_goes_on_in_other_processes_on_another_mesh(world, tmp_path, kind):
    """Four processes are told to stop, two to stop, one ends it: one loss curve."""
    words = (*LONG, *GENTLE)
    assert world.train(kind, tmp_path / "alone", *words) == 0
    folder, start = tmp_path / "many", 0
    for count, layout in (
        (4, ("--mesh.data", 2, "--mesh.model", 2, "--mesh.rules", "fsdp_tensor")),
        (2, ("--mesh.data", 4, "--mesh.rules", "fsdp")),
    ):
        launch = Launch(world, kind, folder, count, 4 // count, *words, *layout)
        launch.read_until(f"step {start + 20}/")
        launch.processes[-1].send_signal(signal.SIGTERM)  # one alone hears it
        told = launch.finish(0)
        start = runs.checkpoint_step(folder)
        assert start is not None and start < 300
        assert all(f"stopped at step {start}, saved in" in each for each in told)
    assert world.train(kind, folder, *words, "--mesh.data", 8) == 0
    found, wanted = losses(folder), losses(tmp_path / "alone")
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-3)


@pytest.mark.slow
def test_an_interrupt_of_one_process_ends_all_with_130_there(world, tmp_path):
    launch = Launch(world, "tokenizer", tmp_path, 2, 1, *LONG, "--mesh.data", 2)
    launch.read_until("step 20/")
    launch.processes[0].send_signal(signal.SIGINT)
    for each in launch.processes:
        each.communicate(timeout=120)
    assert [each.returncode for each in launch.processes] == [130, 0]
    assert runs.checkpoint_step(tmp_path)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_goes_on(world, tmp_path):
    words = (*LONG, "--mesh.data", 2)
    launch = Launch(world, "tokenizer", tmp_path / "run", 2, 1, *words)
    launch.read_until("step 60/")
    launch.processes[1].kill()
    for each in reversed(launch.processes):
        each.communicate(timeout=300)
    assert launch.processes[0].returncode != 0
    assert (runs.checkpoint_step(tmp_path / "run") or 0) >= 40
    Launch(world, "tokenizer", tmp_path / "run", 2, 1, *words).finish()
    Launch(world, "tokenizer", tmp_path / "again", 2, 1, *words).finish()
    assert digest(tmp_path / "run") == digest(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "retriever"])
def test_either_of_two_is_killed_and_both_go_on(world, tmp_path, kind):
    """Twenty times, at random moments: the other one ends in words, and soon."""
    words, rng, kills, lines = (*LONG, "--mesh.data", 2), random.Random(0), 0, []
    while kills < 20:
        folder = tmp_path / f"{len(lines)}"
        lines.append(0)
        while kills < 20:
            launch = Launch(world, kind, folder, 2, 1, *words)
            victim = rng.randrange(2)
            for _ in range(rng.randint(1, 120)):  # lines until then
                if not launch.processes[0].stdout.readline():
                    break
            over = [each.poll() is not None for each in launch.processes]
            launch.processes[victim].kill()
            # The first one is the coordinator: its loss is seen at once.
            told = launch.processes[1 - victim].communicate(timeout=200)
            launch.processes[victim].communicate(timeout=60)
            code = launch.processes[1 - victim].returncode
            if any(over) or not code:  # it had done all that it does
                assert runs.checkpoint_step(folder) == 300
                break
            kills, lines[-1] = kills + 1, lines[-1] + 1
            assert code != 2, told
            assert "fault of sid_jax" not in told[1], told
            assert any(each in told[1] for each in LOST), told
        Launch(world, kind, folder, 2, 1, *words).finish()
        assert not list(folder.rglob("*.partial*"))
    alone = tmp_path / "alone"
    Launch(world, kind, alone, 2, 1, *words).finish()
    for number in range(len(lines)):
        assert sums(tmp_path / f"{number}") == sums(alone)
        assert digest(tmp_path / f"{number}") == digest(alone)
        assert losses(tmp_path / f"{number}") == losses(alone)
    print(f"{kills} kills, by run: {lines}")


@pytest.mark.slow
def test_bad_data_end_all_processes_in_words(world, tmp_path):
    launch = Launch(world, "tokenizer", tmp_path, 2, 1, "--data.name", "nothing")
    told = launch.finish(2)
    assert "there is no data set 'nothing'" in told[0]
    assert "the first process could not go on" in told[1]
    assert all("Traceback" not in each for each in told)


@pytest.mark.slow
def test_what_the_first_alone_finds_bad_ends_all_of_them_with_2(world, tmp_path):
    folder = world.copy("tokenizer", tmp_path / "run")
    (folder / runs.CATALOG).write_bytes(b"junk")
    began = time.monotonic()
    launch = Launch(world, "tokenizer", folder, 2, 1, "--train.steps", 12)
    first, other = launch.finish(2)
    assert time.monotonic() - began < 60
    assert "catalog.parquet" in first and "the first process could not go on" in other


@pytest.mark.slow
def test_a_damaged_checkpoint_ends_all_of_them_with_2_and_what_to_do(world, tmp_path):
    """None goes on from another step than the others: which one is a person's say."""
    folder = world.copy("tokenizer", tmp_path / "run")
    step = runs.checkpoint_step(folder)
    last = folder / "checkpoints" / f"{step}"
    files = [path for path in last.rglob("*") if path.is_file()]
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"")
    words = ("--train.steps", step + 8, "--mesh.data", 2)
    told = Launch(world, "tokenizer", folder, 2, 1, *words).finish(2)
    assert all(f"{last}" in each and "delete this folder" in each for each in told)
    assert all("Traceback" not in each for each in told) and last.exists()


@pytest.mark.slow
def test_one_that_fails_alone_ends_the_others_soon(world, tmp_path):
    last, began = ("--data.name", "nothing"), time.monotonic()
    launch = Launch(world, "tokenizer", tmp_path, 2, 1, last=last)
    told = [each.communicate(timeout=100)[1] for each in reversed(launch.processes)]
    assert time.monotonic() - began < 60
    assert "there is no data set 'nothing'" in told[0]
    assert launch.processes[1].returncode == 2
    assert launch.processes[0].returncode not in (0, 2)
    assert any(each in told[1] for each in LOST), told


@pytest.mark.slow
def test_a_signal_outside_training_ends_a_process_at_once(world, tmp_path):
    launch = Launch(world, "tokenizer", tmp_path, 2, 1, "--mesh.data", 2)
    launch.read_until("item vectors of")
    for each in launch.processes:
        each.send_signal(signal.SIGTERM)
    for each in launch.processes:
        each.communicate(timeout=20)
        assert each.returncode == -signal.SIGTERM
    Launch(world, "tokenizer", tmp_path, 2, 1, "--mesh.data", 2).finish()
