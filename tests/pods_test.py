"""What `experiments/pods/` would start: read, held to schemas, linted, dry-run.

No cluster is at hand. `jobset_schema.json` says where it is from.
"""

import copy
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sid_jax import cli
from sid_jax.config import RetrieverExperiment, TokenizerExperiment

ROOT = Path(__file__).parents[1]
PODS = ROOT / "experiments" / "pods"
SCHEMA = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())
DOCUMENTS = {
    f"{file.stem}/{document['kind']}": document
    for file in sorted(PODS.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
TOKENIZER, RETRIEVER = JOBS = DOCUMENTS["jobset/JobSet"]["spec"]["replicatedJobs"]
SLURM = (PODS / "train.slurm").read_text()
SBATCH = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SLURM, re.MULTILINE))
FREE = ("annotations", "nodeSelector", "limits", "requests")  # names of one's own
TERMINATED = 128 + signal.SIGTERM
_POD = "spec replicatedJobs [] template spec template spec"
_CLAIM = f"{_POD} volumes [] ephemeral volumeClaimTemplate spec"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_manifest_meets_the_published_schema(name):
    validator = _validator(DOCUMENTS[name]["kind"])
    assert not [*validator.iter_errors(DOCUMENTS[name])]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_sees_every_misspelled_field(name):
    paths, validator = [*_fields(DOCUMENTS[name])], _validator(DOCUMENTS[name]["kind"])
    assert len(paths) > 5
    for *parents, last in paths:
        wrong = copy.deepcopy(DOCUMENTS[name])
        inside = wrong
        for step in parents:
            inside = inside[step]
        inside[f"{last}s"] = inside.pop(last)
        assert not validator.is_valid(wrong), f"{last}s goes unseen at {parents}"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["name"])
