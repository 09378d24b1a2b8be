"""What a loop did, and the memory that it took for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvcache.serve.request import GenerationRequest
from kvcache.spec import pages_for

_NUMBERS = (
    "seconds",
    "num_fetches",
    "num_steps",
    "num_preemptions",
    "num_finished",
    "generated_tokens",
    "dropped_tokens",
    "tokens_per_second",
    "prefill_tokens",
    "hit_tokens",
    "hit_rate",
    "pages_used",
    "peak_pages",
    "peak_batch",
    "last_page_tokens",
    "last_page_waste",
    "peak_bytes",
    "dense_max_bytes",
    "dense_final_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """The sizes that turn pages into bytes."""

    page_size: int
    """Tokens per page."""
    bytes_per_token: int
    """Bytes that one token's keys and values take over all layers."""
    bytes_per_page: int
    """Bytes of one page with all that goes with it."""
    num_pages: int
    """Pages that can be handed out."""
    max_seq_len: int
    """The longest sequence, in tokens."""


@dataclass(slots=True)
class ServingStats:
    """Counts over the life of a loop."""

    shape: CacheShape
    """The sizes that turn pages into bytes."""
    seconds: float = 0.0
    """Time spent inside steps."""
    num_fetches: int = 0
    """Batches made."""
    num_steps: int = 0
    """Times that the model ran."""
    num_preemptions: int = 0
    """Times that a request lost its pages."""
    num_finished: int = 0
    """Requests that ended."""
    generated_tokens: int = 0
    """Tokens generated and kept."""
    dropped_tokens: int = 0
    """Tokens computed after a stop token in the same fetch."""
    prefill_tokens: int = 0
    """Prompt tokens computed, those computed again included."""
    hit_tokens: int = 0
    """Tokens that a cached prefix spared."""
    pages_used: int = 0
    """Pages held at the end of the last step."""
    peak_pages: int = 0
    """The most pages ever held."""
    peak_requests: tuple[GenerationRequest, ...] = field(default=(), repr=False)
    """The requests that held them."""
    peak_batch: int = 0
    """The most requests that ever held pages at the same time."""
    last_page_tokens: int = 0
    """Tokens of all last pages that ended requests left empty."""
    ended_pages: int = 0
    """Pages that ended requests held, each counted once per request."""

    def see_pages(
        self, pages_used: int, running: Sequence[GenerationRequest]
    ) -> None:
        """Notes how many pages the running requests hold."""
        self.pages_used = pages_used
        self.peak_batch = max(self.peak_batch, len(running))
        if pages_used > self.peak_pages:
            self.peak_pages = pages_used
            self.peak_requests = tuple(running)

    def see_end(self, request: GenerationRequest) -> None:
        """Notes what an ended request left empty in its last page."""
        self.num_finished += 1
        cached = request.tokens.processed_length
        pages = pages_for(cached, self.shape.page_size)
        self.ended_pages += pages
        self.last_page_tokens += pages * self.shape.page_size - cached

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second inside steps."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that cached prefixes spared."""
        tokens = self.prefill_tokens + self.hit_tokens
        return self.hit_tokens / tokens if tokens else 0.0

    @property
    def last_page_waste(self) -> float:
        """The share of ended requests' page slots that no token took."""
        slots = self.ended_pages * self.shape.page_size
        return self.last_page_tokens / slots if slots else 0.0

    @property
    def peak_bytes(self) -> int:
        """Bytes of the pages at the peak."""
        return self.peak_pages * self.shape.bytes_per_page

    @property
    def dense_max_bytes(self) -> int:
        """Bytes of dense caches of the longest length, one a request.

        A dense cache is made before the length of its sequence is known, so
        each of the requests that ever ran together takes `max_seq_len`.
        """
        tokens = self.peak_batch * self.shape.max_seq_len
        return tokens * self.shape.bytes_per_token

    @property
    def dense_final_bytes(self) -> int:
        """Bytes of dense caches that knew each final length beforehand.

        One for each request that held pages at the peak. Shared prefixes can
        make pages smaller than even these.
        """
        tokens = sum(len(r.tokens) for r in self.peak_requests)
        return tokens * self.shape.bytes_per_token

    def as_dict(self) -> dict[str, int | float]:
        """Returns every number, by name; for JSON."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        shape = self.shape
        return numbers | {
            "num_pages": shape.num_pages,
            "page_size": shape.page_size,
            "bytes_per_page": shape.bytes_per_page,
        }
