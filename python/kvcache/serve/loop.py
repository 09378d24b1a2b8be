"""The serving loop: plan, fetch, run, update, commit."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kvcache.serve.events import (
    Event,
    RequestFinished,
    RequestPreempted,
    RequestStarted,
    TokenGenerated,
)
from kvcache.serve.plan import Plan, ScheduleLimits
from kvcache.serve.request import GenerationRequest, RequestRejectedError
from kvcache.serve.sampling import FinishReason, reason_to_stop
from kvcache.serve.scheduler import Scheduler
from kvcache.serve.stats import CacheShape, ServingStats
from kvcache.spec import pages_for

if TYPE_CHECKING:
    from kvcache.manager import PagedKVCacheManager, RaggedKVCacheInputs

_LIMITS = ScheduleLimits()


class StepRunner(Protocol):
    """Runs a model on a batch."""

    def run(
        self,
        batch: Sequence[GenerationRequest],
        kv_inputs: "list[RaggedKVCacheInputs]",
        *,
        num_steps: int,
    ) -> npt.NDArray[np.int64]:
        """Feeds each request's active tokens, then its own next tokens.

        Args:
            batch: The requests, in the order of the rows of `kv_inputs`.
            kv_inputs: What `fetch` gave, one per device.
            num_steps: How often to run the model.

        Returns:
            The next token of each request, `[num_steps, batch]`.
        """


class ServingLoop:
    """Serves requests together from one paged cache.

    Between two steps requests may come, end or be taken back. The loop must be
    its manager's only user, and closes nothing but its own requests.

    Args:
        manager: Holds the pages.
        runner: Runs the model.
        limits: How much one step may compute.
        clock: Gives the time in seconds.

    Raises:
        ValueError: If a full batch could not decode within the limits.
    """

    def __init__(
        self,
        manager: "PagedKVCacheManager",
        runner: StepRunner,
        *,
        limits: ScheduleLimits = _LIMITS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Makes a loop with nothing to do."""
        self._manager = manager
        self._runner = runner
        self._scheduler = Scheduler(manager, limits)
        self._clock = clock
        self._requests: dict[Hashable, GenerationRequest] = {}
        self.stats = ServingStats(_cache_shape(manager))

    @property
    def manager(self) -> "PagedKVCacheManager":
        """What holds the pages."""
        return self._manager

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._requests

    @property
    def max_seq_len(self) -> int:
        """The longest sequence, prompt included, in tokens."""
        return self._manager.max_seq_len

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return self._scheduler.num_waiting

    @property
    def num_running(self) -> int:
        """How many requests hold pages."""
        return len(self._scheduler.running)

    def submit(self, request: GenerationRequest) -> None:
        """Queues a new request behind all others.

        Raises:
            RequestRejectedError: If a request of this id is here already, if
                the request was served before, or if its prompt can never fit.
        """
        if request.request_id in self._requests:
            raise RequestRejectedError(
                f"wanted a new request, got {request.request_id!r}, "
                f"which is being served"
            )
        if request.finish_reason is not None:
            raise RequestRejectedError(
                f"wanted a new request, got {request.request_id!r}, "
                f"which ended with {request.finish_reason.value!r}"
            )
        self._scheduler.add(request)
        self._requests[request.request_id] = request

    def cancel(self, request_id: Hashable) -> RequestFinished:
        """Ends a request between two steps and gives its pages back.

        Raises:
            KeyError: If no such request waits or runs.
        """
        if request_id not in self._requests:
            raise KeyError(
                f"wanted a request that waits or runs, got {request_id!r}"
            )
        request = self._requests[request_id]
        return self._finish(request, FinishReason.CANCELLED)

    def close(self) -> None:
        """Cancels every request."""
        for request_id in list(self._requests):
            self.cancel(request_id)

    def step(self) -> list[Event]:
        """Computes one batch, for one step or several.

        Returns:
            What happened, in order; nothing if the loop is idle.
        """
        begin = self._clock()
        plan = self._scheduler.plan()
        events = self._planned(plan)
        if plan.batch:
            events += self._compute(plan)
        self.stats.seconds += self._clock() - begin
        return events

    def run(self) -> Iterator[Event]:
        """Steps until the loop is idle; yields what happens as it does."""
        while not self.is_idle:
            yield from self.step()

    def _planned(self, plan: Plan) -> list[Event]:
        """Returns what making the plan led to."""
        events: list[Event] = []
        for request in plan.preempted:
            self.stats.num_preemptions += 1
            events.append(RequestPreempted(request))
        events.extend(self._failed(request) for request in plan.failed)
        for request in plan.started:
            hits = request.tokens.processed_length
            events.append(RequestStarted(request, hits))
        self.stats.hit_tokens += plan.hit_tokens
        self._see_pages()
        return events

    def _compute(self, plan: Plan) -> list[Event]:
        """Runs the model on the batch and hands out its tokens."""
        batch, stats = plan.batch, self.stats
        kv_inputs = self._manager.fetch(batch, plan.num_steps)
        tokens = self._runner.run(batch, kv_inputs, num_steps=plan.num_steps)
        stats.num_fetches += 1
        stats.num_steps += plan.num_steps
        events: list[Event] = []
        ended: list[tuple[GenerationRequest, FinishReason]] = []
        for request, column in zip(batch, tokens.T.tolist(), strict=True):
            if not (request.is_decoding and request.tokens.generated_length):
                stats.prefill_tokens += request.tokens.active_length
            reason = self._update(request, column, events)
            if reason is not None:
                ended.append((request, reason))
        self._manager.step(batch)
        events += [self._finish(request, reason) for request, reason in ended]
        self._see_pages()
        return events

    def _update(
        self,
        request: GenerationRequest,
        tokens: list[int],
        events: list[Event],
    ) -> FinishReason | None:
        """Hands a request its tokens, up to the one that ends it."""
        for used, token in enumerate(tokens, start=1):
            if request.tokens.actively_chunked:
                request.update(token)  # the prompt goes on: no token yet
                return None
            request.update(token)
            self.stats.generated_tokens += 1
            events.append(TokenGenerated(request, token))
            reason = reason_to_stop(
                token,
                stop_ids=request.stop_ids,
                remaining=request.remaining(self.max_seq_len),
            )
            if reason is not None:
                self.stats.dropped_tokens += len(tokens) - used
                return reason
        return None

    def _finish(
        self, request: GenerationRequest, reason: FinishReason
    ) -> RequestFinished:
        self._scheduler.finish(request, reason)
        del self._requests[request.request_id]
        self.stats.see_end(request)
        self._see_pages()
        return RequestFinished(request, reason)

    def _failed(self, request: GenerationRequest) -> RequestFinished:
        del self._requests[request.request_id]
        self.stats.see_end(request)
        shape = self.stats.shape
        error = (
            f"{len(request.tokens)} tokens want "
            f"{pages_for(len(request.tokens), shape.page_size)} pages of "
            f"{shape.page_size} tokens, there are {shape.num_pages}"
        )
        return RequestFinished(request, FinishReason.OUT_OF_PAGES, error)

    def _see_pages(self) -> None:
        used = self._manager.total_num_pages - self._manager.num_free_blocks
        self.stats.see_pages(used, self._scheduler.running)


def _cache_shape(manager: "PagedKVCacheManager") -> CacheShape:
    """Reads the sizes of a manager's cache."""
    params, num_layers = manager.params, manager.num_layers
    return CacheShape(
        page_size=manager.page_size,
        bytes_per_token=params.bytes_per_token(num_layers),
        bytes_per_page=params.bytes_per_page(num_layers, manager.page_size),
        num_pages=manager.total_num_pages,
        max_seq_len=manager.max_seq_len,
    )
