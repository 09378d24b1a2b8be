"""A plan says what a manager of the same memory then really allocates."""

from dataclasses import replace
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import Buffer

from kvcache import PagedKVCacheManager
from kvcache.errors import InsufficientMemoryError
from kvcache.manager import RaggedKVCacheInputs
from kvcache.manager.quantized_inputs import QuantizedKVCacheInputs
from kvcache.planning import (
    CachePlan,
    KVFormat,
    MemoryBudget,
    ModelShape,
    RecurrentState,
    WindowLayers,
    formats_for,
    plan_cache,
)
from kvcache.quantization import Granularity, Quantization
from kvcache.summaries import Summaries, SummaryField
from managers import HOST, claimed, pages

MHA = ModelShape(num_layers=3, num_kv_heads=4, head_dim=16)
GQA = ModelShape(num_layers=2, num_kv_heads=2, head_dim=64)
MLA = ModelShape(num_layers=2, num_kv_heads=1, head_dim=576, is_mla=True)
HYBRID = ModelShape(
    num_layers=1,
    num_kv_heads=2,
    head_dim=16,
    window=WindowLayers(num_layers=1, tokens=20),
    state=RecurrentState(
        num_layers=3, recurrent_bytes=4096, conv_bytes=96, num_shares=2
    ),
)
SHAPES = {"mha": MHA, "gqa": GQA, "mla": MLA, "hybrid": HYBRID}
CASES = [
    pytest.param(
        shape,
        kv_format,
        id=f"{name}-{kv_format.dtype}-{kv_format.quantization}",
    )
    for name, shape in SHAPES.items()
    for kv_format in formats_for(shape)
]


def manager_of(plan: CachePlan, **changes: Any) -> PagedKVCacheManager:
    arguments: dict[str, Any] = {
        "max_batch_size": plan.max_requests + 1,
        "max_seq_len": plan.max_len,
        "num_layers": plan.shape.num_layers,
        "devices": [HOST] * plan.budget.n_devices,
        "session": None,
        "available_cache_memory": plan.page_memory,
        "page_size": plan.page_size,
        **changes,
    }
    return PagedKVCacheManager(plan.params, **arguments)


def buffers(inputs: list[RaggedKVCacheInputs]) -> list[Buffer]:
    found = []
    for each in inputs:
        found.append(each.blocks)
        if isinstance(each, QuantizedKVCacheInputs):
            found.append(each.scales)
        found += each.summaries
    return found


def size_of(buffer: Buffer) -> int:
    return prod(buffer.shape) * buffer.dtype.size_in_bytes