def test_job_fills_its_slice_and_names_what_is_there(job):
    hosts = job["template"]["spec"]
    assert _chips(job) == _batch_shares("jobset.yaml")
    assert hosts["completions"] == hosts["parallelism"]
    pod = hosts["template"]["spec"]
    (container,) = pod["containers"]
    (policy,) = hosts["podFailurePolicy"]["rules"]
    assert policy["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy asks for it
    claim = DOCUMENTS["storage/PersistentVolumeClaim"]["metadata"]["name"]
    desk = DOCUMENTS["storage/Pod"]["spec"]
    for each in (pod, desk):
        volumes = {v["name"]: v["persistentVolumeClaim"] for v in each["volumes"]}
        (mount,) = each["containers"][0]["volumeMounts"]
        assert volumes[mount["name"]]["claimName"] == claim
    assert str(_argument(container["args"], "workdir")).startswith(mount["mountPath"])


def test_both_jobs_are_alike_but_for_what_they_run():
    one, other = copy.deepcopy([job["template"] for job in JOBS])
    for template in (one, other):
        template["spec"]["template"]["spec"]["containers"][0].pop("args")
    assert one == other
    assert RETRIEVER["dependsOn"] == [{"name": TOKENIZER["name"], "status": "Complete"}]


def test_cluster_of_the_page_is_that_of_the_manifest():
    page = (PODS / "README.md").read_text()
    assert re.findall(r"v5litepod-(\d+)", page) == [str(_chips(TOKENIZER))]


def test_slurm_has_a_task_for_each_gpu_and_hides_none():
    assert SBATCH["ntasks-per-node"] == SBATCH["gpus-per-node"]
    assert "gpus-per-task" not in SBATCH
    assert SBATCH["signal"].startswith("TERM@") and "requeue" in SBATCH


@pytest.mark.parametrize("name", ("jobset.yaml", "train.slurm"))
def test_runs_a_tokenizer_then_a_retriever_of_it_in_batches_that_divide(name, taken):
    configs, folders = [], []
    for words in _commands(name):
        cli.main(words)
        config, folder, _ = taken.pop()
        configs.append(config)
        folders.append(str(folder))
    first, second = configs
    assert isinstance(first, TokenizerExperiment)
    assert isinstance(second, RetrieverExperiment)
    assert second.tokenizer == folders[0] != folders[1]
    for config in configs:
        assert config.batch_size % _batch_shares(name) == 0
        assert config.mesh.data == -1  # whatever the machines have
        assert _batch_shares(name) % config.mesh.model == 0
    assert 0 < second.train.checkpoint_every < second.train.steps


def test_both_launchers_run_the_same():
    def settings(words: list[str]) -> set[str]:
        joined = " ".join(words).replace("=", " ")
        return {w for w in joined.split() if not w.startswith(("/runs", "$RUNS"))}

    pairs = zip(_commands("jobset.yaml"), _commands("train.slurm"), strict=True)
    assert all(settings(one) == settings(other) for one, other in pairs)


def test_commands_of_the_page_are_there(taken):
    """Those of `sid`, with the words that they take."""
    commands = _commands("README.md")
    assert {words[0] for words in commands} >= {"import", "retrieve", "compile"}
    for words in commands:
        assert cli.main(words) == 0
        assert taken.pop()


def test_data_is_built_by_code_that_is_there(monkeypatch):
    loaded = []
    monkeypatch.setattr("sid_jax.data.datasets.load", loaded.append)
    files = ("Dockerfile", "README.md")
    found = [
        code
        for file in files
        for code in re.findall(r"python\"? -c '([^']+)'", (PODS / file).read_text())
    ]
    assert len(found) == len(files)
    for code in found:
        exec(compile(code, "python -c", "exec"), {})
        assert loaded.pop().name == "complete_journey"


def test_image_holds_what_the_manifest_runs():
    lines = re.findall(r"^COPY (.+) \S+$", (PODS / "Dockerfile").read_text(), re.M)
    copied = [path for line in lines for path in line.split()]
    assert all((ROOT / path).exists() for path in copied)
    for job in JOBS:
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        words = container["command"] + container["args"]
        files = [word for word in words if "/" in word and not word.startswith("-")]
        assert len(files) == 2  # the script and the experiment
        for file in files:
            assert (ROOT / file).exists() and file.split("/")[0] in copied


SCRIPTS = sorted([*PODS.glob("*.sh"), *PODS.glob("*.slurm")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    linter = _tool("shellcheck")
    if linter is None:
        pytest.skip('shellcheck is not there: pip install -e ".[test]" brings it')
    assert "set -euo pipefail" in script.read_text()
    done = subprocess.run([linter, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", (0, 2, 130))
def test_run_passes_an_exit_code_on(code):
    command = ["bash", PODS / "run.sh", "bash", "-c", f"exit {code}"]
    assert subprocess.run(command).returncode == code


@pytest.mark.parametrize(
    ("ending", "code"), [("exit 0", TERMINATED), ("exit 3", 3)], ids=("saved", "failed")
)
def test_run_waits_for_what_sigterm_stopped_and_says_that_it_did(
    ending, code, tmp_path
):
    saves = f"sleep 0.3; touch {tmp_path}/saved; {ending}"
    body = f"trap '{saves}' TERM; echo up; for i in {{1..999}}; do sleep 0.02; done"
    process = subprocess.Popen(
        ["bash", PODS / "run.sh", "bash", "-c", body], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == code
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("ends", "state", "done", "requeued"),
    [
        ((0, 0), "RUNNING", 0, False),
        ((2, 0), "RUNNING", 2, False),
        ((0, TERMINATED), "RUNNING", TERMINATED, True),  # the time is nearly over
        ((TERMINATED, 0), "RUNNING", TERMINATED, True),
        ((TERMINATED, 0), "CANCELLED", TERMINATED, False),
        ((TERMINATED, 0), "PENDING", TERMINATED, False),  # SLURM has requeued it
    ],
)
def test_slurm_script_goes_on_or_is_queued_again(ends, state, done, requeued, tmp_path):
    """With stand-ins for SLURM's commands; `ends` are the exit codes of two steps."""
    stand_ins = {
        "srun": f'ends=({ends[0]} {ends[1]}); n=$(grep -c "^srun" "$LOG" || true); '
        'echo "srun $*" >>"$LOG"; exit "${ends[$n]}"',
        "squeue": f"echo {state}",
        "scontrol": 'echo "scontrol $*" >>"$LOG"',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    told = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(log),
        "VENV": "/none",
        "RUNS": "/none",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "8",
    }
    ran = subprocess.run(["bash", PODS / "train.slurm"], env=os.environ | told)
    assert ran.returncode == done
    steps = [line for line in log.read_text().splitlines() if line.startswith("srun")]
    assert len(steps) == (2 if ends[0] == 0 else 1)
    assert ["tokenizer" in step.split("--workdir")[0] for step in steps] == (
        [True, False][: len(steps)]
    )
    assert ("scontrol requeue 7" in log.read_text()) == requeued


@pytest.fixture
def taken(monkeypatch) -> list[tuple[Any, ...]]:
    """What a verb would have called its flow with, in place of the work."""
    calls: list[tuple[Any, ...]] = []

    def take(*given, **named) -> list:
        calls.append(given)
        return []  # products found

    for flow in ("train.train", "importing.import_files", "retrieve.retrieve"):
        monkeypatch.setattr(f"sid_jax.flows.{flow}", take)
    fit = lambda *given: take(*given) == []  # noqa: E731
    monkeypatch.setattr("sid_jax.flows.compile.compile_experiment", fit)
    return calls


@cache
def _validator(kind: str) -> Draft202012Validator:
    """Of a JobSet, or of a kind that the schema holds inside it."""
    text = {"type": "string"}
    metadata = {"properties": {"name": text, "annotations": {}}, "required": ["name"]}
    spec = {"JobSet": "spec", "Pod": _POD, "PersistentVolumeClaim": _CLAIM}[kind]
    schema = {
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": metadata,
            "spec": _part(spec),
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "$defs": SCHEMA["$defs"],
    }
    return Draft202012Validator(_closed(schema))


def _part(path: str) -> dict[str, Any]:
    """The part of the schema at the end of a path of fields; [] are a list's items."""
    schema = SCHEMA
    for step in path.split():
        schema = schema["items"] if step == "[]" else schema["properties"][step]
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that takes no fields but its own, as a strict server does."""
    closed = dict(schema)
    for key in {"properties", "$defs"} & schema.keys():
        closed[key] = {name: _closed(part) for name, part in schema[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            closed[key] = _closed(schema[key])
    if "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _fields(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all fields whose names a schema knows."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, inside in pairs:
        if isinstance(name, str):
            yield (*path, name)
        if name not in FREE and isinstance(inside, dict | list):
            yield from _fields(inside, (*path, name))


def _chips(job: dict[str, Any]) -> int:
    """Chips of a job's slice, counted by its hosts and by its topology."""
    hosts = job["template"]["spec"]
    pod = hosts["template"]["spec"]
    each = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(side) for side in topology.split("x"))
    assert hosts["parallelism"] * each == chips
    return chips


def _batch_shares(name: str) -> int:
    """Among how many devices a batch is divided."""
    if name == "jobset.yaml":
        return _chips(TOKENIZER)
    return int(SBATCH["nodes"]) * int(SBATCH["ntasks-per-node"])


def _commands(name: str) -> list[list[str]]:
    """The words after each `sid` in a file, in order."""
    if name == "jobset.yaml":
        pods = [job["template"]["spec"]["template"]["spec"] for job in JOBS]
        return [pod["containers"][0]["args"][1:] for pod in pods]
    text = (PODS / name).read_text()
    if name.endswith(".md"):
        text = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S))
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if re.search(r"\bsid\b", line) else []
        places = [
            n for n, word in enumerate(words) if re.search(r"^(.*/bin/)?sid$", word)
        ]
        found += [words[place + 1 :] for place in places]
    assert found
    return found


def _argument(words: list[str], name: str) -> str:
    return next(w.partition("=")[2] for w in words if w.startswith(f"--{name}="))


def _tool(name: str) -> str | None:
    """A program of this environment, which may not be the one on PATH."""
    beside = Path(sys.executable).parent
    return shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
