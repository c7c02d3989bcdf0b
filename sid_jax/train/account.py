"""What a program needs, before it runs: bytes, operations, what crosses the network."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

_ANEW = "rematted_computation"  # JAX's name for what is computed a second time
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# One that only begins says its operands too: its end is what is read.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-done)?\(")
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+[a-z\d]*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Account:
    """A compiled program, a device.

    Attributes:
      arguments: bytes of what goes in, of which results may take the place.
      results: bytes of what comes out and takes no argument's place.
      scratch: bytes beside these while it runs.
      flops: of products of matrices, as `count_flops` has it, on all devices; what is
        computed anew counts.
      collectives: kind -> how often it runs, and the bytes of its results in all.
      seconds: that compiling took.
    """

    arguments: int
    results: int
    scratch: int
    flops: float
    collectives: Mapping[str, tuple[int, int]]
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that a device needs for it."""
        return self.arguments + self.results + self.scratch

    @property
    def moved(self) -> int:
        """Bytes of the results of all collectives."""
        return sum(size for _, size in self.collectives.values())


def compile_program(traced: Any) -> Account:
    """Compiles a traced program (`jax.jit(f).trace(...)`) and accounts for it."""
    began = time.perf_counter()
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    return Account(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        scratch=memory.temp_size_in_bytes,
        flops=count_flops(traced.jaxpr),
        collectives=count_collectives(compiled.as_text()),
        seconds=time.perf_counter() - began,
    )


def count_flops(jaxpr: Any, *, anew: bool = True) -> float:
    """Operations of a program's products of matrices, 2 for each pair of factors.

    What stands in a scan counts as often as it runs, in a `while` once, and of branches
    the dearest counts. (XLA's own count takes loops for one pass.)

    Args:
      jaxpr: as `jax.make_jaxpr(f)(...)` gives it.
      anew: whether to count what `jax.checkpoint` computes a second time for a
        gradient.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if not anew and _ANEW in str(equation.source_info.name_stack):
            continue
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (left, _), _ = params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2.0 * shared * math.prod(equation.outvars[0].aval.shape)
            continue
        leaves = jax.tree.leaves(list(params.values()), is_leaf=_is_program)
        inside = [count_flops(each, anew=anew) for each in leaves if _is_program(each)]
        if name == "cond":
            total += max(inside)
        else:
            total += params.get("length", 1) * sum(inside) if inside else 0.0
    return total


def count_collectives(text: str) -> dict[str, tuple[int, int]]:
    """Collectives in the text of a compiled program, by kind: times, bytes of results.

    What stands in a loop counts as often as the loop runs, where the compiler knows. A
    collective that is computed in pieces between others, as TPUs do, is one.
    """
    found: dict[Any, tuple[int, int]] = {}
    for line, times in _run(_split(text)):
        match = _COLLECTIVE.search(line)
        if match is None:
            continue
        shapes, kind = match.groups()
        channel = _CHANNEL.search(line)
        key = kind, channel[1] if channel else len(found)
        size = sum(_size(*shape) for shape in _SHAPE.findall(shapes))
        before = found.get(key, (0, 0))
        found[key] = max(before[0], times), max(before[1], size)
    total: dict[str, tuple[int, int]] = {}
    for (kind, _), (times, size) in found.items():
        count, moved = total.get(kind, (0, 0))
        total[kind] = count + times, moved + times * size
    return total


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _split(text: str) -> dict[str, list[str]]:
    """Lines of each computation; those of the entry under ''."""
    computations: dict[str, list[str]] = {}
    name = None
    for line in text.split("\n"):
        if match := _COMPUTATION.match(line):
            name = "" if line.startswith("ENTRY") else match[1]
            computations[name] = []
        elif line.startswith("}"):
            name = None
        elif name is not None:
            computations[name].append(line)
    return computations


def _run(computations: Mapping[str, list[str]]) -> list[tuple[str, int]]:
    """Every line that runs, and how often."""
    lines, waiting = [], [("", 1)]
    while waiting:
        name, times = waiting.pop()
        for line in computations.get(name, []):
            lines.append((line, times))
            inside = times * _trips(line, computations)
            waiting += [(called, inside) for called in _CALLED.findall(line)]
    return lines


def _trips(line: str, computations: Mapping[str, list[str]]) -> int:
    """How often what a line calls runs: the end of a loop's count, or once."""
    if trips := _TRIPS.search(line):
        return int(trips[1])
    if " while(" in line:
        condition = re.findall(r"condition=%?([\w.\-]+)", line)[0]
        ends = _CONSTANT.findall("\n".join(computations.get(condition, [])))
        if len(ends) == 1:
            return int(ends[0])
    return 1


def _size(kind: str, dimensions: str) -> int:
    """Bytes of an array such as f32[8,4]."""
    count = math.prod(int(each) for each in dimensions.split(",") if each)
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return -(-count * bits // 8)
