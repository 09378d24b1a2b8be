"""The decoder with sparse decode steps, against a plain NumPy one."""

import functools

import numpy as np
import pytest

from kvcache.serve import GenerationRequest
from llama_reference import Floats, greedy
from serving import (
    SPARSE_BLOCK,
    Recorded,
    Served,
    Setting,
    small_sparse_served,
)

RATIO = 0.3
SETTING = Setting(page_size=32)
LENGTHS = (2, 15, 16, 17, 47, 48, 49, 64, 100, 170)


@pytest.fixture(scope="module")
def served() -> Served:
    return small_sparse_served()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(7)
    shared = rng.integers(3, 512, 40).tolist()
    return [(shared + rng.integers(3, 512, n).tolist())[:n] for n in LENGTHS]


def quest_sees(queries: Floats, keys: Floats, *, ratio: float) -> Floats:
    """Which keys Quest's choice lets a token see, one loop a block."""
    count = -(-len(keys) // SPARSE_BLOCK)
    complete = (len(keys) - 1) // SPARSE_BLOCK
    scores = []
    for index in range(complete):
        block = keys[index * SPARSE_BLOCK : (index + 1) * SPARSE_BLOCK]
        most, least = block.max(axis=0), block.min(axis=0)
        bounds = np.maximum(queries * most, queries * least).sum(axis=1)
        scores.append(bounds.max())
    wanted = min(count, max(2, int(np.float32(count) * np.float32(ratio))))
    chosen = {0, count - 1}
    for index in sorted(range(complete), key=lambda i: -scores[i]):
        if len(chosen) < wanted:
            chosen.add(index)
    return np.isin(np.arange(len(keys)) // SPARSE_BLOCK, list(chosen))


def expected(
    served: Served, prompts: list[list[int]], ratio: float
) -> list[list[int]]:
    sees = functools.partial(quest_sees, ratio=ratio)
    return [
        greedy(served.model, prompt, max_new_tokens=24, sees=sees)
        for prompt in prompts
    ]


@pytest.mark.parametrize("num_steps", [1, 8])
def test_decode_steps_attend_to_the_blocks_of_the_numpy_model(
    served: Served, prompts: list[list[int]], num_steps: int
) -> None:
    wanted = expected(served, prompts, RATIO)
    dense = [greedy(served.model, p, max_new_tokens=24) for p in prompts]
    assert wanted != dense
    recorded = [Recorded(*x) for x in zip(prompts, wanted, strict=True)]
    setting = Setting(page_size=32, num_steps=num_steps)
    requests, loop = served.serve(recorded, setting, attention_ratio=RATIO)
    assert [r.output_ids for r in requests] == wanted
    assert loop.stats.num_preemptions == 0


def test_a_ratio_of_one_is_dense(
    served: Served, prompts: list[list[int]]
) -> None:
    dense = [greedy(served.model, p, max_new_tokens=24) for p in prompts]
    recorded = [Recorded(*x) for x in zip(prompts, dense, strict=True)]
    requests, _ = served.serve(recorded, SETTING)
    assert [r.output_ids for r in requests] == dense


def test_each_request_of_a_batch_has_its_own_ratio(
    served: Served, prompts: list[list[int]]
) -> None:
    long = [p for p in prompts if len(p) >= 64]
    loop = served.loop(SETTING)
    requests = {
        (index, ratio): GenerationRequest(
            prompt, max_new_tokens=24, attention_ratio=ratio
        )
        for index, prompt in enumerate(long)
        for ratio in (1.0, 0.5, RATIO)
    }
    for request in requests.values():
        loop.submit(request)
    for _ in loop.run():
        pass
    for ratio in (1.0, 0.5, RATIO):
        wanted = expected(served, long, ratio)
        got = [requests[i, ratio].output_ids for i in range(len(long))]
        assert got == wanted


def test_ratios_share_no_pages(
    served: Served, prompts: list[list[int]]
) -> None:
    loop = served.loop(SETTING)
    for ratio in (1.0, RATIO, None):
        request = GenerationRequest(
            prompts[-1], max_new_tokens=24, attention_ratio=ratio
        )
        loop.submit(request)
        for _ in loop.run():
            pass
        assert request.hit_tokens == 0
    again = GenerationRequest(
        prompts[-1], max_new_tokens=24, attention_ratio=RATIO
    )
    loop.submit(again)
    for _ in loop.run():
        pass
    assert again.hit_tokens == 160
