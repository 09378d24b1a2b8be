"""The loop over the real manager, with a model that sees every mistake."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fake_model import straight_line
from fake_serving import (
    BYTES_PER_TOKEN,
    VOCAB,
    Setting,
    assert_nothing_is_held,
    make,
)
from kvcache.serve import (
    FinishReason,
    GenerationRequest,
    RequestFinished,
    RequestPreempted,
    RequestStarted,
    SamplingParams,
    ScheduleLimits,
    ServingLoop,
    TokenGenerated,
)


def oracle(request: GenerationRequest) -> list[int]:
    return straight_line(
        request.prompt_ids,
        max_new_tokens=request.max_new_tokens,
        vocab_size=VOCAB,
        stop_ids=request.stop_ids,
        sampling=request.sampling,
    )


def serve(loop: ServingLoop, requests: Sequence[GenerationRequest]) -> None:
    for request in requests:
        loop.submit(request)
    for _ in loop.run():
        pass


# Examples


def test_one_request_gets_the_straight_line() -> None:
    loop, runner = make(Setting())
    request = GenerationRequest([1, 2, 3], max_new_tokens=12)
    serve(loop, [request])
    assert request.output_ids == oracle(request)
    assert request.finish_reason is FinishReason.LENGTH
    assert runner.steps == [1, 8, 3]  # the prompt, then bounded by the budget
    assert_nothing_is_held(loop)


def test_events_tell_the_whole_story() -> None:
    loop, _ = make(Setting(limits=ScheduleLimits(chunk_size=4)))
    request = GenerationRequest(range(10), max_new_tokens=2)
    loop.submit(request)
    steps = [loop.step() for _ in range(4)]
    first, second = request.output_ids
    assert steps == [
        [RequestStarted(request, 0)],
        [],
        [TokenGenerated(request, first)],
        [
            TokenGenerated(request, second),
            RequestFinished(request, FinishReason.LENGTH),
        ],
    ]
    assert loop.step() == []


def test_tokens_past_a_stop_in_the_same_fetch_are_dropped() -> None:
    request = GenerationRequest([1, 2, 5], max_new_tokens=9)
    line = oracle(request)
    stop = line[4]
    assert stop not in line[:4]
    loop, runner = make(Setting())
    request = GenerationRequest([1, 2, 5], max_new_tokens=9, stop_ids=[stop])
    serve(loop, [request])
    assert runner.steps == [1, 8]
    assert request.output_ids == line[:5]
    assert request.finish_reason is FinishReason.STOP
    assert loop.stats.dropped_tokens == 4
    assert loop.stats.generated_tokens == 5
    assert_nothing_is_held(loop)


def test_tokens_dropped_after_a_stop_are_not_found_as_a_prefix() -> None:
    loop, _ = make(Setting())
    prompt = [*range(10), 1, 2, 3]
    line = straight_line(prompt, max_new_tokens=12, vocab_size=VOCAB)
    stop = next(t for i, t in enumerate(line) if i > 1 and t not in line[:i])
    first = GenerationRequest(prompt, max_new_tokens=12, stop_ids=[stop])
    serve(loop, [first])
    assert loop.stats.dropped_tokens > 0
    again = GenerationRequest(prompt + line, max_new_tokens=3)
    serve(loop, [again])
    assert again.output_ids == oracle(again)
    cached = len(prompt) + len(first.output_ids) - 1
    assert again.hit_tokens == cached // 16 * 16


def test_prompts_that_come_together_share_their_prefix() -> None:
    loop, runner = make(Setting())
    requests = [
        GenerationRequest([*range(40), i], max_new_tokens=3) for i in range(4)
    ]
    serve(loop, requests)
    assert [r.output_ids for r in requests] == [oracle(r) for r in requests]
    assert [r.hit_tokens for r in requests] == [0, 32, 32, 32]
    assert runner.fed[:2] == [[41], [1, 9, 9, 9]]


def test_sequence_ends_at_the_longest_length() -> None:
    loop, _ = make(Setting(max_seq_len=20))
    request = GenerationRequest(range(15), max_new_tokens=50)
    serve(loop, [request])
    assert len(request.tokens) == 20
    assert request.finish_reason is FinishReason.LENGTH
    assert request.output_ids == oracle(request)[:5]


def test_preempted_request_gets_the_same_tokens() -> None:
    setting = Setting(num_pages=3, max_batch_size=3)
    loop, _ = make(setting)
    sampling = SamplingParams(temperature=1.0, seed=5)
    requests = [
        GenerationRequest([i] * 14, max_new_tokens=20, sampling=sampling)
        for i in range(3)
    ]
    for request in requests:
        loop.submit(request)
    events = list(loop.run())
    preempted = [e.request for e in events if isinstance(e, RequestPreempted)]
    assert preempted
    assert requests[0] not in preempted
    assert loop.stats.num_preemptions == len(preempted)
    assert [r.output_ids for r in requests] == [oracle(r) for r in requests]
    assert_nothing_is_held(loop)


def test_request_that_outgrows_the_pool_ends_with_an_error() -> None:
    loop, _ = make(Setting(num_pages=2))
    request = GenerationRequest(range(30), max_new_tokens=40)
    loop.submit(request)
    finished = list(loop.run())[-1]
    assert finished == RequestFinished(
        request,
        FinishReason.OUT_OF_PAGES,
        "33 tokens want 3 pages of 16 tokens, there are 2",
    )
    assert request.output_ids == oracle(request)[:3]
    assert_nothing_is_held(loop)


def test_submit_refuses_what_can_never_be_served() -> None:
    loop, _ = make(Setting(num_pages=2, max_seq_len=40))
    with pytest.raises(ValueError, match="at most 39 tokens"):
        loop.submit(GenerationRequest(range(40), max_new_tokens=1))
    with pytest.raises(ValueError, match="wants 3 pages"):
        loop.submit(GenerationRequest(range(33), max_new_tokens=1))
    assert loop.is_idle
    request = GenerationRequest([1], max_new_tokens=1)
    loop.submit(request)
    with pytest.raises(ValueError, match="is being served"):
        loop.submit(request)
    list(loop.run())
    with pytest.raises(ValueError, match="ended with 'length'"):
        loop.submit(request)


def test_cancelled_request_gives_its_pages_back() -> None:
    loop, _ = make(Setting(max_batch_size=1))
    runs, waits = (GenerationRequest([1] * 20, max_new_tokens=9) for _ in "ab")
    loop.submit(runs)
    loop.submit(waits)
    loop.step()
    assert (loop.num_running, loop.num_waiting) == (1, 1)
    for request in (waits, runs):
        finished = loop.cancel(request.request_id)
        assert finished.reason is FinishReason.CANCELLED
    with pytest.raises(KeyError, match="waits or runs"):
        loop.cancel(runs.request_id)
    assert_nothing_is_held(loop)


def test_close_cancels_everything() -> None:
    loop, _ = make(Setting(max_batch_size=1))
    for _ in range(3):
        loop.submit(GenerationRequest([1] * 20, max_new_tokens=9))
    loop.step()
    loop.close()
    assert_nothing_is_held(loop)


def test_interrupted_step_can_be_taken_again() -> None:
    loop, runner = make(Setting(limits=ScheduleLimits(chunk_size=8)))
    requests = [GenerationRequest([i] * 30, max_new_tokens=9) for i in range(3)]
    for request in requests:
        loop.submit(request)
    run, calls = runner.run, iter(range(1000))

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) % 2 == 0:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    runner.run = interrupted
    while not loop.is_idle:
        try:
            loop.step()
        except KeyboardInterrupt:
            continue
    assert [r.output_ids for r in requests] == [oracle(r) for r in requests]


def test_stats_of_two_requests_by_hand() -> None:
    loop, _ = make(Setting(num_pages=8, max_seq_len=100))
    first = GenerationRequest(range(20), max_new_tokens=5)
    second = GenerationRequest([*range(16), 9], max_new_tokens=3)
    serve(loop, [first])
    serve(loop, [second])
    stats = loop.stats
    assert stats.hit_tokens == second.hit_tokens == 16
    assert stats.prefill_tokens == 20 + 1
    assert stats.hit_rate == pytest.approx(16 / 37)
    assert stats.generated_tokens == 8
    # 24 tokens were cached in two pages, then 19 in two.
    assert stats.last_page_tokens == 8 + 13
    assert stats.last_page_waste == pytest.approx(21 / 64)
    assert stats.peak_pages == 2
    assert stats.peak_bytes == 2 * 16 * BYTES_PER_TOKEN
    assert stats.dense_max_bytes == 100 * BYTES_PER_TOKEN
    assert stats.dense_final_bytes == 25 * BYTES_PER_TOKEN
    assert stats.as_dict()["num_pages"] == 8


# Properties


@st.composite
def settings_(draw: st.DrawFn, longest: int) -> Setting:
    """A cache that one request of `longest` tokens just fits, or more."""
    page_size = draw(st.sampled_from([16, 1, 3, 5, 32]))
    max_batch_size = draw(st.sampled_from([4, 8, 2, 1]))
    least = -(-longest // page_size)
    return Setting(
        num_pages=least + draw(st.integers(0, least // 2)),
        page_size=page_size,
        max_batch_size=max_batch_size,
        max_seq_len=longest + draw(st.sampled_from([0, 1, 300])),
        prefix_cache=draw(st.booleans()),
        limits=ScheduleLimits(
            max_batch_tokens=max_batch_size + draw(st.integers(0, 100)),
            chunk_size=draw(st.integers(1, 80)),
            num_steps=draw(st.integers(1, 8)),
        ),
    )


@st.composite
def requests_(draw: st.DrawFn) -> list[tuple[int, GenerationRequest]]:
    """Requests with the step they arrive at; many share prefixes.

    The numbers come from a seed: drawn one by one they would mostly be small,
    and pools would hardly ever run out of pages.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prefixes = [np.arange(length) % VOCAB for length in (0, 16, 33, 64)]
    last_arrival = draw(st.sampled_from([0, 10, 50]))
    arrivals = []
    for _ in range(draw(st.integers(1, 8))):
        prefix = prefixes[rng.integers(len(prefixes))].tolist()
        suffix = rng.integers(0, 3, rng.integers(1, 20)).tolist()
        request = GenerationRequest(
            prefix + suffix,
            max_new_tokens=int(rng.integers(1, 40)),
            stop_ids=[(), (), (3,), (1, 5)][rng.integers(4)],
            sampling=SamplingParams(
                temperature=float(rng.choice([0.0, 0.8])),
                seed=int(rng.integers(4)),
            ),
            cache_salt=[None, None, None, "salt"][rng.integers(4)],
        )
        arrivals.append((int(rng.integers(0, last_arrival + 1)), request))
    return arrivals


