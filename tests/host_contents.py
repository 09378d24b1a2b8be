"""Contents that go to the host and back, on whichever device."""

from typing import Any

import numpy as np
from max.driver import Buffer, Device

from kvcache import PagedKVCacheManager
from managers import claimed, make, pages

PAGE_SIZE = 16
NUM_PAGES = 6
NUM_TOKENS = 5 * PAGE_SIZE + 1


def check_contents_come_back(device: Device) -> None:
    """Lets two prompts evict each other; what was computed is found again."""
    manager = make(
        NUM_PAGES, PAGE_SIZE, host_pages=20, devices=[device], max_seq_len=96
    )
    for shard in manager._pools[0].shards:
        assert shard._host_blocks is not None
        assert device.is_host or shard._host_blocks.pinned
    written: list[Buffer] = []  # A copy does not hold what it reads.
    for turn in range(3):
        for prompt in (1, 2):
            hit = serve(manager, prompt, written)
            assert hit == (NUM_TOKENS - 1 if turn else 0)
    metrics = manager.metrics
    assert metrics.h2d_blocks_copied == 4 * 5
    assert metrics.d2h_blocks_copied == 5 * 5
    assert metrics.failed_loads == metrics.failed_offloads == 0


def serve(
    manager: PagedKVCacheManager, prompt: int, written: list[Buffer]
) -> int:
    """Checks what is found of a prompt, and writes the rest."""
    request = claimed(manager, [prompt] * NUM_TOKENS)
    (inputs,) = manager.fetch([request])
    hit = request.tokens.processed_length
    for column, page in enumerate(pages(manager, request)):
        place = inputs.blocks[slice(page, page + 1), :, :, :, :, :]
        wanted = contents(prompt, column, place)
        if column < hit // PAGE_SIZE:
            found = place.copy().to_numpy()
            np.testing.assert_array_equal(found, wanted)
        else:
            written.append(Buffer.from_numpy(wanted).to(place.device))
            place.inplace_copy_from(written[-1])
    request.update(7)
    manager.step([request])
    manager.release(request.request_id)
    return hit


def contents(prompt: int, column: int, like: Any) -> np.ndarray:
    count = int(np.prod(like.shape))
    first = (prompt * NUM_PAGES + column) * count
    return np.arange(first, first + count, dtype=np.float32).reshape(like.shape)
