"""`GDNPool`: its layout, snapshots and resets against plain loops."""

import pytest

torch = pytest.importorskip("torch")

from kvcache.errors import (  # noqa: E402
    InvalidParamsError,
    SlotRangeError,
    SlotStateError,
    TensorMismatchError,
)
from kvcache.pools import GDNPool, ReqToTokenPool  # noqa: E402


def make(**more) -> GDNPool:
    sizes = {
        "max_reqs": 3,
        "num_gdn_layers": 2,
        "num_v_heads": 2,
        "head_k_dim": 4,
        "head_v_dim": 5,
        "conv_dim": 6,
        "conv_kernel_size": 4,
        "max_track_slots": 2,
    }
    return GDNPool(**sizes | more, device="cpu")


def filled() -> GDNPool:
    pool = make()
    for states in (pool.recurrent_state, pool.conv_state):
        numbers = torch.arange(1, states.numel() + 1) % 97 + 1
        states.copy_(numbers.view(states.shape))
    return pool


def both(pool: GDNPool) -> list:
    return [pool.recurrent_state.clone(), pool.conv_state.clone()]


def equal(pool: GDNPool, wanted: list) -> bool:
    return all(map(torch.equal, both(pool), wanted))


def test_states_have_the_documented_layout() -> None:
    pool = make()
    assert pool.pool_size == 3 + 1 + 2
    assert tuple(pool.recurrent_state.shape) == (2, 6, 2, 5, 4)
    assert tuple(pool.conv_state.shape) == (2, 6, 6, 3)
    assert pool.recurrent_state.dtype == torch.float32
    assert pool.conv_state.dtype == pool.dtype == torch.bfloat16
    assert not any(each.any() for each in both(pool))
    assert pool.mem_bytes() == 2 * 6 * (2 * 5 * 4 * 4 + 6 * 3 * 2)


def test_a_convolution_of_one_token_needs_no_state() -> None:
    pool = make(conv_kernel_size=1, dtype=torch.float16)
    assert tuple(pool.conv_state.shape) == (2, 6, 6, 0)
    pool.reset_states(torch.tensor([1]))
    pool.copy_states(1, 2)
    pool.copy_states(torch.tensor([1]), torch.tensor([2]))


def test_a_layers_states_are_views() -> None:
    pool = make()
    recurrent, conv = pool.get_layer_state(1)
    recurrent[3] = 7
    conv[3] = 8
    assert pool.recurrent_state[1, 3].eq(7).all()
    assert pool.conv_state[1, 3].eq(8).all()
    assert not pool.recurrent_state[0].any()


def test_no_request_has_the_slot_of_padding() -> None:
    requests = ReqToTokenPool(3, 4, device="cpu").alloc(3)
    assert requests is not None
    pool = make()
    for request in requests:
        recurrent, conv = pool.get_layer_state(0)
        recurrent[request] = request
        conv[request] = request
    assert not pool.recurrent_state[:, 0].any()
    assert not pool.conv_state[:, 0].any()
    assert not pool.recurrent_state[:, 4:].any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("slots", [[], [1], [3, 1], [2, 2, 0], [5, 4]])
def test_reset_equals_a_plain_loop(slots: list[int], dtype) -> None:
    pool = filled()
    wanted = both(pool)
    for states in wanted:
        for layer in range(2):
            for slot in slots:
                states[layer, slot] = 0
    pool.reset_states(torch.tensor(slots, dtype=dtype))
    assert equal(pool, wanted)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([1], [4]),
        ([4, 4], [1, 2]),
        ([1, 2], [2, 1]),
        ([1, 2, 3], [2, 3, 1]),
        ([], []),
        ([2], [2]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_copy_equals_a_plain_loop(sources, targets, dtype) -> None:
    pool = filled()
    wanted = both(pool)
    for states, before in zip(wanted, both(pool), strict=True):
        for layer in range(2):
            for source, target in zip(sources, targets, strict=True):
                states[layer, target] = before[layer, source]
    pool.copy_states(
        torch.tensor(sources, dtype=dtype), torch.tensor(targets, dtype=dtype)
    )
    assert equal(pool, wanted)


def test_one_slot_may_be_a_number() -> None:
    pool = filled()
    wanted = both(pool)
    for states in wanted:
        states[:, 5] = states[:, 1]
        states[:, 2] = states[:, 3]
        states[:, 3] = 0
    pool.copy_states(1, 5)
    pool.copy_states(torch.tensor([3]), 2)
    pool.reset_states(3)
    assert equal(pool, wanted)


def test_track_slots_are_behind_those_of_requests() -> None:
    pool = make()
    assert [pool.alloc_track_slot() for _ in range(3)] == [5, 4, None]
    pool.free_track_slot(5)
    assert pool.alloc_track_slot() == 5
    assert make(max_track_slots=0).alloc_track_slot() is None


@pytest.mark.parametrize("slot", [0, 3, 6, -1])
def test_freeing_what_is_no_track_slot_is_an_error(slot: int) -> None:
    pool = make()
    pool.alloc_track_slot()
    with pytest.raises(SlotRangeError, match=f"wanted 4 to 5, got {slot}"):
        pool.free_track_slot(slot)
    assert pool.alloc_track_slot() == 4


def test_freeing_a_track_slot_twice_is_an_error() -> None:
    pool = make()
    pool.alloc_track_slot()
    pool.free_track_slot(5)
    for free in (5, 4):
        with pytest.raises(SlotStateError, match=f"{free} is free already"):
            pool.free_track_slot(free)
    assert [pool.alloc_track_slot() for _ in range(3)] == [5, 4, None]


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        (0, 6, SlotRangeError),
        (-1, 1, SlotRangeError),
        (torch.tensor([1, 6]), torch.tensor([2, 3]), SlotRangeError),
        (torch.tensor([1, 2]), torch.tensor([2, -3]), IndexError),
        (torch.tensor([1, 2]), torch.tensor([3]), TensorMismatchError),
        (torch.tensor([1.0]), torch.tensor([3]), TensorMismatchError),
        ([1], [2], TypeError),
    ],
)
def test_a_bad_copy_is_an_error_that_changes_nothing(
    source, target, error
) -> None:
    pool = filled()
    wanted = both(pool)
    with pytest.raises(error):
        pool.copy_states(source, target)
    assert equal(pool, wanted)


@pytest.mark.parametrize("slots", [6, -1, torch.tensor([1, 6])])
def test_a_bad_reset_is_an_error_that_changes_nothing(slots) -> None:
    pool = filled()
    wanted = both(pool)
    with pytest.raises(SlotRangeError, match="wanted 0 to 5"):
        pool.reset_states(slots)
    assert equal(pool, wanted)


@pytest.mark.parametrize("layer", [2, -1])
def test_a_layer_that_is_not_there_is_an_error(layer: int) -> None:
    with pytest.raises(SlotRangeError, match=f"wanted 0 to 1, got {layer}"):
        make().get_layer_state(layer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_reqs", 0),
        ("num_gdn_layers", 0),
        ("conv_kernel_size", 0),
        ("max_track_slots", -1),
    ],
)
def test_sizes_must_make_sense(name: str, value: int) -> None:
    with pytest.raises(InvalidParamsError, match=f"{name}: wanted at least"):
        make(**{name: value})
