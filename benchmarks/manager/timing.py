"""Clocks around what counts, and repeats of several sides in turn."""

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


class Stopwatch:
    """Adds up the time between `start` and `stop`.

    A pair costs about a microsecond itself, most of it for the CPU clock.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        self.wall_ns = 0
        self.cpu_ns = 0
        self.inputs_ns = 0
        self._wall = 0
        self._cpu = 0

    def start(self) -> None:
        """Starts both clocks."""
        self._cpu = time.process_time_ns()
        self._wall = time.perf_counter_ns()

    def stop(self) -> None:
        """Stops both clocks."""
        self.wall_ns += time.perf_counter_ns() - self._wall
        self.cpu_ns += time.process_time_ns() - self._cpu

    def lap(self, inputs: Callable[[], object]) -> None:
        """Makes a step's inputs, and remembers how long that part took."""
        begin = time.perf_counter_ns()
        inputs()
        self.inputs_ns += time.perf_counter_ns() - begin

    def per(self, num_items: int) -> "Sample":
        """Returns the time of one of the items that were done in between."""
        each = 1000 * num_items
        return Sample(
            self.wall_ns / each, self.cpu_ns / each, self.inputs_ns / each
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """Microseconds per request or step in one repeat."""

    us: float
    """Wall time."""
    cpu_us: float
    """Time of the whole process on all cores."""
    inputs_us: float = 0.0
    """The part of `us` that went into the inputs; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the repeats, in microseconds."""

    us: float
    cpu_us: float
    inputs_us: float
    spread: float
    """Longest minus shortest wall time, as a share of the median."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Timing":
        """Returns the medians of some repeats."""
        walls = [sample.us for sample in samples]
        us = statistics.median(walls)
        return cls(
            us=us,
            cpu_us=statistics.median(sample.cpu_us for sample in samples),
            inputs_us=statistics.median(s.inputs_us for s in samples),
            spread=(max(walls) - min(walls)) / us,
        )


def interleave(
    runs: Mapping[Key, Callable[[], Sample]], repeats: int
) -> dict[Key, Timing]:
    """Runs every side once, then every side again; the first round is dropped.

    The garbage collector runs before each run and rests during it, whoever's
    it is.

    Args:
        runs: One run of each side, by the side's name.
        repeats: Rounds that count.
    """
    samples: dict[Key, list[Sample]] = {who: [] for who in runs}
    for _ in range(repeats + 1):
        for who, run in runs.items():
            gc.collect()
            gc.disable()
            try:
                samples[who].append(run())
            finally:
                gc.enable()
    return {who: Timing.of(values[1:]) for who, values in samples.items()}
