"""A hybrid model through the pools gives what it gives without any cache."""

import random

import pytest

torch = pytest.importorskip("torch")

from hybrid_loop import HybridLoop, Running  # noqa: E402
from hybrid_model import (  # noqa: E402
    VOCABULARY,
    draw_weights,
    generate_plainly,
    next_tokens,
)

MODEL = draw_weights()


def prompt_of(length: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(VOCABULARY) for _ in range(length)]


def is_uncached(request: Running) -> bool:
    """Whether each new token is what the model says of all before it."""
    found = next_tokens(MODEL, request.tokens[:-1])
    return found[request.num_prompt - 1 :] == request.new_tokens


def run_all(loop: HybridLoop) -> None:
    while loop.running:
        loop.step()


def nothing_is_held(loop: HybridLoop) -> bool:
    return (
        loop.allocator.available_size() == loop.num_slots
        and loop.requests.available_size() == loop.max_batch
    )


def test_one_request_alone_gets_the_uncached_tokens() -> None:
    prompt = prompt_of(5, 0)
    loop = HybridLoop(MODEL)
    request = loop.join(prompt, 8)
    assert request
    run_all(loop)
    wanted = generate_plainly(MODEL, prompt, 8)
    assert request.new_tokens == wanted
    assert len(set(wanted)) > 3
    assert wanted != generate_plainly(MODEL, prompt_of(5, 1), 8)


def test_requests_that_join_and_leave_get_the_uncached_tokens() -> None:
    loop = HybridLoop(MODEL, max_batch=3)
    waiting = [
        (prompt_of(2 + seed * 3 % 7, seed), 3 + seed) for seed in range(7)
    ]
    finished: list[Running] = []
    while waiting or loop.running:
        while waiting and loop.join(*waiting[0]):
            del waiting[0]
        finished += loop.step()
    assert len(finished) == 7
    assert {each.row for each in finished} == {1, 2, 3}
    assert loop.steps < sum(len(each.tokens) - 1 for each in finished)
    for each in finished:
        assert is_uncached(each)
    assert nothing_is_held(loop)


def test_a_request_goes_on_from_a_snapshot() -> None:
    loop = HybridLoop(MODEL)
    common = prompt_of(9, 50)
    first = loop.join([*common, 3, 5], 4, snapshot_at=9)
    assert first
    run_all(loop)
    snapshot = first.snapshot
    assert snapshot
    assert loop.allocator.available_size() == loop.num_slots - 9

    steps = loop.steps
    prompts = [[*common, 7, 11, 13], [*common, 2]]
    # Another one takes the first request's row and state meanwhile.
    for row in loop.requests.alloc(3):
        loop.requests.free(row)
    other = loop.join(prompt_of(4, 51), 6)
    assert other
    assert other.row == first.row
    sharing = [loop.join(each, 5, prefix=snapshot) for each in prompts]
    run_all(loop)
    assert loop.steps - steps == max(4 + 6, 3 + 5) - 1
    for prompt, found in zip(prompts, sharing, strict=True):
        assert found
        assert found.tokens[: len(prompt)] == prompt
        assert len(found.new_tokens) == 5
        assert is_uncached(found)
    assert is_uncached(other)
    loop.drop(snapshot)
    assert nothing_is_held(loop)


@pytest.mark.parametrize("part", ["recurrent_state", "conv_state"])
def test_a_snapshot_without_its_state_would_not_do(part: str) -> None:
    loop = HybridLoop(MODEL)
    common = prompt_of(9, 50)
    first = loop.join([*common, 3, 5], 4, snapshot_at=9)
    assert first
    run_all(loop)
    assert first.snapshot
    getattr(loop.states, part)[:, first.snapshot.track] = 0
    second = loop.join([*common, 7, 11, 13], 5, prefix=first.snapshot)
    assert second
    run_all(loop)
    assert not is_uncached(second)


def test_padding_writes_to_slot_zero_only() -> None:
    loop = HybridLoop(MODEL, max_batch=4)
    loop.join(prompt_of(6, 3), 4)
    run_all(loop)
    assert loop.states.recurrent_state[:, 0].any()
    assert not loop.states.recurrent_state[:, 2:].any()
    assert loop.kv.k_buffer[0][0].any()
    assert not loop.kv.k_buffer[0][10:].any()
    assert not loop.requests.req_to_token[0].any()
