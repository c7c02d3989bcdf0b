"""Encoded in parts: the SIDs are those of memory, and nothing is lost or done twice."""

import csv
import dataclasses
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sid_jax.config import (
    ResidualKMeansConfig,
    TokenizerTaskConfig,
    VectorConfig,
)
from sid_jax.data.catalog import Catalog
from sid_jax.data.parsing import read_items
from sid_jax.data.vector_files import write_vectors
from sid_jax.data.vectors import ItemVectors
from sid_jax.errors import InputError
from sid_jax.flows.encoding import Tokenizer
from sid_jax.models.codebooks import make_codebooks
from sid_jax.sids.table import read_table
from sid_jax.train.tokenizer_task import TokenizerTask


def to_csv(items):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, items[0])
    writer.writeheader()
    paths = ({"categories": " > ".join(each["categories"])} for each in items)
    writer.writerows({**each, **path} for each, path in zip(items, paths, strict=True))
    return buffer.getvalue().encode()


def to_lines(items):
    return "".join(json.dumps(each) + "\n" for each in items).encode()


def write_form(folder, form, items):
    """Items in a form: a file, or a folder of three."""
    folder.mkdir()
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(items), folder / "i.parquet", 7)
        return folder / "i.parquet"
    if form == "folder":
        (folder / "_SUCCESS").touch()
        for number in range(3):
            own = items[20 * number : 20 * number + 20]
            pq.write_table(pa.Table.from_pylist(own), folder / f"{number}.parquet", 9)
        return folder
    path = folder / f"i.{form}"
    content = to_csv(items) if "csv" in form else to_lines(items)
    path.write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    return path


@pytest.mark.parametrize(
    ("form", "part_rows", "hosts"),
    [
        ("jsonl", 60, 1),
        ("csv", 7, 2),
        ("csv.gz", 6, 1),
        ("jsonl.gz", 11, 3),
        ("parquet", 13, 2),
        ("parquet", 100, 1),
        ("folder", 6, 3),
    ],
)
def test_the_sids_are_those_of_memory(
    world, model, encode_parts, tmp_path, form, part_rows, hosts
):
    items = write_form(tmp_path / "items", form, world.make_items())
    out = tmp_path / "sids"
    for host in reversed(range(hosts)):
        assert not (out / "_manifest.json").exists()
        encode_parts(items, out, part_rows=part_rows, host=(host, hosts))
    catalog = read_items(world.items)[0]
    want = model.table(catalog, model.encode(catalog))
    found = read_table(out)
    assert found.digest() == want.digest()
    np.testing.assert_array_equal(found.distances, want.distances)
    assert found.manifest.tokenizer == want.manifest.tokenizer
    assert found.manifest.cells == want.manifest.cells
    sizes = [rows for _, rows in parts_of(out)]
    assert sum(sizes) == 60 and max(sizes) <= part_rows
    for name, rows in parts_of(out):  # each is a table of its own
        assert len(read_table(out / name)) == rows


def parts_of(out):
    parts = json.loads((out / "_manifest.json").read_text())["parts"]
    return [(part["name"], part["rows"]) for part in parts]


def test_any_number_of_devices_gives_the_same(world, model, monkeypatch):
    items = [
        {**each, "item_id": f"{copy}.{each['item_id']}", "title": f"{copy}"}
        for copy in range(80)
        for each in world.make_items()
    ]
    columns = {name: [each[name] for each in items] for name in items[0]}
    core = (columns.pop(name) for name in ("item_id", "title", "brand", "categories"))
    catalog = Catalog.from_columns(*core, attributes=columns)
    want, devices = model.encode(catalog), jax.local_devices()
    for count in (1, 2, 8):
        monkeypatch.setattr(jax, "local_devices", lambda count=count: devices[:count])
        codes, distances = dataclasses.replace(model).assign(catalog)
        np.testing.assert_array_equal(codes, want.codes)
        np.testing.assert_array_equal(distances, want.distances)


def test_columns_are_of_the_kinds_that_they_have_over_all_files(
    world, model, encode_parts, tmp_path
):
    items = world.make_items()
    for row, item in enumerate(items):  # numbers here, nothing there, text elsewhere
        item["price"] = None if row < 20 else 3 if row < 40 else 2.5
        item["brand_tier"] = 1 if row < 40 else "Private"
    whole = world.write_items(tmp_path / "items.jsonl", items)
    (tmp_path / "items").mkdir()
    for number in range(3):
        own = items[20 * number : 20 * number + 20]
        world.write_items(tmp_path / "items" / f"{number}.jsonl", own)
    catalog = read_items(whole)[0]
    want = model.table(catalog, model.encode(catalog))
    encode_parts(tmp_path / "items", tmp_path / "sids", part_rows=7)
    assert read_table(tmp_path / "sids").digest() == want.digest()


def write_beside(path, ids, vectors):
    """Vectors in a file, with the ids of their items."""
    if path.suffix == ".parquet":
        write_vectors(path, ids, vectors)
    elif path.suffix == ".npz":
        np.savez(path, ids=np.asarray(ids), vectors=vectors)
    else:
        np.save(path, vectors)
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n")
    return path


def file_tokenizer(path, catalog):
    """Residual k-means, drawn and not trained, on the vectors of a file."""
    recipe = ItemVectors.fit(VectorConfig(file=str(path)), catalog)
    rng = np.random.default_rng(1)
    levels = [jnp.asarray(rng.normal(size=(size, 6)), jnp.float32) for size in (5, 7)]
    model = ResidualKMeansConfig(codebook_sizes=(5, 7))
    task = TokenizerTask(TokenizerTaskConfig(), model)
    return Tokenizer(task, {}, make_codebooks(levels), recipe)


