"""Sixteen steps of one fetch, with nothing between them but the increment."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer, Device, DeviceEvent
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef

from kvcache.graphs import store_graph
from kvcache.ops import CacheInputTypes
from managers import HOST, claimed, make

STEPS = 16
PAGE_SIZE = 16
PROMPTS = (17, 3, 31)
ROW = (3, 8)
NUM_LAYERS, LAYER = 3, 1


def buffer(array: Any) -> Buffer:
    return Buffer.from_numpy(np.ascontiguousarray(array))


def offsets(lengths: Any) -> Buffer:
    return buffer(np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32))


def rows(step: int, lengths: Any) -> Buffer:
    """Keys that name their step, sequence and token."""
    values = [
        1000.0 * step + 100.0 * sequence + token
        for sequence, length in enumerate(lengths)
        for token in range(length)
    ]
    keys = np.array(values, np.float32)[:, None, None]
    return buffer(np.broadcast_to(keys, (len(values), *ROW)))


def forbid(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """Lets every way between the host and a device raise."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("wanted no host copy and no wait between steps")

    for name in ("from_numpy", "to_numpy", "to", "copy", "inplace_copy_from"):
        monkeypatch.setattr(Buffer, name, refuse)
    monkeypatch.setattr(Buffer, "__dlpack__", refuse)
    monkeypatch.setattr(type(device), "synchronize", refuse)


def check_sixteen_steps(
    device: Device, patch: pytest.MonkeyPatch, store: Model | None = None
) -> None:
    """Runs the steps while every way between host and device is barred.

    Args:
        device: Where they run.
        patch: Bars.
        store: Stores rows of `ROW` in float32; compiled if None.
    """
    session = InferenceSession(devices=[device])
    manager = make(
        30,
        PAGE_SIZE,
        session=session,
        devices=[device],
        kind={"n_kv_heads": ROW[0]},
    )
    store = store or store_on(session, device)
    requests = [
        claimed(manager, range(1000 * i, 1000 * i + length))
        for i, length in enumerate(PROMPTS)
    ]
    assert manager.reserve_batch(requests, STEPS)
    (inputs,) = manager.fetch(requests, STEPS)
    fed = [PROMPTS] + [(1,) * len(PROMPTS)] * (STEPS - 1)
    data = [
        (rows(step, lengths).to(device), offsets(lengths).to(device))
        for step, lengths in enumerate(fed)
    ]
    manager.increment_cache_lengths(  # Compiles what the steps then run.
        [inputs], SimpleNamespace(input_row_offsets=data[0][1])
    )

    for keys, ends in data[1::-1]:  # Loads the code of decode and of prompts.
        store.execute(*inputs, keys, keys, ends)
    device.synchronize()
    busy = occupy(device)
    with patch.context() as barred:
        forbid(barred, device)
        for step, (keys, ends) in enumerate(data):
            store.execute(*inputs, keys, keys, ends)
            if step + 1 < STEPS:
                (inputs,) = manager.increment_cache_lengths(
                    [inputs], SimpleNamespace(input_row_offsets=ends)
                )

    if busy:  # The host is through while the device has not begun.
        end = DeviceEvent(device)
        device.default_queue.record_event(end)
        assert not end.is_ready(), "wanted no step to wait for the device"
        end.synchronize()

    pool = inputs.blocks.to(HOST).to_numpy()
    for sequence, request in enumerate(requests):
        pages = manager.get_req_blocks(request.request_id)
        kept = pool[pages, 0, LAYER, :, 0, 0].reshape(-1)
        prompt = [100.0 * sequence + i for i in range(PROMPTS[sequence])]
        steps = [1000.0 * i + 100.0 * sequence for i in range(1, STEPS)]
        wanted = np.array(prompt + steps, np.float32)
        np.testing.assert_array_equal(kept[: len(wanted)], wanted)


def occupy(device: Device) -> list[Buffer]:
    """Gives a GPU copies to do that take longer than to issue the steps."""
    if device.is_host:
        return []
    large = [Buffer.zeros((2**32,), DType.uint8, device) for _ in range(2)]
    for _ in range(200):  # About 2 ms each.
        large[0].inplace_copy_from(large[1])
    return large


def store_on(session: InferenceSession, device: Device) -> Model:
    types = CacheInputTypes(
        dtype=DType.float32,
        num_layers=NUM_LAYERS,
        page_size=PAGE_SIZE,
        num_kv_heads=ROW[0],
        head_dim=ROW[1],
        device=DeviceRef.from_device(device),
    )
    return session.load(store_graph(types, layer=LAYER))
