"""Dataclasses as plain values for JSON, each with its class, so unions read back."""

import dataclasses
import typing
from typing import Any

from beartype import BeartypeConf
from beartype.door import is_bearable

from sid_jax.errors import InputError

_WHOLE_NUMBERS_ARE_FLOATS = BeartypeConf(is_pep484_tower=True)  # JSON's 1 for 1.0


def to_plain(value: Any) -> Any:
    """A dataclass as a dict that also names its `class`; tuples as lists."""
    if dataclasses.is_dataclass(value):
        plain = {"class": type(value).__name__}
        for each in dataclasses.fields(value):
            plain[each.name] = to_plain(getattr(value, each.name))
        return plain
    if isinstance(value, tuple):
        return [to_plain(each) for each in value]
    return value


def from_plain(hint: Any, plain: Any, name: str) -> Any:
    """Reads what `to_plain` made of a value of type `hint`.

    Args:
      hint: a dataclass, a union of some, a tuple of them, or any other type.
      plain: what JSON holds.
      name: of the value, for complaints.

    Raises:
      InputError: a field that the class lacks, or one of another type, or one that is
        missing and has no default. (An older version may have written it, before there
        was such a field: the default is to mean what was done then.)
    """
    if typing.get_origin(hint) is tuple and isinstance(plain, list):
        inner = typing.get_args(hint)
        if inner[-1] is ...:
            inner = inner[:1] * len(plain)
        if len(inner) == len(plain):
            pairs = enumerate(zip(inner, plain, strict=True))
            return tuple(from_plain(*pair, f"{name}[{i}]") for i, pair in pairs)
    choices = typing.get_args(hint) or (hint,)
    classes = [each for each in choices if isinstance(each, type)]
    kinds = {each.__name__: each for each in classes if dataclasses.is_dataclass(each)}
    if kinds:
        tag = str(plain.get("class") if isinstance(plain, dict) else plain)
        if tag not in kinds or not isinstance(plain, dict):
            raise InputError(f"{name}: class {tag!r} is none of {', '.join(kinds)}")
        return _build(kinds[tag], plain, name)
    if not is_bearable(plain, hint, conf=_WHOLE_NUMBERS_ARE_FLOATS):
        wanted = hint.__name__ if isinstance(hint, type) else hint
        raise InputError(f"{name}: {plain!r} is not of type {wanted}")
    return plain


def _build(kind: type, plain: dict[str, Any], name: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(plain.keys() - hints.keys() - {"class"})
    if unknown:
        raise InputError(f"{name}: {kind.__name__} has no field {unknown[0]!r}")
    values = {
        key: from_plain(hints[key], plain[key], f"{name}.{key}")
        for key in hints
        if key in plain
    }
    needed = {
        each.name
        for each in dataclasses.fields(kind)
        if each.default is each.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - values.keys())
    if missing:
        raise InputError(f"{name}: {kind.__name__} lacks the field {missing[0]!r}")
    return kind(**values)
