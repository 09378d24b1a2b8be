"""Decode steps over a cache with summaries: graphs, inputs, and their check."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import DeviceRef, Graph, Module, TensorType, TensorValue

from kvcache import ops
from kvcache.compiler.mojo_backend import flow_ops
from kvcache.compiler.registry import make_flow
from kvcache.flow_ops import FlowOps
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputs, CacheInputTypes
from kvcache.summaries import Summaries, SummaryField

NUM_KV_HEADS = 8
NUM_Q_HEADS = 32
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


def flow_named(name: str, machine: Machine) -> FlowOps:
    """Compiles a flow for the layout that is measured."""
    return flow_ops(
        make_flow(name),
        block_size=BLOCK_SIZE,
        head_dim=HEAD_DIM,
        group_size=NUM_Q_HEADS // NUM_KV_HEADS,
        field_dtype=machine.dtype.name,
    )


def cache_types(
    machine: Machine, num_layers: int, flow: FlowOps | None
) -> CacheInputTypes:
    """Returns the types of the cache's inputs."""
    return CacheInputTypes(
        dtype=machine.dtype,
        num_layers=num_layers,
        page_size=PAGE_SIZE,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        device=machine.ref,
        summaries=None if flow is None else flow.summaries,
    )


def add_graphs(
    module: Module,
    machine: Machine,
    flows: dict[str, FlowOps],
    layer_counts: Iterable[int],
    *,
    store_layers: int,
) -> None:
    """Adds the graphs of every flow, each with as many layers."""
    for num_layers in layer_counts:
        _add(module, machine, "dense", num_layers, None)
        for name, flow in flows.items():
            for what in ("attend", "choose"):
                _add(module, machine, f"{name}_{what}", num_layers, flow)
    for name, flow in flows.items():
        for what in ("store", "store_only"):
            _add(module, machine, f"{name}_{what}", store_layers, flow)


def _add(  # noqa: PLR0917  (private, and each is of another type)
    module: Module,
    machine: Machine,
    name: str,
    num_layers: int,
    flow: FlowOps | None,
) -> None:
    """Adds one graph, named by its layers as well.

    Its inputs are those of the cache, row offsets, then queries and ratios, or
    keys and values.
    """
    cache = cache_types(machine, num_layers, flow)
    stores = "store" in name
    heads = NUM_KV_HEADS if stores else NUM_Q_HEADS
    rows = TensorType(
        machine.dtype, ["total_tokens", heads, HEAD_DIM], machine.ref
    )
    ratios = TensorType(DType.float32, ["batch_size"], machine.ref)
    with Graph(
        f"{name}_{num_layers}",
        input_types=[
            *cache,
            row_offsets_type(machine.ref),
            *([rows, rows] if stores else [rows, ratios]),
        ],
        custom_extensions=extensions([flow] if flow else []),
        module=module,
    ) as graph:
        inputs = CacheInputs.of(graph.inputs[: len(cache)])
        offsets, *rest = (value.tensor for value in graph.inputs[len(cache) :])
        if stores:
            for layer in range(num_layers):
                ops.store(inputs, *rest, offsets, layer=layer)
            if flow is not None and not name.endswith("only"):
                ops.summarise(inputs, flow, offsets)
            graph.output()
            return
        results: list[TensorValue] = []
        for layer in range(num_layers):
            results += _attend(inputs, flow, offsets, rest, layer, name)
        graph.output(*results)


def _attend(  # noqa: PLR0917  (a layer's tensors)
    cache: CacheInputs,
    flow: FlowOps | None,
    offsets: TensorValue,
    rest: list[TensorValue],
    layer: int,
    name: str,
) -> Iterator[TensorValue]:
    """Yields what one layer gives."""
    queries, ratios = rest
    if flow is None:
        yield ops.attention(cache, queries, offsets, layer=layer, scale=SCALE)
    elif name.endswith("attend"):
        yield ops.flow_attention(
            *(cache, flow, queries, offsets, ratios), layer=layer, scale=SCALE
        )
    else:
        scores = ops.score_blocks(cache, flow, queries, offsets, layer=layer)
        chosen = ops.choose_blocks(
            *(cache, scores, offsets, ratios),
            block_size=BLOCK_SIZE,
            reserved_first=flow.reserved_first,
            reserved_last=flow.reserved_last,
            top_k=flow.top_k,
        )
        yield chosen.block_ids


def extensions(flows: Iterable[FlowOps]) -> list[Path]:
    """Returns the compiled kernels that graphs of flows need."""
    return [
        ops.precompiled_package(),
        *dict.fromkeys(flow.extension for flow in flows),
    ]


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
