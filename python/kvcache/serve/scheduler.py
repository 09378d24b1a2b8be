"""Who is computed in the next step, and who loses pages for it."""

from collections import deque
from collections.abc import Hashable

import numpy as np

from kvcache.serve.plan import PageKeeper, Plan, ScheduleLimits
from kvcache.serve.request import GenerationRequest, RequestRejectedError
from kvcache.serve.sampling import FinishReason
from kvcache.spec import pages_for


class Scheduler:
    """Continuous batching: requests join and leave between steps.

    Decoding requests come first; what is left of the step's token budget is
    filled with prompt chunks, oldest request first. When pages run out, the
    youngest running request is preempted: its pages go back, its tokens are
    rewound and it waits at the head of the queue.

    Every request ends. Requests start in the order of their arrival, and only
    the youngest running one is ever put back, at the head of the queue. So
    each running request is older than each waiting one, and the oldest of all
    is never preempted once it runs: it fails if it outgrows the pool, and else
    has its pages once all others have lost theirs. Each step computes at
    least one of its tokens: its next one if it decodes, else the first of the
    prompt budget, which no older one can keep it from and which is positive
    since the decoding requests are fewer
    than `max_batch_size <= max_batch_tokens`. Its tokens are finite in number,
    and when it ends the next request is the oldest.

    Args:
        pages: Hands out pages; this scheduler is its only user.
        limits: How much one step may compute.

    Raises:
        InvalidParamsError: If `limits.max_batch_tokens` is under the manager's
            `max_batch_size`: a full batch could not decode.
    """

    def __init__(self, pages: PageKeeper, limits: ScheduleLimits) -> None:
        """Starts with nothing to do."""
        limits.check_batch(pages.max_batch_size)
        self._pages = pages
        self._limits = limits
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[GenerationRequest] = []  # oldest first
        self._fresh: set[Hashable] = set()  # run, and were in no batch yet

    @property
    def running(self) -> tuple[GenerationRequest, ...]:
        """The requests that hold pages, oldest first."""
        return tuple(self._running)

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def add(self, request: GenerationRequest) -> None:
        """Queues a request behind all others.

        Raises:
            RequestRejectedError: If its prompt leaves no room for a token
                within `max_seq_len`, or needs more pages than there are.
        """
        length, limit = len(request.tokens), self._pages.max_seq_len
        if length >= limit:
            raise RequestRejectedError(
                f"wanted a prompt of at most {limit - 1} tokens, which leaves "
                f"room for one more in a context of {limit}, got {length}"
            )
        wanted = self._pages_for(length)
        if wanted > self._pages.total_num_pages:
            raise RequestRejectedError(
                f"the prompt of {length} tokens wants {wanted} pages of "
                f"{self._pages.page_size} tokens, there are "
                f"{self._pages.total_num_pages}"
            )
        self._waiting.append(request)

    def plan(self) -> Plan:
        """Chooses the next batch, reserves its pages and sets its chunks.

        A plan that was not computed may be followed by another one.

        Returns:
            The plan; its batch is empty only if nothing waits or runs, or if
            every request in it failed.
        """
        plan = Plan(num_steps=self._joint_steps())
        self._reserve_running(plan)
        budget = self._limits.max_batch_tokens
        for request in self._running:
            if request.is_decoding:
                plan.batch.append(request)
                budget -= 1
        prompts: list[GenerationRequest] = []
        for request in self._running:
            if not request.is_decoding and budget > 0:
                budget -= self._add_chunk(prompts, request, budget)
        self._admit(plan, prompts, budget)
        plan.batch += prompts
        plan.started = [r for r in plan.batch if r.request_id in self._fresh]
        self._fresh -= {request.request_id for request in plan.started}
        return plan

    def finish(self, request: GenerationRequest, reason: FinishReason) -> None:
        """Ends a running or waiting request and gives its pages back.

        Raises:
            ValueError: If the request neither runs nor waits.
        """
        if request in self._running:
            self._running.remove(request)
            self._pages.release(request.request_id)
            self._fresh.discard(request.request_id)
        elif request in self._waiting:
            self._waiting.remove(request)
        else:
            raise ValueError(
                f"wanted a request that runs or waits, got "
                f"{request.request_id!r}, which does neither"
            )
        request.finish_reason = reason

    def _pages_for(self, num_tokens: int) -> int:
        return pages_for(num_tokens, self._pages.page_size)

    def _joint_steps(self) -> int:
        """Returns how many steps all running requests can take as one.

        No request goes past its budget, so none computes a token in vain
        unless it meets a stop token, and nobody is preempted for it.
        """
        running = self._running
        decodes = running and all(r.is_decoding for r in running)
        if self._waiting or not decodes:
            return 1
        limit = self._pages.max_seq_len
        steps = min(
            [self._limits.num_steps, *(r.remaining(limit) for r in running)]
        )
        free = self._pages.num_free_blocks
        while steps > 1 and self._new_pages(steps) > free:
            steps -= 1
        return steps

    def _new_pages(self, num_steps: int) -> int:
        """Returns a bound on the pages that decoding `num_steps` takes."""
        return sum(
            self._pages_for(len(r.tokens) + num_steps - 1)
            - self._pages_for(r.tokens.processed_length)
            for r in self._running
        )

    def _reserve_running(self, plan: Plan) -> None:
        """Gives each running request its pages, oldest first."""
        done = 0
        for request in self._running:
            _drop_chunk(request)
        while done < len(self._running):
            request = self._running[done]
            if not self._can_ever_fit(request):
                self._fail(plan, request)
            elif self._reserve(plan, request, plan.num_steps):
                done += 1
            elif len(self._running) > 1:
                plan.preempted.append(self._preempt_youngest())
            else:
                self._fail(plan, request)

    def _reserve(
        self, plan: Plan, request: GenerationRequest, num_steps: int
    ) -> bool:
        """Asks for a request's pages; counts the prefix found on the way."""
        before = request.tokens.processed_length
        reserved = self._pages.maybe_reserve(request, num_steps)
        hit_tokens = request.tokens.processed_length - before
        request.hit_tokens += hit_tokens
        plan.hit_tokens += hit_tokens
        return reserved

    def _can_ever_fit(self, request: GenerationRequest) -> bool:
        wanted = self._pages_for(len(request.tokens))
        return wanted <= self._pages.total_num_pages

    def _fail(self, plan: Plan, request: GenerationRequest) -> None:
        self.finish(request, FinishReason.OUT_OF_PAGES)
        plan.failed.append(request)

    def _preempt_youngest(self) -> GenerationRequest:
        request = self._running.pop()
        self._pages.release(request.request_id)
        self._fresh.discard(request.request_id)
        request.tokens.rewind_processing(request.tokens.processed_length)
        request.num_preemptions += 1
        self._waiting.appendleft(request)
        return request

    def _add_chunk(
        self,
        prompts: list[GenerationRequest],
        request: GenerationRequest,
        budget: int,
    ) -> int:
        """Adds as much of a prompt as fits; returns its tokens.

        A prompt whose next page an older one is about to compute is left out:
        it finds that page in the cache when its turn comes.
        """
        if any(self._is_ahead(older, request) for older in prompts):
            return 0
        tokens = request.tokens
        limit = min(budget, self._limits.chunk_size)
        if tokens.active_length > limit:
            tokens.chunk(limit)
        prompts.append(request)
        return tokens.active_length

    def _is_ahead(
        self, older: GenerationRequest, request: GenerationRequest
    ) -> bool:
        """Returns whether `older` will compute the next page of `request`."""
        begin = request.tokens.processed_length
        end = begin + self._pages.page_size
        return (
            self._pages.enable_prefix_caching
            and begin % self._pages.page_size == 0
            and end < len(request.tokens)  # the last token is never a hit
            and older.tokens.processed_length <= begin
            and older.cache_salt == request.cache_salt
            and older.model_name == request.model_name
            and np.array_equal(older.tokens.all[:end], request.tokens.all[:end])
        )

    def _admit(
        self, plan: Plan, prompts: list[GenerationRequest], budget: int
    ) -> None:
        """Starts waiting requests, oldest first, while there is room."""
        while (
            self._waiting
            and budget > 0
            and len(self._running) < self._pages.max_batch_size
        ):
            request = self._waiting[0]
            if not self._can_ever_fit(request):
                self._fail(plan, request)
                continue
            self._pages.external_claim(request.request_id)
            if not self._reserve(plan, request, 1):
                self._pages.release(request.request_id)
                if self._running:
                    return
                self._fail(plan, request)
                continue
            self._running.append(self._waiting.popleft())
            self._fresh.add(request.request_id)
            budget -= self._add_chunk(prompts, request, budget)


def _drop_chunk(request: GenerationRequest) -> None:
    """Takes back a chunk that was planned and never computed."""
    tokens = request.tokens
    if tokens.actively_chunked:
        num_tokens = tokens.active_length
        tokens.advance_chunk()
        tokens.rewind_processing(num_tokens)
