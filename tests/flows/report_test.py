"""The page of a run is made of the files in its folder, and needs nothing else."""

import json
import re

import pytest

from sid_jax.errors import InputError
from sid_jax.flows.evaluate import BASELINES, MODEL
from sid_jax.flows.inspect import report_tokenizer
from sid_jax.flows.report import report_run


@pytest.fixture
def moved(world, tmp_path):
    """Copies of both runs whose data set is gone."""
    folders = {}
    for kind in ("tokenizer", "retriever"):
        folders[kind] = world.copy(kind, tmp_path / kind)
        config = folders[kind] / "config.json"
        gone = config.read_text().replace(str(world.data), str(tmp_path / "gone"))
        config.write_text(gone.replace(str(world.tokenizer), str(tmp_path / "gone")))
        (folders[kind] / "report.html").unlink()
    return folders


def stands_alone(page):
    """No address that a browser would ask for."""
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    return all(each.startswith(("data:", "#")) for each in sources) and (
        "default-src 'none'" in page
    )


def test_a_retrievers_page_needs_its_folder_alone(moved):
    folder = moved["retriever"]
    report_run(folder, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert stands_alone(page)
    for name in (MODEL, *BASELINES, "green tea 0", "recall@10", "Household u00"):
        assert name in page
    assert "Spearman" not in page  # it is of the tokenizer


def test_the_page_says_what_the_last_evaluation_found(moved):
    folder = moved["retriever"]
    metrics = folder / "metrics.jsonl"
    last = json.loads(metrics.read_text().splitlines()[-1])
    last |= {f"item/{MODEL}/recall@10": 0.9876, "beam_yield": 0.1234, "step": 7}
    metrics.write_text(metrics.read_text() + json.dumps(last) + "\n")
    report_run(folder, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "0.9876" in page
    assert "0.123" in page


def test_with_its_tokenizer_the_page_tells_of_the_codes(moved, tmp_path):
    report_run(moved["retriever"], tmp_path / "page.html", moved["tokenizer"])
    page = (tmp_path / "page.html").read_text()
    assert "Spearman" in page
    assert ">60<" in page and "60.0000" not in page  # items are counted
    assert stands_alone(page)


def test_a_tokenizers_page_needs_its_folder_alone(moved):
    lines = []
    report_tokenizer(moved["tokenizer"], lines.append)
    page = (moved["tokenizer"] / "report.html").read_text()
    assert stands_alone(page)
    assert "Spearman" in page
    assert "green tea 0" in page
    assert "60 items" in lines[0]


def test_a_history_says_of_no_product_that_it_was_bought_before(moved):
    folder = moved["retriever"]
    report_run(folder, folder / "report.html")
    page = (folder / "report.html").read_text()
    lists = page.split("<h4>History, what tells most last</h4>")[1:]
    histories = [each[: each.index("</ul>")] for each in lists]
    assert histories and all("<li" in each for each in histories)
    assert not any("bought before" in each for each in histories)
    assert any("bought before" in each for each in lists)  # of what is retrieved


def test_a_run_that_was_not_judged_has_no_page(moved):
    folder = moved["retriever"]
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if "beam_yield" not in line))
    with pytest.raises(InputError, match=r"not evaluated yet: sid evaluate"):
        report_run(folder, folder / "report.html")
    (folder / "samples.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"samples.jsonl: not readable"):
        report_run(folder, folder / "report.html")
    assert not (folder / "report.html").exists()
