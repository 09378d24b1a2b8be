"""The store of keys and values, and the gather that reads them back."""

from max.driver import Buffer
from max.graph import BufferType, Module, TensorType, TensorValue
from max.nn.kernels import store_k_cache_ragged, store_v_cache_ragged

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.graphs import MaxCache, add_ours, add_theirs
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_KV_HEADS,
    NUM_LAYERS,
    PAGE_SIZES,
    ROW_BYTES,
    Lengths,
    Step,
    cache_types,
    decode,
    drawn,
    prefill,
)
from benchmarks.gpu_kernels.same import check_pools
from benchmarks.gpu_kernels.triton_store import TritonStore
from kvcache import ops

STEPS: dict[str, Lengths] = {
    **{str(batch): decode(batch) for batch in (1, 8, 64, 256)},
    "65536": prefill(64, 1024),
}
"""The batches, by their new tokens."""

MIXED: Lengths = [(0, 0), (0, 20), (133, 1), (3, 0), (256, 17), (127, 2)]
"""What is compared before anything is timed."""

ROWS = ("total_tokens", NUM_KV_HEADS, HEAD_DIM)


def add_graphs(module: Module) -> None:
    """Adds ours for each page size, and MAX's: two launches a layer."""
    rows = TensorType(DTYPE, ROWS, GPU)
    results = BufferType(DTYPE, ROWS, GPU)
    for page_size in PAGE_SIZES:
        add_ours(
            module,
            f"store_{page_size}",
            cache_types(page_size),
            types=[rows, rows],
            op=ops.store,
        )
        add_ours(
            module,
            f"gather_{page_size}",
            cache_types(page_size),
            types=[results, results],
            op=ops.gather,
        )
    add_theirs(module, "store_max", types=[rows, rows], op=_max_store)


def _max_store(
    cache: MaxCache,
    keys: TensorValue,
    values: TensorValue,
    *offsets_and_layer: TensorValue,
) -> None:
    store_k_cache_ragged(cache, keys, *offsets_and_layer)
    store_v_cache_ragged(cache, values, *offsets_and_layer)


def measure(bench: Bench) -> None:
    """Checks and times the stores, then the gathers."""
    for page_size in PAGE_SIZES:
        _check(bench, page_size)
        for case, lengths in STEPS.items():
            _measure_stores(bench, case, lengths, page_size)
        _measure_gather(bench, page_size)


def _check(bench: Bench, page_size: int) -> None:
    """Holds what each one stores against the reference."""
    device = bench.device
    step = Step.of(MIXED, page_size, device)
    shape = step.batch.num_rows, NUM_KV_HEADS, HEAD_DIM
    keys, values = drawn(device, *shape), drawn(device, *shape)
    pool = step.empty_pool(device)
    inputs = (*step.tables, keys, values, step.offsets)
    bench.models[f"store_{page_size}"].execute(pool, *inputs)
    pools = {"kvcache": pool}
    if page_size == MAX_PAGE_SIZE:
        pools["max"] = step.empty_pool(device)
        bench.models["store_max"].execute(
            keys, values, step.offsets, pools["max"], *step.for_max(device)
        )
    if TritonStore.is_available():
        pools["triton"] = step.empty_pool(device)
        TritonStore(step, keys, values, pools["triton"]).run()
    check_pools(step, keys, values, pools)


def _measure_stores(
    bench: Bench, case: str, lengths: Lengths, page_size: int
) -> None:
    device = bench.device
    step = Step.of(lengths, page_size, device)
    shape = step.batch.num_rows, NUM_KV_HEADS, HEAD_DIM
    keys, values = drawn(device, *shape), drawn(device, *shape)
    pool = step.empty_pool(device)

    def note(who: str, us: float) -> None:
        bench.note(
            f"store {case}",
            who,
            us,
            num_bytes=2 * ROW_BYTES * step.batch.num_rows,
            page_size=page_size,
        )

    inputs = (*step.tables, keys, values, step.offsets)
    name = f"store_{page_size}"
    note("kvcache", bench.graph_us(name, pool, *inputs, calls=NUM_LAYERS))
    if page_size == MAX_PAGE_SIZE:
        theirs = (keys, values, step.offsets, pool, *step.for_max(device))
        us = bench.graph_us("store_max", *theirs, calls=NUM_LAYERS)
        note("max", us)
    if TritonStore.is_available():
        store = TritonStore(step, keys, values, pool)
        note("triton", store.graph_us(bench))


def _measure_gather(bench: Bench, page_size: int) -> None:
    device = bench.device
    step = Step.of(STEPS["65536"], page_size, device, reads_all=True)
    shape = step.batch.num_rows, NUM_KV_HEADS, HEAD_DIM
    results = [Buffer.zeros(shape, DTYPE, device) for _ in "kv"]
    us = bench.graph_us(
        f"gather_{page_size}",
        *(step.empty_pool(device), *step.tables, *results),
        step.context_offsets,
        calls=NUM_LAYERS,
    )
    bench.note(
        "gather 65536",
        "kvcache",
        us,
        num_bytes=2 * ROW_BYTES * step.batch.num_rows,
        page_size=page_size,
    )
