from typing import Any

import numpy as np
import pytest
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

from kvcache import (
    KVCacheMetrics,
    KVCacheParams,
    PagedKVCacheManager,
)
from kvcache.errors import (
    InsufficientMemoryError,
    InvalidParamsError,
    NotOfferedError,
)
from kvcache.spec import KVCacheStrategy
from managers import HOST, claimed, compute, make, pages


def test_lookup_table_of_forty_tokens_and_three_steps() -> None:
    manager = make()
    request = claimed(manager, 40)
    assert manager.maybe_reserve(request, 3)
    (inputs,) = manager.fetch([request], 3)
    blocks, cache_lengths, lookup_table, max_lengths = inputs
    assert tuple(blocks.shape) == (11, 2, 3, 16, 2, 8)
    assert cache_lengths.to_numpy().tolist() == [0]
    null = manager.total_num_pages
    assert lookup_table.to_numpy().tolist() == [[0, 1, 2] + [null] * 21]
    assert max_lengths.to_numpy().tolist() == [[40, 40], [1, 41], [1, 42]]
    for buffer in (cache_lengths, lookup_table, max_lengths):
        assert buffer.dtype == DType.uint32
    assert len(inputs) == 4
    assert inputs[2] is inputs.lookup_table


def test_released_pages_go_to_the_end_tail_first() -> None:
    manager = make()
    first = claimed(manager, 48)
    assert manager.maybe_reserve(first)
    assert pages(manager, first) == [0, 1, 2]
    manager.release(first.request_id)
    everything = claimed(manager, 160)
    assert manager.maybe_reserve(everything)
    assert pages(manager, everything) == [3, 4, 5, 6, 7, 8, 9, 2, 1, 0]


def test_the_last_token_is_never_a_hit() -> None:
    manager = make()
    compute(manager, claimed(manager, 32))
    again = claimed(manager, 32)
    assert manager.maybe_reserve(again)
    assert again.tokens.processed_length == 16
    assert again.tokens.active.tolist() == list(range(16, 32))
    longer = claimed(manager, 33)
    assert manager.maybe_reserve(longer)
    assert longer.tokens.processed_length == 32
    assert longer.tokens.active_length == 1


def test_a_request_switches_to_the_pages_that_were_there_first() -> None:
    manager = make()
    before = claimed(manager, 80)
    assert manager.maybe_reserve(before)
    manager.release(before.request_id)
    ours, theirs = claimed(manager, 40), claimed(manager, 40)
    assert manager.maybe_reserve(ours)
    assert manager.maybe_reserve(theirs)
    assert pages(manager, ours) == [5, 6, 7]
    assert pages(manager, theirs) == [8, 9, 4]
    compute(manager, ours, theirs)
    assert pages(manager, ours) == [5, 6, 7]
    assert pages(manager, theirs) == [5, 6, 4]
    assert manager.num_free_blocks == 6


def test_an_empty_batch_has_empty_tables() -> None:
    (inputs,) = make().fetch([], 2)
    assert tuple(inputs.cache_lengths.shape) == (0,)
    assert tuple(inputs.lookup_table.shape) == (0, 16)
    assert inputs.max_lengths.to_numpy().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pool_is_zeros_with_a_null_page_on_top(dtype: str) -> None:
    params = KVCacheParams(dtype, 2, 8, page_size=16)
    budget = 3 * params.bytes_per_page(2) + 1
    manager = PagedKVCacheManager(
        params, 1, 64, 2, [HOST], None, budget, page_size=16
    )
    assert manager.total_num_pages == 3
    (inputs,) = manager.fetch([])
    assert inputs.blocks.dtype == DType[dtype]
    assert tuple(inputs.blocks.shape) == (4, 2, 2, 16, 2, 8)
    raw = inputs.blocks.view(DType.uint8).to_numpy()
    assert not raw.any()
    assert manager.fetch([])[0].blocks is inputs.blocks


def test_a_latent_cache_has_one_entry_per_token() -> None:
    params = KVCacheParams("float32", 16, 576, is_mla=True, page_size=16)
    manager = PagedKVCacheManager(
        params,
        1,
        64,
        2,
        [HOST],
        None,
        params.bytes_per_page(2),
        page_size=16,
    )
    assert tuple(manager.fetch([])[0].blocks.shape) == (2, 1, 2, 16, 1, 576)


def test_input_symbols_match_what_fetch_returns() -> None:
    manager = make()
    request = claimed(manager, 20)
    (inputs,), (symbols,) = manager.fetch([request], 2), manager.input_symbols()
    assert isinstance(symbols.blocks, BufferType)
    assert isinstance(symbols.lookup_table, TensorType)
    names = [[str(dim) for dim in symbol.shape] for symbol in symbols]
    assert names == [
        ["total_num_pages", "2", "3", "16", "2", "8"],
        ["batch_size"],
        ["batch_size", "num_columns"],
        ["steps_remaining", "2"],
    ]
    for buffer, symbol in zip(inputs, symbols, strict=True):
        assert buffer.dtype == symbol.dtype
        assert buffer.rank == symbol.rank
        assert symbol.device == DeviceRef.CPU()


