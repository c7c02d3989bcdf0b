"""What the pages say: their code runs, and what they point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "experiments/README.md", "experiments/pods/README.md")

_BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _blocks(page: str, language: str) -> list[str]:
    found = _BLOCK.findall((ROOT / page).read_text())
    return [body for mark, body in found if mark.strip() == language]


def _links(page: str) -> list[str]:
    prose = _BLOCK.sub("", (ROOT / page).read_text())
    return [link for link in _LINK.findall(prose) if not link.startswith("http")]


def test_the_python_of_the_readme_runs_in_order():
    blocks = _blocks("README.md", "python")
    assert blocks
    names = {"__name__": "readme"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"README.md, python block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_closed(page):
    fences = re.findall(r"^```", (ROOT / page).read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(_BLOCK.findall((ROOT / page).read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    links = _links(page)
    missing = [link for link in links if not _exists(page, link)]
    assert links
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_code_are_there(page):
    """`experiments/name.py`, `sid_jax/...` and their like, in prose and commands."""
    text = (ROOT / page).read_text()
    names = set(re.findall(r"\b(?:experiments|sid_jax|colab|tests)/[a-z0-9_./]+", text))
    missing = [name for name in names if not (ROOT / name.rstrip("./")).exists()]
    assert names
    assert not missing


def _exists(page: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not anchor or target.suffix != ".md":
        return target.exists()
    return target.exists() and anchor in _anchors(target)


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
