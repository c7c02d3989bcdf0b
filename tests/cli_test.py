"""The verbs of `sid`: help, exit codes, and messages for words that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sid_jax import cli
from sid_jax.cli import VERBS, main
from sid_jax.errors import InputError
from sid_jax.flows import train as flows_train

FLAGS = {
    "quickstart": ["--workdir", "--retriever.train.steps", "--tokenizer.vectors.dim"],
    "import": ["--items", "--sequences", "--baskets", "--name", "--runner"],
    "prepare": ["--data", "--out", "--texts", "--pairs", "--sequences", "--runner"],
    "embed": ["--items", "--data", "--encoder", "--recipe", "--texts", "--out"],
    "train": ["experiments/FILE.py", "--workdir", "--any.field"],
    "sweep": ["PATH", "--workdir", "--seeds", "--only"],
    "compile": ["experiments/FILE.py", "--topology", "--items", "--any.field"],
    "encode": ["--tokenizer", "--items", "--out", "--extend", "--vectors"],
    "inspect": ["PATH", "--vectors", "--out"],
    "compare": [
        "PATH",
        "--prefix-match",
        "--changed",
        "--purchases",
        "--align",
        "--out",
    ],
    "audit": ["PATH", "--items", "--vectors", "--top", "--out"],
    "flavours": ["PATH", "--item", "--out"],
    "evaluate": ["PATH"],
    "retrieve": ["--history", "--basket", "--retailer", "--where", "--top"],
    "export": ["PATH", "--out", "--platforms", "--batch-size"],
}
EXPERIMENT = """
from sid_jax.config import TokenizerExperiment
def get_config():
    return TokenizerExperiment()
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_verb(capsys, words):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name}" in out
        assert verb.__doc__ and verb.__doc__ in out


def test_every_verb_is_known():
    assert FLAGS.keys() == VERBS.keys()


@pytest.mark.parametrize("name", sorted(FLAGS))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_verb_names_its_flags(capsys, name, flag):
    assert main([name, flag]) == 0
    out = capsys.readouterr().out
    for each in FLAGS[name]:
        assert each in out
    assert VERBS[name].__doc__ in out


