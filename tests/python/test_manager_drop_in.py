"""MAX's calls on our manager, with our own requests."""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from max._kv_core import InsufficientBlocksError
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import (
    BatchCharacteristics,
    KVCacheQuantizationConfig,
    MHAKVCacheParams,
    MLAKVCacheParams,
    MultiKVCacheParams,
)

from kvcache import KVCacheParams, PagedKVCacheManager, Request
from kvcache.errors import (
    InsufficientPagesError,
    NotOfferedError,
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
    UnknownReplicaError,
    UnknownRequestError,
)
from kvcache.manager.max_params import params_from_max
from managers import make, pages
from paths import ROOT

SHAPE: dict[str, Any] = {
    "dtype": DType.bfloat16,
    "head_dim": 8,
    "num_layers": 3,
    "devices": [DeviceRef.CPU()],
    "page_size": 16,
}


def claimed(
    manager: PagedKVCacheManager, tokens: int | Sequence[int], **fields: Any
) -> Request:
    ids = range(tokens) if isinstance(tokens, int) else tokens
    request = Request(ids, **fields)
    manager.claim(request)
    return request


def ran(manager: PagedKVCacheManager, request: Request) -> Request:
    """One step of a loop, with a model that says 7."""
    manager.alloc(request)
    manager.runtime_inputs([[request]])
    request.update(7)
    manager.step(request)
    return request


def state(manager: PagedKVCacheManager, request: Request) -> object:
    tokens = request.tokens
    return (
        tokens.processed_length,
        tokens.current_position,
        tokens.actively_chunked,
        manager.num_req_blocks(request),
        manager.block_count(),
        manager.metrics,
        manager.get_metrics_aggregated(),
    )


def test_a_request_is_claimed_until_it_is_released() -> None:
    manager = make()
    request = claimed(manager, 4)
    assert manager.contains(request)
    assert manager.contains(request.request_id)
    with pytest.raises(ValueError, match="already claimed"):
        manager.claim(request)
    manager.release(request)
    assert not manager.contains(request)
    with pytest.raises(ValueError, match="wanted a claimed request"):
        manager.release(request)


@pytest.mark.parametrize(
    "call", ["alloc", "step", "num_req_blocks", "get_req_blocks_per_leaf"]
)
def test_each_call_wants_a_claimed_request(call: str) -> None:
    with pytest.raises(UnknownRequestError):
        getattr(make(), call)(Request([1]))


def test_there_is_no_second_replica() -> None:
    manager, request = make(), Request([1])
    for call in (manager.claim, manager.alloc_dummy):
        with pytest.raises(UnknownReplicaError):
            call(request, 1)
    for ask in (manager.block_count, manager.get_device_buffer):
        with pytest.raises(UnknownReplicaError):
            ask(-1)
    with pytest.raises(RequestStateError, match="each of 1 replicas, got 2"):
        manager.runtime_inputs([[], []])


def test_a_page_that_was_begun_is_taken_once_another_request_filled_it() -> (
    None
):
    manager = make(num_pages=20)
    slow, fast = claimed(manager, 40), claimed(manager, 40)
    manager.alloc(slow)
    slow.tokens.chunk(20)
    ran(manager, slow)
    ran(manager, fast)
    manager.alloc(slow)
    assert slow.tokens.processed_length == 32
    assert pages(manager, slow)[:2] == pages(manager, fast)[:2]
    metrics = manager.get_metrics_aggregated()
    assert metrics.input_tokens == 40 + 20 + 24 + 8  # by each `alloc`
    assert metrics.cache_tokens == 32


def test_a_begun_page_without_a_hit_goes_on_where_it_was() -> None:
    manager = make(num_pages=20)
    request = claimed(manager, 60)
    manager.alloc(request)
    request.tokens.chunk(20)
    ran(manager, request)
    manager.alloc(request)
    assert request.tokens.processed_length == 20


def test_a_shortage_is_max_s_own_and_changes_nothing() -> None:
    manager = make(num_pages=4)
    ran(manager, claimed(manager, 32))
    request = claimed(manager, [*range(16), *range(900, 948)])
    request.tokens.chunk(60)
    before = state(manager, request)
    with pytest.raises(InsufficientBlocksError) as shortage:
        manager.alloc(request)
    assert isinstance(shortage.value, InsufficientPagesError)
    assert (shortage.value.wanted, shortage.value.free) == (4, 2)
    again = pickle.loads(pickle.dumps(shortage.value))
    assert type(again) is type(shortage.value)
    assert str(again) == "wanted 4 pages, 2 free"
    assert state(manager, request) == before


