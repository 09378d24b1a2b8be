"""How the next token is chosen, and when a request stops."""

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from kvcache.errors import InvalidParamsError

_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


class FinishReason(StrEnum):
    """Why a request came to its end."""

    STOP = "stop"
    """A stop token was generated; it is the last token."""
    LENGTH = "length"
    """The token budget, or the longest sequence the model takes, is used up."""
    OUT_OF_PAGES = "out_of_pages"
    """The request alone needs more pages than there are."""
    CANCELLED = "cancelled"
    """The caller took the request back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn from the logits.

    Raises:
        InvalidParamsError: If a value is out of its range.
    """

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Keeps the `top_k` likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keeps the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Chooses one of 2**64 streams of random numbers."""

    def __post_init__(self) -> None:
        """Checks each value."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidParamsError(
                f"temperature must be finite and at least 0, got "
                f"{self.temperature}"
            )
        if self.top_k < 0:
            raise InvalidParamsError(
                f"top_k must be at least 0, got {self.top_k}"
            )
        if not 0 < self.top_p <= 1:
            raise InvalidParamsError(
                f"top_p must be above 0 and at most 1, got {self.top_p}"
            )
        if not 0 <= self.seed <= _MASK:
            raise InvalidParamsError(
                f"seed must be from 0 to 2**64 - 1, got {self.seed}"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def token_seed(seed: int, position: int) -> int:
    """Returns the random seed of one token, from 0 to 2**64 - 1.

    It depends on the request's seed and on the token's position alone, so a
    request draws the same tokens in any batch and after any preemption.

    Args:
        seed: The request's seed.
        position: The place that the drawn token takes in its sequence.

    References:
        Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
        Generators", OOPSLA 2014, for the gamma and the 64-bit finalizer
        (Stafford's variant 13).
    """
    stream = _mix(seed + _GOLDEN_GAMMA)
    return _mix(stream + (position + 1) * _GOLDEN_GAMMA)


def _mix(value: int) -> int:
    """Spreads every bit of a 64-bit value over all of them; a bijection."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def reason_to_stop(
    token: int, *, stop_ids: AbstractSet[int], remaining: int
) -> FinishReason | None:
    """Returns why a request ends with its newest token, or None.

    Args:
        token: The newest token.
        stop_ids: Tokens that end a request.
        remaining: How many more tokens the request may generate.
    """
    if token in stop_ids:
        return FinishReason.STOP
    if remaining <= 0:
        return FinishReason.LENGTH
    return None
