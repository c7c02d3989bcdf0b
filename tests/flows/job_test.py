"""Encoding in parts: stopped, killed, damaged, and asked for something else."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.flows import bulk
from sid_jax.sids.table import read_table
from sid_jax.train.loop import Interrupted


@pytest.mark.parametrize("moment", ["before", "inside", "after", "signal"])
def test_stopped_and_resumed_is_as_never_stopped(
    world, encode_parts, tmp_path, monkeypatch, moment
):
    out, whole, written = tmp_path / "sids", tmp_path / "whole", []
    write, record = bulk.write_table, bulk.Folder.record

    def write_until(path, table):
        written.append(path.name)
        stop = len(written) == 3
        if stop and moment == "before":
            raise OSError("killed")
        if stop and moment == "inside":
            # What SIGKILL leaves: a file of another process under a temporary name.
            (path.parent / f".{path.stem}.1.partial.parquet").write_bytes(b"half")
            raise OSError("killed")
        write(path, table)
        if stop and moment == "signal":
            os.kill(os.getpid(), signal.SIGTERM)

    def record_until(folder, piece):
        if len(written) == 3 and moment == "after":
            raise OSError("killed")
        record(folder, piece)

    monkeypatch.setattr(bulk, "write_table", write_until)
    monkeypatch.setattr(bulk.Folder, "record", record_until)
    with pytest.raises(OSError if moment != "signal" else Interrupted) as stopped:
        encode_parts(world.items, out, part_rows=13)
    if moment == "signal":
        assert "stopped at part 3, saved in" in str(stopped.value)
    with pytest.raises(InputError, match="not all parts are there"):
        read_table(out)
    done = 3 if moment == "signal" else 2
    written[3:] = [""]  # the hooks above are over
    lines = encode_parts(world.items, out, part_rows=13)
    assert len(written) == 4 + 5 - done
    assert any(f"; {done} done already" in line for line in lines)
    encode_parts(world.items, whole, part_rows=13)
    assert world.contents(out) == world.contents(whole)


def test_a_finished_job_does_nothing_again(world, encode_parts, tmp_path, monkeypatch):
    encode_parts(world.items, tmp_path / "sids", part_rows=20)
    before = world.contents(tmp_path / "sids")
    monkeypatch.setattr(bulk, "write_table", None)
    monkeypatch.setattr("sid_jax.flows.job.survey", None)
    encode_parts(world.items, tmp_path / "sids", part_rows=20)
    assert world.contents(tmp_path / "sids") == before


def test_any_damaged_byte_is_found_and_its_part_made_anew(
    world, encode_parts, tmp_path
):
    out = tmp_path / "sids"
    encode_parts(world.items, out, part_rows=20)
    good = world.contents(out)
    path = out / "part-00001-of-00003.parquet"
    for place in np.random.default_rng(0).integers(path.stat().st_size, size=5):
        content = bytearray(good[path.name])
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"part-00001-of-00003.parquet is not what"
        ):
            read_table(out)
        lines = encode_parts(world.items, out, part_rows=20)
        assert any(f"{path} is damaged" in line for line in lines)
        assert world.contents(out) == good
    path.unlink()
    (out / "_work" / "00000.json").write_text("{")
    lines = encode_parts(world.items, out, part_rows=20)
    assert any("1 done already" in line for line in lines)
    assert world.contents(out) == good


def test_another_job_in_the_folder_is_refused_by_name(
    world, model, encode_parts, tmp_path
):
    items, out = tmp_path / "items.jsonl", tmp_path / "sids"
    items.write_bytes(world.items.read_bytes())
    encode_parts(items, out, part_rows=20)
    good = world.contents(out)
    os.utime(items, (1, 1))  # the same bytes, copied again
    encode_parts(items, out, part_rows=20)
    with pytest.raises(InputError, match="parts of 20 items, not of 30; give --part-r"):
        encode_parts(items, out, part_rows=30)
    with pytest.raises(InputError, match=r"other files of items \(b.jsonl is new"):
        encode_parts(Path(items.rename(tmp_path / "b.jsonl")), out, part_rows=20)
    items.write_bytes(world.items.read_bytes().replace(b"green", b"brown", 1))
    with pytest.raises(InputError, match=r"items.jsonl is not what the parts in"):
        encode_parts(items, out, part_rows=20)
    items.write_bytes(world.items.read_bytes())
    text_mean = model.recipe.arrays["text_mean"] + 1
    arrays = {**model.recipe.arrays, "text_mean": text_mean}
    recipe = dataclasses.replace(model.recipe, arrays=arrays)
    with pytest.raises(InputError, match="parts by another tokenizer"):
        encode_parts(
            items, out, dataclasses.replace(model, recipe=recipe), part_rows=20
        )
    assert world.contents(out) == good
    (out / "_work" / "job.json").write_text("{}")
    with pytest.raises(InputError, match=r"job.json is damaged"):
        encode_parts(items, out, part_rows=20)


def test_a_signal_ends_as_it_asks(world, tmp_path, capsys, monkeypatch):
    write = bulk.write_table

    def write_and_ask(path, table):
        write(path, table)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(bulk, "write_table", write_and_ask)
    out = tmp_path / "sids"
    words = ("--tokenizer", world.tokenizer, "--items", world.items, "--out", out)
    number = signal.SIGTERM
    assert world.run("encode", *words, "--part-rows", "25") == 0
    assert f"stopped at part 1, saved in {out}" in capsys.readouterr().err
    number = signal.SIGINT
    assert world.run("encode", *words, "--part-rows", "25") == 130
    assert f"stopped at part 2, saved in {out}" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(world, tmp_path):
    """SIGKILL, until it is done before the next one comes; then byte for byte."""
    copies = [
        {**each, "item_id": f"{copy}.{each['item_id']}"}
        for copy in range(200)
        for each in world.make_items()
    ]
    items = world.write_items(tmp_path / "items.jsonl", copies)
    rng = np.random.default_rng(0)

    def start(out):
        words = ("--tokenizer", world.tokenizer, "--items", items, "--out", out)
        words = (*words, "--part-rows", 500)
        line = [sys.executable, "-m", "sid_jax.cli", "encode", *map(str, words)]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(300) == 0
    out, kills = tmp_path / "sids", 0
    while True:
        process, before = start(out), len(list(out.glob("part-*")))
        while process.poll() is None and len(list(out.glob("part-*"))) < before + 5:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        if process.wait(60) == 0:
            break
        kills += 1
    assert kills >= 3
    assert world.contents(out) == world.contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_of_a_launcher_share_a_folder_unjoined(world, encode_parts, tmp_path):
    """One gets a SIGTERM: it ends at once, and the other goes on with its parts."""
    words = ("--tokenizer", world.tokenizer, "--items", world.items)
    words = (*words, "--out", tmp_path / "sids", "--part-rows", "1")
    line = [sys.executable, "-m", "sid_jax.cli", "encode", *map(str, words)]

    def start(rank, stderr=None):
        told = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2"}
        told |= {"SLURM_PROCID": str(rank)}
        return subprocess.Popen(line, env=os.environ | told, stderr=stderr)

    hosts = [start(0), start(1, subprocess.PIPE)]
    while not list((tmp_path / "sids").glob("part-00001-*")):
        time.sleep(0.01)
    hosts[1].terminate()
    assert b"stopped at part" in hosts[1].communicate(timeout=60)[1]
    assert [host.wait(300) for host in hosts] == [0, 0]
    with pytest.raises(InputError, match="not all parts are there"):
        read_table(tmp_path / "sids")
    assert start(1).wait(300) == 0
    encode_parts(world.items, tmp_path / "whole", part_rows=1)
    assert world.contents(tmp_path / "sids") == world.contents(tmp_path / "whole")
