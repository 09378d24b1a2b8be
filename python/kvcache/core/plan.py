"""What a sequence will get, worked out before anything changes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What one sequence will get, while nothing has changed yet."""

    seq: int
    committed: int
    held: int
    hits: list[int]
    """Cached pages that follow the committed ones."""
    wanted: int
    """Pages in total, cached ones included."""

    @property
    def num_replaced(self) -> int:
        """Own pages whose place the cached ones take."""
        return min(self.held - self.committed, len(self.hits))

    @property
    def num_new(self) -> int:
        """Pages to take from the pool."""
        covered = max(self.held, self.committed + len(self.hits))
        return max(0, self.wanted - covered)
