"""Times graphs on the device and makes rows of the times."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TypeAlias

from max.driver import Buffer, Device, DeviceEvent
from max.engine import Model

from benchmarks.rows import Row

REPEATS = 9
TARGET_US = 4_000.0
"""How long the replays of one repeat take at least."""

PAUSE_S = 0.01
"""How long a GPU rests before the turn of one of several sides."""

Ceilings: TypeAlias = Mapping[str, float]
"""Gigabytes per second that the machine reaches, by what is done."""


class Bench:
    """The compiled graphs on a device, and what was measured with them.

    Args:
        models: The graphs of all subjects, by name.
        device: Where they run.
        ceilings: What their rates are held against.
    """

    def __init__(
        self, models: Mapping[str, Model], device: Device, ceilings: Ceilings
    ) -> None:
        """Starts without rows."""
        self.models = models
        self.device = device
        self.ceilings = ceilings
        self.rows: list[Row] = []
        self.has_torch = find_spec("torch") is not None
        self._num_captures = 0

    def graph_us(self, name: str, *inputs: Buffer, calls: int) -> float:
        """Returns the time of one call in a captured graph that is replayed.

        Args:
            name: The graph.
            inputs: Its inputs.
            calls: How often the graph does what is timed.

        Returns:
            The median over the repeats, in microseconds.
        """
        model = self.models[name]
        self._num_captures += 1
        key = self._num_captures
        outputs = model.capture(key, *inputs)
        try:
            return self.device_us(lambda: model.replay(key, *inputs)) / calls
        finally:
            model.release_captured_graph(key)
            del outputs

    def turns_us(
        self, sides: Mapping[str, tuple[str, Sequence[Buffer]]], *, calls: int
    ) -> dict[str, float]:
        """Returns the times of sides that take turns, with pauses before each.

        A GPU under load at its limit of power slows down: so no side runs for
        long, and all run in the same state.

        Args:
            sides: By the name of each, its graph and that one's inputs.
            calls: How often a graph does what is timed.

        Returns:
            The medians over the turns, in microseconds.
        """
        runs: dict[str, Callable[[], object]] = {}
        kept = []
        for key, (who, (name, inputs)) in enumerate(sides.items()):
            model = self.models[name]
            kept.append((model, key, model.capture(key, *inputs)))
            runs[who] = functools.partial(model.replay, key, *inputs)
        try:
            times: dict[str, list[float]] = {who: [] for who in runs}
            for _ in range(REPEATS + 1):
                for who, run in runs.items():
                    time.sleep(PAUSE_S)
                    times[who].append(self._elapsed_us(run, 1) / calls)
        finally:
            for model, key, _ in kept:
                model.release_captured_graph(key)
        return {who: statistics.median(us[1:]) for who, us in times.items()}

    def device_us(self, run: Callable[[], object]) -> float:
        """Returns how long the device works on something, in microseconds.

        Args:
            run: Issues the work; many times in a row, so that the time between
                two calls does not count.
        """
        return _median_us(functools.partial(self._elapsed_us, run))

    def torch_us(self, run: Callable[[], object]) -> float:
        """Returns how long torch's stream works on something.

        Args:
            run: Issues the work there.
        """
        import torch

        def elapsed(times: int) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
            start.record()
            for _ in range(times):
                run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) * 1e3 / times

        return _median_us(elapsed)

    def note(
        self,
        case: str,
        who: str,
        us: float,
        *,
        num_bytes: int,
        page_size: int | None = None,
        ceiling: str = "copy",
    ) -> None:
        """Adds a row.

        Args:
            case: What was done.
            who: Who did it.
            us: How long it took.
            num_bytes: Bytes that have to move for it, read and written ones
                of the device's memory.
            page_size: Tokens per page, where there are pages of tokens.
            ceiling: The ceiling's name.
        """
        gbps = num_bytes / us / 1e3
        self.rows.append(
            {
                "case": case,
                "who": who,
                "page_size": page_size,
                "us": round(us, 3),
                "gbps": round(gbps, 1),
                "ceiling_pct": round(100 * gbps / self.ceilings[ceiling], 1),
            }
        )
        print(self.rows[-1], flush=True)

    def note_flops(
        self, case: str, who: str, us: float, *, flops: int, page_size: int
    ) -> None:
        """Adds a row of something that computes rather than moves.

        Args:
            case: What was done.
            who: Who did it.
            us: How long it took.
            flops: Multiplications and additions.
            page_size: Tokens per page.
        """
        self.rows.append(
            {
                "case": case,
                "who": who,
                "page_size": page_size,
                "us": round(us, 3),
                "tflops": round(flops / us / 1e6, 1),
            }
        )
        print(self.rows[-1], flush=True)

    def _elapsed_us(self, run: Callable[[], object], times: int) -> float:
        """Returns the time of one of some calls, by the device's clock."""
        start = DeviceEvent(self.device, enable_timing=True)
        end = DeviceEvent(self.device, enable_timing=True)
        queue = self.device.default_queue
        queue.record_event(start)
        for _ in range(times):
            run()
        queue.record_event(end)
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / times


def _median_us(elapsed: Callable[[int], float]) -> float:
    """Returns the median time of a call.

    Args:
        elapsed: Returns the time of one of as many calls in a row.
    """
    elapsed(1)
    times = max(1, round(TARGET_US / elapsed(1)))
    return statistics.median(elapsed(times) for _ in range(REPEATS))
