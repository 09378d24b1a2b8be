"""The scheduler over pages that are counted and nothing else."""

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.serve import FinishReason, GenerationRequest, ScheduleLimits
from kvcache.serve.plan import Plan
from kvcache.serve.scheduler import Scheduler


class CountedPages:
    """Pages as numbers: no prefix cache, no tensors."""

    def __init__(
        self,
        total_num_pages: int,
        *,
        page_size: int = 4,
        max_batch_size: int = 8,
        max_seq_len: int = 1000,
    ) -> None:
        self.total_num_pages = total_num_pages
        self.page_size = page_size
        self.max_batch_size = max_batch_size
        self.max_seq_len = max_seq_len
        self.enable_prefix_caching = False
        self.held: dict[Hashable, int] = {}

    @property
    def num_free_blocks(self) -> int:
        return self.total_num_pages - sum(self.held.values())

    def external_claim(self, request_id: Hashable) -> None:
        assert request_id not in self.held
        assert len(self.held) < self.max_batch_size
        self.held[request_id] = 0

    def maybe_reserve(
        self, data: GenerationRequest, num_steps: int = 1
    ) -> bool:
        length = len(data.tokens) + num_steps - 1
        assert length <= self.max_seq_len
        assert length <= self.total_num_pages * self.page_size
        wanted = -(-length // self.page_size) - self.held[data.request_id]
        if wanted > self.num_free_blocks:
            return False
        self.held[data.request_id] += max(wanted, 0)
        return True

    def release(self, request_id: Hashable) -> None:
        del self.held[request_id]


def make(
    pages: CountedPages, prompts: list[int], *, new: int = 8, **limits: int
) -> tuple[Scheduler, list[GenerationRequest]]:
    scheduler = Scheduler(pages, ScheduleLimits(**limits))
    requests = [
        GenerationRequest([7] * length, max_new_tokens=new)
        for length in prompts
    ]
    for request in requests:
        scheduler.add(request)
    return scheduler, requests


def compute(plan: Plan) -> None:
    """Gives each request of a plan its tokens."""
    for request in plan.batch:
        for _ in range(plan.num_steps):
            chunked = request.tokens.actively_chunked
            request.update(5)
            if chunked:
                break


def rows(plan: Plan, requests: list[GenerationRequest]) -> dict[int, int]:
    """Returns how many tokens of which request a plan computes."""
    return {requests.index(r): r.tokens.active_length for r in plan.batch}


def test_nothing_to_do_is_an_empty_plan() -> None:
    scheduler, _ = make(CountedPages(4), [])
    assert scheduler.plan() == Plan()


def test_decode_goes_first_and_prompts_fill_the_budget() -> None:
    scheduler, requests = make(
        CountedPages(100), [3, 20, 9], max_batch_tokens=10, chunk_size=8
    )
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 3, 1: 7}
    compute(plan)
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 1, 1: 8, 2: 1}
    compute(plan)
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 1, 1: 5, 2: 4}
    compute(plan)
    assert rows(scheduler.plan(), requests) == {0: 1, 1: 1, 2: 4}


def test_prompts_wait_for_the_page_that_an_older_one_computes() -> None:
    pages = CountedPages(100)
    pages.enable_prefix_caching = True  # finds nothing: they go on alone
    scheduler, requests = make(pages, [9, 9, 4], chunk_size=6)
    other = GenerationRequest([8] * 9, max_new_tokens=1)
    salted = GenerationRequest([7] * 9, max_new_tokens=1, cache_salt="s")
    requests += [other, salted]
    scheduler.add(other)
    scheduler.add(salted)
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 6, 2: 4, 3: 6, 4: 6}
    assert requests[1] not in plan.started
    assert scheduler.num_waiting == 0
    compute(plan)
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 3, 1: 6, 2: 1, 3: 3, 4: 3}
    assert plan.started == [requests[1]]


def test_batch_size_bounds_who_runs() -> None:
    pages = CountedPages(100, max_batch_size=2)
    scheduler, requests = make(pages, [2, 2, 2])
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 2, 1: 2}
    assert scheduler.num_waiting == 1
    compute(plan)
    scheduler.finish(requests[0], FinishReason.STOP)
    assert rows(scheduler.plan(), requests) == {1: 1, 2: 2}


def test_several_steps_only_while_nothing_waits_and_all_decode() -> None:
    pages = CountedPages(100, max_batch_size=2)
    scheduler, requests = make(pages, [2, 2, 2], num_steps=4)
    steps = []
    for _ in range(3):
        plan = scheduler.plan()
        steps.append(plan.num_steps)
        compute(plan)
    assert steps == [1, 1, 1]  # the third request waits
    scheduler.finish(requests[0], FinishReason.STOP)
    for _ in range(2):
        plan = scheduler.plan()
        steps.append(plan.num_steps)
        compute(plan)
    assert steps[3:] == [1, 4]  # its prompt, then both decode


def test_steps_stop_at_the_smallest_budget() -> None:
    scheduler, requests = make(CountedPages(100), [2, 2], num_steps=8, new=4)
    compute(scheduler.plan())
    requests[1].update(5)
    assert scheduler.plan().num_steps == 2


def test_steps_stop_at_the_longest_sequence() -> None:
    pages = CountedPages(100, max_seq_len=6)
    scheduler, _ = make(pages, [2], num_steps=8, new=50)
    compute(scheduler.plan())
    assert scheduler.plan().num_steps == 3  # 3 tokens now, 6 at the end


def test_steps_shrink_before_anybody_is_preempted() -> None:
    # Both hold one page of four and have three tokens; one page is left.
    scheduler, requests = make(CountedPages(3), [2, 2], num_steps=8)
    compute(scheduler.plan())
    plan = scheduler.plan()
    assert plan.num_steps == 2
    assert plan.preempted == []
    assert rows(plan, requests) == {0: 1, 1: 1}


