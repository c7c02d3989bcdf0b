"""Times of sides that take turns: what the scripts beside this one measure with."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def take_turns(
    sides: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, tuple[float, float]]:
    """Median wall and process seconds of each side, in turns and in both orders."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for run in sides.values():
        run()  # compilation and warm-up
    for repeat in range(repeats):
        for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            ended = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append(ended)
    medians = {name: np.median(each, axis=0) for name, each in times.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in medians.items()}
