"""Our manager in the place of MAX's: MAX's requests, MAX's calls."""

from benchmarks.manager.ours import MAX_OBJECTS, make_manager
from benchmarks.manager.peers import ContextSide
from benchmarks.manager.sides import Policy, Pool


class MaxObjectSide(ContextSide):
    """`TextContext` objects through the calls that MAX's managers have."""

    who = MAX_OBJECTS
    policy = Policy(blank_first=True, hits_first=False)

    def __init__(self, pool: Pool) -> None:
        """Allocates the pool."""
        super().__init__(make_manager(pool), pool)
