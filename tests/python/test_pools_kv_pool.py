"""`KVPool`: its buffers, and what `set_kv_buffer` writes."""

import math

import pytest

torch = pytest.importorskip("torch")

from kvcache.errors import (  # noqa: E402
    InvalidParamsError,
    SlotRangeError,
    TensorMismatchError,
)
from kvcache.pools import KVPool, devices, kv_pool  # noqa: E402

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int8,
]
SLOTS = [3, 1, 8, 5, 2, 7]


def make(dtype=torch.float32, **more) -> KVPool:
    sizes = {"v_head_num": 3, "v_head_dim": 2, **more}
    return KVPool(8, 2, 2, 4, device="cpu", dtype=dtype, **sizes)


def drawn(shape: tuple[int, ...], dtype=torch.float32):
    numbers = torch.arange(1, math.prod(shape) + 1) % 61
    return numbers.reshape(shape).to(dtype)


def contents(pool: KVPool) -> list:
    buffers = (*pool.k_buffer, *pool.v_buffer)
    return [each.to(torch.float64) for each in buffers]


def expect_rows(pool: KVPool, layer: int, slots, k, v) -> None:
    """Holds all buffers against a plain loop over zeros."""
    wanted = [torch.zeros_like(each) for each in contents(pool)]
    buffers = wanted[layer], wanted[pool.layer_num + layer]
    for row, slot in enumerate(slots):
        for buffer, given in zip(buffers, (k, v), strict=True):
            rows = given.to(torch.float64).reshape(-1, *buffer.shape[1:])
            buffer[slot] = rows[row]
    for found, each in zip(contents(pool), wanted, strict=True):
        assert torch.equal(found, each)


def test_buffers_have_the_documented_shapes_and_are_zero() -> None:
    pool = make()
    assert [tuple(each.shape) for each in pool.k_buffer] == [(9, 2, 4)] * 2
    assert [tuple(each.shape) for each in pool.v_buffer] == [(9, 3, 2)] * 2
    assert not any(each.any() for each in contents(pool))
    assert pool.mem_bytes() == 2 * 9 * (8 + 6) * 4 == pool._mem_bytes()


def test_values_have_the_shape_of_keys_by_default() -> None:
    pool = KVPool(8, 1, 2, 4, device="cpu")
    assert (pool.v_head_num, pool.v_head_dim) == (2, 4)
    assert pool.dtype == pool.k_buffer[0].dtype == torch.float16


def test_getters_return_the_buffers_themselves() -> None:
    pool = make()
    assert pool.get_key_buffer(1) is pool.k_buffer[1]
    assert pool.get_value_buffer(1) is pool.v_buffer[1]
    keys, values = pool.get_kv_buffer(0)
    assert (keys is pool.k_buffer[0], values is pool.v_buffer[0]) == (True,) * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("leading", "k_row", "v_row"),
    [
        ((6,), (2, 4), (3, 2)),
        ((2, 3), (2, 4), (3, 2)),
        ((6,), (8,), (6,)),
        ((3, 2), (8,), (6,)),
        ((1, 2, 3), (2, 2, 2), (6, 1)),
        ((6,), (8,), (3, 2)),
    ],
)
def test_every_shape_and_dtype_equals_a_plain_loop(
    dtype, index_dtype, leading, k_row, v_row
) -> None:
    pool = make(dtype)
    k, v = drawn((*leading, *k_row), dtype), drawn((*leading, *v_row), dtype)
    slots = torch.tensor(SLOTS, dtype=index_dtype)
    pool.set_kv_buffer(1, slots.reshape(leading), k, v)
    expect_rows(pool, 1, SLOTS, k, v)


def test_leading_dimensions_of_indices_and_rows_may_differ() -> None:
    pool, k, v = make(), drawn((2, 3, 8)), drawn((6, 6))
    pool.set_kv_buffer(0, torch.tensor(SLOTS).view(3, 2), k, v)
    expect_rows(pool, 0, SLOTS, k, v)


def test_one_token_needs_no_leading_dimension() -> None:
    pool, k, v = make(), drawn((2, 4)), drawn((3, 2))
    pool.set_kv_buffer(0, torch.tensor(8), k, v)
    expect_rows(pool, 0, [8], k, v)


def test_no_tokens_write_nothing() -> None:
    pool = make()
    none = torch.tensor([], dtype=torch.int32)
    pool.set_kv_buffer(0, none, drawn((0, 2, 4)), drawn((0, 6)))
    assert not any(each.any() for each in contents(pool))


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("head_dim", [1, 3, 5, 8, 16])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0, 1, 4])
def test_rows_of_any_bytes_at_any_place_arrive(
    heads, head_dim, dtype, offset
) -> None:
    sizes = {"v_head_num": heads, "v_head_dim": 2 * head_dim}
    pool = KVPool(8, 2, heads, head_dim, device="cpu", dtype=dtype, **sizes)
    row = heads * head_dim
    k = drawn((6 * row + offset,), dtype)[offset:].view(6, row)
    v = drawn((6, 2 * row), dtype)
    pool.set_kv_buffer(1, torch.tensor(SLOTS), k, v)
    expect_rows(pool, 1, SLOTS, k, v)


