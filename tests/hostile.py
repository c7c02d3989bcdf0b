"""Hostile bytes, rows, JSON and arrays; and what may come of reading them."""

import gzip
import io
import json
import signal
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sid_jax.errors import InputError

SECONDS = 20
"""That a reader may take, at most."""

# fmt: off
TOKENS = (
    b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b'"', b"\r\n", b"\r", b"\n", b"\xe9", b",",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 30, b"9" * 5000, b"null", b"{}",
    b"[" * 20_000, b'{"a":' * 5000, b"\\ud800", b"\xe2\x80\xae", b"=1+1", b"../../x",
    b"__import__('os')._exit(9)", b"\x93NUMPY", b"PK\x03\x04", b"PAR1", b"\x1f\x8b",
)
WORDS = (
    "", " ", "p1", "7", ">", "a >  > b", "-", "_", "0_0", "1_2_3", "-1", "1_999999999",
    "nan", "NaN", "inf", "-inf", "1e999", "0x10", "007", "1_000", "\u0663", "true",
    "=cmd|'/C calc'!A0", "@SUM(1)", "\u202eabc", "\ufeff", "\x00", "a\r\nb", "a\rb",
    "../../x", "/etc/passwd", "__import__('os')._exit(9)", "{{7*7}}", "x" * 5000, ",",
    "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59", "2020-02-30", "1970-01-01",
    "[" * 3000, "9" * 5000, "\U0001f9c0\u0301", '"', "'",
)
DAMAGE = ("flip", "cut", "drop", "insert", "double", "swap", "move")
# fmt: on
TEXT = st.text(max_size=8) | st.sampled_from(WORDS)
SCALARS = st.one_of(
    TEXT,
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**31, -(2**63), 2**64, 10**40, -1, 0)),
    st.floats(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Bytes that are flipped, cut, put in, doubled, swapped or moved."""
    for _ in range(draw(st.integers(1, 4))):
        at = st.integers(0, len(data))
        start, stop = sorted((draw(at), draw(at)))
        piece, token = data[start:stop], draw(st.sampled_from(TOKENS))
        kind = draw(st.sampled_from(DAMAGE))
        if kind == "flip" and start < len(data):
            bit = 1 << draw(st.integers(0, 7))
            data = data[:start] + bytes([data[start] ^ bit]) + data[start + 1 :]
        elif kind == "cut":
            data = data[:stop]
        elif kind == "drop":
            data = data[:start] + data[min(stop, start + 9) :]
        elif kind == "insert":
            data = data[:start] + token + data[start:]
        elif kind == "double":
            data = data[:stop] + piece + data[stop:]
        elif kind == "swap":
            data = data[:start] + piece[::-1] + data[stop:]
        else:
            to = draw(at)
            data = (data[:start] + data[stop:])[:to] + piece + data[to:]
    return data


@st.composite
def hostile_rows(draw, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which some values, names or columns are others."""
    rows = [dict(row) for row in rows]
    names = [*rows[0], draw(TEXT)]
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        kind = draw(st.sampled_from(("cell", "column", "drop", "row", "twice")))
        if kind == "cell":
            draw(st.sampled_from(rows))[name] = draw(VALUES)
        elif kind == "column":
            values = st.lists(draw(st.sampled_from((VALUES, SCALARS, TEXT))))
            for row, value in zip(rows, [*draw(values), *[None] * 99], strict=False):
                row[name] = value
        elif kind == "drop":
            rows = [{k: v for k, v in row.items() if k != name} for row in rows]
        elif kind == "row":
            rows.append(draw(st.dictionaries(st.sampled_from(names), VALUES)))
        else:
            rows.append(dict(draw(st.sampled_from(rows))))
    return rows


@st.composite
def hostile_json(draw, plain: Any) -> Any:
    """A value in which some parts, at any depth, are others, absent or more."""
    plain = json.loads(json.dumps(plain))
    for _ in range(draw(st.integers(1, 3))):
        at = plain
        while isinstance(at, (dict, list)) and at:
            keys = sorted(at) if isinstance(at, dict) else range(len(at))
            key = draw(st.sampled_from(keys))
            kind = draw(st.sampled_from(("in", "in", "set", "tag", "more", "drop")))
            if kind == "in" and isinstance(at[key], (dict, list)) and at[key]:
                at = at[key]
                continue
            if kind in ("in", "set"):
                at[key] = draw(VALUES)
            elif kind == "drop":
                del at[key]
            elif isinstance(at, dict):
                name = "class" if kind == "tag" else draw(TEXT)
                classes = st.sampled_from(("MeshConfig", "SearchConfig", "object", "x"))
                at[name] = draw(classes if kind == "tag" else VALUES)
            break
    return plain


def hostile_arrays(names: tuple[str, ...]) -> st.SearchStrategy:
    """Arrays of wrong kinds and shapes under these names, and others."""
    kinds = st.sampled_from(
        ("i4", "i8", "f4", "f2", "u1", "?", "U3", "S2", "c8", "M8[s]")
    )
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    fills = st.sampled_from((0, 1, 2, 3, 100))
    array = st.builds(
        lambda s, k, f: np.full(s, f, "i8").astype(k), shapes, kinds, fills
    )
    whole = st.lists(st.integers(-2, 5), max_size=6).map(lambda x: np.asarray(x, "i4"))
    return st.dictionaries(
        st.sampled_from((*names, "x", "../x")),
        array | whole | whole.map(lambda x: x + 0.5),
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as the file's name says; what a form cannot hold is turned to text."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif name.endswith(".csv"):
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [names, *([row.get(name) for name in names] for row in rows)]
        text = "\n".join(",".join(map(_cell, line)) for line in lines)
        data = text.encode("utf-8", "surrogatepass")
    else:
        table = io.BytesIO()
        pq.write_table(_arrow(rows), table)
        data = table.getvalue()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _cell(value: Any) -> str:
    return '"' + str("" if value is None else value).replace('"', '""') + '"'


def _arrow(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
            pq.write_table(pa.table({name: columns[name]}), io.BytesIO())
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            columns[name] = pa.array([ascii(value) for value in values])
    return pa.table(columns)


class Hang(BaseException):
    """A reader takes too long."""


@contextmanager
def bounded():
    """An InputError, or a result, in time."""

    def stop(*_):
        raise Hang(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except InputError as error:
        assert str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(cases: int, strategy: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Checks values of a strategy, and tells how many."""
    done = count()
    quiet = (
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    )

    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=quiet
    )
    @given(strategy)
    def run(value):
        next(done)
        with bounded():
            check(value)

    run()
    print(f"{next(done):,} cases", flush=True)
