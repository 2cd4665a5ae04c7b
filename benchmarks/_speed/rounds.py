"""Rounds in which everybody does the same work in turn, while the others idle; and what comes of them."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks._speed.protocol import Worker, WorkerFailed

# Threads of the one that has just finished spin for a while before they sleep.
PAUSE = 0.2


def take_turns(
    workers: dict[str, Worker],
    ask_fn: Callable[[str, Worker, int], dict[str, Any]],
    rounds: int,
    *,
    pause: float = PAUSE,
    failed: dict[str, str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The answers of each worker in each round; a worker that fails takes no further turn.

    Args:
        workers: by name; those that fail are closed and taken out.
        ask_fn: `ask_fn(name, worker, round)`, a blocking question.
        rounds: how many.
        pause: seconds before each turn.
        failed: receives the error of each worker that failed.

    Returns:
        Answers by name, one for each round; nothing of those that failed.
    """
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(rounds):
        order = list(workers)
        # The same order each time would let each rival always follow the same other.
        random.Random(number).shuffle(order)
        for name in order:
            time.sleep(pause)
            try:
                answers[name].append(ask_fn(name, workers[name], number))
            except WorkerFailed as error:
                workers.pop(name).close()
                answers.pop(name)
                if failed is not None:
                    failed[name] = str(error)
    return answers


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest.

    >>> spread([3.0, 1.0, 2.0])
    {'min': 1.0, 'median': 2.0, 'max': 3.0}
    """
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The spread of the ratios of two rivals' times, round by round.

    >>> ratios([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    {'min': 1.0, 'median': 2.0, 'max': 3.0}
    """
    return spread([a / b for a, b in zip(above, below, strict=True)])


def fastest(seconds: Mapping[str, Sequence[float]]) -> str | None:
    """Whose median is the least; None where there is nobody.

    >>> fastest({"a": [1.0, 9.0, 3.0], "b": [2.0, 2.0, 2.5]})
    'b'
    """
    return min(seconds, key=lambda name: statistics.median(seconds[name]), default=None)
