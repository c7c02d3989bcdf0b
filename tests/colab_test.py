"""The notebooks run in their smoke form, and hold a story but no logic."""

import ast
import json
import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sid_jax.data.importer import import_dataset

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SIZES = ("10 OZ", "20 OZ", "1 LB")
BRANDS = ("National", "Private")
WRITTEN = {
    "01_catalog_to_products": {
        "sids.parquet",
        "index.npz",
        "samples.jsonl",
        "report.html",
    },
    "02_train_a_codebook": {"sids.parquet", "cells.json", "report.html"},
    "03_audit_a_catalog": {"sids.parquet", "suspects.csv", "suspects.html"},
    "04_decode_and_retrieve": {"search.bin", "manifest.json"},
    "05_train_a_retriever": {"sids.parquet", "index.npz", "slices.png", "report.html"},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One for all, as a reader has: the fourth goes on with runs of the first."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def data(workspace):
    """The folder of a data set: 60 items, 3 stores, 25 households of 4 to 8 baskets."""
    items = [
        {
            "item_id": f"p{n}",
            "title": f"product {n // 5} {SIZES[n % 3]}",
            "categories": [f"department {n // 20}", f"kind {n // 5}"],
            "manufacturer": f"m{n % 7}",
            "brand_tier": BRANDS[n % 2],
            "package_size": SIZES[n % 3],
            "price": 0.5 + n / 10,
        }
        for n in range(60)
    ]
    # A household keeps to one store and comes back to its own few products.
    baskets = [
        {
            "user_id": f"h{user}",
            "order": order,
            "retailer_id": f"s{user % 3}",
            "product_ids": [
                f"p{(7 * user + 11 * k + order % 3) % 60}" for k in range(4)
            ],
        }
        for user in range(25)
        for order in range(4 + user % 5)
    ]
    files = workspace / "items.jsonl", workspace / "baskets.jsonl"
    for file, rows in zip(files, (items, baskets), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_dataset(files[0], None, files[1], name="tiny", data_dir=str(workspace))
    return workspace / "tiny"


@pytest.fixture
def kernel(tmp_path, monkeypatch, workspace):
    """The name of a kernel that is this interpreter, on this checkout, on one CPU."""
    folder = tmp_path / "jupyter" / "kernels" / "here"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "here", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # the other way is deprecated
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # One device. Most of the time is compiling: cheaply, and what notebooks share once.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(workspace / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    return "here"


def test_finds_the_notebooks():
    assert {path.stem for path in NOTEBOOKS} == WRITTEN.keys()


@pytest.mark.slow  # CI runs them beside the fast ones
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_in_its_smoke_form(path, data, kernel, workspace, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    parameters = [cell for cell in notebook.cells if "SMOKE = False" in cell.source]
    assert len(parameters) == 1
    parameters[0].source = parameters[0].source.replace("SMOKE = False", "SMOKE = True")
    monkeypatch.setenv("SID_NOTEBOOK_DATA", str(data))
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name=kernel,
        resources={"metadata": {"path": str(workspace)}},
    )
    began = time.time()
    client.execute()
    found = list((workspace / "runs").rglob("*.*"))
    assert "sids.parquet" in {file.name for file in found}
    written = {file.name for file in found if file.stat().st_mtime >= began}
    assert WRITTEN[path.stem] <= written
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr"], outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_a_short_story_without_logic_or_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 25
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("%pip" in cell.source for cell in code) == 1
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert not re.search(r"/(home|root|tmp|work|Users|content)/", cell.source)
    for cell in code:
        python = re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
        kinds = {type(node) for node in ast.walk(ast.parse(python))}
        logic = {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}
        assert not kinds & (logic | {ast.While}), cell.source