def test_what_was_fetched_stays_as_it_was() -> None:
    manager = make()
    request = claimed(manager, 20)
    (first,) = manager.fetch([request])
    kept = [buffer.to_numpy().copy() for buffer in first[1:]]
    compute(manager, request)
    compute(manager, request, claimed(manager, 5))
    manager.release(request.request_id)
    for buffer, before in zip(first[1:], kept, strict=True):
        np.testing.assert_array_equal(buffer.to_numpy(), before)


def test_metrics_count_a_prompt_once() -> None:
    manager = make(num_pages=20)
    first = claimed(manager, 40)
    for _ in range(3):
        assert manager.maybe_reserve(first)
    compute(manager, first)
    compute(manager, first)  # Decoding counts for nothing.
    assert manager.metrics == KVCacheMetrics(input_tokens=40)
    second = claimed(manager, 50)
    for _ in range(3):
        assert manager.maybe_reserve(second)
    assert manager.metrics == KVCacheMetrics(40 + 18, 32)
    assert manager.metrics.cache_hit_rate == pytest.approx(32 / 90)
    manager.reset_metrics()
    assert manager.metrics == KVCacheMetrics()


def test_a_hit_found_late_is_no_input() -> None:
    manager = make(num_pages=20)
    late = claimed(manager, 60)
    assert manager.maybe_reserve(late)
    assert manager.metrics == KVCacheMetrics(60, 0)
    compute(manager, claimed(manager, 40))
    assert manager.maybe_reserve(late)
    assert manager.metrics == KVCacheMetrics(60 - 32 + 40, 32)


def test_a_refused_reservation_counts_nothing() -> None:
    manager = make(num_pages=4)
    compute(manager, claimed(manager, 40))
    waiting = claimed(manager, 47)
    state = manager.metrics
    assert manager.maybe_reserve(waiting)  # Shares two pages, takes the last.
    third = claimed(manager, 20)
    assert not manager.maybe_reserve(third)
    assert manager.metrics == state + KVCacheMetrics(15, 32)


def test_gauges_are_shares_of_all_pages() -> None:
    manager = make()
    assert (manager.free_blocks_pct, manager.used_blocks_pct) == (1.0, 0.0)
    assert manager.maybe_reserve(claimed(manager, 48))
    assert manager.num_free_blocks == 7
    assert manager.free_blocks_pct == pytest.approx(0.7)
    assert manager.used_blocks_pct == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"page_size": 32}, InvalidParamsError, "params.page_size 16, got 32"),
        ({"page_size": 0}, InvalidParamsError, "page_size must be positive"),
        ({"num_layers": 0}, InvalidParamsError, "num_layers must be"),
        ({"max_batch_size": 0}, InvalidParamsError, "max_batch_size must be"),
        ({"max_seq_len": -1}, InvalidParamsError, "max_seq_len must be"),
        ({"devices": []}, InvalidParamsError, "wanted 1 devices.*got 0"),
        ({"devices": [HOST] * 2}, InvalidParamsError, "1 devices.*got 2"),
        ({"available_cache_memory": 6143}, InsufficientMemoryError, "6144"),
        ({"available_cache_memory": -1}, InsufficientMemoryError, "got -1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    params = KVCacheParams("float32", 2, 8, page_size=16)
    given = {
        "params": params,
        "max_batch_size": 1,
        "max_seq_len": 64,
        "num_layers": 3,
        "devices": [HOST],
        "session": None,
        "available_cache_memory": 10**6,
        "page_size": 16,
    }
    with pytest.raises(error, match=message):
        PagedKVCacheManager(**{**given, **changes})


def test_what_is_not_offered_yet_says_so() -> None:
    params = KVCacheParams(
        "float32", 2, 8, cache_strategy=KVCacheStrategy.MODEL_DEFAULT
    )
    with pytest.raises(NotOfferedError, match="wanted the paged strategy"):
        PagedKVCacheManager(params, 1, 64, 1, [HOST], None, 10**6, None, 16)


def test_sizing_worked_by_hand() -> None:
    # 2 * 2 heads * 8 elements * 4 bytes * 3 layers: 384 bytes a token.
    params = KVCacheParams("float32", 2, 8, page_size=16)
    longest = PagedKVCacheManager.max_supported_sequence_length
    assert longest(params, 3, 384 * 16 * 5 + 1) == 80
    assert longest(params, 3, 384 * 16 - 1) == 0
    estimate = PagedKVCacheManager.estimated_memory_size
    assert estimate(params, 4, 17, 3, 10**9, [HOST]) == 384 * 32 * 4
    assert estimate(params, 4, 17, 3, 1000, [HOST]) == 1000
    infer = PagedKVCacheManager.infer_optimal_batch_size
    assert infer(params, 17, 3, 10**9, [HOST]) == 512


def test_attributes_are_what_was_given() -> None:
    manager = make(max_batch_size=3, max_seq_len=99)
    assert manager.params.page_size == manager.page_size == 16
    assert (manager.max_batch_size, manager.max_seq_len) == (3, 99)
    assert (manager.num_layers, manager.num_replicas) == (3, 1)
    assert manager.devices == [HOST]
    assert manager.session is None
    assert manager.enable_prefix_caching
    assert manager.total_num_pages == 10