@given(data=st.data(), arrivals=requests_())
def test_any_schedule_gives_the_straight_line(
    data: st.DataObject, arrivals: list[tuple[int, GenerationRequest]]
) -> None:
    requests = [request for _, request in arrivals]
    longest = max(len(r.tokens) + r.max_new_tokens for r in requests)
    setting = data.draw(settings_(longest))
    loop, runner = make(setting)
    step, events = 0, []
    while arrivals or not loop.is_idle:
        for at, request in [a for a in arrivals if a[0] <= step]:
            arrivals.remove((at, request))
            loop.submit(request)
        events += loop.step()
        step += 1
    assert [r.output_ids for r in requests] == [oracle(r) for r in requests]
    assert_nothing_is_held(loop)
    assert max(runner.steps) <= setting.limits.num_steps
    assert all(
        sum(fed) <= setting.limits.max_batch_tokens for fed in runner.fed
    )
    for request in requests:
        tokens = [
            e.token
            for e in events
            if isinstance(e, TokenGenerated) and e.request is request
        ]
        assert tokens == request.output_ids
    event(f"preempted: {loop.stats.num_preemptions > 0}")
    event(f"hits: {loop.stats.hit_tokens > 0}")
    event(f"dropped: {loop.stats.dropped_tokens > 0}")