def test_a_shortage_behind_a_begun_page_keeps_what_was_computed() -> None:
    manager = make(num_pages=6)
    slow = claimed(manager, 60)
    slow.tokens.chunk(20)
    ran(manager, slow)  # 20 tokens of 60 on two pages
    ran(manager, claimed(manager, range(500, 530)))
    fast = claimed(manager, 33)
    fast.tokens.chunk(32)
    ran(manager, fast)  # fills the page that `slow` has begun
    manager.alloc(claimed(manager, range(700, 710)))
    assert manager.get_prefix_cache_hit_counts(slow)[0].total_blocks == 2
    before = state(manager, slow)
    with pytest.raises(InsufficientPagesError):
        manager.alloc(slow)
    assert slow.tokens.processed_length == 20
    assert state(manager, slow) == before


def test_a_request_larger_than_the_pool_is_a_shortage_too() -> None:
    manager = make(num_pages=3, max_seq_len=1000)
    request = claimed(manager, 49)
    with pytest.raises(InsufficientBlocksError, match="wanted 4 pages") as e:
        manager.alloc(request)
    assert isinstance(e.value, RequestTooLargeError)


def test_a_request_longer_than_the_longest_is_refused() -> None:
    manager = make(max_seq_len=20)
    request = claimed(manager, 20)
    ran(manager, request)
    with pytest.raises(SequenceTooLongError):
        manager.alloc(request)
    assert manager.effective_max_seq_length == 20
    assert make(num_pages=2).effective_max_seq_length == 32


def test_inputs_want_pages_first() -> None:
    manager = make()
    request = claimed(manager, 20)
    with pytest.raises(ValueError, match="wanted `alloc` first"):
        manager.runtime_inputs([[request]])
    manager.alloc(request)
    with pytest.raises(RequestStateError, match="once in a batch"):
        manager.runtime_inputs([[request, request]])
    for _ in range(12):
        ran(manager, request)
    manager.runtime_inputs([[request]])  # The page's last token fits.


def test_a_step_wants_inputs_first() -> None:
    manager = make()
    request = claimed(manager, 20)
    manager.alloc(request)
    request.update(7)
    with pytest.raises(RequestStateError, match="fetch what is computed"):
        manager.step(request)
    with pytest.raises(RequestStateError, match="fetch what is computed"):
        manager.runtime_inputs([[request]])


def test_the_lookup_table_is_as_wide_as_is_asked() -> None:
    manager = make(num_pages=30)
    request = claimed(manager, 20)
    manager.alloc(request)
    (inputs,) = manager.runtime_inputs_for_leaf(
        [[request]], max_cache_length=400
    )
    table = inputs.lookup_table.to_numpy()
    assert table.shape == (1, 48)  # 25 columns, in groups of 8, and 16 more
    assert table[0, :2].tolist() == pages(manager, request)
    assert (table[0, 2:] == 30).all()
    for length in (0, 16, 30 * 16 + 1):
        with pytest.raises(ValueError, match="from 20 to 480 tokens, got"):
            manager.runtime_inputs([[request]], max_cache_length=length)


def test_dispatch_follows_the_shape_that_is_asked() -> None:
    manager = make()
    request = claimed(manager, 20)
    manager.alloc(request)
    (inputs,) = manager.runtime_inputs(
        [[request]], batch_characteristics=BatchCharacteristics(3, 32, 64)
    )
    metadata = inputs.attention_dispatch_metadata
    assert metadata is not None
    assert metadata.to_numpy().tolist() == [3, 32, 1, 64]
    assert inputs.max_prompt_length.to_numpy().tolist() == [32]
    assert inputs.max_cache_length.to_numpy().tolist() == [64]
    assert inputs.cache_lengths.to_numpy().tolist() == [0]
    for shape in [(0, 32, 64), (1, 19, 64), (1, 20, 19)]:
        with pytest.raises(ValueError, match="wanted a batch of at most"):
            manager.runtime_inputs(
                [[request]], batch_characteristics=BatchCharacteristics(*shape)
            )


def test_a_refused_batch_was_not_computed() -> None:
    manager = make()
    request = claimed(manager, 20)
    manager.alloc(request)
    with pytest.raises(RequestStateError):
        manager.runtime_inputs(
            [[request]], batch_characteristics=BatchCharacteristics(0, 0, 0)
        )
    request.update(7)
    with pytest.raises(RequestStateError, match="fetch what is computed"):
        manager.step(request)


