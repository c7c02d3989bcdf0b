"""The house's floors and walls (who may import whom), read from the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "sid_jax"
LOW = {"typing", "errors", "files", "plain"}
FLOORS = {
    "typing": set(),
    "errors": set(),
    "files": {"errors"},
    "plain": {"errors"},
    "losses": LOW,
    "sids": LOW,
    "models": LOW | {"sids.vocab", "sids.trie"},
    "data": LOW | {"sids"},
    "train": LOW | {"losses", "sids", "models"},
    "evals": LOW | {"sids", "data"},
    "report": LOW | {"evals"},
    "config": LOW | {"losses", "sids", "models", "data", "train", "evals", "report"},
    "flows": LOW
    | {"losses", "sids", "models", "data", "train", "evals", "report", "config"},
    "verbs": LOW | {"flows", "config"},
    "cli": LOW | {"flows", "config", "verbs"},
}
WALLS = {  # heavy library -> where it may be imported
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "sklearn": {"data", "evals"},  # evals: its AMI, better kept than one of ours
    "pandas": {"data"},
    "pyarrow": {"data", "sids.table"},
    "flax": {"models", "train"},
    "orbax": {"train.checkpoint"},
    "apache_beam": {"data.beam"}
    | {f"data.beam_{room}" for room in ("files", "histories", "items", "training")},
    "matplotlib": {"report"},
    "tensorflow": set(),
}
FILES = sorted(ROOT.rglob("*.py"))


def _unit(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.module != "__future__", f"{path.name}: no __future__ imports"
    return names


def _within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def test_finds_the_rooms():
    assert {"cli", "typing", "sids.beam", "train.loop"} <= {_unit(f) for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=_unit)
def test_floor_and_walls(path):
    unit = _unit(path)
    if unit == "__init__":
        return
    room = unit.split(".")[0]
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "sid_jax":
            if rest.split(".")[0] != room and rest != "__version__":
                assert _within(rest, FLOORS[room]), f"{unit} must not import {name}"
        elif top in WALLS:
            assert _within(unit, WALLS[top]), f"{unit} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=_unit)
def test_a_room_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400, f"{path.name}: two rooms?"