@pytest.mark.parametrize("how", ["transposed", "strided", "expanded", "offset"])
def test_rows_in_any_memory_order_arrive(how: str) -> None:
    pool, v = make(), drawn((6, 3, 2))
    k = {
        "transposed": drawn((2, 6, 4)).transpose(0, 1),
        "strided": drawn((6, 2, 8))[..., ::2],
        "expanded": drawn((1, 2, 4)).expand(6, 2, 4),
        "offset": drawn((9, 2, 4))[3:],
    }[how]
    slots = torch.tensor([0, 0, *SLOTS, 0], dtype=torch.int32)[2:-1]
    pool.set_kv_buffer(0, slots, k, v)
    expect_rows(pool, 0, SLOTS, k, v)


def test_slot_zero_takes_what_padding_writes() -> None:
    pool, k, v = make(), drawn((3, 8)), drawn((3, 6))
    pool.set_kv_buffer(0, torch.tensor([0, 4, 0]), k, v)
    assert torch.equal(pool.k_buffer[0][4].view(-1), k[1])
    assert not pool.k_buffer[0][1:4].any()
    assert not pool.k_buffer[0][5:].any()


def test_rows_with_a_gradient_do_not_grow_the_graph() -> None:
    pool = make()
    k = drawn((1, 8)).requires_grad_()
    pool.set_kv_buffer(0, torch.tensor([1]), k * 2, drawn((1, 6)))
    assert not pool.k_buffer[0].requires_grad
    assert torch.equal(pool.k_buffer[0][1].view(-1), 2 * k[0].detach())


def test_pools_work_in_and_out_of_inference_mode() -> None:
    with torch.inference_mode():
        pool = make()
        pool.set_kv_buffer(0, torch.tensor([1]), drawn((1, 8)), drawn((1, 6)))
    pool.set_kv_buffer(0, torch.tensor([2]), drawn((1, 8)), drawn((1, 6)))
    pool.k_buffer[0].zero_()
    assert not pool.k_buffer[0].any()


GOOD = {
    "layer_id": 1,
    "indices": torch.tensor([1, 2], dtype=torch.int32),
    "k": drawn((2, 2, 4)),
    "v": drawn((2, 3, 2)),
}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"layer_id": 2}, SlotRangeError, "wanted 0 to 1, got 2"),
        ({"layer_id": -1}, IndexError, "wanted 0 to 1, got -1"),
        ({"indices": torch.tensor([1, 9])}, IndexError, "0 to 8, got 9"),
        ({"indices": torch.tensor([-1, 1])}, SlotRangeError, "got -1"),
        ({"indices": torch.tensor([1.0, 2.0])}, TensorMismatchError, "float32"),
        ({"indices": torch.tensor([True, True])}, RuntimeError, "torch.bool"),
        ({"indices": [1, 2]}, TensorMismatchError, "got list"),
        ({"indices": torch.tensor([1])}, TensorMismatchError, "1 tokens"),
        ({"k": drawn((2, 2, 4)).half()}, RuntimeError, "got torch.float16"),
        ({"v": drawn((2, 3, 2)).double()}, RuntimeError, "v: wanted torch.fl"),
        ({"k": drawn((2, 2, 3))}, TensorMismatchError, r"\(2, 2, 3\)"),
        ({"k": drawn((2, 4))}, TensorMismatchError, "2 tokens of 2 x 4"),
        ({"k": drawn((8, 2))}, TensorMismatchError, r"got the shape \(8, 2\)"),
        ({"v": drawn((2, 4, 3))}, TensorMismatchError, "2 tokens of 3 x 2"),
        ({"v": None}, TensorMismatchError, "got NoneType"),
        ({"k": drawn((2, 8)).to("meta")}, RuntimeError, "on cpu, got meta"),
    ],
)
def test_bad_input_is_an_error_that_changes_nothing(
    bad, error, message
) -> None:
    pool = make()
    with pytest.raises(error, match=message):
        pool.set_kv_buffer(**GOOD | bad)
    assert not any(each.any() for each in contents(pool))


def test_checks_of_slots_can_be_left_out() -> None:
    pool = make()
    assert pool.checks_indices
    pool.checks_indices = False
    pool.set_kv_buffer(**GOOD)
    expect_rows(pool, 1, [1, 2], GOOD["k"], GOOD["v"])


@pytest.mark.parametrize(
    "name", ["size", "layer_num", "k_head_num", "k_head_dim"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_must_be_positive(name: str, value: int) -> None:
    sizes = dict.fromkeys(["size", "layer_num", "k_head_num", "k_head_dim"], 8)
    with pytest.raises(InvalidParamsError, match=f"{name}: wanted at least 1"):
        KVPool(**sizes | {name: value}, device="cpu")


def test_a_size_that_is_no_integer_is_an_error() -> None:
    with pytest.raises(TypeError, match="float"):
        KVPool(8.0, 1, 1, 1, device="cpu")


def test_slots_past_int32_are_refused_before_memory_is_taken() -> None:
    assert kv_pool.num_slots(2**31 - 1, 1) == 2**31
    with pytest.raises(InvalidParamsError, match="int32"):
        KVPool(2**31, 1, 1, 1, device="cpu")


@pytest.mark.parametrize(
    ("device", "has_one", "wanted", "pinned"),
    [
        ("cpu", False, True, False),
        ("cpu", True, True, True),
        ("cpu", True, False, False),
    ],
)
def test_memory_is_pinned_where_an_accelerator_uses_it(
    device: str,
    has_one: bool,
    wanted: bool,
    pinned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def zeros(shape, *, dtype, device, pin_memory):
        asked.append(pin_memory)
        return devices.zeros(shape, dtype=dtype, device=device)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_one)
    monkeypatch.setattr(kv_pool, "zeros", zeros)
    KVPool(8, 1, 1, 1, device=device, pin_memory=wanted)
    assert asked == [pinned] * 2