def test_help_of_an_experiment_lists_its_fields(capsys, experiment):
    assert main(["train", experiment, "--help"]) == 0
    out = capsys.readouterr().out
    for each in ("--workdir", "--train.steps", "--model.latent", "--data.name"):
        assert each in out


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out[0].isdigit()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "no verb 'fly'"),
        (["--workdir", "x"], "no verb '--workdir'"),
        (["train"], "name the experiment file first"),
        (["train", "--workdir", "x"], "name the experiment file first"),
        (["train", "none.py", "--workdir", "x"], "none.py: no experiment file"),
        (["import", "--name", "x"], "--items"),
        (["import", "--items", "none.csv", "--name", "x"], "none.csv: cannot be read"),
        (["import", "--items", "none.csv", "--name", "X y"], "--name 'X y'"),
        (["encode", "--items", "x"], "--tokenizer"),
        (["inspect"], "PATH"),
        (["inspect", "none.csv"], "none.csv: no such file"),
        (["audit"], "name a run folder or a table"),
        (["audit", "none.csv"], "none.csv: no such file"),
        (["audit", "none.csv", "--top", "0"], "--top 0: list one suspect"),
        (["audit", "none.csv", "--out", "a.html"], "--out a.html: the list"),
        (["evaluate"], "PATH"),
        (["evaluate", "none"], "none is no run folder"),
        (["retrieve"], "PATH"),
        (["retrieve", "none"], "none is no run folder"),
        (["retrieve", "none", "--where", "color"], "want attribute=value"),
        (["quickstart", "now"], "now"),
        (["quickstart", "--retriever.search.top", "0"], "search.top must be positive"),
    ],
)
def test_wrong_words_exit_2_and_are_named(capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train.steps", "abc"], "--train.steps"),
        (["--train.steps", "-5"], "train.steps=-5 must be at least 1"),
        (["--train.stepz", "5"], "--train.stepz"),
        (["--model.latent", "1.5"], "--model.latent"),
        (["--optimizer.schedule", "square"], "square"),
        (["--vectors.dim", "0"], "dim must be at least 1"),
        (["--mesh.rules", "all"], "'all' is none of"),
        (["--batch-size", "0"], "batch_size must be positive"),
    ],
)
def test_overrides_are_typed(capsys, tmp_path, experiment, words, message):
    folder = tmp_path / "run"
    assert main(["train", experiment, "--workdir", str(folder), *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "steps"), [([], 0), (["--profile"], 5), (["--profile", "2"], 2)]
)
def test_a_trace_is_asked_for_with_or_without_a_number(
    tmp_path, experiment, monkeypatch, words, steps
):
    given = []
    monkeypatch.setattr(flows_train, "train", lambda config, *_: given.append(config))
    words = [*words, "--workdir", str(tmp_path), "--train.steps", "7"]
    assert main(["train", experiment, *words]) == 0
    assert (given[0].train.profile, given[0].train.steps) == (steps, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no get_config()"),
        ("def get_config(: pass", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("get_config = 1 / 0", "ZeroDivisionError"),
        ("def get_config(): return {'steps': 1}", "not dict"),
        (
            "from sid_jax.config import *\n"
            "def get_config(): return TokenizerExperiment(batch_size=0)",
            "batch_size must be positive",
        ),
    ],
)
def test_a_broken_experiment_is_named(capsys, tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert main(["train", str(path), "--workdir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "broken.py" in err


def test_a_workdir_that_cannot_be_is_named(capsys, tmp_path, experiment):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "run")
    for words in (["train", experiment], ["quickstart"]):
        assert main([*words, "--workdir", folder]) == 2
        err = capsys.readouterr().err
        assert f"--workdir {folder}" in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("row 3"), 2, "sid evaluate: row 3"),
        (PermissionError(13, "Permission denied", "/a"), 1, "Permission denied: '/a'"),
        (KeyboardInterrupt(), 130, "sid evaluate: interrupted"),
        (ValueError("odd"), 1, "ValueError: odd"),
        (SystemExit(2), 2, ""),
        (SystemExit("words"), 2, ""),
    ],
)
def test_an_error_has_a_code_and_no_traceback(
    capsys, monkeypatch, error, code, message
):
    def fail(argv):
        raise error

    monkeypatch.delenv("SID_TRACEBACK", raising=False)
    monkeypatch.setitem(cli.VERBS, "evaluate", fail)
    assert main(["evaluate"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    if isinstance(error, ValueError) and not isinstance(error, InputError):
        assert "SID_TRACEBACK=1" in err
        monkeypatch.setenv("SID_TRACEBACK", "1")
        with pytest.raises(ValueError, match="odd"):
            main(["evaluate"])


COMPILE = """
from sid_jax import cli
cli.VERBS = {"add": lambda argv: print(__import__("jax").jit(lambda x: x + 1)(2))}
raise SystemExit(cli.main(["add"]))
"""


def compiled(folder, **changes):
    """Files of the cache under a folder after a verb that compiled a program."""
    told = os.environ | {"XDG_CACHE_HOME": str(folder)} | changes
    if "JAX_COMPILATION_CACHE_DIR" not in changes:
        del told["JAX_COMPILATION_CACHE_DIR"]
    words = [sys.executable, "-c", COMPILE]
    root = Path(cli.__file__).parents[1]
    out = subprocess.run(words, env=told, cwd=root, capture_output=True, check=True)
    assert out.stdout.strip() == b"3", out.stderr
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_programs_are_kept_and_found_again(tmp_path):
    kept = compiled(tmp_path)
    assert kept and {path.parts[0] for path in kept} == {"sid_jax"}
    assert compiled(tmp_path) == kept
    theirs = tmp_path / "theirs"
    assert compiled(theirs, JAX_COMPILATION_CACHE_DIR=str(theirs / "own"))
    assert {path.name for path in theirs.iterdir()} == {"own"}
    assert not compiled(tmp_path / "none", JAX_ENABLE_COMPILATION_CACHE="0")


def test_a_program_that_uses_jax_already_keeps_its_settings(monkeypatch):
    import jax  # noqa: F401

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cli.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
