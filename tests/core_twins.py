"""Cores side by side, over a model that knows what every slot must hold.

`Twins` is one core to its user; it asks several and wants one answer. Where a
model would write keys and values, `FakeModel` notes the namespace and all the
tokens up to that position, which is what these depend on. So a page that is
shared wrongly, moved wrongly, lost, or given away too early shows at the next
look.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from hypothesis import currently_in_test_context, event

from kvcache.core.interface import Batch, Move
from kvcache.core.plain import PlainCore

try:
    from kvcache.core.native import NativeCore
except ImportError:
    NativeCore = None

COUNTS = (
    "num_free",
    "num_cached",
    "num_host_cached",
    "num_evicted",
    "num_offloaded",
    "num_onloaded",
    "num_copied",
)
POISON = ("nobody knows",)

Content = tuple[object, ...]


def collide(parent: bytes, content: bytes) -> bytes:
    """A digest that says the same of everything."""
    del parent, content
    return b""


def make_twins(*sizes: int, collides: bool = False, **options: Any) -> "Twins":
    """Returns the plain core, and the native one where there is one."""
    digest = collide if collides else None
    cores: list[Any] = [PlainCore(*sizes, digest=digest, **options)]
    if NativeCore is not None:
        bits = 0 if collides else 128
        cores.append(NativeCore(*sizes, digest_bits=bits, **options))
    return Twins(cores)


def saw(what: str) -> None:
    """Counts in Hypothesis' statistics, in an example does nothing."""
    if currently_in_test_context():
        event(what)


def ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.int64)


def batch_of(*rows: tuple[int, int, int, Sequence[int]]) -> Batch:
    """Returns a batch of rows: sequence, processed, active, tokens."""
    seqs, processed, active, tokens = (
        zip(*rows, strict=True) if rows else [()] * 4
    )
    return Batch(
        ints(seqs), ints(processed), ints(active), [ints(t) for t in tokens]
    )


class Twins:
    """Cores that get the same calls and must give the same answers."""

    def __init__(self, cores: Sequence[Any]) -> None:
        self.cores = cores

    def __getattr__(self, name: str) -> Any:
        """Returns a call, or the value of a property, of all cores."""
        values = [getattr(core, name) for core in self.cores]
        if not callable(values[0]):
            return self._one(name, values)
        return lambda *args, **options: self._call(
            name, [lambda v=v: v(*args, **options) for v in values]
        )

    def rows(self, seqs: Iterable[int]) -> list[list[int]]:
        return [self.pages(seq).tolist() for seq in seqs]

    def state(self, seqs: Iterable[int]) -> object:
        """Returns all that a call which raised must have left alone."""
        books = self.cores[0]._books
        return (
            self.rows(seqs),
            [getattr(self, name) for name in COUNTS],
            books.seqs.committed.tolist(),
            books.tiers.device.eviction_order(),
            books.tiers.host.eviction_order(),
            [
                (e.page, e.priority, e.expires)
                for e in sorted(books.index.entries(), key=lambda e: e.page)
            ],
        )

    def _call(self, name: str, calls: list[Callable[[], Any]]) -> Any:
        answers, errors = [], []
        for call in calls:
            try:
                answers.append(call())
            except Exception as error:  # noqa: BLE001  (compared, and raised)
                errors.append(error)
        assert not (answers and errors), f"{name}: {answers} and {errors}"
        if not errors:
            return self._one(name, answers)
        what = [(type(e), vars(e)) for e in errors]
        assert all(error == what[0] for error in what), f"{name}: {errors}"
        raise errors[0]

    def _one(self, name: str, answers: list[Any]) -> Any:
        plain = [_plain(answer) for answer in answers]
        for answer in plain[1:]:
            assert answer == plain[0], f"{name}: {plain}"
        return answers[0]


class FakeModel:
    """Moves and writes pages, and checks what is about to be read."""

    def __init__(self, page_size: int, num_pages: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.pages: dict[int, list[Content]] = {}

    def move(self, moves: np.ndarray, lost: Iterable[int] = ()) -> None:
        """Carries moves out, but for loads into pages that get lost."""
        for kind, source, destination in moves.tolist():
            is_from_host, is_to_host = (
                page >= self.num_pages for page in (source, destination)
            )
            assert (is_from_host, is_to_host) == {
                Move.COPY: (False, False),
                Move.OFFLOAD: (False, True),
                Move.ONLOAD: (True, False),
            }[Move(kind)]
            saw(Move(kind).name)
            self.pages[destination] = list(self.page(source))
            if kind == Move.ONLOAD and destination in lost:
                self.pages[destination] = [POISON] * self.page_size

    def page(self, page: int) -> list[Content]:
        return self.pages.setdefault(page, [POISON] * self.page_size)

    def write(
        self, row: Sequence[int], begin: int, end: int, content: Content
    ) -> None:
        """Writes positions, `content` being a namespace and all tokens."""
        for position in range(begin, end):
            column, slot = divmod(position, self.page_size)
            self.page(row[column])[slot] = content[: position + 2]

    def check(self, row: Sequence[int], end: int, content: Content) -> None:
        """Verifies what the positions before `end` hold."""
        for position in range(end):
            column, slot = divmod(position, self.page_size)
            there = self.page(row[column])[slot]
            assert there == content[: position + 2], (
                f"position {position} in page {row[column]} is {there}"
            )


def _plain(answer: Any) -> Any:
    """Returns what can be compared of an answer; nan equals nan."""
    if isinstance(answer, np.ndarray):
        return (answer.dtype.str, answer.shape, list(map(repr, answer.flat)))
    if is_dataclass(answer):
        return [_plain(getattr(answer, f.name)) for f in fields(answer)]
    return answer
