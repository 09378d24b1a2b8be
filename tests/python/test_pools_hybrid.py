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
from kvcache.pools import RadixKey  # noqa: E402

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
    """Whether the cache has all slots that are not free, none of it locked."""
    cached = loop.cache.evictable_size()
    states = loop.states.pool_size - 1 - loop.max_batch
    return (
        loop.allocator.available_size() + cached == loop.num_slots
        and loop.requests.available_size() == loop.max_batch
        and loop.cache.protected_size() == 0
        and loop.cache.mamba_protected_size() == 0
        and loop.cache.mamba_evictable_size() <= states
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


def test_requests_go_on_from_a_snapshot() -> None:
    loop = HybridLoop(MODEL)
    common = prompt_of(9, 50)
    first = loop.join(common, 4)
    assert first
    run_all(loop)
    assert loop.cache.evictable_size() == 9

    steps = loop.steps
    prompts = [[*common, 7, 11, 13], [*common, 2]]
    # Another one takes the first request's row and state meanwhile.
    for row in loop.requests.alloc(3):
        loop.requests.free(row)
    other = loop.join(prompt_of(4, 51), 6)
    assert other
    assert other.row == first.row
    sharing = [loop.join(each, 5) for each in prompts]
    run_all(loop)
    assert loop.steps - steps == max(4 + 6, 3 + 5) - 1
    for prompt, found in zip(prompts, sharing, strict=True):
        assert found
        assert found.num_hit == 9
        assert found.tokens[: len(prompt)] == prompt
        assert len(found.new_tokens) == 5
        assert is_uncached(found)
    assert is_uncached(other)
    assert nothing_is_held(loop)


def test_prompts_beyond_the_pools_make_room_for_each_other() -> None:
    loop = HybridLoop(MODEL, num_slots=48, max_batch=3)
    draw = random.Random(7)
    common = [prompt_of(6, 70), prompt_of(8, 71)]
    finished: list[Running] = []
    for seed in range(24):
        prompt = draw.choice(common)[: draw.randint(3, 8)]
        prompt = prompt + prompt_of(draw.randint(0, 4), seed)
        while not loop.join(prompt, draw.randint(1, 5)):
            finished += loop.step()
        loop.cache.check()
    while loop.running:
        finished += loop.step()
    assert len(finished) == 24
    assert all(is_uncached(each) for each in finished)
    hits = [each.num_hit for each in finished]
    assert sum(hit > 0 for hit in hits) > 2
    assert nothing_is_held(loop)
    loop.cache.evict(loop.num_slots, 2)
    assert loop.allocator.available_size() == loop.num_slots
    assert loop.cache.mamba_evictable_size() == 0


@pytest.mark.parametrize("part", ["recurrent_state", "conv_state"])
def test_a_snapshot_without_its_state_would_not_do(part: str) -> None:
    loop = HybridLoop(MODEL)
    common = prompt_of(9, 50)
    assert loop.join(common, 4)
    run_all(loop)
    kept = loop.cache.match_prefix(RadixKey(common)).last_node
    getattr(loop.states, part)[:, int(kept.mamba_value)] = 0
    second = loop.join([*common, 7, 11, 13], 5)
    assert second
    run_all(loop)
    assert not is_uncached(second)


def test_padding_writes_to_slot_zero_only() -> None:
    loop = HybridLoop(MODEL, max_batch=4)
    loop.join(prompt_of(6, 3), 4)
    run_all(loop)
    assert loop.states.recurrent_state[:, 0].any()
    assert not loop.states.recurrent_state[:, 2:5].any()
    assert loop.kv.k_buffer[0][0].any()
    assert not loop.kv.k_buffer[0][10:].any()
    assert not loop.requests.req_to_token[0].any()


def test_the_demo_runs(capsys: pytest.CaptureFixture[str]) -> None:
    import hybrid_demo

    hybrid_demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert all(line.endswith("as uncached") for line in lines[:-1])
    assert lines[-1].startswith("12 requests")
