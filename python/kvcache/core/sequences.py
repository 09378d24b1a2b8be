"""The sequences that are claimed, and what is known of each."""

import numpy as np
import numpy.typing as npt

from kvcache.core.retention import Retention
from kvcache.core.table import PageTable
from kvcache.errors import ClaimError, UnknownRequestError


class Sequences:
    """A fixed number of sequences, each free or claimed.

    Args:
        num_sequences: How many there are.
    """

    def __init__(self, num_sequences: int) -> None:
        """Starts with every sequence free."""
        self.table = PageTable(num_sequences)
        self.committed: npt.NDArray[np.int64] = np.zeros(
            num_sequences, np.int64
        )
        """Findable pages of each, `[num_sequences]`."""
        self.retention = [Retention()] * num_sequences
        self._namespaces: list[bytes | None] = [None] * num_sequences
        self._free = list(range(num_sequences - 1, -1, -1))

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence.

        Raises:
            ClaimError: If none is free.
        """
        if not self._free:
            raise ClaimError(
                f"wanted a free sequence, all {len(self.table)} are claimed"
            )
        seq = self._free.pop()
        self._namespaces[seq] = namespace
        self.retention[seq] = Retention()
        return seq

    def release(self, seq: int) -> None:
        """Gives a claimed sequence back."""
        self.table.clear(seq)
        self.committed[seq] = 0
        self._namespaces[seq] = None
        self._free.append(seq)

    def namespace(self, seq: int) -> bytes:
        """Returns the namespace of a claimed sequence.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        in_range = 0 <= seq < len(self._namespaces)
        namespace = self._namespaces[seq] if in_range else None
        if namespace is None:
            raise UnknownRequestError(
                f"wanted a claimed sequence, got {seq}, which is not"
            )
        return namespace

    def num_held(self, seq: int) -> int:
        """Returns how many pages a sequence holds."""
        return len(self.table.pages(seq))

    def claimed(self) -> list[int]:
        """Returns the claimed sequences, ascending."""
        return [
            s for s, name in enumerate(self._namespaces) if name is not None
        ]

    def check(self) -> None:
        """Verifies that a sequence that is free holds nothing.

        Raises:
            AssertionError: If it is not so.
        """
        free = set(self._free)
        assert len(free) == len(self._free), "a sequence is free twice"
        assert free.isdisjoint(self.claimed()), "a free sequence is claimed"
        assert len(free) + len(self.claimed()) == len(self.table), (
            "a sequence is neither free nor claimed"
        )
        for seq in free:
            assert not self.num_held(seq), f"free sequence {seq} holds pages"
            assert not self.committed[seq], f"free sequence {seq} committed"
