"""Verbs on a disk that is full or read-only: told in a line, and nothing is touched."""

import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sid_jax.flows import runs

SIZES = (0, 900, 3000, 9000, 30000)
"""Bytes that a file may have: each stops a verb at another of its files."""
WRITTEN = ("cannot be written (", "could not be written (", "may not be written to")


@contextmanager
def full_disk(size):
    """No file may grow past so many bytes (EFBIG), and no program is kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        jax.config.update("jax_compilation_cache_dir", kept)
        compilation_cache.reset_cache()


def make_words(world, verb, out):
    """The words of a verb that writes to `out`."""
    items = ("--items", world.items)
    encode = ("encode", "--tokenizer", world.tokenizer, *items, "--out")
    cpu = ("--platforms", "cpu")
    both = (world.tokenizer, world.tokenizer)
    training = ("--train.steps", 6, "--workdir", out)
    words = {
        "import": ("import", *items, "--baskets", world.baskets, "--name", "tiny"),
        "encode": (*encode, out / "sids.parquet"),
        "encode parts": (*encode, out, "--part-rows", 20),
        "audit": ("audit", world.tokenizer, "--out", out / "suspects.csv"),
        "inspect": ("inspect", *both[:1], "--out", out / "codes.html"),
        "compare": ("compare", *both, "--out", out / "moved.html"),
        "flavours": ("flavours", *both, "--out", out / "two.html"),
        "export": ("export", world.retriever, *cpu, "--out", out / "served"),
        "evaluate": ("evaluate", out),
        "train a tokenizer": ("train", world.tokenizer_file, *training),
        "train a retriever": ("train", world.retriever_file, *training),
    }[verb]
    return (*words, "--data-dir", out) if verb == "import" else words


VERBS = (
    *("import", "encode", "encode parts", "audit", "inspect", "compare", "flavours"),
    *("export", "evaluate", "train a tokenizer", "train a retriever"),
)


def look(out):
    """What is there under names that stay; half a checkpoint has none of them."""
    files = (path for path in out.rglob("*") if path.is_file())
    return {
        path: path.read_bytes() for path in files if "checkpoint-tmp" not in f"{path}"
    }


def check(code, err, verb, out, before):
    """Nothing went wrong in silence, and what was there is as it was; whether told."""
    lines = [line for line in err.splitlines() if line.strip()]
    assert code in (0, 2), err
    if code:
        assert len(lines) == 1, err
        assert lines[0].startswith(f"sid {verb.split()[0]}: "), err
        assert str(out) in err and any(each in err for each in WRITTEN), err
        assert "Traceback" not in err
    after = look(out)
    if verb not in ("evaluate", *VERBS[-2:]):  # those add lines to a file
        assert {path: after.get(path) for path in before} == before or not code
    assert not [path for path in out.parent.rglob("*") if ".partial" in path.name]
    return code == 2


def fill(world, verb, out, capsys):
    """Runs a verb on smaller and larger disks, then on one with room."""
    out.mkdir(parents=True, exist_ok=True)
    if verb == "evaluate":
        shutil.copytree(world.retriever, out, dirs_exist_ok=True)
    words, told = make_words(world, verb, out), []
    for size in SIZES:
        before = look(out)
        capsys.readouterr()
        with full_disk(size):
            code = world.run(*words)
        told.append(check(code, capsys.readouterr().err, verb, out, before))
    assert told[0]
    assert world.run(*words) == 0, capsys.readouterr().err
    if verb.startswith("train"):
        kind = verb.split()[-1]
        assert world.values(out) == world.values(getattr(world, kind))
        sids = (runs.read_sids(at / runs.SIDS) for at in (out, getattr(world, kind)))
        assert next(sids).digest() == next(sids).digest()


@pytest.mark.parametrize(
    "verb",
    [
        each
        if each in ("import", "audit")
        else pytest.param(each, marks=pytest.mark.slow)
        for each in VERBS
    ],
)
def test_a_full_disk_is_told_and_room_is_all_it_takes(world, tmp_path, verb, capsys):
    fill(world, verb, tmp_path / "here" / "out", capsys)


@pytest.mark.slow
def test_embed_on_a_full_disk_is_told(world, tmp_path, tiny_encoder, capsys):
    out = tmp_path / "out"
    out.mkdir()
    words = ("embed", "--encoder", tiny_encoder, "--items", world.items)
    words = (*words, "--out", out / "vectors.parquet")
    for size in (0, 500):
        capsys.readouterr()
        with full_disk(size):
            code = world.run(*words)
        assert check(code, capsys.readouterr().err, "embed", out, look(out))
    assert world.run(*words) == 0
    assert [path.name for path in out.iterdir()] == ["vectors.parquet"]


@pytest.mark.parametrize("verb", [each for each in VERBS if each != "evaluate"])
def test_a_file_in_place_of_the_folder_is_told(world, tmp_path, verb, capsys):
    place = tmp_path / "file"
    place.write_text("mine")
    capsys.readouterr()
    code = world.run(*make_words(world, verb, place / "out"))
    err = capsys.readouterr().err
    assert code == 2 and str(place) in err and "Traceback" not in err, err
    assert len(err.strip().splitlines()) == 1, err
    assert place.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def run_mounted(mount, out, words):
    """`sid` in a process that has something mounted over `out`; code and stderr."""
    line = [sys.executable, "-m", "sid_jax.cli", *map(str, words)]
    script = f'{mount} || exit 77; "$@"; code=$?; ls -A {out} >&1; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *line],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        cwd=Path(runs.__file__).parents[2],
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing may be mounted here: {done.stderr}")
    return done


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare here")
@pytest.mark.parametrize("verb", ["import", "encode", "audit", "train a tokenizer"])
@pytest.mark.parametrize("kilobytes", [None, 4, 64], ids=lambda n: n or "read-only")
def test_a_disk_that_is_mounted_so_is_told(world, tmp_path, verb, kilobytes):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    mount = f"mount --bind {out} {out} && mount -o remount,ro,bind {out}"
    if kilobytes:
        mount = f"mount -t tmpfs -o size={kilobytes}k none {out}"
    done = run_mounted(mount, out, make_words(world, verb, out))
    lines = done.stderr.strip().splitlines()
    if kilobytes and not done.returncode:
        assert verb in ("encode", "audit", "import")  # they need no more
        return
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and str(out) in lines[0], done.stderr
    assert any(each in lines[0] for each in WRITTEN), done.stderr
    assert ".partial" not in done.stdout
    assert (out / "mine.txt").read_text() == "mine"