def test_an_empty_batch_has_inputs() -> None:
    (inputs,) = make().runtime_inputs([[]])
    assert inputs.lookup_table.shape == (0, 16)
    assert inputs.max_cache_length.to_numpy().tolist() == [0]


def test_fetch_and_runtime_inputs_have_the_same_pages() -> None:
    manager = make()
    request = claimed(manager, 20)
    (ragged,) = manager.fetch([request])
    (inputs,) = manager.runtime_inputs([[request]])
    seed = ragged.per_device()
    assert inputs.kv_blocks is ragged.blocks is seed.kv_blocks
    assert manager.get_device_buffer(0).values == [ragged.blocks]
    for name in (
        "cache_lengths",
        "lookup_table",
        "max_prompt_length",
        "max_cache_length",
        "page_stride",
        "attention_dispatch_metadata",
    ):
        np.testing.assert_array_equal(
            getattr(inputs, name).to_numpy(), getattr(seed, name).to_numpy()
        )


def test_calls_of_both_kinds_may_be_mixed() -> None:
    manager = make()
    request = claimed(manager, 31)
    assert manager.maybe_reserve(request)
    manager.runtime_inputs([[request]])
    request.update(7)
    manager.step([request])
    manager.alloc(request)
    manager.fetch([request])
    request.update(7)
    manager.step(request)
    twin = Request([*range(31), 7, 7])
    assert manager.get_prefix_cache_hit_counts(twin)[0].total_blocks == 2
    manager.release(request.request_id)


def test_hits_are_counted_without_a_claim_and_without_the_last_token() -> None:
    manager = make()
    request = ran(manager, claimed(manager, 33, cache_salt="a"))
    ask = manager.get_prefix_cache_hit_counts
    free = manager.block_count().free
    (hits,) = ask(Request(range(32), cache_salt="a"))
    assert (hits.device_blocks, hits.external_blocks) == (1, 0)
    assert ask(Request(range(33), cache_salt="a"))[0].total_blocks == 2
    assert ask(Request(range(33)))[0].total_blocks == 0
    assert manager.block_count().free == free
    uncached = make(caching=False)
    ran(uncached, claimed(uncached, 33))
    assert ask(request)[0].total_blocks == 2
    assert uncached.get_prefix_cache_hit_counts(request)[0].total_blocks == 0


def test_a_dummy_lies_on_the_null_page() -> None:
    manager = make()
    dummy, request = Request([0]), claimed(manager, 20)
    manager.alloc_dummy(dummy)
    manager.alloc(request)
    manager.alloc(dummy)
    (inputs,) = manager.runtime_inputs([[dummy, request]])
    table = inputs.lookup_table.to_numpy()
    assert (table[0] == 10).all()
    assert table[1, :2].tolist() == [0, 1]
    assert manager.get_req_blocks_per_leaf(dummy) == {"full_group": [10]}
    assert manager.num_req_blocks(dummy) == 1
    assert manager.block_count().used == 2
    for _ in range(15):
        dummy.update(0)
        manager.step(dummy)
    manager.alloc(dummy)
    dummy.update(0)
    with pytest.raises(RequestStateError, match="at most 16 tokens"):
        manager.alloc(dummy)
    manager.release(dummy)
    assert not manager.contains(dummy)


def test_gauges_count_pages() -> None:
    manager = make()
    request = claimed(manager, 40)
    manager.alloc(request)
    count = manager.block_count()
    assert (count.free, count.used, count.total) == (7, 3, 10)
    assert (count.used_pct, count.free_pct) == (30.0, 70.0)
    assert manager.pressure_pct() == 30.0
    for tier in (manager.host_byte_count(), manager.disk_byte_count()):
        assert (tier.total, tier.used_pct, tier.free_pct) == (0, 0.0, 0.0)
    assert manager.get_req_blocks_per_leaf(request) == {"full_group": [0, 1, 2]}
    assert manager.chunk_alignment_tokens == 0


def test_nothing_is_under_way_between_two_calls() -> None:
    manager = make()
    manager.poll_transfers()
    assert not manager.pending_transfers_exist()
    transfer = manager.alloc(claimed(manager, 4))
    transfer.synchronize()
    assert transfer.is_complete()
    manager.shutdown()


