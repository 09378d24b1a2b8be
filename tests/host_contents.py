"""Contents that go to the host and back, on whichever device."""

from typing import Any

import numpy as np
from max.driver import Buffer, Device

from kvcache import PagedKVCacheManager
from managers import claimed, make, pages

PAGE_SIZE = 16
NUM_PAGES = 6
NUM_TOKENS = 5 * PAGE_SIZE + 1


def check_contents_come_back(device: Device, **kind: Any) -> None:
    """Lets two prompts evict each other; what was computed is found again.

    Args:
        device: Where the pages are.
        **kind: Parameters of the cache other than those of `make`.
    """
    manager = make(
        NUM_PAGES,
        PAGE_SIZE,
        host_pages=20,
        devices=[device],
        max_seq_len=96,
        kind=kind,
    )
    for shard in manager._pools[0].shards:
        for part in shard.parts(NUM_PAGES, 20, is_on_host=True):
            assert device.is_host or part.pinned
    alive: list[Buffer] = []  # Copies are issued and not awaited.
    for turn in range(3):
        for prompt in (1, 2):
            hit = serve(manager, prompt, alive)
            assert hit == (NUM_TOKENS - 1 if turn else 0)
    metrics = manager.metrics
    assert metrics.h2d_blocks_copied == 4 * 5
    assert metrics.d2h_blocks_copied == 5 * 5
    assert metrics.failed_loads == metrics.failed_offloads == 0


def serve(
    manager: PagedKVCacheManager, prompt: int, alive: list[Buffer]
) -> int:
    """Checks what is found of a prompt, and writes the rest."""
    request = claimed(manager, [prompt] * NUM_TOKENS)
    (inputs,) = manager.fetch([request])
    hit = request.tokens.processed_length
    pools = [inputs.blocks, *inputs[4:]]
    for column, page in enumerate(pages(manager, request)):
        for pool in pools:
            place = pool[slice(page, page + 1), :, :, :, :, :]
            wanted = contents(prompt, column, place)
            if column < hit // PAGE_SIZE:
                found = place.copy().to_numpy()
                np.testing.assert_array_equal(found, wanted)
            else:
                alive.append(Buffer.from_numpy(wanted).to(place.device))
                place.inplace_copy_from(alive[-1])
    request.update(7)
    manager.step([request])
    manager.release(request.request_id)
    return hit


def contents(prompt: int, column: int, like: Buffer) -> np.ndarray:
    """Returns numbers that no other page has; of 8 bits, that few have."""
    count = int(np.prod(like.shape))
    first = (prompt * NUM_PAGES + column) * count
    numbers = np.arange(first, first + count) * 7 // 5
    return numbers.astype(like.dtype.to_numpy()).reshape(like.shape)
