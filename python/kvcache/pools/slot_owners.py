"""Which slots a prefix cache has."""

import numpy as np
import numpy.typing as npt

from kvcache.errors import PageStateError
from kvcache.pools.cached_pages import Slots


class SlotOwners:
    """Notes the slots that are the cache's own, so that none gets in twice.

    Performance:
        A byte for each slot up to the highest that was seen.
    """

    def __init__(self) -> None:
        """Starts without slots."""
        self._is_own: npt.NDArray[np.bool_] = np.zeros(1024, np.bool_)

    def check_foreign(self, slots: Slots) -> None:
        """Verifies that slots are not the cache's, and none is there twice.

        Raises:
            PageStateError: If not.
        """
        flat = slots.reshape(-1)
        if not flat.size:
            return
        if flat.max() >= len(self._is_own):
            self._grow(int(flat.max()))
        known = flat[self._is_own[flat]]
        if known.size:
            raise PageStateError(
                f"wanted slots that the cache does not have, got slot "
                f"{known[0]}, which it has"
            )
        ordered = np.sort(flat)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise PageStateError(
                f"wanted each slot once, got slot {twice[0]} twice"
            )

    def take(self, slots: Slots) -> None:
        """Notes slots as the cache's."""
        self._is_own[slots.reshape(-1)] = True

    def give(self, slots: Slots) -> None:
        """Notes slots as no longer the cache's."""
        self._is_own[slots.reshape(-1)] = False

    def clear(self) -> None:
        """Notes that the cache has none."""
        self._is_own[:] = False

    def _grow(self, highest: int) -> None:
        size = max(2 * len(self._is_own), highest + 1)
        larger = np.zeros(size, np.bool_)
        larger[: len(self._is_own)] = self._is_own
        self._is_own = larger
