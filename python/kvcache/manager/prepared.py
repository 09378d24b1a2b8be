"""A batch of requests, verified and ready to take pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from operator import ge, gt, is_, lt, sub
from typing import Any

from kvcache.core.interface import Batch, CacheCore, Counts
from kvcache.errors import (
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
)
from kvcache.manager.claim import Claim, check_state, cover
from kvcache.manager.tables import NO_TOKENS, counts
from kvcache.request import (
    Request,
    RequestContext,
    TokenIds,
    TokenSequence,
    chunked_of,
    lengths_of,
    places_of,
    starts_of,
    windows_of,
)
from kvcache.spec import pages_for


class _Ids(Sequence[TokenIds]):
    """All token ids of some sequences, made when they are asked for."""

    def __init__(self, tokens: Sequence[TokenSequence]) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, row: Any) -> Any:
        return self._tokens[row].all


@dataclass(slots=True, eq=False)
class Met:
    """Requests that are claimed, each once, and known to the core.

    It remembers what was found out about them, so that the same requests are
    verified in passing when they come again a step later.
    """

    contexts: Sequence[RequestContext]
    claims: Sequence[Claim]
    seqs: Counts
    starts: list[int] = field(default_factory=list)
    """Windows' beginnings that were found to fit what is held."""
    covered: list[int] = field(default_factory=list)
    """Tokens, at most, that the claims have as computed or fetched to be."""
    is_counted: bool = False
    """Whether every prompt token is in the metrics."""
    reserved: tuple[list[int], int] | None = None
    """Windows' ends and steps that there are pages for."""
    num_tokens: int = -1
    """All their tokens, as the last step found them; -1 if it did not count."""
    capacities: list[int] = field(default_factory=list)
    """Tokens, at least, that each one's pages take."""
    due: list[int] = field(default_factory=list)
    """Tokens, at least, that let each request's next page be full."""
    _tokens: list[TokenSequence] | None = None

    def is_of(self, contexts: Sequence[RequestContext]) -> bool:
        """Returns whether these are the very same requests.

        Our own are equal to nothing but themselves.
        """
        is_list = type(contexts) is list and self._tokens is not None
        if is_list and contexts == self.contexts:
            return True
        return len(contexts) == len(self.contexts) and all(
            map(is_, contexts, self.contexts)
        )

    def tokens(self) -> list[TokenSequence]:
        """Returns the requests' tokens.

        Our own requests' are the same objects for ever.
        """
        if self._tokens is None:
            tokens = [context.tokens for context in self.contexts]
            if not all(type(context) is Request for context in self.contexts):
                return tokens
            self._tokens = tokens
        return self._tokens

    def processed(self) -> list[int]:
        """Returns how many tokens of each request are computed.

        Raises:
            RequestStateError: If they do not fit what is held for one.
        """
        starts = starts_of(self.tokens())
        self.verify(starts)
        return starts

    def computed(self, rows: list[int], starts: list[int]) -> Batch:
        """Returns what the core is told of requests with full pages."""
        tokens = [self.contexts[row].tokens for row in rows]
        return Batch(
            seqs=self.seqs[rows],
            processed=counts([starts[row] for row in rows]),
            active=counts([1] * len(rows)),
            tokens=_Ids(tokens),
            places=places_of(tokens),
        )

    def lacking(self, lasts: list[int]) -> list[int]:
        """Returns the rows whose pages do not take so many tokens."""
        if not self.capacities:
            self.capacities = [claim.capacity for claim in self.claims]
        known, rows = self.capacities, []
        for row in _rows_where(map(gt, lasts, known)):
            known[row] = self.claims[row].capacity
            if lasts[row] > known[row]:
                rows.append(row)
        return rows

    def full(self, starts: list[int], page_size: int) -> list[int]:
        """Returns the rows that have a full page more than is committed."""
        if not self.due:
            self.due = [c.num_committed + page_size for c in self.claims]
        return [
            row
            for row in _rows_where(map(ge, starts, self.due))
            if starts[row] >= self.claims[row].num_committed + page_size
        ]

    def commit(self, rows: list[int], starts: list[int], size: int) -> None:
        """Notes that the full pages of rows are findable."""
        for row in rows:
            committed = starts[row] // size * size
            self.claims[row].num_committed = committed
            self.due[row] = committed + size

    def part(self, rows: list[int]) -> "Met":
        """Returns some of the requests."""
        return Met(
            [self.contexts[row] for row in rows],
            [self.claims[row] for row in rows],
            self.seqs[rows],
        )

    def verify(self, starts: list[int]) -> None:
        """Verifies that windows fit what is held for their requests.

        Windows that fitted before fit again if they only moved on, and not
        past what was fetched: what is committed lies before them.

        Raises:
            RequestStateError: If one does not.
        """
        if starts == self.starts:
            return
        if starts == self.covered:  # As a rule, a step later.
            self.starts = starts
            return
        is_new = not self.starts
        if (
            is_new
            or any(map(gt, starts, self.covered))
            or any(map(lt, starts, self.starts))
        ):
            rows = zip(self.claims, self.contexts, starts, strict=True)
            for claim, context, start in rows:
                check_state(claim, context, start)
            self.covered = [claim.num_covered for claim in self.claims]
        self.starts = starts

    def cover(self, lasts: list[int]) -> None:
        """Notes up to where the requests were fetched to be computed."""
        cover(self.claims, lasts)
        if self.starts == self.covered:  # A window ends behind its beginning.
            self.covered = lasts
        else:
            self.covered = [claim.num_covered for claim in self.claims]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A batch that was verified, and has taken no page yet."""

    met: Met
    tokens: list[TokenSequence]
    starts: list[int]
    """Where each request's active tokens begin."""
    ends: list[int]
    """Where they end."""
    num_steps: int = 1

    @classmethod
    def of(cls, met: Met, num_steps: int = 1) -> "Prepared":
        """Reads the windows of a batch.

        Raises:
            RequestStateError: If one does not fit what is held for it.
        """
        tokens = met.tokens()
        starts, ends = windows_of(tokens)
        met.verify(starts)
        met.num_tokens = -1
        return cls(met, tokens, starts, ends, num_steps)

    @property
    def lasts(self) -> list[int]:
        """Tokens of each request that its pages must take."""
        further = self.num_steps - 1
        return [end + further for end in self.ends] if further else self.ends

    @property
    def is_reserved(self) -> bool:
        """Whether this very step was found to have its pages."""
        return self.met.reserved == (self.ends, self.num_steps)

    def lacking(self, *, may_hit: bool = False) -> "Prepared | None":
        """Returns the part of the batch that lacks pages, if there is one.

        Args:
            may_hit: Whether requests count as well that may find a prefix.
        """
        if self.is_reserved:
            return None
        rows = self.met.lacking(self.lasts)
        if may_hit and not self._is_decoding:
            rows = self._or_may_hit(rows)
        if not rows:
            return None
        return Prepared(
            self.met.part(rows),
            [self.tokens[row] for row in rows],
            [self.starts[row] for row in rows],
            [self.ends[row] for row in rows],
            self.num_steps,
        )

    def batch(self) -> Batch:
        """Returns what the core is told of the requests.

        A request that computes its last token finds no prefix, so its tokens
        are left out.
        """
        active = list(map(sub, self.ends, self.starts))
        return Batch(
            seqs=self.met.seqs,
            processed=counts(self.starts),
            active=counts(active),
            tokens=[
                NO_TOKENS
                if count == 1 and not each.actively_chunked
                else each.all
                for each, count in zip(self.tokens, active, strict=True)
            ],
        )

    def check_lengths(self, *, max_seq_len: int, core: CacheCore) -> None:
        """Verifies that each request fits the longest sequence and the pool.

        Raises:
            RequestStateError: If `num_steps` is not positive.
            SequenceTooLongError: If a request would pass `max_seq_len`.
            RequestTooLargeError: If one will never fit the pool.
        """
        if self.num_steps < 1:
            raise RequestStateError(
                f"wanted at least 1 step, got num_steps={self.num_steps}"
            )
        lengths = lengths_of(self.tokens)
        self.met.num_tokens = sum(lengths)
        longest = max(lengths, default=0) + self.num_steps - 1
        if longest > max_seq_len:
            raise SequenceTooLongError(
                f"wanted at most {max_seq_len} tokens in a request, got "
                f"{longest} after {self.num_steps} steps"
            )
        wanted = pages_for(longest, core.page_size)
        if wanted > core.num_pages:
            raise RequestTooLargeError(wanted=wanted, free=core.num_pages)

    @property
    def _is_decoding(self) -> bool:
        """Whether each request computes one token, and has none behind it."""
        end = sum(self.ends)
        num_active = end - sum(self.starts)
        return num_active == len(self.ends) and end == self.met.num_tokens

    def _or_may_hit(self, lacking: list[int]) -> list[int]:
        """Adds the rows that compute more than their last token."""
        chunked, rows = chunked_of(self.tokens), set(lacking)
        windows = zip(self.starts, self.ends, chunked, strict=True)
        for row, (start, end, is_chunked) in enumerate(windows):
            if end - start > 1 or is_chunked:
                rows.add(row)
        return sorted(rows)


def _rows_where(is_so: Iterable[bool]) -> list[int]:
    return list(compress(count(), is_so))
