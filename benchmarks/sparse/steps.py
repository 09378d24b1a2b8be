"""Steps over a cache with summaries: what they are fed with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import DeviceRef

from kvcache.flow_ops import FlowOps
from kvcache.summaries import Summaries, SummaryField

NUM_KV_HEADS = 8
NUM_Q_HEADS = 32
MOST_POSITIONS = 8192
HEAD_DIM = 128
SCALE = HEAD_DIM**-0.5
BLOCK_SIZE = 64
PAGE_SIZE = 128
FLOWS = ("block_sparse", "gqa_block_sparse", "quest", "window")
DISTINCT_NUMBERS = 16 << 20
"""How many numbers are drawn for a large pool; the others are copies."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and in what is computed."""

    device: Device
    dtype: DType
    """The element type of pages, summaries and queries."""

    @property
    def ref(self) -> DeviceRef:
        """The device as graphs name it."""
        return DeviceRef.from_device(self.device)

    def numbers(self, shape: tuple[int, ...], seed: int) -> Buffer:
        """Draws normal numbers."""
        drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
        if self.dtype == DType.float32:
            return Buffer.from_numpy(drawn).to(self.device)
        bits = drawn.astype(ml_dtypes.bfloat16).view(np.uint16)
        return Buffer.from_numpy(bits).view(self.dtype).to(self.device)


@dataclass(frozen=True, slots=True)
class Stores:
    """What a step that stores takes on the device."""

    cache: tuple[Buffer, ...]
    """Pages, cache lengths, lookup table, longest lengths, summaries."""
    offsets: Buffer
    keys: Buffer
    values: Buffer

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """What graphs that store take."""
        return *self.cache, self.offsets, self.keys, self.values

    def rotated(self, machine: Machine) -> tuple[Buffer, ...]:
        """Returns what graphs take that rotate as many rows."""
        heads = NUM_Q_HEADS + 2 * NUM_KV_HEADS
        qkv = machine.numbers((self.keys.shape[0], heads * HEAD_DIM), 6)
        angles = np.random.default_rng(7).standard_normal(
            (MOST_POSITIONS, HEAD_DIM), np.float32
        )
        freqs = Buffer.from_numpy(angles).to(machine.device)
        return *self.cache, self.offsets, qkv, freqs


@dataclass(frozen=True, slots=True)
class Step:
    """One step's inputs on the device."""

    cache: tuple[Buffer, ...]
    """Pages, cache lengths, lookup table, longest lengths, summaries."""
    offsets: Buffer
    queries: Buffer
    ratios: Buffer

    def with_ratio(self, machine: Machine, ratio: float) -> "Step":
        """Returns the same step with another share of blocks."""
        ratios = np.full(self.ratios.shape[0], ratio, np.float32)
        return replace(self, ratios=_to(machine, ratios))

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """What graphs that attend take."""
        return *self.cache, self.offsets, self.queries, self.ratios


def step(
    machine: Machine,
    *,
    batch: int,
    context: int,
    num_layers: int,
    summaries: Summaries | None,
    pages: Buffer | None = None,
) -> Step:
    """Lays out a batch of equal contexts on random pages.

    Args:
        machine: Where.
        batch: Sequences.
        context: Tokens of each, the new one included.
        num_layers: Layers of the pool.
        summaries: What is kept of each block.
        pages: The pool, if there is one already.
    """
    return Step(
        cache=_cache(
            machine,
            [(context - 1, 1)] * batch,
            num_layers=num_layers,
            summaries=summaries,
            pages=pages,
        ),
        offsets=_to(machine, np.arange(batch + 1, dtype=np.uint32)),
        queries=machine.numbers((batch, NUM_Q_HEADS, HEAD_DIM), 2),
        ratios=_to(machine, np.ones(batch, np.float32)),
    )


def stores(
    machine: Machine,
    lengths: Sequence[tuple[int, int]],
    *,
    num_layers: int,
    summaries: Summaries,
) -> Stores:
    """Lays out a batch that is stored.

    Args:
        machine: Where.
        lengths: Cached and new tokens of each sequence.
        num_layers: Layers of the pool.
        summaries: What is kept of each block.
    """
    new = np.array([count for _, count in lengths])
    offsets = np.concatenate([[0], new.cumsum()]).astype(np.uint32)
    rows = (int(offsets[-1]), NUM_KV_HEADS, HEAD_DIM)
    return Stores(
        cache=_cache(
            machine, lengths, num_layers=num_layers, summaries=summaries
        ),
        offsets=_to(machine, offsets),
        keys=machine.numbers(rows, 4),
        values=machine.numbers(rows, 5),
    )


def _cache(
    machine: Machine,
    lengths: Sequence[tuple[int, int]],
    *,
    num_layers: int,
    summaries: Summaries | None,
    pages: Buffer | None = None,
) -> tuple[Buffer, ...]:
    """Returns the inputs of a cache whose pages are in random order."""
    batch = len(lengths)
    columns = max(-(-sum(pair) // PAGE_SIZE) for pair in lengths)
    num_pages = batch * columns
    order = np.random.default_rng(1).permutation(num_pages)
    spare = -columns % 8 + 8
    table = np.full((batch, columns + spare), num_pages, np.uint32)
    table[:, :columns] = order.reshape(batch, columns)
    if pages is None:
        page = 2, num_layers, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM
        pages = pool(machine, num_pages + 1, page)
    leaves = [
        pool(
            machine,
            num_pages + 1,
            summaries.shape_per_page(
                field,
                num_layers=num_layers,
                page_size=PAGE_SIZE,
                heads=NUM_KV_HEADS,
            ),
        )
        for field in (summaries.fields if summaries else ())
    ]
    longest = [[max(n for _, n in lengths), max(map(sum, lengths))]]
    return (
        pages,
        _to(machine, np.array([cached for cached, _ in lengths], np.uint32)),
        _to(machine, table),
        Buffer.from_numpy(np.array(longest, np.uint32)),
        *leaves,
    )


def pool(machine: Machine, num_pages: int, page: tuple[int, ...]) -> Buffer:
    """Returns pages of drawn numbers; those of a large pool repeat."""
    most = max(1, DISTINCT_NUMBERS // int(np.prod(page)))
    some = machine.numbers((min(most, num_pages), *page), 3)
    if some.shape[0] == num_pages:
        return some
    whole = Buffer(machine.dtype, (num_pages, *page), machine.device)
    width = int(np.prod(page)) * machine.dtype.size_in_bytes
    rows = whole.view(DType.uint8, (num_pages, width))
    source = some.view(DType.uint8, (some.shape[0], width))
    for begin in range(0, num_pages, some.shape[0]):
        count = min(some.shape[0], num_pages - begin)
        part = rows[slice(begin, begin + count), slice(None)]
        part.inplace_copy_from(source[slice(0, count), slice(None)])
    machine.device.synchronize()  # On the CPU nothing else waits for copies.
    return whole


def to_json(flows: dict[str, FlowOps]) -> str:
    """Returns what a machine without a compiler must know of the flows."""
    return json.dumps({k: asdict(v.summaries) for k, v in flows.items()})


def from_json(text: str) -> dict[str, Summaries]:
    """Returns each flow's summaries."""
    return {
        name: Summaries(
            said["block_size"],
            tuple(SummaryField(**field) for field in said["fields"]),
        )
        for name, said in json.loads(text).items()
    }


def _to(machine: Machine, array: npt.NDArray[np.generic]) -> Buffer:
    return Buffer.from_numpy(array).to(machine.device)
