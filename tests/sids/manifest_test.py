"""A folder of parts: read as one table when all are there, and not otherwise."""

import json
from itertools import pairwise

import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.files import hash_file, read_json
from sid_jax.sids.manifest import PARTS, Part, read_parts, write_parts
from sid_jax.sids.table import Manifest, SidTable, read_table, write_table

SIZES = (4, 3)
WHOLE = SidTable.build(
    [f"i{row}" for row in range(10)],
    np.random.default_rng(0).integers(3, size=(10, 2)),
    np.arange(10.0),
    Manifest(codebook_sizes=SIZES, tokenizer="t"),
)


def write(folder, cuts=(0, 4, 5, 10)):
    parts = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        name = f"part-{number:05d}-of-00003.parquet"
        table = SidTable.build(
            WHOLE.item_ids[start:stop],
            WHOLE.codes()[start:stop],
            WHOLE.distances[start:stop],
            WHOLE.manifest,
        )
        write_table(folder / name, table)
        parts.append(Part(name, stop - start, hash_file(folder / name)))
    write_parts(folder, parts, {"tokenizer": "t"})
    return tuple(parts)


def test_parts_are_one_table(tmp_path):
    parts = write(tmp_path)
    assert read_parts(tmp_path) == parts
    table = read_table(tmp_path)
    assert table.digest() == WHOLE.digest()
    np.testing.assert_array_equal(table.distances, WHOLE.distances)
    assert table.manifest.tokenizer == "t" and table.manifest.codebook_sizes == SIZES
    told = json.loads((tmp_path / PARTS).read_text())
    assert told["tokenizer"] == "t"
    write_parts(tmp_path, parts[::-1], {})
    assert table.manifest.catalog != read_table(tmp_path).manifest.catalog


def test_parts_of_several_tables_are_no_table(tmp_path):
    write(tmp_path)
    write_parts(tmp_path, read_parts(tmp_path) * 2, {})
    with pytest.raises(InputError, match="item id 'i0' stands in row 0 already"):
        read_table(tmp_path)


def test_parts_of_other_codebooks_are_no_table(tmp_path):
    parts = write(tmp_path)
    other = Manifest(codebook_sizes=(4, 3, 2))
    write_table(
        tmp_path / parts[0].name,
        SidTable.build([*"abcd"], np.zeros((4, 3), int), None, other),
    )
    digest = hash_file(tmp_path / parts[0].name)
    write_parts(tmp_path, [Part(parts[0].name, 4, digest), *parts[1:]], {})
    with pytest.raises(InputError, match="several codebook sizes"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told | {"schema_version": 2}, "schema version 2; update"),
        (lambda told: told | {"parts": []}, "names of parts"),
        (lambda told: told | {"parts": "all"}, "parts: 'all'"),
        (lambda told: [told], "schema_version: None"),
        (lambda told: told | {"parts": [{"name": "../part"}]}, "rows: None"),
        (
            lambda told: (
                told | {"parts": [told["parts"][0] | {"name": "../" + "x.parquet"}]}
            ),
            "names of parts",
        ),
        (
            lambda told: told | {"parts": [told["parts"][0] | {"sha256": "0"}]},
            "part-00000-of-00003.parquet is not what was written",
        ),
        (
            lambda told: told | {"parts": [told["parts"][0] | {"rows": 3}]},
            "part-00000-of-00003.parquet has 4 rows, not 3",
        ),
        (lambda told: told | {"checksum": "0"}, "not what was written"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, change, message):
    write(tmp_path)
    told = read_json(tmp_path / PARTS)
    (tmp_path / PARTS).write_text(json.dumps(change(told)))
    with pytest.raises(InputError, match=message) as error:
        read_table(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_cut_manifest_or_an_absent_part_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "part-00001-of-00003.parquet"
    path.rename(tmp_path / "away")
    with pytest.raises(InputError, match="part-00001"):
        read_table(tmp_path)
    text = (tmp_path / PARTS).read_text()
    for end in range(0, len(text) - 1, 40):
        (tmp_path / PARTS).write_text(text[:end])
        with pytest.raises(InputError, match="not readable as JSON"):
            read_table(tmp_path)
    (tmp_path / PARTS).unlink()
    with pytest.raises(InputError, match="not all parts are there"):
        read_table(tmp_path)
