"""The page needs nothing else, takes strings for text, and runs in a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.report import pictures as more
from sid_jax.report.markup import text
from sid_jax.report.page import (
    ItemTree,
    Product,
    Report,
    Sample,
    Similarity,
    Table,
    render,
    write_report,
)

HOSTILE = '</script><script>pwned=1</script><img src=x onerror="pwned=2">\'"&lt;{$x}'
CATEGORIES = (("GROCERY", "BAKED BREAD"), ("PRODUCE",), (), ("DELI", "SALADS", "BEAN"))


def _report(word: str, pictures: bool = True) -> Report:
    """Every section filled, with `word` wherever a string may stand."""
    codes = np.stack([np.arange(60) // 2, np.arange(60) % 2, np.arange(60) % 5], axis=1)
    product = Product("3_1_2", word, word, score=-1.5, hit=True, owned=True, note=word)
    steps = np.arange(0, 100, 10)
    return Report(
        title=word,
        subtitle=word,
        summary=[(word, word), ("n", 1234)],
        warnings=[word],
        tables=[Table(title=word, note=word, rows={word: {f"Recall@{word}": word}})],
        curves={word: {word: (steps, 1 / (1 + steps))}} if pictures else {},
        levels=[[3, 0, 1], [1]] if pictures else [],
        similarity=Similarity(
            share_by_level=[0.9, 0.5] if pictures else [],
            mean_cosine=[0.1, 0.5, 0.8] if pictures else [],
            note=word,
        ),
        pictures=[
            more.Picture(
                figure=more.level_lines({"a": [1, 0.5]}, title="t", xlabel="x"),
                alt=f"Shares of {word}",
            )
        ]
        if pictures
        else [],
        tree=ItemTree(
            codes=codes,
            titles=[f"{word} {row}" for row in range(60)],
            categories=[(*CATEGORIES[row % 4], word) for row in range(60)],
        ),
        samples=[
            Sample(
                shopper=word,
                retailer=word,
                history=[product],
                basket=[product],
                held_out=[product],
                retrieved=[product, product._replace(hit=False, score=None)],
            )
        ],
        notes=[word],
        footer=[(word, word)],
    )


class _Outline(HTMLParser):
    """Tags with the names of their attributes, and the values of those that load."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.data = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.loads += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-2:] == ["section", "script"]:
            self.data += data


@pytest.fixture(scope="module")
def plain():
    return _Outline(render(_report("x", pictures=False)))


@settings(deadline=None, max_examples=25)
@given(word=st.text(st.characters(codec=None), max_size=40))
def test_strings_never_become_markup(plain, word):
    """The outline of a page does not depend on what its strings say."""
    word = HOSTILE[: len(word)] + word + HOSTILE
    met = _Outline(render(_report(word, pictures=False)))
    assert met.tags == plain.tags
    titles = set(re.findall(r'"((?:[^"\\]|\\.)*) 7",', met.data))
    assert {json.loads(f'"{title}"') for title in titles} == {word}


@given(st.text(st.characters(codec=None), max_size=60))
def test_text_is_one_escaped_line_that_can_be_written(word):
    shown = text(word)
    assert not set(shown) & set("<>\"'\n\r\x00")
    shown.encode("utf-8")
    kept = html.unescape(shown)
    assert kept == " ".join(kept.split())
    if word.isascii() and word.isprintable():
        assert kept == " ".join(word.split())


def test_nothing_is_loaded_from_elsewhere():
    page = render(_report("x"))
    loads = _Outline(page).loads
    assert sum(load.startswith("data:image/") for load in loads) >= 6
    for load in loads:
        assert load.startswith(("data:", "#")), load
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    for picture in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        drawn = base64.b64decode(picture).decode("utf-8")
        assert not re.search(r'href="(?!#)', drawn) and "<script" not in drawn


def test_pictures_have_words_and_sizes():
    for tag in re.findall(r"<img [^>]*>", render(_report("x"))):
        assert re.search(r'alt="[^"]{10,}"', tag)
        assert re.search(r'width="\d+" height="\d+"', tag)


def test_empty_sections_leave_nothing_behind():
    tags = {tag for tag, *_ in _Outline(render(Report(title="x"))).tags}
    assert not tags & {"section", "nav", "ul", "dl", "table", "img", "footer", "p"}
    whole = _report("x")
    for field in fields(Report):
        value = getattr(whole, field.name)
        page = render(replace(Report(title="x"), **{field.name: value}))
        sections = re.findall(r'<section id="([a-z]+)"', page)
        expected = {
            "tables": ["figures"],
            "samples": ["samples"],
            "tree": ["tree"],
            "levels": ["codebooks"],
            "similarity": ["codebooks"],
            "pictures": ["figures"],
            "curves": ["training"],
            "notes": ["notes"],
        }
        assert sections == expected.get(field.name, []), field.name
    no_items = ItemTree(codes=np.zeros((0, 3), int), titles=[], categories=[])
    bare = Report(
        title="x",
        tree=no_items,
        tables=[Table(title="t", rows={})],
        curves={"loss": {}},
        similarity=Similarity(),
    )
    assert "<section" not in render(bare)


