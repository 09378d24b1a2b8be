"""Pages that stay, whoever leaves, until they are let go."""

from collections import Counter
from dataclasses import dataclass
from itertools import takewhile
from operator import eq

from kvcache.core.interface import CacheCore
from kvcache.errors import ClaimError, PinLimitError, UnknownPinError
from kvcache.request import TokenIds


@dataclass(frozen=True, slots=True, eq=False)
class Pin:
    """Stands for pages that are kept; each pin is its own."""

    replica: int
    """The replica whose pages they are."""
    num_pages: int
    """Pages that this pin keeps; other pins may keep them as well."""


class Pins:
    """The pins of one replica, each a sequence of the core that holds pages.

    Args:
        core: Keeps the pages' books; has a sequence for each pin.
        replica: The replica that it is of.
        most_pages: Pages that can be pinned, each counted once.
        most_pins: Pins at a time.
    """

    def __init__(
        self, core: CacheCore, replica: int, *, most_pages: int, most_pins: int
    ) -> None:
        """Starts without pins."""
        self._core = core
        self._replica = replica
        self._most_pages = most_pages
        self._most_pins = most_pins
        self._seqs: dict[Pin, int] = {}
        self._pages: Counter[int] = Counter()

    @property
    def num_pages(self) -> int:
        """Pages that are pinned, each counted once."""
        return len(self._pages)

    def add(self, seq: int, namespace: bytes, tokens: TokenIds) -> Pin:
        """Pins what a sequence has findable of its first tokens.

        A fork's pages may wait to be committed while another one holds them.

        Raises:
            PinLimitError: If there are too many pins, or pinned pages.
        """
        found = self._core.probe(namespace, tokens).pages.tolist()
        own = zip(found, self._core.pages(seq).tolist(), strict=False)
        pages = [page for page, _ in takewhile(lambda two: eq(*two), own)]
        if len(self._seqs) >= self._most_pins:
            raise PinLimitError(
                f"wanted one more pin, there are {self._most_pins} already"
            )
        wanted = len(self._pages.keys() | pages)
        if wanted > self._most_pages:
            raise PinLimitError(
                f"wanted {wanted} pinned pages of replica {self._replica}, at "
                f"most {self._most_pages} may be"
            )
        try:
            held = self._core.fork(seq, len(pages) * self._core.page_size)
        except ClaimError as error:
            raise PinLimitError(
                "wanted a sequence for a pin, rows of running batches have all"
            ) from error
        pin = Pin(self._replica, len(pages))
        self._seqs[pin] = held
        self._pages.update(pages)
        return pin

    def remove(self, pin: Pin) -> None:
        """Lets a pin's pages go.

        Raises:
            UnknownPinError: If it was let go, or is another manager's.
        """
        if pin not in self._seqs:
            raise UnknownPinError(
                f"wanted a pin of this manager that was not let go, got {pin}"
            )
        held = self._seqs.pop(pin)
        self._pages -= Counter(self._core.pages(held).tolist())
        self._core.release(held)