def test_taken_metrics_start_anew() -> None:
    manager = make()
    ran(manager, ran(manager, claimed(manager, 40)))
    twin = claimed(manager, 40)
    manager.alloc(twin)
    metrics = manager.take_metrics_aggregated()
    assert metrics.input_tokens == 40 + 1 + 8
    assert metrics.cache_tokens == 32
    assert metrics.device_blocks_served == 2
    assert manager.get_metrics_aggregated().input_tokens == 0
    assert manager.get_metrics_aggregated().cache_tokens == 0


def test_a_manager_of_max_s_params_has_the_pages_that_are_asked() -> None:
    params = MHAKVCacheParams(n_kv_heads=2, enable_prefix_caching=True, **SHAPE)
    manager = PagedKVCacheManager.from_max(params, None, 7, max_batch_size=3)
    assert manager.max_params is params
    assert manager.params == KVCacheParams(
        "bfloat16", 2, 8, enable_prefix_caching=True, page_size=16
    )
    assert (manager.total_num_pages, manager.max_batch_size) == (7, 3)
    assert manager.max_seq_len == 7 * 16
    (symbols,) = params.get_symbolic_inputs()
    blocks = manager.get_device_buffer(0).values[0]
    assert [8, *symbols.kv_blocks.shape.static_dims] == list(blocks.shape)


def test_max_s_params_follow_from_ours() -> None:
    manager = make()
    assert manager.max_params == MHAKVCacheParams(
        n_kv_heads=2,
        enable_prefix_caching=True,
        **{**SHAPE, "dtype": DType.float32},
    )


def test_shards_hold_a_share_of_the_heads() -> None:
    two = {**SHAPE, "devices": [DeviceRef.CPU()] * 2}
    for given in (
        MHAKVCacheParams(n_kv_heads=4, **two),
        MLAKVCacheParams(num_q_heads=4, **two),
    ):
        ours = params_from_max(given)
        assert ours.n_devices == 2
        assert ours.n_kv_heads_per_device == given.n_kv_heads_per_device
        assert ours.kv_dim == given.kv_dim


def test_latent_pages_want_max_s_params() -> None:
    params = MLAKVCacheParams(num_q_heads=4, **SHAPE)
    given = PagedKVCacheManager.from_max(params, None, 4, max_batch_size=2)
    assert given.params.is_mla
    request = claimed(given, 20)
    given.alloc(request)
    (inputs,) = given.runtime_inputs([[request]])
    assert inputs.kv_blocks.shape == (5, 1, 3, 16, 1, 8)
    metadata = inputs.attention_dispatch_metadata
    assert metadata is not None
    assert metadata.to_numpy().tolist() == [1, 20, 1]
    (ragged,) = given.fetch([request])
    with pytest.raises(NotOfferedError, match="latent vectors"):
        ragged.per_device()
    given._max_params = None
    with pytest.raises(NotOfferedError, match="from_max"):
        _ = given.max_params


@pytest.mark.parametrize(
    "changes",
    [
        {"num_draft_tokens": 2},
        {"window_size": 64},
        {"per_layer_buffers": True},
        {"slots_per_page": 8},
        {
            "dtype": DType.float8_e4m3fn,
            "kvcache_quant_config": KVCacheQuantizationConfig(
                scale_dtype=DType.float32, quantization_granularity=8
            ),
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_pages_lack_is_refused(changes: dict[str, Any]) -> None:
    params = MHAKVCacheParams(n_kv_heads=2, **{**SHAPE, **changes})
    with pytest.raises(NotOfferedError):
        PagedKVCacheManager.from_max(params, None, 4, max_batch_size=2)


def test_several_caches_at_once_are_refused() -> None:
    one = MHAKVCacheParams(n_kv_heads=2, **SHAPE)
    several: Any = MultiKVCacheParams.from_params({"a": one})
    with pytest.raises(NotOfferedError, match="got MultiKVCacheParams"):
        PagedKVCacheManager.from_max(several, None, 4, max_batch_size=2)


def test_neither_the_manager_nor_its_calls_load_max_s_server() -> None:
    code = """
import sys
from managers import make
from kvcache import Request
assert "max.nn.kv_cache" not in sys.modules
manager, request = make(), Request([1, 2])
manager.claim(request); manager.alloc(request)
manager.runtime_inputs([[request]])
manager.get_metrics_aggregated()
print([m for m in ("max.pipelines", "max.serve") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/python:{ROOT}/tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
