"""What happened in a step, in the order in which it happened."""

from dataclasses import dataclass

from kvcache.serve.request import GenerationRequest
from kvcache.serve.sampling import FinishReason


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """A request left the queue; after a preemption it does so again."""

    request: GenerationRequest
    """The request."""
    hit_tokens: int
    """Tokens that a cached prefix spared."""


@dataclass(frozen=True, slots=True)
class TokenGenerated:
    """A request got its next token."""

    request: GenerationRequest
    """The request."""
    token: int
    """The token's id."""


@dataclass(frozen=True, slots=True)
class RequestPreempted:
    """A request lost its pages; it waits and keeps its tokens."""

    request: GenerationRequest
    """The request."""


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """A request ended and gave its pages back."""

    request: GenerationRequest
    """The request."""
    reason: FinishReason
    """Why it ended."""
    error: str | None = None
    """What was wanted and what there was, if it ended for want of pages."""


Event = RequestStarted | TokenGenerated | RequestPreempted | RequestFinished