@given(arrivals=requests_(), num_pages=st.integers(1, 4))
def test_pool_too_small_ends_requests_early_and_never_wrongly(
    arrivals: list[tuple[int, GenerationRequest]], num_pages: int
) -> None:
    loop, _ = make(Setting(num_pages=num_pages))
    accepted = []
    for _, request in arrivals:
        if len(request.tokens) <= num_pages * 16:
            loop.submit(request)
            accepted.append(request)
        else:
            with pytest.raises(ValueError, match="there are"):
                loop.submit(request)
    for _ in loop.run():
        pass
    for request in accepted:
        line = oracle(request)
        assert request.output_ids == line[: len(request.output_ids)]
        if request.finish_reason is FinishReason.OUT_OF_PAGES:
            assert len(request.tokens) == num_pages * 16 + 1
        else:
            assert request.output_ids == line
    assert_nothing_is_held(loop)


class Trie:
    """Every full page ever cached, by all tokens up to its end."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.pages: set[tuple[str | None, tuple[int, ...]]] = set()

    def hit(self, salt: str | None, tokens: list[int]) -> int:
        length = 0
        for end in range(self.page_size, len(tokens), self.page_size):
            if (salt, tuple(tokens[:end])) not in self.pages:
                break
            length = end
        return length

    def add(self, salt: str | None, tokens: list[int]) -> None:
        for end in range(self.page_size, len(tokens) + 1, self.page_size):
            self.pages.add((salt, tuple(tokens[:end])))


@given(arrivals=requests_(), chunk_size=st.sampled_from([7, 16, 500]))
def test_hits_in_order_equal_a_trie_over_full_pages(
    arrivals: list[tuple[int, GenerationRequest]], chunk_size: int
) -> None:
    limits = ScheduleLimits(chunk_size=chunk_size)
    loop, _ = make(Setting(num_pages=100, limits=limits))
    trie = Trie(page_size=16)
    for _, request in arrivals:
        salt = request.cache_salt
        wanted = trie.hit(salt, request.prompt_ids)
        serve(loop, [request])
        assert request.hit_tokens == wanted
        trie.add(salt, request.tokens.all[:-1].tolist())
    assert loop.stats.hit_tokens == sum(r.hit_tokens for _, r in arrivals)