def check_equals_manager(plan: CachePlan) -> PagedKVCacheManager:
    """Holds every number of a plan against a manager made as it says."""
    manager = manager_of(plan)
    pools = buffers(manager.fetch([]))
    assert plan.num_pages == manager.total_num_pages
    assert plan.num_tokens == manager.total_num_pages * manager.page_size
    assert plan.num_host_pages == manager.total_num_host_pages
    assert {pool.shape[0] for pool in pools} == {plan.num_pages + 1}
    assert sum(map(size_of, pools)) == plan.pool_bytes
    each_page = sum(size_of(pool) // pool.shape[0] for pool in pools)
    assert each_page == plan.bytes_per_page
    slots = plan.shape.num_layers * plan.page_size
    assert plan.bytes_per_token_per_layer == each_page / slots
    return manager


def check_requests_fit(plan: CachePlan) -> None:
    """As many requests as the plan says take their pages, and no more."""
    manager = manager_of(plan)
    held = 0
    for _ in range(plan.max_requests):
        request = claimed(manager, plan.max_len)
        assert manager.maybe_reserve(request)
        held += len(pages(manager, request))
    assert held <= plan.num_pages
    if plan.max_requests and not plan.shape.state:
        assert not manager.maybe_reserve(claimed(manager, plan.max_len))


@pytest.mark.parametrize("page_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("shape", "kv_format"), CASES)
def test_every_format_is_what_a_manager_allocates(
    shape: ModelShape, kv_format: KVFormat, page_size: int
) -> None:
    plan = plan_cache(
        shape,
        kv_format,
        MemoryBudget(memory=2_000_003, utilization=0.9),
        page_size=page_size,
        max_len=300,
    )
    # The budget is not a number of pages, so a rounding would show.
    assert plan.page_memory % plan.bytes_per_page
    check_equals_manager(plan)


@pytest.mark.parametrize("page_size", [32, 128])
@pytest.mark.parametrize("shape", [MHA, GQA, HYBRID])
@pytest.mark.parametrize(
    "kv_format", [KVFormat("bfloat16"), KVFormat("int8", Quantization())]
)
def test_summaries_of_blocks_take_their_share(
    shape: ModelShape, kv_format: KVFormat, page_size: int
) -> None:
    fields = (SummaryField("a", 2, 16), SummaryField("b", 1, 3, "float32"))
    budget = MemoryBudget(memory=2_000_003, utilization=0.9, n_devices=2)
    bare, plan = (
        plan_cache(
            shape,
            replace(kv_format, summaries=summaries),
            budget,
            page_size=page_size,
            max_len=300,
            host_memory=500_000,
        )
        for summaries in (None, Summaries(32, fields))
    )
    assert plan.page_memory % plan.bytes_per_page
    check_equals_manager(plan)
    blocks = page_size // 32 * shape.num_layers * shape.num_kv_heads
    assert plan.bytes_per_page == bare.bytes_per_page + blocks * (64 + 12)
    assert plan.bytes_per_token == bare.bytes_per_token
    assert plan.num_pages == plan.page_memory // plan.bytes_per_page


def test_formats_are_all_that_the_manager_has() -> None:
    dtypes = {each.dtype for each in formats_for(MHA)}
    eight = {"int8", "float8_e4m3fn", "float8_e5m2"}
    assert dtypes == {"float32", "bfloat16", "float16", *eight}
    for dtype in eight:
        kinds = [
            each.quantization.granularity
            for each in formats_for(MHA)
            if each.dtype == dtype and each.quantization
        ]
        assert sorted(kinds) == sorted(Granularity)


@pytest.mark.parametrize("n_devices", [1, 2, 4])
@pytest.mark.parametrize("shape", [MHA, MLA], ids=["mha", "mla"])
def test_devices_share_heads_and_each_has_the_latents(
    shape: ModelShape, n_devices: int
) -> None:
    one, plan = (
        plan_cache(
            shape,
            KVFormat("bfloat16"),
            MemoryBudget(memory=1_000_000, utilization=1, n_devices=count),
            page_size=16,
            max_len=100,
            host_memory=500_000,
        )
        for count in (1, n_devices)
    )
    manager = check_equals_manager(plan)
    assert len(manager.fetch([])) == n_devices
    if shape.is_mla:
        assert plan.num_pages == one.num_pages
        assert plan.bytes_per_page == n_devices * one.bytes_per_page
        assert plan.num_host_pages == 500_000 // plan.bytes_per_page
    else:
        assert plan.bytes_per_page == one.bytes_per_page
        assert plan.num_pages == n_devices * 1_000_000 // one.bytes_per_page
        assert plan.num_host_pages == one.num_host_pages > 0


@st.composite
def plans(draw: st.DrawFn) -> CachePlan:
    tp = draw(st.sampled_from([1, 1, 2, 3]))
    is_mla = draw(st.booleans())
    num_layers = draw(st.integers(1, 5))
    windows = draw(st.integers(0, num_layers))
    shape = ModelShape(
        num_layers=num_layers,
        num_kv_heads=1 if is_mla else tp * draw(st.integers(1, 3)),
        head_dim=8 * draw(st.integers(1, 12)),
        is_mla=is_mla,
        window=WindowLayers(num_layers=windows, tokens=draw(st.integers(1, 90)))
        if windows
        else None,
        state=draw(
            st.none()
            | st.builds(
                RecurrentState,
                num_layers=st.integers(1, 3),
                recurrent_bytes=st.integers(1, 5000),
                conv_bytes=st.integers(0, 100),
                num_shares=st.just(6),
            )
        ),
    )
    max_len = draw(st.integers(1, 200))
    return plan_cache(
        shape,
        draw(st.sampled_from(formats_for(shape))),
        MemoryBudget(
            memory=draw(st.integers(1000, 1_500_000)),
            utilization=draw(st.floats(0.2, 1)),
            n_devices=tp,
        ),
        page_size=draw(st.sampled_from([1, 3, 16, 32, 256])),
        max_len=max_len,
        mean_len=draw(st.none() | st.integers(1, max_len)),
    )


@settings(deadline=None, max_examples=150)
@given(plan=plans())
def test_drawn_plans_are_what_a_manager_allocates(plan: CachePlan) -> None:
    if not plan.num_pages:
        assert plan.pool_bytes == plan.max_requests == plan.num_tokens == 0
        assert plan.bytes_per_page > plan.page_memory
        assert plan.shortage is not None
        with pytest.raises(InsufficientMemoryError, match="single page"):
            manager_of(plan)
        return
    check_equals_manager(plan)
    assert (plan.shortage is None) == (
        plan.num_pages >= -(-plan.max_len // plan.page_size)
    )


@settings(deadline=None, max_examples=40)
@given(plan=plans().filter(lambda plan: 0 < plan.max_requests < 60))
def test_drawn_requests_fit_as_planned(plan: CachePlan) -> None:
    check_requests_fit(plan)


@settings(deadline=None)
@given(plan=plans())
def test_states_and_pages_share_the_budget(plan: CachePlan) -> None:
    state = plan.shape.state
    if state is None:
        assert plan.page_memory == plan.budget.bytes
        assert plan.state_bytes == plan.num_slots == 0
        return
    fixed = (plan.num_slots + 1) * state.bytes_per_request
    assert plan.state_bytes == (fixed if plan.num_pages else 0)
    assert plan.page_memory == max(0, plan.budget.bytes - fixed)
    length = plan.mean_len or plan.max_len
    if not (fitting := plan.requests(length)):
        return
    assert fitting == plan.num_slots
    # One more request, with its pages and its slot, would not fit.
    more = (fitting + 1) * -(-length // plan.page_size) * plan.bytes_per_page
    assert more + fixed + state.bytes_per_request > plan.budget.bytes
    assert plan.max_requests <= fitting


@settings(deadline=None)
@given(plan=plans())
def test_bound_is_never_above_what_the_library_keeps(plan: CachePlan) -> None:
    bound, window = plan.window_bound, plan.shape.window
    if window is None:
        assert bound is None
        return
    assert bound is not None
    assert bound.max_requests >= plan.max_requests
    # Slow and plain: the pages that some run of the last tokens touches.
    size, length = plan.page_size, plan.max_len
    most = max(
        (end - 1) // size - max(0, end - window.tokens) // size + 1
        for end in range(1, length + 1)
    )
    assert most <= bound.pages <= -(-length // size)
    if length >= window.tokens + size:
        assert most == bound.pages
    state = plan.shape.state
    rest = bound.bytes_per_request - (state.bytes_per_request if state else 0)
    per_layer = plan.params.bytes_per_token(1)
    others = plan.shape.num_layers - window.num_layers
    assert rest == per_layer * (
        window.num_layers * min(length, window.tokens) + others * length
    )


def test_numbers_worked_by_hand() -> None:
    # Keys and values, 3 layers, 16 tokens, 4 heads of 16 codes of one byte,
    # and for each of them a float32 scale a head.
    codes, scales = 2 * 3 * 16 * 4 * 16, 2 * 3 * 4 * 4
    plan = plan_cache(
        MHA,
        KVFormat("int8", Quantization(granularity=Granularity.HEAD)),
        MemoryBudget(memory=100_000, utilization=0.8, in_use=10_000),
        page_size=16,
        max_len=40,
        mean_len=17,
    )
    assert plan.bytes_per_page == codes + scales == 6240
    assert plan.page_memory == plan.budget.bytes == 70_000
    assert plan.num_pages == 11
    assert plan.num_tokens == 176
    assert plan.pool_bytes == 12 * 6240
    assert (plan.max_requests, plan.mean_requests) == (3, 5)
    assert plan.bytes_per_token == 2 * 3 * 4 * 16
    assert plan.bytes_per_token_per_layer == 6240 / 48 == 130
    assert plan.bytes_missing == 0


def test_hybrid_worked_by_hand() -> None:
    # Pages of 2 * 1 * 16 * 2 * 16 * 4 bytes; states of 3 * (4096 + 96) bytes.
    plan = plan_cache(
        HYBRID,
        KVFormat("float32"),
        MemoryBudget(memory=100_000, utilization=1),
        page_size=16,
        max_len=33,
    )
    assert plan.bytes_per_page == 4096
    assert plan.shape.state is not None
    assert plan.shape.state.bytes_per_request == 12_576
    # 3 pages and a state are 24,864 bytes; 87,424 hold 3 of them, not 4.
    assert (plan.num_slots, plan.max_requests) == (3, 3)
    assert plan.state_bytes == 4 * 12_576
    assert plan.page_memory == 49_696
    assert plan.num_pages == 12
    bound = plan.window_bound
    assert bound is not None
    assert (bound.num_layers, bound.tokens, bound.pages) == (1, 20, 3)
    assert bound.bytes_per_request == 12_576 + 20 * 256
    assert bound.max_requests == (100_000 - 12_576) // 17_696 == 4


def test_hybrid_under_one_state_and_page_says_what_it_wants() -> None:
    def made(memory: int) -> CachePlan:
        return plan_cache(
            HYBRID,
            KVFormat("float32"),
            MemoryBudget(memory=memory, utilization=1),
            page_size=16,
            max_len=16,
        )

    wanted = 2 * 12_576 + 4096
    plan = made(wanted - 1)
    assert (plan.num_pages, plan.pool_bytes, plan.state_bytes) == (0, 0, 0)
    assert (plan.max_requests, plan.bytes_missing) == (0, 0)
    assert plan.shortage == (
        f"wanted at least {wanted} bytes of cache memory for a request's "
        f"state, one for padding and a single page, got {wanted - 1}"
    )
    assert made(1000).shortage
    assert (made(wanted).max_requests, made(wanted).shortage) == (1, None)


def test_states_count_in_what_does_not_fit() -> None:
    # Two requests of 4 pages, their states and the one for padding.
    memory = 3 * 12_576 + 8 * 4096
    plan = plan_cache(
        HYBRID,
        KVFormat("float32"),
        MemoryBudget(memory=memory, utilization=1),
        page_size=16,
        max_len=64,
    )
    assert (plan.num_slots, plan.num_pages) == (2, 8)
    assert plan.bytes_missing == 4096


def test_null_page_that_does_not_fit_is_counted() -> None:
    page = 2 * 3 * 16 * 4 * 16 * 4
    plan = plan_cache(
        MHA,
        KVFormat("float32"),
        MemoryBudget(memory=10 * page + 100, utilization=1),
        page_size=16,
        max_len=16,
    )
    assert (plan.num_pages, plan.pool_bytes) == (10, 11 * page)
    assert plan.bytes_missing == page - 100
