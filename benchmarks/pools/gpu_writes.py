"""`set_kv_buffer` on a GPU, beside torch's operations and a copy."""

import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks.rows import Row
from kvcache.pools import KVPool

TOKENS = [1, 8, 64, 256, 4096, 65536]
NUM_SLOTS = 1 << 19
NUM_HEADS, HEAD_DIM = 8, 128
NUM_LAYERS = 4
CALLS = 8
REPEATS = 30

Run = Callable[[int], object]


def gpu_rows() -> Iterator[Row]:
    """Measures captured graphs of calls, each on the next layer."""
    sizes = (NUM_SLOTS - 1, NUM_LAYERS, NUM_HEADS, HEAD_DIM)
    pool = KVPool(*sizes, dtype=torch.bfloat16)
    for num_tokens in TOKENS:
        runs = _runs(pool, num_tokens)
        for who, run in runs.items():
            us = _replayed(run)
            moved = 8 * num_tokens * NUM_HEADS * HEAD_DIM
            yield {
                "case": f"set_kv_buffer {num_tokens}",
                "who": who,
                "num_tokens": num_tokens,
                "us": round(us, 3),
                "gbps": round(moved / us / 1e3, 1),
            }


def _runs(pool: KVPool, num_tokens: int) -> dict[str, Run]:
    order = torch.randperm(NUM_SLOTS - 1, device="cuda")[:num_tokens] + 1
    slots, places = order.int(), order
    shape = (num_tokens, NUM_HEADS, HEAD_DIM)
    k, v = torch.randn(2, *shape, device="cuda").bfloat16()
    targets = torch.empty(NUM_LAYERS, 2, *shape, device="cuda").bfloat16()

    def put(layer: int) -> None:
        pool.k_buffer[layer][places] = k
        pool.v_buffer[layer][places] = v

    def copy(layer: int) -> None:
        pool.k_buffer[layer].index_copy_(0, places, k)
        pool.v_buffer[layer].index_copy_(0, places, v)

    def straight(layer: int) -> None:
        targets[layer, 0].copy_(k)
        targets[layer, 1].copy_(v)

    pool.set_kv_buffer(0, slots, k, v)
    assert torch.equal(pool.k_buffer[0][places], k)
    assert torch.equal(pool.v_buffer[0][places], v)
    return {
        "kvcache": lambda layer: pool.set_kv_buffer(layer, slots, k, v),
        "torch index_put_": put,
        "torch index_copy_": copy,
        "copy": straight,
    }


def _replayed(run: Run) -> float:
    """Returns the microseconds of one call within a captured graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for layer in range(NUM_LAYERS):
            run(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(CALLS):
            run(call % NUM_LAYERS)
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / CALLS)
    return statistics.median(times)
