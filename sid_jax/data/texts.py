"""Texts of items that a user brings, in place of a recipe's."""

from collections.abc import Sequence
from pathlib import Path

from sid_jax.data.readers import read_table
from sid_jax.errors import InputError


def read_texts(path: Path) -> tuple[dict[str, str], list[str]]:
    """A CSV, JSON lines or Parquet file with columns item_id and text.

    Returns:
      Texts by item id, in the file's order (an absent one is empty), and notes.

    Raises:
      InputError: a bad file, or an id that is missing or stands twice.
    """
    table = read_table(path)
    for name in ("item_id", "text"):
        if name not in table.columns:
            raise InputError(
                f"{path}: no column {name}; it has {', '.join(table.columns)}"
            )
    found: dict[str, str] = {}
    findings = table.findings
    for number, row in table.rows:
        value, text = row.get("item_id"), row.get("text")
        item_id = str(value).strip() if isinstance(value, (str, int)) else ""
        if not item_id:
            findings.note(_NO_ID, number)
        elif item_id in found:
            findings.note(_TWICE, number, repr(item_id))
        found[item_id] = "" if text is None else str(text)
        if not found[item_id].strip():
            findings.note(_NO_TEXT, number)
    findings.refuse(
        {_NO_ID: "an id is text or a whole number", _TWICE: "keep one row an item"}
    )
    return found, findings.lines()


def match_texts(
    path: Path, texts: dict[str, str], item_ids: Sequence[str]
) -> list[str]:
    """The file's texts of these items, in this order.

    Raises:
      InputError: the file lacks some of the items, or has others: it is of another
        catalog, and something would be lost.
    """
    missing = [item_id for item_id in item_ids if item_id not in texts]
    others = sorted(set(texts) - set(item_ids))
    for ids, problem in (
        (missing, f"no text for {len(missing):,} of {len(item_ids):,} items"),
        (others, f"{len(others):,} texts of items that the catalog does not have"),
    ):
        if ids:
            raise InputError(
                f"{path}: {problem}: {', '.join(map(repr, ids[:5]))}"
                + (" ..." if len(ids) > 5 else "")
                + "; ids are text, as in the catalog (without --items and --data, the "
                "file's own items are encoded)"
            )
    return [texts[item_id] for item_id in item_ids]


_NO_ID = "rows without an item_id"
_TWICE = "rows whose item_id stands in an earlier row"
_NO_TEXT = "items without a text, encoded as an empty one"
