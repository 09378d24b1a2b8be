"""An owner of twin cores and of a model, who keeps what cores promise.

It moves and writes pages as it is told, and asks for what it may. What it does
next is for a test to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from core_twins import FakeModel, Twins, batch_of, ints, saw
from kvcache.core.interface import Move, window_after_hit
from kvcache.errors import InsufficientPagesError, RequestStateError

TOKENS = st.builds(  # Prefixes are often equal.
    lambda length, other: [int(place == other) for place in range(length)],
    length=st.integers(1, 12) | st.just(9),
    other=st.integers(0, 12) | st.just(12),
)

Row = tuple[int, int, int, Sequence[int]]  # of a batch


@dataclass(eq=False)
class Seq:
    """A claimed sequence; it may write what comes before `end`."""

    id: int
    space: bytes
    tokens: list[int]
    processed: int = 0
    end: int = 0
    may_be_refused: bool = False
    """Whether it went back, or lost pages, and was not truncated since."""

    @property
    def content(self) -> tuple[object, ...]:
        return (self.space, *self.tokens)


class Owner:
    """Some sequences of twin cores; what they committed, and a clock."""

    def __init__(self, core: Twins) -> None:
        self.core = core
        self.size = core.page_size
        self.model = FakeModel(core.page_size, core.num_pages)
        self.seqs: list[Seq] = []
        self.committed: set[tuple[object, ...]] = set()
        self.is_exact = core.enable_prefix_caching
        self.moves: list[list[int]] = []
        """What the last call that took pages asked to be moved."""

    def row(self, seq: Seq) -> list[int]:
        return self.core.pages(seq.id).tolist()

    def raises(
        self, error: type[Exception], name: str, *args: Any, **options: Any
    ) -> None:
        """Asks for what cannot be, and looks whether anything changed."""
        before = self.core.state(seq.id for seq in self.seqs)
        with pytest.raises(error):
            getattr(self.core, name)(*args, **options)
        assert self.core.state(seq.id for seq in self.seqs) == before

    def findable(self, seq: Seq) -> int:
        """Returns how many tokens beyond the processed ones are committed."""
        end = seq.processed
        while end + self.size < len(seq.tokens) and (
            seq.content[: end + self.size + 1] in self.committed
        ):
            end += self.size
        return end - seq.processed

    def claim(self, space: bytes, tokens: Sequence[int]) -> Seq:
        seq = Seq(self.core.claim(space), space, list(tokens))
        self.seqs.append(seq)
        return seq

    def serve(
        self, tokens: Sequence[int], *, space: bytes = b"", **options: Any
    ) -> Seq:
        """Claims, reserves, computes and commits a whole prompt."""
        seq = self.claim(space, tokens)
        assert self.take([seq], [len(tokens)], num_steps=1, **options)
        self.write(seq, len(tokens))
        self.commit([seq])
        return seq

    def drain(self) -> list[int]:
        """Takes all free pages; returns them in the order of eviction."""
        seq = self.claim(b"drain", [0])
        steps = self.core.num_free * self.size
        assert not steps or self.take([seq], [1], num_steps=steps)
        return self.row(seq)

    def take(
        self,
        batch: Sequence[Seq],
        active: Sequence[int],
        *,
        num_steps: int | None = None,
        loses: bool = False,
        **options: Any,
    ) -> bool:
        """Adopts, or reserves if there are steps; truncates if it must.

        Of the pages that were loaded the first one gets lost, if asked.
        """
        rows = [
            self.next_window(s, n) for s, n in zip(batch, active, strict=False)
        ]
        name = "adopt" if num_steps is None else "reserve"
        if num_steps is not None:
            options["num_steps"] = num_steps
        before = self.core.state(seq.id for seq in self.seqs)
        try:
            granted = getattr(self.core, name)(batch_of(*rows), **options)
        except (InsufficientPagesError, RequestStateError) as error:
            saw(f"{name}: {type(error).__name__}")
            assert self.core.state(seq.id for seq in self.seqs) == before
            if isinstance(error, RequestStateError):
                assert any(seq.may_be_refused for seq in batch)
                for seq in batch:
                    self.truncate_to(seq, seq.processed)
            return False
        self.moves = granted.moves.tolist()
        loaded = [page for kind, _, page in self.moves if kind == Move.ONLOAD]
        lost = loaded[:1] if loses else []
        self.model.move(granted.moves, lost)
        for seq, row, hit in zip(
            batch, rows, granted.hits.tolist(), strict=True
        ):
            if (
                self.is_exact
                and num_steps is None
                and not (self.moves or options.get("max_onload") is not None)
            ):
                assert hit == self.findable(seq)
            self.go_on(seq, row[2], hit, num_steps)
        for page in lost:
            self.lose(page)
        return True

    def next_window(self, seq: Seq, active: int) -> Row:
        """Returns a window of some tokens, of which there is at least one."""
        if seq.processed == len(seq.tokens):
            seq.tokens.append(0)
        active = min(active, len(seq.tokens) - seq.processed)
        return seq.id, seq.processed, active, seq.tokens

    def go_on(
        self, seq: Seq, active: int, hit: int, num_steps: int | None
    ) -> None:
        """Moves a sequence past its hit, up to where it may write."""
        saw(f"hit: {'part' if hit % self.size else bool(hit)}")
        length = len(seq.tokens)
        assert 0 <= hit < length - seq.processed
        start, end = window_after_hit(
            processed=seq.processed, active=active, length=length, hit=hit
        )
        assert start == seq.processed + hit
        seq.processed = seq.end = start
        if num_steps is not None:
            seq.end = end + num_steps - 1
            assert len(self.row(seq)) * self.size >= seq.end

    def check(self) -> None:
        """Verifies all rows, all books, and that tables are filled alike."""
        for seq in self.seqs:
            self.model.check(self.row(seq), seq.processed, seq.content)
        self.core.check()
        if self.core.num_evicted:
            self.is_exact = False
        rows = self.core.rows(seq.id for seq in self.seqs)
        held = {page for row in rows for page in row}
        assert self.core.num_free + len(held) == self.core.num_pages
        table = np.full((len(rows), 40), 2**32 - 1, np.uint32)
        seqs = ints(seq.id for seq in self.seqs)
        self.core.fill(seqs, ints(map(len, rows)), table)
        for row, line in zip(rows, table.tolist(), strict=True):
            assert line[: len(row)] == row
            assert set(line[len(row) :]) <= {2**32 - 1}

    def lose(self, page: int) -> None:
        """What came from the host into a page is not what went there."""
        saw("lost")
        self.is_exact = False
        for seq in self.seqs:
            row = self.row(seq)
            if page in row:
                column = row.index(page)
                self.core.drop(seq.id, column)
                self.truncate_to(seq, min(seq.processed, column * self.size))

    def forget(self, page: int) -> None:
        """Makes one page unfindable; who holds it computes it again."""
        self.core.forget_page(page)
        self.is_exact = False
        for seq in self.seqs:
            row = self.row(seq)
            if page in row:
                column = row.index(page)
                self.truncate_to(seq, min(seq.processed, column * self.size))

    def write(self, seq: Seq, end: int) -> None:
        """Computes what there are pages for."""
        if end <= seq.processed:
            return
        seq.tokens += [0] * (end - len(seq.tokens))
        row = self.row(seq)
        self.model.check(row, seq.processed, seq.content)
        self.model.write(row, seq.processed, end, seq.content)
        seq.processed = end

    def commit(self, batch: list[Seq]) -> None:
        self.core.commit(
            batch_of(*((s.id, s.processed, 1, s.tokens) for s in batch))
        )
        for seq in batch:
            ends = range(self.size, seq.processed + 1, self.size)
            self.committed.update(seq.content[: end + 1] for end in ends)

    def evict(self, count: int) -> None:
        """Gives up the pages that would go next, and nothing that is held."""
        core = self.core
        held = [self.row(seq) for seq in self.seqs]
        blank, evicted = core.num_free - core.num_cached, core.num_evicted
        victims = core.eviction_order()[blank:][:count]
        assert core.evict(count).tolist() == victims
        assert core.num_free - core.num_cached == blank + count
        assert core.eviction_order()[blank:][:count] == victims
        assert core.num_evicted >= evicted + count
        assert [self.row(seq) for seq in self.seqs] == held

    def release(self, seq: Seq) -> None:
        self.core.release(seq.id)
        self.seqs.remove(seq)

    def truncate_to(self, seq: Seq, length: int) -> None:
        self.core.truncate(seq.id, length)
        if length <= seq.processed:
            seq.may_be_refused = False
        seq.processed = seq.end = min(seq.processed, length)
        self.is_exact = False

    def fork(self, seq: Seq, processed: int, tokens: Sequence[int]) -> Seq:
        """Lets another sequence go on with other tokens from some place."""
        other = self.core.fork(seq.id, processed)
        seq.end = seq.processed
        tokens = [*seq.tokens[:processed], *tokens]
        fork = Seq(other, seq.space, tokens, processed, processed)
        self.seqs.append(fork)
        self.is_exact = False
        return fork
