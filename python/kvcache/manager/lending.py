"""Prefixes that one replica holds and another one wants."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from kvcache.core.interface import Batch, CacheCore
from kvcache.manager.tables import counts
from kvcache.request import TokenIds


@dataclass(frozen=True, slots=True)
class Offer:
    """A prefix that another replica holds further than one's own."""

    end: int
    """Its tokens from the sequence's beginning, in whole pages."""
    copy: Callable[[int, list[int]], None]
    """Fills pages with what the other replica holds from a column on."""


FindOffer: TypeAlias = Callable[[bytes, TokenIds], Offer | None]
"""Finds the best offer for a namespace and a sequence's token ids."""

CopyPages: TypeAlias = Callable[[int, int, list[int], list[int]], None]
"""Copies from replica to replica: pages of the first into the second's."""


class Lender:
    """Finds cached prefixes on other replicas and has them copied.

    While a copy is issued its source pages are held by a sequence of their
    own, so each core needs one more than its replica has requests. What is
    issued on a device after that is carried out after the copy.

    Args:
        cores: The replicas' books.
        copy_pages: Copies contents, on every device of the replicas.
    """

    def __init__(
        self, cores: Sequence[CacheCore], copy_pages: CopyPages
    ) -> None:
        """Looks at the cores when asked, and not before."""
        self._cores = cores
        self._copy_pages = copy_pages

    def offer(
        self, replica: int, namespace: bytes, tokens: TokenIds
    ) -> Offer | None:
        """Returns the longest prefix that another replica has ahead of one.

        What another one has on the host is not lent: it would have to load it
        first, in place of its own requests' pages. Of equally long ones the
        replica with the lowest index counts. Changes nothing, and never offers
        a sequence's last token.
        """
        size = self._cores[replica].page_size
        limit = (len(tokens) - 1) // size
        own, _ = num_cached(
            self._cores[replica], namespace, tokens[: limit * size]
        )
        if own == limit:
            return None
        others = (
            other for other in range(len(self._cores)) if other != replica
        )
        held = {
            other: num_cached(
                self._cores[other], namespace, tokens[: limit * size]
            )[1]
            for other in others
        }
        source = max(held, key=lambda other: held[other])
        end = held[source] * size
        if held[source] <= own:
            return None
        copy = partial(
            self._copy, source, replica, namespace, tokens[: end + 1]
        )
        return Offer(end, copy)

    def _copy(  # noqa: PLR0917  (bound one by one)
        self,
        source: int,
        target: int,
        namespace: bytes,
        tokens: TokenIds,
        column: int,
        pages: list[int],
    ) -> None:
        """Copies what a replica holds of a sequence from a column on."""
        with _held(self._cores[source], namespace, tokens) as held:
            self._copy_pages(source, target, held[column:], pages)


def num_cached(
    core: CacheCore, namespace: bytes, tokens: TokenIds
) -> tuple[int, int]:
    """Returns a prompt's cached pages, and how many are on the device.

    Those of the host come after those of the device.
    """
    pages = core.probe(namespace, tokens).pages
    return len(pages), int(np.count_nonzero(pages < core.num_pages))


@contextmanager
def _held(
    core: CacheCore, namespace: bytes, tokens: TokenIds
) -> Iterator[list[int]]:
    """Keeps the cached pages of a sequence from being handed out."""
    seq = core.claim(namespace)
    try:
        core.adopt(
            Batch(
                seqs=counts([seq]),
                processed=counts([0]),
                active=counts([len(tokens)]),
                tokens=[tokens],
            ),
            max_onload=0,
        )
        yield core.pages(seq).tolist()
    finally:
        core.release(seq)
