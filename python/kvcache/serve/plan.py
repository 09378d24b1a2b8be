"""What the scheduler is told, what it asks and what it answers."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from kvcache.errors import InvalidParamsError
from kvcache.serve.request import GenerationRequest


class PageKeeper(Protocol):
    """What the scheduler asks of a `PagedKVCacheManager`."""

    page_size: int
    max_batch_size: int
    max_seq_len: int
    total_num_pages: int
    enable_prefix_caching: bool

    @property
    def num_free_blocks(self) -> int:
        """How many pages can be handed out."""

    def external_claim(self, request_id: Hashable, /) -> None:
        """Makes a request known."""

    def maybe_reserve(
        self, request: GenerationRequest, /, num_steps: int = 1
    ) -> bool:
        """Takes the pages of the next steps, or says no and takes none."""

    def release(self, request_id: Hashable, /) -> None:
        """Forgets a request and gives its pages back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """How much one step may compute.

    Raises:
        InvalidParamsError: If a limit is not positive.
    """

    max_batch_tokens: int = 512
    """Tokens in one step, over all requests."""
    chunk_size: int = 256
    """Prompt tokens of one request in one step."""
    num_steps: int = 8
    """Steps per fetch while nothing waits and every request decodes."""

    def __post_init__(self) -> None:
        """Checks each limit."""
        for name in self.__slots__:
            if (value := getattr(self, name)) < 1:
                raise InvalidParamsError(
                    f"{name} must be at least 1, got {value}"
                )

    def check_batch(self, max_batch_size: int) -> None:
        """Verifies that a full batch can decode in one step.

        Raises:
            InvalidParamsError: If it cannot.
        """
        if self.max_batch_tokens < max_batch_size:
            raise InvalidParamsError(
                f"max_batch_tokens must be at least max_batch_size "
                f"{max_batch_size}, got {self.max_batch_tokens}"
            )


@dataclass(slots=True)
class Plan:
    """One fetch: its batch, and what happened while it was made."""

    batch: list[GenerationRequest] = field(default_factory=list)
    """The requests to compute, with pages reserved and chunks set."""
    num_steps: int = 1
    """How often the model runs on the batch."""
    started: list[GenerationRequest] = field(default_factory=list)
    """Requests of the batch that left the queue since their last one."""
    preempted: list[GenerationRequest] = field(default_factory=list)
    """Requests that lost their pages and wait again."""
    failed: list[GenerationRequest] = field(default_factory=list)
    """Requests that ended, since they alone need too many pages."""
    hit_tokens: int = 0
    """Tokens that cached prefixes spared."""
