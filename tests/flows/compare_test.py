"""`sid compare` as a gate: verdicts, exit codes, files, and what cannot be compared."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sid_jax.cli import main
from sid_jax.data.catalog import Catalog, write_catalog
from sid_jax.errors import InputError
from sid_jax.evals.stability import StabilityLimits
from sid_jax.flows.compare import compare_tables
from sid_jax.sids.table import Manifest, SidTable, read_table, write_table

SIZES = (4, 5, 6)
IDS = [f"i{row}" for row in range(40)]


def draw(seed=0, rows=40):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=rows) for size in SIZES], axis=1)


def write(path, ids, codes, sizes=SIZES):
    path.parent.mkdir(exist_ok=True)
    manifest = Manifest(codebook_sizes=sizes, tokenizer="t", created_by="test")
    write_table(path, SidTable.build(ids, codes, None, manifest))
    return path


def write_run(folder, ids, codes, titles, **attributes):
    write(folder / "sids.parquet", ids, codes)
    catalog = Catalog.from_columns(ids, titles, attributes=attributes)
    write_catalog(folder / "catalog.parquet", catalog)
    return folder


def compare(old, new, **words):
    lines = []
    return compare_tables(old, new, lines.append, **words), "\n".join(lines)


@pytest.fixture
def pair(tmp_path):
    """Two tables of which one code in four of the last level moved."""
    codes = draw()
    moved = codes.copy()
    moved[::4, 2] = (moved[::4, 2] + 1) % SIZES[2]
    return write(tmp_path / "a.parquet", IDS, codes), write(
        tmp_path / "b.parquet", IDS, moved
    )


def test_the_gate_passes_or_fails_by_its_exit_code(pair, capsys):
    words = ["compare", *map(str, pair), "--prefix-match"]
    assert main([*words, "1", "1", "0.75"]) == 0
    out = capsys.readouterr().out
    assert "verdict: passes" in out
    assert "all shared items count as unchanged" in out
    assert main([*words, "1", "1", "0.76"]) == 3
    out = capsys.readouterr().out
    assert "verdict: FAILS" in out
    assert "unchanged/prefix_match@3" in out and "0.7500  < 0.76" in out
    assert main(["compare", *map(str, pair)]) == 3  # 0.95 at level 3 by default
    assert main(["compare", str(pair[0]), str(pair[0])]) == 0
    assert main([*words, "1.5"]) == 2
    assert "no share between 0 and 1" in capsys.readouterr().err


def test_page_and_figures_lie_beside_the_new_table(pair, tmp_path):
    verdict, text = compare(*pair)
    page = (tmp_path / "b_compare.html").read_text()
    assert "Two versions of Semantic IDs" in page and page.count("<img") == 2
    assert "b_compare.html" in text
    figures = json.loads((tmp_path / "b_compare.json").read_text())
    assert figures["passed"] is verdict.passed is False
    assert figures["values"]["unchanged/prefix_match@3"] == 0.75
    assert figures["items"] == {"unchanged": 40, "edited": 0, "added": 0, "gone": 0}
    _, _ = compare(*pair, out=tmp_path / "sub" / "page.html")
    assert (tmp_path / "sub" / "page.json").exists()


def test_an_aligned_table_is_written_and_judged(tmp_path):
    codes = draw()
    rolled = (codes + 1) % np.asarray(SIZES)
    ids = [*IDS[1:], "new"]  # in another order, one gone and one new
    old = write(tmp_path / "a.parquet", IDS, codes)
    new = write(tmp_path / "b.parquet", ids, np.roll(rolled, -1, axis=0))
    assert not compare(old, new)[0].passed
    verdict, _ = compare(old, new, align=tmp_path / "c.parquet")
    assert verdict.passed
    aligned = read_table(tmp_path / "c.parquet")
    assert aligned.item_ids.to_pylist() == ids
    np.testing.assert_array_equal(aligned.codes()[:-1], codes[1:])
    assert aligned.manifest.tokenizer == ""  # so that `encode --extend` refuses it
    figures = json.loads((tmp_path / "b_compare.json").read_text())
    names = [np.asarray(each) for each in figures["permutations"]]
    for level, p in enumerate(names):
        renamed = p[rolled[:, level]]
        np.testing.assert_array_equal(renamed, codes[:, level])


def test_edited_items_are_told_from_the_catalogs(tmp_path):
    codes = draw()
    moved = codes.copy()
    moved[:4] = (moved[:4] + 1) % np.asarray(SIZES)
    titles = [f"title {row}" for row in range(40)]
    prices = list(range(40))
    old = write_run(tmp_path / "a", IDS, codes, titles, price=prices, x=prices)
    titles[0] = titles[1] = titles[2] = "another"
    prices[3] = -1
    new = write_run(tmp_path / "b", IDS, moved, titles, price=prices, y=prices)
    verdict, text = compare(old, new)
    assert verdict.passed
    assert "36 unchanged, 4 edited" in text
    assert "attributes of one catalog alone, not compared: x, y" in text
    assert verdict.values["edited/prefix_match@1"] == 0
    # A list of one's own goes before the catalogs.
    (tmp_path / "changed.txt").write_text("i0\n\ni1\n")
    verdict, text = compare(old, new, changed=tmp_path / "changed.txt")
    assert "38 unchanged, 2 edited" in text
    assert verdict.values["unchanged/exact"] == pytest.approx(36 / 38)
    # A catalog that lacks shared items says nothing of them.
    catalog = Catalog.from_columns(IDS[:9])
    write_catalog(tmp_path / "b" / "catalog.parquet", catalog)
    assert "40 unchanged, 0 edited" in compare(old, new)[1]


def test_purchases_weigh_the_items(pair, tmp_path):
    bought = tmp_path / "bought.csv"
    bought.write_text("item_id,purchases\ni0,1\ni1,9\nelse,5\n")
    limits = StabilityLimits(prefix_match=(), purchased_prefix_match=(1, 1, 0.91))
    verdict, text = compare(*pair, purchases=bought, limits=limits)
    assert verdict.values["unchanged/purchases/prefix_match@3"] == pytest.approx(0.9)
    assert [check.passed for check in verdict.checks] == [True, True, False]
    assert "1 item ids without a SID, passed over" in text
    pq.write_table(
        pa.table({"item_id": ["i1", "i2"], "purchases": [2.5, 0]}),
        tmp_path / "bought.parquet",
    )
    verdict, _ = compare(*pair, purchases=tmp_path / "bought.parquet", limits=limits)
    assert verdict.passed


def test_another_depth_fails_whatever_the_limits(pair, tmp_path):
    short = write(tmp_path / "s.parquet", IDS, draw()[:, :2], SIZES[:2])
    for old, new in ((pair[0], short), (short, pair[0])):
        verdict, text = compare(old, new, align=tmp_path / "aligned.parquet")
        assert not verdict.passed and all(check.passed for check in verdict.checks)
        assert len(verdict.checks) == 2
        assert "levels, and had" in text
        aligned = read_table(tmp_path / "aligned.parquet")
        assert aligned.codes().shape == read_table(new).codes().shape


def test_another_systems_csv_and_other_sizes_are_compared(pair, tmp_path):
    csv = tmp_path / "theirs.csv"
    rows = zip(IDS, draw(), strict=True)
    lines = [f"{name},{a}-{b}-{c}" for name, (a, b, c) in rows]
    csv.write_text("item_id,sid\n" + "\n".join(lines) + "\ni99,9-9-9\n")
    for old, new in ((pair[0], csv), (csv, pair[0])):
        assert compare(old, new)[0].passed


def test_what_cannot_be_compared_is_named(pair, tmp_path, capsys):
    other = write(tmp_path / "o.parquet", [f"x{i}" for i in range(40)], draw())
    (tmp_path / "empty.csv").write_text("item_id,sid\n")
    (tmp_path / "ids.csv").write_text("item_id\ni1\nnone\n")
    (tmp_path / "no.txt").write_text("\n")
    (tmp_path / "bad.csv").write_text("item_id,purchases\ni1,-2\n")
    (tmp_path / "zero.csv").write_text("item_id,purchases\ni1,0\n")
    (tmp_path / "folder").mkdir()

    def refused(old, new, *words):
        words = [tmp_path / w if "." in str(w) else w for w in words]
        assert main(["compare", *map(str, (old, new, *words))]) == 2
        return capsys.readouterr().err

    old, new = pair
    assert "have no item in common: 'i0' is one" in refused(old, other)
    assert "empty.csv: no items" in refused(old, tmp_path / "empty.csv")
    assert "sids.parquet: no such file" in refused(old, tmp_path / "folder")
    assert "are in neither version: 'none'" in refused(old, new, "--changed", "ids.csv")
    assert "no.txt: no item ids" in refused(old, new, "--changed", "no.txt")
    assert "bad.csv, line 2: '-2' purchases" in refused(
        old, new, "--purchases", "bad.csv"
    )
    assert "no purchase of any of the" in refused(old, new, "--purchases", "zero.csv")
    assert "one of the tables" in refused(old, new, "--align", "b.parquet")
    assert "is a .parquet file" in refused(old, new, "--align", "c.csv")
    with pytest.raises(InputError, match="no such file"):
        compare(old, tmp_path / "none.parquet")