def test_youngest_loses_its_pages_and_comes_back_first() -> None:
    pages = CountedPages(3)
    scheduler, requests = make(pages, [4, 7, 1], new=9, max_batch_tokens=11)
    plan = scheduler.plan()
    assert rows(plan, requests) == {0: 4, 1: 7}  # the third finds no page
    assert scheduler.num_waiting == 1
    compute(plan)
    plan = scheduler.plan()
    assert plan.preempted == [requests[1]]
    assert rows(plan, requests) == {0: 1}
    assert requests[1].tokens.processed_length == 0
    assert len(requests[1].tokens) == 8
    assert pages.held == {requests[0].request_id: 2}
    compute(plan)
    scheduler.finish(requests[0], FinishReason.STOP)
    plan = scheduler.plan()
    assert plan.started == [requests[1], requests[2]]
    assert rows(plan, requests) == {1: 8, 2: 1}


def test_request_that_outgrows_the_pool_fails_alone() -> None:
    pages = CountedPages(2)
    scheduler, requests = make(pages, [7, 3], new=50, num_steps=8)
    failed: list[GenerationRequest] = []
    for _ in range(30):
        plan = scheduler.plan()
        failed += plan.failed
        compute(plan)
    assert failed == requests
    assert [len(r.tokens) for r in requests] == [9, 9]
    assert {r.finish_reason for r in requests} == {FinishReason.OUT_OF_PAGES}
    assert pages.held == {}


def test_prompt_that_can_never_fit_is_refused() -> None:
    scheduler, _ = make(CountedPages(2, max_seq_len=20), [])
    with pytest.raises(ValueError, match=r"9 tokens wants 3 pages .* are 2"):
        scheduler.add(GenerationRequest([1] * 9, max_new_tokens=1))
    with pytest.raises(ValueError, match=r"at most 19 tokens, .* got 20"):
        scheduler.add(GenerationRequest([1] * 20, max_new_tokens=1))
    assert scheduler.num_waiting == 0


def test_plan_that_was_not_computed_is_made_again() -> None:
    scheduler, requests = make(
        CountedPages(100), [20, 9], max_batch_tokens=12, chunk_size=8
    )
    first = rows(scheduler.plan(), requests)
    assert first == {0: 8, 1: 4}
    assert rows(scheduler.plan(), requests) == first


def test_plan_made_again_sees_what_changed() -> None:
    scheduler, requests = make(
        CountedPages(100), [4, 20], max_batch_tokens=10, chunk_size=10
    )
    assert rows(scheduler.plan(), requests) == {0: 4, 1: 6}
    scheduler.finish(requests[0], FinishReason.CANCELLED)
    assert rows(scheduler.plan(), requests) == {1: 10}


def test_chunk_of_one_token_is_no_decode() -> None:
    scheduler, requests = make(CountedPages(100), [5], chunk_size=1)
    for _ in range(2):  # the first one is not computed
        plan = scheduler.plan()
        assert plan.num_steps == 1
        assert rows(plan, requests) == {0: 1}


def test_finish_wants_a_request_it_knows() -> None:
    scheduler, _ = make(CountedPages(2), [])
    with pytest.raises(ValueError, match="which does neither"):
        scheduler.finish(
            GenerationRequest([1], max_new_tokens=1), FinishReason.STOP
        )


def test_limits_are_positive_and_let_a_full_batch_decode() -> None:
    with pytest.raises(ValueError, match=r"chunk_size must be .* got 0"):
        ScheduleLimits(chunk_size=0)
    with pytest.raises(ValueError, match="max_batch_size 8, got 7"):
        make(CountedPages(2), [], max_batch_tokens=7)


@given(
    num_pages=st.integers(1, 12),
    page_size=st.integers(1, 5),
    max_batch_size=st.integers(1, 4),
    lengths=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 12)), max_size=8
    ),
    extra_tokens=st.integers(0, 20),
    chunk_size=st.integers(1, 12),
    num_steps=st.integers(1, 8),
)
def test_every_request_ends_and_the_oldest_is_never_preempted(
    num_pages: int,
    page_size: int,
    max_batch_size: int,
    lengths: list[tuple[int, int]],
    extra_tokens: int,
    chunk_size: int,
    num_steps: int,
) -> None:
    pages = CountedPages(
        num_pages, page_size=page_size, max_batch_size=max_batch_size
    )
    limits = ScheduleLimits(
        max_batch_tokens=max_batch_size + extra_tokens,
        chunk_size=chunk_size,
        num_steps=num_steps,
    )
    scheduler = Scheduler(pages, limits)
    open_requests = []
    for prompt, new in lengths:
        if prompt <= num_pages * page_size:
            request = GenerationRequest([7] * prompt, max_new_tokens=new)
            scheduler.add(request)
            open_requests.append(request)
    while open_requests:
        oldest = open_requests[0]
        before = len(oldest.tokens) + oldest.tokens.processed_length
        plan = scheduler.plan()
        assert oldest not in plan.preempted
        assert oldest in plan.failed or oldest in plan.batch
        fed = sum(r.tokens.active_length for r in plan.batch)
        assert fed <= limits.max_batch_tokens
        assert plan.num_steps <= num_steps
        compute(plan)
        for request in list(plan.batch):
            if request.remaining(pages.max_seq_len) == 0:
                scheduler.finish(request, FinishReason.LENGTH)
            assert request.remaining(pages.max_seq_len) >= 0
        open_requests = [r for r in open_requests if not r.finish_reason]
        after = len(oldest.tokens) + oldest.tokens.processed_length
        assert after > before or oldest in plan.failed
    assert pages.held == {}
