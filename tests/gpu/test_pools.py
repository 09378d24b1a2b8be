"""The pools on a GPU hold what those on the CPU do."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("wanted torch with CUDA", allow_module_level=True)

from kvcache.errors import SlotRangeError  # noqa: E402
from kvcache.pools import (  # noqa: E402
    GDNPool,
    KVPool,
    make_full_attention_net_mem_pool,
    make_req_to_token_pool,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn]
SHAPES = [((8, 128), (8, 128)), ((1, 576), (1, 512)), ((2, 5), (3, 7))]
WIDE = ((64, 192), (64, 128))
"""Rows that several programs of the kernel share."""


def rows(count: int, shape: tuple[int, int], dtype: torch.dtype):
    return torch.randn(count, *shape).to(dtype)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.cpu().view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("k_shape", "v_shape"), [*SHAPES, WIDE])
@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_set_kv_buffer_equals_the_cpu(
    dtype: torch.dtype,
    index_dtype: torch.dtype,
    k_shape: tuple[int, int],
    v_shape: tuple[int, int],
    count: int,
) -> None:
    sizes = (512, 2, *k_shape)
    there = KVPool(
        *sizes, dtype=dtype, v_head_num=v_shape[0], v_head_dim=v_shape[1]
    )
    here = KVPool(*sizes, "cpu", dtype, *v_shape)
    slots = (torch.randperm(512)[:count] + 1).to(index_dtype)
    k, v = rows(count, k_shape, dtype), rows(count, v_shape, dtype)
    here.set_kv_buffer(1, slots, k, v)
    there.set_kv_buffer(1, slots.cuda(), k.cuda(), v.cuda())
    for mine, other in zip(
        (*there.k_buffer, *there.v_buffer),
        (*here.k_buffer, *here.v_buffer),
        strict=True,
    ):
        assert equal(mine, other)


def test_rows_that_begin_anywhere_are_written() -> None:
    pool = KVPool(64, 1, 2, 3, dtype=torch.float16)
    given = torch.randn(5, 2, 3).half().cuda()
    slots = torch.tensor([9, 3], device="cuda")
    pool.set_kv_buffer(0, slots, given[1:3], given[3:])
    assert torch.equal(pool.k_buffer[0][slots], given[1:3])
    assert torch.equal(pool.v_buffer[0][slots], given[3:])
    assert int(pool.k_buffer[0].any(dim=(1, 2)).sum()) == 2


def test_a_captured_write_takes_new_slots() -> None:
    pool = KVPool(64, 1, 8, 128)
    k, v = torch.randn(2, 4, 8, 128, device="cuda").half()
    slots = torch.arange(1, 5, device="cuda", dtype=torch.int32)
    pool.set_kv_buffer(0, slots, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pool.set_kv_buffer(0, slots, k, v)
    slots += 20
    graph.replay()
    assert torch.equal(pool.k_buffer[0][21:25], k)
    assert torch.equal(pool.v_buffer[0][21:25], v)


def test_a_request_goes_through_the_pools() -> None:
    pool, allocator = make_full_attention_net_mem_pool(
        256, 2, 8, 64, 8, 64, "cuda", torch.bfloat16, page_size=16
    )
    requests = make_req_to_token_pool(8, 128, "cuda")
    [request] = requests.alloc()
    slots = allocator.alloc(100)
    assert slots.is_cuda
    assert slots.dtype == torch.int32
    requests.write((request, slice(0, 100)), slots)
    k, v = torch.randn(2, 100, 8, 64, device="cuda").bfloat16()
    pool.set_kv_buffer(1, slots, k, v)
    found = requests.req_to_token[request, :100]
    assert torch.equal(pool.get_key_buffer(1)[found], k)
    allocator.free(found)
    assert allocator.available_size() == 256
    pool.checks_indices = True
    with pytest.raises(SlotRangeError):
        pool.set_kv_buffer(0, slots + 1000, k, v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("count", [1, 5, 32, 300, 600])
@pytest.mark.parametrize("kernel_size", [1, 4])
def test_states_are_copied_and_reset_as_on_the_cpu(
    dtype: torch.dtype, count: int, kernel_size: int
) -> None:
    sizes = (640, 3, 2, 24, 12, 56, kernel_size)
    there, here = (
        GDNPool(*sizes, device, dtype, max_track_slots=40)
        for device in ("cuda", "cpu")
    )
    for name in ("recurrent_state", "conv_state"):
        drawn = torch.randn(getattr(here, name).shape)
        for pool in (there, here):
            getattr(pool, name).copy_(drawn)
    sources = torch.randperm(640)[:count] + 1
    targets = sources.roll(1)  # they change places
    gone = torch.randperm(681)[: count // 2 + 1].int()
    for pool in (there, here):
        pool.copy_states(sources.to(pool.device), targets.to(pool.device))
        pool.copy_states(3, 670)
        pool.reset_states(gone.to(pool.device))
    assert torch.equal(there.recurrent_state.cpu(), here.recurrent_state)
    assert torch.equal(there.conv_state.cpu(), here.conv_state)


def test_states_take_one_launch() -> None:
    pool = GDNPool(8, 3, 2, 8, 8, 16, 4, "cuda", max_track_slots=2)
    some = torch.tensor([1, 2], device="cuda", dtype=torch.int32)
    other = torch.tensor([2, 9], device="cuda")
    for name, call in (
        ("_copy", lambda: pool.copy_states(some, other)),
        ("_copy", lambda: pool.copy_states(1, 9)),
        ("_clear", lambda: pool.reset_states(3)),
        ("_clear", lambda: pool.reset_states(some)),
    ):
        call()
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(
            activities=activities, acc_events=True
        ) as profile:
            call()
            torch.cuda.synchronize()
        launched = [
            event.name
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        assert launched == [name]
