import gzip
import json

import numpy as np
import pytest

from sid_jax.data.purchases import read_purchases, write_purchases
from sid_jax.errors import InputError

IDS = ["a", "7", "c"]


def test_counts_stand_in_the_order_of_the_items(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("item_id,purchases\n7,2.5\nx,9\na,1\n")
    counts, notes = read_purchases(path, IDS)
    assert counts.tolist() == [1, 2.5, 0]
    assert "1 item ids without a SID" in notes[0]
    write_purchases(tmp_path / "p.parquet", IDS, np.asarray([3, 0, 5]))
    counts, notes = read_purchases(tmp_path / "p.parquet", IDS)
    assert counts.tolist() == [3, 0, 5] and notes == []


def test_histories_are_counted(tmp_path):
    (tmp_path / "s.txt.gz").write_bytes(gzip.compress(b"u 7 a 7\nv 7 x\n"))
    assert read_purchases(tmp_path / "s.txt.gz", IDS)[0].tolist() == [1, 3, 0]
    lines = [
        {"user_id": 1, "order": n, "product_ids": basket}
        for n, basket in enumerate([["a", 7], ["a", "c"]])
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_purchases(tmp_path / "b.jsonl", IDS)[0].tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,purchases\na,1\n7,-1\n", r"p\.csv, line 3: '-1' purchases"),
        ("item_id,purchases\na,nan\n", "line 2: 'nan' purchases"),
        ("item_id,purchases\na,\n", "line 2: None purchases"),
        ("item_id,purchases\na,1\na,1\n", "line 3: item 'a' stands twice"),
        ("item_id,purchases\nx,1\n", "no purchase of any of the 3 items"),
        ("item_id,count\na,1\n", "want columns item_id and purchases.*item_id, count"),
    ],
)
def test_bad_counts_are_named(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_purchases(path, IDS)