def test_a_page_is_the_same_bytes_and_whole_or_absent(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, _report("x"))
    first = path.read_bytes()
    write_report(path, _report("x"))
    assert path.read_bytes() == first
    broken = replace(_report("x"), curves={"loss": {"a": ([0, 1], [1])}})
    with pytest.raises(ValueError, match="one step for each value"):
        write_report(path, broken)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_page_leaves_out_is_said():
    report = _report("x")
    assert report.tree is not None
    report = replace(report, tree=replace(report.tree, max_leaves=7))
    assert "Showing 7 of 60 SIDs and 7 of 60 items" in render(report)


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)

# Runs before the page's own script. It clicks as a reader would and notes what it met.
PROBE = """
const met = { errors: [], blocked: [] };
addEventListener("error", (event) => met.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) =>
  met.blocked.push(event.violatedDirective + " " + event.blockedURI));
const pause = () => new Promise((done) => setTimeout(done, 300));
const all = (query, within = document) => [...within.querySelectorAll(query)];
async function probe() {
  met.images = all("img").map((image) => image.complete && image.naturalWidth);
  met.before = all("#sid-tree .product").length;
  let level = document.getElementById("sid-tree");
  met.levels = [];
  for (let depth = 0; depth < 3; depth++) {
    const details = level.querySelector("details");
    details.firstElementChild.click();
    await pause();
    met.levels.push(details.open && details.querySelector("ul").children.length);
    level = details.querySelector("ul");
  }
  met.product = level.querySelector(".product bdi").textContent;
  met.roots = all("#sid-tree > li > details").length;
  const more = document.querySelector("#sid-tree > li > button");
  met.more = more.textContent;
  const find = document.getElementById("find");
  find.value = "57";
  find.dispatchEvent(new Event("input"));
  await pause();
  met.found = all("#found-list button bdi").map((title) => title.textContent);
  document.querySelector("#found-list button").click();
  await pause();
  met.here = all("#sid-tree .here bdi").map((title) => title.textContent);
  met.rootsAfter = all("#sid-tree > li > details").length;
  find.value = "no such product";
  find.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  met.none = all("#found-list li").length;
  document.querySelector("a.sid").click();
  await pause();
  met.sid = all("#sid-tree .here .sid").map((sid) => sid.textContent);
  met.focused = document.activeElement.tagName;
  met.pwned = typeof pwned;
  met.requests = performance.getEntriesByType("resource").map((entry) => entry.name)
    .filter((name) => !name.startsWith("data:"));
}
addEventListener("load", async () => {
  try { await probe(); } catch (error) { met.errors.push(String(error)); }
  const told = document.createElement("pre");
  told.id = "probe";
  told.textContent = JSON.stringify(met);
  document.body.append(told);
});
"""

# The page in frames as wide as a phone and a desk: what sticks out would scroll.
FRAMES = """
<iframe id="phone" style="width: 360px; height: 800px"></iframe>
<iframe id="desk" style="width: 1400px; height: 800px"></iframe>
<script>
const page = PAGE;
const frames = [...document.querySelectorAll("iframe")];
Promise.all(frames.map((frame) => new Promise((done) => {
  frame.onload = done;
  frame.srcdoc = page;
}))).then(() => {
  const told = document.createElement("pre");
  told.id = "probe";
  told.textContent = JSON.stringify(frames.map((frame) => {
    const root = frame.contentDocument.documentElement;
    for (const details of root.querySelectorAll("details")) details.open = true;
    return [root.scrollWidth, root.clientWidth];
  }));
  document.body.append(told);
});
</script>
"""


def _browse(page: str, folder) -> tuple[dict, str]:
    """What the probe of a page wrote, and what the browser logged."""
    (folder / "page.html").write_bytes(page.encode("utf-8"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--disable-dev-shm-usage --enable-logging=stderr --window-size=1500,1000 "
        "--virtual-time-budget=20000 --dump-dom"
    )
    done = subprocess.run(
        [
            str(BROWSER),
            *flags.split(),
            f"--user-data-dir={folder / 'profile'}",
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    met = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert met, f"the page told nothing:\n{done.stderr[-3000:]}"
    return json.loads(html.unescape(met[1])), done.stderr


@needs_browser
def test_in_a_browser(tmp_path):
    page = render(_report(HOSTILE))
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page = page.replace("<link rel", f"<script>{PROBE}</script><link rel", 1)
    met, log = _browse(page, tmp_path)
    assert met["errors"] == [] and met["blocked"] == [] and met["requests"] == []
    assert "CONSOLE" not in log
    assert len(met["images"]) >= 6 and all(width > 0 for width in met["images"])
    assert met["before"] == 0
    assert met["levels"] == [2, 1, 1]
    assert met["product"] == f"{HOSTILE} 0"
    assert (met["roots"], met["more"], met["rootsAfter"]) == (24, "Show 6 more", 30)
    assert met["found"] == [f"{HOSTILE} 57"] == met["here"]
    assert met["none"] == 0
    assert (met["sid"], met["focused"]) == (["3_1_2"], "SUMMARY")
    assert met["pwned"] == "undefined"


@needs_browser
def test_fits_a_phone_and_a_desk(tmp_path):
    page = json.dumps(render(_report("Pneumonoultramicroscopic" * 4)))
    page = page.replace("<", "\\u003c")
    met, _ = _browse(FRAMES.replace("PAGE", page), tmp_path)
    for needed, given_ in met:
        assert needed <= given_
