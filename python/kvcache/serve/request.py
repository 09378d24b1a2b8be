"""One prompt and what is to be generated after it."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from kvcache.errors import KVCacheError
from kvcache.request import Request
from kvcache.serve.sampling import FinishReason, SamplingParams

_GREEDY = SamplingParams()


class RequestRejectedError(KVCacheError, ValueError):
    """A request that can never be served as it is."""


class GenerationRequest(Request):
    """A prompt, its budget of new tokens, and how they are chosen.

    Args:
        tokens: The prompt's token ids; at least one.
        max_new_tokens: How many tokens may be generated; at least one.
        stop_ids: Tokens that end the request; the one met is kept as its last.
        sampling: How tokens are drawn; greedy unless given.
        attention_ratio: The share of its blocks that a decode step attends to,
            above 0 and at most 1, where the model chooses blocks; what the
            model's runner says if None. Keys that a sparse step computes are
            others: requests share cached pages only under equal ratios.
        request_id: Identifies the request; made up unless given.
        cache_salt: Requests share cached pages only under equal salts.
        model_name: Requests share cached pages only under equal models.

    Raises:
        RequestRejectedError: If `max_new_tokens` is not positive, or the ratio
            is out of its range.
        ValueError: If `tokens` is empty or not a row of integers.
    """

    max_new_tokens: int
    """How many tokens may be generated."""
    stop_ids: frozenset[int]
    """Tokens that end the request."""
    sampling: SamplingParams
    """How tokens are drawn."""
    attention_ratio: float | None
    """The share of its blocks that a decode step attends to."""
    finish_reason: FinishReason | None
    """Why the request ended; None while it has not."""
    hit_tokens: int
    """Tokens that a cached prefix spared, over all (re)computations."""
    num_preemptions: int
    """How often the request lost its pages and began again."""

    def __init__(
        self,
        tokens: Sequence[int] | npt.NDArray[np.integer],
        *,
        max_new_tokens: int,
        stop_ids: Iterable[int] = (),
        sampling: SamplingParams = _GREEDY,
        attention_ratio: float | None = None,
        request_id: Hashable | None = None,
        cache_salt: str | None = None,
        model_name: str = "",
    ) -> None:
        """Makes a request that nothing has been computed for."""
        if max_new_tokens < 1:
            raise RequestRejectedError(
                f"max_new_tokens must be at least 1, got {max_new_tokens}"
            )
        if attention_ratio is not None and not 0 < attention_ratio <= 1:
            raise RequestRejectedError(
                "attention_ratio must be above 0 and at most 1, got "
                f"{attention_ratio}"
            )
        super().__init__(
            tokens,
            request_id=request_id,
            cache_salt=cache_salt,
            model_name=_identity(model_name, attention_ratio),
        )
        self.max_new_tokens = max_new_tokens
        self.stop_ids = frozenset(stop_ids)
        self.sampling = sampling
        self.attention_ratio = attention_ratio
        self.finish_reason = None
        self.hit_tokens = 0
        self.num_preemptions = 0

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt's token ids."""
        ids: list[int] = self.tokens.all[: self.tokens.prompt_length].tolist()
        return ids

    @property
    def output_ids(self) -> list[int]:
        """The token ids generated so far, a stop token included."""
        ids: list[int] = self.tokens.all[self.tokens.prompt_length :].tolist()
        return ids

    @property
    def is_decoding(self) -> bool:
        """Whether its next step feeds one token and yields the next."""
        return (
            self.tokens.active_length == 1 and not self.tokens.actively_chunked
        )

    def remaining(self, max_seq_len: int) -> int:
        """Returns how many more tokens may be generated.

        Args:
            max_seq_len: The longest sequence, prompt included, in tokens.
        """
        length = len(self.tokens)
        budget = self.max_new_tokens - self.tokens.generated_length
        return min(budget, max_seq_len - length)


def _identity(model_name: str, attention_ratio: float | None) -> str:
    """Returns a name that differs where cached keys do."""
    if attention_ratio is None:
        return model_name
    return f"{model_name} attending to {attention_ratio}"