@pytest.mark.parametrize("form", ["parquet", "npy", "npz"])
def test_vectors_of_a_file_are_read_beside_the_items(
    world, encode_parts, tmp_path, form
):
    catalog = read_items(world.items)[0]
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    path = write_beside(tmp_path / f"v.{form}", catalog.item_ids, vectors)
    model = file_tokenizer(path, catalog)
    want = model.table(catalog, model.encode(catalog))
    items = write_form(tmp_path / "items", "folder", world.make_items())
    for host in range(2):
        encode_parts(items, tmp_path / "sids", model, part_rows=7, host=(host, 2))
    found = read_table(tmp_path / "sids")
    assert found.digest() == want.digest()
    np.testing.assert_array_equal(found.distances, want.distances)
    write_beside(path, catalog.item_ids, vectors + 1)
    with pytest.raises(InputError, match=f"v.{form} is not what the parts"):
        encode_parts(items, tmp_path / "sids", model, part_rows=7)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (lambda ids: [*ids[:8], ids[9], ids[8], *ids[10:]], "item 8 .*vector of 'i09'"),
        (lambda ids: ids[:-1], "item 59 .*has no vector"),
        (lambda ids: [*ids, "more"], "after the last of 60 items with that of 'more'"),
    ],
)
def test_vectors_in_another_order_are_refused(
    world, encode_parts, tmp_path, ids, message
):
    catalog = read_items(world.items)[0]
    vectors = np.random.default_rng(0).normal(size=(61, 6)).astype(np.float32)
    path = write_beside(tmp_path / "v.npy", catalog.item_ids, vectors[:60])
    model, ids = file_tokenizer(path, catalog), ids(catalog.item_ids)
    write_beside(path, ids, vectors[: len(ids)])
    with pytest.raises(InputError, match=message):
        encode_parts(world.items, tmp_path / "sids", model)
    assert not world.contents(tmp_path / "sids")


def test_what_cannot_be_told_by_parts_is_refused(world, model, encode_parts, tmp_path):
    numbered = dataclasses.replace(model, dedup=True)
    with pytest.raises(InputError, match="numbers the items of one SID"):
        encode_parts(world.items, tmp_path / "sids", numbered)
    with pytest.raises(InputError, match="--part-rows 0 must be positive"):
        encode_parts(world.items, tmp_path / "sids", part_rows=0)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match=r"holds something else \(mine.txt\)"):
        encode_parts(world.items, tmp_path)


def test_the_command(world, tmp_path, capsys):
    """Two hosts, one of them with nothing to do; then what reads tables reads parts."""
    out = tmp_path / "sids"
    words = ("--tokenizer", world.tokenizer, "--items", world.items, "--out", out)
    for host in ("1/2", "0/2"):
        assert world.run("encode", *words, "--host", host) == 0
    said = capsys.readouterr().out
    assert "60 items, 1 parts, 0 of them host 1's; 0 done already" in said
    assert "60 of 60 items" in said and f"{out}: 60 items in 1 parts" in said
    assert world.run("inspect", out) == 0
    assert "60 items" in capsys.readouterr().out
    assert world.run("encode", *words, "--host", "2/2") == 2
    assert "--host 2/2: want one of" in capsys.readouterr().err
    assert world.run("encode", *words, "--extend", out) == 2
    assert "--extend adds to one file" in capsys.readouterr().err
    words = ("--tokenizer", world.tokenizer, "--items", world.root / "data")
    assert world.run("encode", *words, "--out", tmp_path / "one.parquet") == 2
    assert "is a folder: its items are encoded into" in capsys.readouterr().err


PEAK = """
import sys
from pathlib import Path
from tests.flows.bulk_test import file_tokenizer
from sid_jax.data.catalog import Catalog
from sid_jax.flows.bulk import encode_parts
from sid_jax.flows.encoding import Tokenizer
folder = Path(sys.argv[1])
sample = Catalog.from_columns([f"i{row}" for row in range(100)])
model = file_tokenizer(folder / "sample.npy", sample)
recipe = model.recipe.__class__(
    model.recipe.config.__class__(file=str(folder / "v.npy")), model.recipe.arrays
)
model = Tokenizer(model.task, model.params, model.state, recipe)
Tokenizer.load = staticmethod(lambda folder, vectors="": model)
items, sids = folder / "items.parquet", folder / "sids"
encode_parts(Path("tok"), items, sids, print, part_rows=8192)
# Not ru_maxrss, which begins with what the parent of the process held.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_items(tmp_path):
    peaks = []
    for count in (100_000, 1_000_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        rng, ids = np.random.default_rng(0), [f"i{row}" for row in range(count)]
        titles = [f"tea number {row}" for row in range(count)]
        table = pa.table({"item_id": ids, "title": titles})
        pq.write_table(table, folder / "items.parquet", 50_000)
        for name, rows in (("sample", 100), ("v", count)):
            path = folder / f"{name}.npy"
            write_beside(path, ids[:rows], rng.normal(size=(rows, 6)).astype("f4"))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(folder)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    print(f"peak MiB of memory at 1e5 and 1e6 items: {peaks}")
    assert peaks[1] - peaks[0] < 50
